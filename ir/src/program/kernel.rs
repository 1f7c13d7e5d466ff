//! Kernels: few archetypes, whose variety sits in scalar bodies.
//!
//! A kernel is one dispatch on a GPU and one parallel region on a CPU. It names its buffers only through its argument list, so kernels with
//! equal [`KernelKind`] (and argument dtypes) share one piece of code.
//!
//! | archetype | space of its bodies | meaning |
//! |---|---|---|
//! | pointwise | `space` | every store at every point |
//! | update | one flat axis a segment | one body over many segments, each with its own arguments |
//! | fold | one flat axis a segment | one reduction a block of each of many segments |
//! | reduce | rows ++ cols | for each row: the reductions over cols in order, each able to use the results of earlier ones; then the stores |
//! | contract | batch ++ m ++ n a part | acc 0 = sum over terms and their k of lhs * rhs, of operands rounded to f16 where a term says so; then the stores |
//! | attention | - | softmax(scale q k^T) v and the log-sum-exp of its scores |
//! | attention_grad | - | its gradients, probabilities recomputed from the log-sum-exp |
//! | scatter | ids ++ inner | base, plus values added at computed rows, in index order |

use super::BufferId;
use super::body::{Access, Body, ScalarId, ScalarOp, Store};
use crate::graph::{Loc, NodeId};
use crate::op::Reduce;
use crate::types::Literal;

/// How a kernel uses one buffer. A buffer occurs at most once in an argument list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Arg {
    pub buffer: BufferId,
    pub mode: ArgMode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ArgMode {
    Read,
    Write,
    /// Read and written in place: each element is read only at the points that write it.
    ReadWrite,
}

impl ArgMode {
    pub fn reads(self) -> bool {
        self != ArgMode::Write
    }
    pub fn writes(self) -> bool {
        self != ArgMode::Read
    }
}

/// Which graph nodes a kernel computes, for people: comments, labels, profiles. Equality ignores source locations, as that of graphs does.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Provenance {
    /// Nodes whose only computation is here, in id order.
    pub nodes: Vec<NodeId>,
    /// Nodes computed here again although another kernel computes them too.
    pub recomputed: Vec<NodeId>,
    /// Distinct scope paths of `nodes`, in order of first appearance.
    pub scopes: Vec<String>,
    /// Distinct DSL lines of `nodes`; neither printed nor serialised.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub locs: Vec<Loc>,
}

impl PartialEq for Provenance {
    fn eq(&self, o: &Self) -> bool {
        (&self.nodes, &self.recomputed, &self.scopes) == (&o.nodes, &o.recomputed, &o.scopes)
    }
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Kernel {
    /// Unique in the program, a valid identifier: made of archetype, scope and number.
    pub name: String,
    pub args: Vec<Arg>,
    pub kind: KernelKind,
    pub provenance: Provenance,
}

/// One of the archetypes. The largest is a few hundred bytes, and a program holds hundreds of kernels: not worth a box.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[allow(clippy::large_enum_variant)]
pub enum KernelKind {
    Pointwise(Pointwise),
    Update(Update),
    Fold(Fold),
    Reduce(ReduceKernel),
    Contract(Contract),
    Attention(Attention),
    AttentionGrad(AttentionGrad),
    Scatter(Scatter),
}

#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Pointwise {
    pub space: Vec<usize>,
    pub body: Body,
    pub stores: Vec<Store>,
}

/// One body over many flat segments: the optimizer over all parameters.
///
/// The body's space has one axis, every access has stride 1 and offset 0 or stride 0 and offset 0 (a scalar). Its argument ids are
/// *roles*: role r of segment s is the kernel's argument s * roles + r, except shared roles (scalars such as the learning
/// rate), which are the last `shared` arguments of the kernel and have ids roles + i.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Update {
    pub roles: usize,
    pub shared: usize,
    /// Elements of each segment.
    pub segments: Vec<usize>,
    pub body: Body,
    pub stores: Vec<Store>,
}

/// One reduction over cols, or over the elements of a block.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Reduction {
    pub op: Reduce,
    pub value: ScalarId,
}

/// Reductions of the blocks of many flat segments: the sums of squares of all gradients, whose sum is the square of their norm.
///
/// Segment s is the first `segments[s]` elements of argument s. Its blocks are runs of `block` elements, the last one shorter where it must
/// be. Blocks are numbered through all segments, and block i is reduced to element i of the last argument. The body's
/// space has one axis, the elements of a segment, and all that varies in it are loads of offset 0 and stride 1. Argument ids are *roles*: 0 is the
/// segment, 1 the results. The order of summation within a block is the backend's, but the same for all blocks of one length.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fold {
    /// Elements of a block.
    pub block: usize,
    /// Elements of each segment.
    pub segments: Vec<usize>,
    pub body: Body,
    /// A sum or a maximum.
    pub reduction: Reduction,
    /// Over one axis, the blocks; direct.
    pub out: Access,
}

