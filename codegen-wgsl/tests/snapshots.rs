//! Snapshots of emitted text: every kernel of a fused 2-layer GPT step in its default variant (equal modules once; a file an archetype), and one kernel of each archetype in every
//! variant of a WebGPU adapter.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use tinygpt_codegen_wgsl::{Caps, Dialect, Variant, bundles, emit, pieces, variants};
use tinygpt_ir::program::{Program, TargetModel};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

fn caps() -> Caps {
    Caps { subgroups: Some((8, 32)), ..Caps::webgpu() }
}

fn gpt() -> Program {
    let config = tinygpt_models::gpt::GptConfig {
        vocab: 64,
        ctx: 16,
        layers: 2,
        heads: 2,
        d_model: 32,
        d_mlp: 64,
        batch: 4,
        gelu: tinygpt_ir::op::GeluForm::Erf,
    };
    let step = training_step(&tinygpt_models::gpt::gpt(&config).unwrap(), &AdamWConfig::default()).unwrap();
    let passes = Pipeline::new([Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify]);
    to_program(&passes.run(step).unwrap().graph, &TargetModel::gpu(7, 128 << 20), true).unwrap()
}

#[test]
fn kernels_of_a_gpt_step() {
    let (program, caps) = (gpt(), caps());
    let mut seen = HashSet::new();
    let mut texts: BTreeMap<&str, String> = BTreeMap::new();
    for kernel in program.kernels.values() {
        let out = texts.entry(kernel.kind.archetype()).or_default();
        for piece in pieces(&program, kernel, &caps).unwrap() {
            let variant = variants(&piece, &caps)[0];
            let module = emit(&piece, &caps, &variant).unwrap();
            if seen.insert(module.hash) {
                let _ = writeln!(out, "{}\n// {:?}\n", module.source(Dialect::Browser), module.dispatches);
            } else {
                let _ = writeln!(out, "// {} has the code of a kernel above\n", module.name);
            }
        }
    }
    for (archetype, text) in texts {
        insta::assert_snapshot!(format!("gpt_step_{archetype}"), text);
    }
}

/// The gradients of a layer's product and of its bias, as one module.
#[test]
fn a_bundle() {
    let (program, caps) = (gpt(), Caps { max_storage_buffers: 16, ..caps() });
    let all = bundles(&program, &caps).unwrap();
    let of_layer = |name: &str| name == "contract_grad_blocks_0_mlp_fc_in";
    let bundle = all.iter().find(|b| b.pieces.iter().any(|(_, p)| of_layer(&p.name))).unwrap();
    let module = &bundle.emit(&caps, &bundle.choices[0]).unwrap()[0];
    insta::assert_snapshot!(
        "gpt_step_bundle",
        format!("{}\n// {:?}\n", module.source(Dialect::Browser), module.dispatches)
    );
}

#[test]
fn variants_of_each_archetype() {
    let (program, caps) = (gpt(), caps());
    let mut archetypes = HashSet::new();
    for kernel in program.kernels.values() {
        let archetype = kernel.kind.archetype();
        if !archetypes.insert(archetype) {
            continue;
        }
        let piece = &pieces(&program, kernel, &caps).unwrap()[0];
        let mut out = String::new();
        let mut list = variants(piece, &caps);
        for variant in &mut list {
            // Steps spelled out are the same lines again and again.
            if let Variant::Contract { unroll, .. } = variant {
                *unroll = 1;
            }
        }
        let mut seen = HashSet::new();
        for variant in list.into_iter().filter(|v| seen.insert(*v)) {
            let module = emit(piece, &caps, &variant).unwrap();
            let _ = writeln!(out, "{}\n// {:?}\n", module.source(Dialect::Naga), module.dispatches);
        }
        insta::assert_snapshot!(format!("variants_of_{archetype}"), out);
    }
    assert_eq!(archetypes.len(), 8, "{archetypes:?}");
}
