//! Snapshots of emitted text: every kernel of a fused 2-layer GPT step in its default variant (equal modules once; a file an archetype), and one kernel of each archetype in every
//! variant of a WebGPU adapter.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use tinygpt_codegen_wgsl::{Caps, Dialect, Variant, bundles, emit, pieces, validate, variants};
use tinygpt_ir::program::{KernelKind, Program, TargetModel};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

fn caps() -> Caps {
    Caps { subgroups: Some((8, 32)), ..Caps::webgpu() }
}

fn gpt() -> Program {
    gpt_after(&[])
}

/// The step after the usual passes and `more`.
fn gpt_after(more: &[Pass]) -> Program {
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
    let usual = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let passes = Pipeline::new([&usual, more].concat());
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

/// Every contraction and attention of a step in mixed precision, in every variant, is approved and has SPIR-V; of some the text.
#[test]
fn cooperative_matrices() {
    let mut program = gpt_after(&[Pass::Precision]);
    program.target.f16_operands = true;
    let caps = Caps {
        subgroups: Some((32, 32)),
        f16: true,
        cooperative: Some(32),
        workgroup_bytes: 48 << 10,
        max_invocations: 1024,
        max_workgroup_size: [1024, 1024, 64],
        max_storage_buffers: 16,
        ..Caps::webgpu()
    };
    let (mut seen, mut text) = (HashSet::new(), String::new());
    for kernel in program.kernels.values() {
        let contracts = matches!(kernel.kind, KernelKind::Contract(_));
        if !contracts && !matches!(kernel.kind, KernelKind::Attention(_) | KernelKind::AttentionGrad(_)) {
            continue;
        }
        let piece = &pieces(&program, kernel, &caps).unwrap()[0];
        for variant in variants(piece, &caps) {
            let module = emit(piece, &caps, &variant).unwrap();
            if !seen.insert(module.hash) {
                continue;
            }
            let source = module.source(Dialect::Naga);
            let (naga, info) = validate(&source, &caps).unwrap_or_else(|e| panic!("{e}\n{source}"));
            tinygpt_codegen_wgsl::validate::spirv(&naga, &info).unwrap();
            let cooperates = matches!(variant, Variant::Cooperate { .. } | Variant::AttentionMatrices { .. });
            assert_eq!((module.cooperative, source.contains("enable f16;")), (cooperates, cooperates));
            assert!(cooperates || !contracts || source.contains("round_to_f16"), "{source}");
        }
        if text.is_empty() {
            for split in [1, 2] {
                let variant = Variant::Cooperate { m: 32, n: 32, k: 16, by_m: 1, by_n: 2, split };
                let module = emit(piece, &caps, &variant).unwrap();
                let _ = writeln!(text, "{}\n// {:?}\n", module.source(Dialect::Naga), module.dispatches);
            }
        }
    }
    assert!(seen.len() > 40, "{} modules", seen.len());
    insta::assert_snapshot!("cooperative_matrices", text);
}

#[test]
fn what_cooperative_matrices_need() {
    let subgroups = Some((32, 32));
    let caps = Caps { cooperative: Some(32), subgroups, f16: true, workgroup_bytes: 48 << 10, ..Caps::webgpu() };
    let refused = |program: &Program, caps: &Caps, variant: Variant| {
        let kernel = program.kernels.values().find(|k| matches!(k.kind, KernelKind::Contract(_))).unwrap();
        let piece = &pieces(program, kernel, caps).unwrap()[0];
        emit(piece, caps, &variant).unwrap_err().to_string()
    };
    let fitting = Variant::Cooperate { m: 32, n: 32, k: 16, by_m: 1, by_n: 2, split: 1 };
    let mixed = gpt_after(&[Pass::Precision]);
    for (program, caps) in [(&gpt(), &caps), (&mixed, &Caps::webgpu())] {
        let message = refused(program, caps, fitting);
        assert!(
            message.contains("cooperative matrices need an adapter that has them, and products whose"),
            "{message}"
        );
    }
    let odd = Variant::Cooperate { m: 32, n: 32, k: 16, by_m: 1, by_n: 4, split: 1 };
    let message = refused(&mixed, &caps, odd);
    assert!(message.ends_with("found 32x32 by 1x4 subgroups in steps of 16"), "{message}");
    // Attention: a program that permits rounding, an adapter, and room.
    let of_attention = |program: &Program, caps: &Caps, rows: u32| {
        let kernel = program.kernels.values().find(|k| matches!(k.kind, KernelKind::AttentionGrad(_))).unwrap();
        let piece = &pieces(program, kernel, caps).unwrap()[0];
        let listed = variants(piece, caps).iter().any(|v| matches!(v, Variant::AttentionMatrices { .. }));
        let made = emit(piece, caps, &Variant::AttentionMatrices { rows, cols: 32 });
        (listed, made.err().map(|e| e.to_string()).unwrap_or_default())
    };
    let permitting = Program { target: TargetModel { f16_operands: true, ..mixed.target.clone() }, ..mixed.clone() };
    let (listed, message) = of_attention(&mixed, &caps, 32);
    assert!(!listed && message.ends_with("and the program is for f32: choose another variant"), "{message}");
    let (listed, message) = of_attention(&permitting, &Caps { cooperative: Some(64), ..caps.clone() }, 32);
    assert!(!listed && message.contains("in subgroups of 32"), "{message}");
    let (listed, message) = of_attention(&permitting, &Caps { subgroups: None, ..caps.clone() }, 32);
    assert!(!listed && message.contains("with subgroup operations"), "{message}");
    let (listed, message) = of_attention(&permitting, &caps, 4096);
    assert!(listed && message.contains("bytes of workgroup memory: choose another variant"), "{message}");
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
