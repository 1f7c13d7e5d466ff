//! Modules: the emitted text, its dispatches and what they need.

use crate::attention_matrices::{self, Walk};
use crate::bind::{Binding, Piece};
use crate::caps::Caps;
use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::link::Parts;
use crate::variant::Variant;
use crate::{attention, attention_grad, contract, cooperate, fold, pointwise, reduce, scatter, update};
use tinygpt_ir::program::KernelKind;

/// Who reads the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// naga, hence wgpu: refuses `enable subgroups;`.
    Naga,
    /// Browsers: require it.
    Browser,
}

/// One dispatch of a module. They run in order, each seeing what those before it wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dispatch {
    /// Name of the entry point.
    pub entry: String,
    pub workgroups: [u32; 3],
    /// Invocations of a workgroup.
    pub invocations: u32,
}

/// The code of one piece of a kernel in one variant.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Name of the piece; of linked ones the first's, with the number of the others: `NAME+2`.
    pub name: String,
    /// Comment lines: kernel, scopes, arguments. Not part of the hash.
    pub header: String,
    /// Everything but `enable` directives and the header.
    pub code: String,
    /// Whether the code needs `enable f16;`.
    pub f16: bool,
    /// Whether the code needs subgroups.
    pub subgroups: bool,
    /// Whether the code needs cooperative matrices, which naga alone has.
    pub cooperative: bool,
    pub dispatches: Vec<Dispatch>,
    /// Binding i of group 0. All entry points share them: a bind group serves every dispatch.
    pub bindings: Vec<Binding>,
    /// Bytes of the binding [`Unit::Scratch`](crate::Unit::Scratch), which holds nothing before or after; 0 if there is none.
    pub scratch_bytes: u64,
    /// Contents of the binding [`Unit::Table`](crate::Unit::Table); empty if there is none.
    pub table: Vec<u32>,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Equal for equal code, dispatches and access modes of bindings (FNV-1a, stable from run to run): such modules share pipelines and tuning.
    pub hash: u64,
    /// What [`link`](crate::link()) puts together.
    pub(crate) parts: Parts,
}

impl Module {
    /// The whole text.
    pub fn source(&self, dialect: Dialect) -> String {
        let mut out = self.header.clone();
        if self.f16 {
            out += "enable f16;\n";
        }
        if self.cooperative {
            out += "enable wgpu_cooperative_matrix;\n";
        }
        if self.subgroups && dialect == Dialect::Browser {
            out += "enable subgroups;\n";
        }
        out + "\n" + &self.code
    }
}

/// The code of `piece` as `variant` for an adapter with `caps`.
///
/// Errors: one sentence on a variant of another archetype or beyond the limits, on f16 where there is none, on too many bindings.
pub fn emit(piece: &Piece, caps: &Caps, variant: &Variant) -> Result<Module, Error> {
    let mut cx = Cx::new(piece, caps)?;
    match (&piece.kind, *variant) {
        (KernelKind::Pointwise(k), Variant::Pointwise { width, group }) => pointwise::emit(&mut cx, k, width, group)?,
        (KernelKind::Update(k), Variant::Update { width, group }) => update::emit(&mut cx, k, width, group)?,
        (KernelKind::Fold(k), Variant::Fold { width, group, subgroups }) => {
            fold::emit(&mut cx, k, width, group, subgroups)?
        }
        (KernelKind::Reduce(k), Variant::Reduce { rows, lanes, split, width, subgroups }) => {
            reduce::emit(&mut cx, k, reduce::Shape { rows, lanes, split, width, subgroups })?
        }
        (
            KernelKind::Contract(k),
            Variant::Contract { m, n, k: depth, each_m, each_n, teams, split, buffers, unroll },
        ) => contract::emit(
            &mut cx,
            k,
            contract::Tiling { m, n, k: depth, each_m, each_n, teams, split, buffers, unroll },
        )?,
        (KernelKind::Contract(k), Variant::Cooperate { m, n, k: depth, by_m, by_n, split }) => {
            cooperate::emit(&mut cx, k, cooperate::Blocks { m, n, k: depth, by_m, by_n, split })?
        }
        (KernelKind::Attention(k), Variant::Attention(tiling)) => attention::emit(&mut cx, k, tiling)?,
        (KernelKind::AttentionGrad(k), Variant::AttentionGrad { tiling, slopes }) => {
            attention_grad::emit(&mut cx, k, tiling, slopes)?
        }
        (KernelKind::Attention(k), Variant::AttentionMatrices { rows, cols }) => {
            attention_matrices::forward(&mut cx, k, Walk { rows, cols })?
        }
        (KernelKind::AttentionGrad(k), Variant::AttentionMatrices { rows, cols }) => {
            attention_matrices::backward(&mut cx, k, Walk { rows, cols })?
        }
        (KernelKind::Scatter(k), Variant::Scatter { order, group }) => scatter::emit(&mut cx, k, order, group)?,
        (kind, variant) => {
            return refuse(format!(
                "kernel {} is of archetype {}, found the variant `{variant}`: choose one of `variants`",
                piece.name,
                kind.archetype()
            ));
        }
    }
    let mut module = cx.finish()?;
    module.header = format!("{}// variant: {variant}\n", piece.header);
    Ok(module)
}

/// FNV-1a.
pub(crate) fn fnv(parts: &[&[u8]]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for part in parts {
        for byte in part.iter().chain(&[0xff]) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}