impl Fold {
    /// The role of a segment in the body.
    pub const SEGMENT: super::ArgId = super::ArgId(0);
    /// The role of the results.
    pub const RESULTS: super::ArgId = super::ArgId(1);

    /// Number of blocks of all segments.
    pub fn blocks(&self) -> usize {
        self.segments.iter().map(|n| n.div_ceil(self.block)).sum()
    }
}

/// Reductions over rows of elements, with prologue and epilogue in the body.
///
/// A scalar is *row-level* if it depends on no index of cols (only on loads with zero strides along cols, on accumulators and
/// on row indices). A store whose access has zero strides along all cols is a *row store*: its value is row-level and it happens once a
/// row; any other store happens at every (row, col) after all reductions.
/// The order of summation is the backend's, but fixed for given extents.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ReduceKernel {
    pub rows: Vec<usize>,
    pub cols: Vec<usize>,
    pub body: Body,
    pub reductions: Vec<Reduction>,
    pub stores: Vec<Store>,
}

impl ReduceKernel {
    /// rows ++ cols
    pub fn space(&self) -> Vec<usize> {
        self.rows.iter().chain(&self.cols).copied().collect()
    }

    /// For each scalar, whether it varies along cols.
    pub fn varies_along_cols(&self) -> Vec<bool> {
        let rows = self.rows.len();
        self.body.depends(|op| match op {
            ScalarOp::Load(a) => a.at.coeffs[rows..].iter().any(|c| *c != 0),
            ScalarOp::Index(a) => a.coeffs[rows..].iter().any(|c| *c != 0),
            _ => false,
        })
    }

    /// Whether `store` happens once a row.
    pub fn is_row_store(&self, store: &Store) -> bool {
        store.access.at.coeffs[self.rows.len()..].iter().zip(&self.cols).all(|(c, n)| *c == 0 || *n == 1)
    }

    /// For each reduction, the number of sweeps over cols that must have ended before its own can start: 0 for those that need no
    /// other reduction. Reductions of one level share a sweep.
    pub fn levels(&self) -> Vec<usize> {
        let mut scalar_level: Vec<usize> = vec![0; self.body.scalars.len()];
        let mut levels = vec![0; self.reductions.len()];
        for (r, reduction) in self.reductions.iter().enumerate() {
            // Scalars only use earlier accumulators, so one pass an accumulator settles the next.
            for (id, s) in self.body.scalars.iter() {
                let own = match s.op {
                    ScalarOp::Acc(i) if (i as usize) < r => levels[i as usize] + 1,
                    _ => 0,
                };
                scalar_level[id.index()] =
                    s.op.operands().iter().map(|o| scalar_level[o.index()]).max().unwrap_or(0).max(own);
            }
            levels[r] = scalar_level[reduction.value.index()];
        }
        levels
    }
}

/// One product summed into a contraction.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Term {
    /// Contracted extents.
    pub k: Vec<usize>,
    /// Whether both operands, each f32 or f16 in its buffer, are rounded to f16 as they are read (to nearest, ties to even), and products and
    /// sums are f32. Otherwise all are of one dtype; the precision is that of f32 either way.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub f16: bool,
    /// Over batch ++ m ++ k; direct.
    pub lhs: Access,
    /// Over batch ++ n ++ k; direct.
    pub rhs: Access,
}

/// One output block of a contract kernel.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ContractPart {
    pub batch: Vec<usize>,
    pub m: Vec<usize>,
    pub n: Vec<usize>,
    /// Products summed into accumulator 0, in this order.
    pub terms: Vec<Term>,
    /// Epilogue over batch ++ m ++ n.
    pub body: Body,
    pub stores: Vec<Store>,
}

impl ContractPart {
    /// batch ++ m ++ n
    pub fn space(&self) -> Vec<usize> {
        self.batch.iter().chain(&self.m).chain(&self.n).copied().collect()
    }
}

/// Batched products with epilogues. Several parts are merged siblings: independent products that share an operand (q, k and v
/// projections of one input), computed by one launch.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Contract {
    pub parts: Vec<ContractPart>,
}

/// Extents of attention: q [B,H,T,D], k and v [B,H,S,D].
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AttentionShape {
    pub batch: usize,
    pub heads: usize,
    pub q_len: usize,
    pub k_len: usize,
    pub head_dim: usize,
    /// Query t sees keys s <= t only; then q_len = k_len.
    pub causal: bool,
    pub scale: f64,
}

impl AttentionShape {
    /// Space of q, out and their gradients.
    pub fn q_space(&self) -> Vec<usize> {
        vec![self.batch, self.heads, self.q_len, self.head_dim]
    }
    /// Space of k, v and their gradients.
    pub fn k_space(&self) -> Vec<usize> {
        vec![self.batch, self.heads, self.k_len, self.head_dim]
    }
    /// Space of the log-sum-exp.
    pub fn lse_space(&self) -> Vec<usize> {
        vec![self.batch, self.heads, self.q_len]
    }
}

/// Fused attention (Dao et al. 2022). At least one of out and lse is stored. All accesses are direct, f32.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Attention {
    pub shape: AttentionShape,
    pub q: Access,
    pub k: Access,
    pub v: Option<Access>,
    pub out: Option<Access>,
    pub lse: Option<Access>,
}

/// Gradients of attention; at least one of dq, dk and dv is stored.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AttentionGrad {
    pub shape: AttentionShape,
    pub q: Access,
    pub k: Access,
    pub v: Access,
    pub out: Access,
    pub lse: Access,
    pub dout: Access,
    pub dq: Option<Access>,
    pub dk: Option<Access>,
    pub dv: Option<Access>,
}

/// What a scatter adds to.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
pub enum ScatterBase {
    Const(Literal),
    /// Over [table] ++ inner; direct. In place if it is the stored buffer.
    Load(Access),
}

/// out = base; then for every id in row-major order: out[clamp(index), inner] += value.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Scatter {
    /// Rows of the table.
    pub table: usize,
    pub ids: Vec<usize>,
    pub inner: Vec<usize>,
    /// Over ids ++ inner.
    pub body: Body,
    /// i32; does not vary along inner.
    pub index: ScalarId,
    pub value: ScalarId,
    pub base: ScatterBase,
    /// Over [table] ++ inner; direct.
    pub out: Access,
}

impl KernelKind {
    pub fn archetype(&self) -> &'static str {
        match self {
            KernelKind::Pointwise(_) => "pointwise",
            KernelKind::Update(_) => "update",
            KernelKind::Fold(_) => "fold",
            KernelKind::Reduce(_) => "reduce",
            KernelKind::Contract(_) => "contract",
            KernelKind::Attention(_) => "attention",
            KernelKind::AttentionGrad(_) => "attention_grad",
            KernelKind::Scatter(_) => "scatter",
        }
    }
}

impl KernelKind {
    /// Calls `f` on every argument id in the kernel: loads, stores and operands.
    pub fn for_each_arg(&mut self, f: &mut dyn FnMut(&mut super::ArgId)) {
        fn body(b: &mut Body, f: &mut dyn FnMut(&mut super::ArgId)) {
            for s in b.scalars.values_mut() {
                if let ScalarOp::Load(a) = &mut s.op {
                    f(&mut a.arg);
                }
            }
        }
        let mut accesses: Vec<&mut Access> = Vec::new();
        match self {
            KernelKind::Pointwise(k) => {
                body(&mut k.body, f);
                accesses.extend(k.stores.iter_mut().map(|s| &mut s.access));
            }
            KernelKind::Update(k) => {
                body(&mut k.body, f);
                accesses.extend(k.stores.iter_mut().map(|s| &mut s.access));
            }
            KernelKind::Fold(k) => {
                body(&mut k.body, f);
                accesses.push(&mut k.out);
            }
            KernelKind::Reduce(k) => {
                body(&mut k.body, f);
                accesses.extend(k.stores.iter_mut().map(|s| &mut s.access));
            }
            KernelKind::Contract(k) => {
                for p in &mut k.parts {
                    body(&mut p.body, f);
                    accesses.extend(p.stores.iter_mut().map(|s| &mut s.access));
                    for t in &mut p.terms {
                        accesses.extend([&mut t.lhs, &mut t.rhs]);
                    }
                }
            }
            KernelKind::Attention(k) => {
                accesses.extend([&mut k.q, &mut k.k]);
                accesses.extend([&mut k.v, &mut k.out, &mut k.lse].into_iter().flatten());
            }
            KernelKind::AttentionGrad(k) => {
                accesses.extend([&mut k.q, &mut k.k, &mut k.v, &mut k.out, &mut k.lse, &mut k.dout]);
                accesses.extend([&mut k.dq, &mut k.dk, &mut k.dv].into_iter().flatten());
            }
            KernelKind::Scatter(k) => {
                body(&mut k.body, f);
                accesses.push(&mut k.out);
                if let ScatterBase::Load(a) = &mut k.base {
                    accesses.push(a);
                }
            }
        }
        for a in accesses {
            f(&mut a.arg);
        }
    }
}
