//! Bundles: what runs as one computes the bits of its pieces run one by one.

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use support::Rng;
use support::gpu::{Gpu, gpu};
use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Dialect, Unit, Variant, bundles, emit, pieces, validate};
use tinygpt_ir::program::{KernelId, KernelKind, Place, Program, StorageUnit, TargetModel};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

/// The training step of a small GPT: sizes are no multiples of tiles.
fn gpt(most_args: usize) -> Program {
    gpt_after(most_args, &[])
}

fn gpt_after(most_args: usize, passes: &[Pass]) -> Program {
    let config = tinygpt_models::gpt::GptConfig {
        vocab: 40,
        ctx: 24,
        layers: 1,
        heads: 2,
        d_model: 24,
        d_mlp: 96,
        batch: 3,
        gelu: tinygpt_ir::op::GeluForm::Erf,
    };
    let step = training_step(&tinygpt_models::gpt::gpt(&config).unwrap(), &AdamWConfig::default()).unwrap();
    let all = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let passes = Pipeline::new([&all[..], passes].concat());
    to_program(&passes.run(step).unwrap().graph, &TargetModel::gpu(most_args, 128 << 20), true).unwrap()
}

fn wide() -> Caps {
    Caps { max_storage_buffers: 32, subgroups: Some((32, 32)), overlapping_writes: true, ..Caps::webgpu() }
}

/// Words of every allocation of a program.
fn allocations(program: &Program) -> BTreeMap<StorageUnit, usize> {
    let words = |bytes: usize| bytes.div_ceil(4).max(4);
    let own = program.buffers.iter().filter(|(_, b)| b.place == Place::Own);
    let mut all: BTreeMap<_, _> = own.map(|(id, b)| (StorageUnit::Own(id), words(b.bytes()))).collect();
    all.extend((0..).map(StorageUnit::Slot).zip(program.memory.slots.iter().map(|b| words(*b))));
    all.extend((0..).map(StorageUnit::Pack).zip(program.memory.packs.iter().map(|b| words(*b))));
    all
}

#[test]
fn a_bundle_computes_the_bits_of_its_pieces() {
    let Some(gpu) = gpu() else { return };
    let most_args = gpu.caps.max_storage_buffers as usize - 8;
    equal_apart_and_together(gpu, &gpt(most_args));
    if gpu.caps.cooperative.is_some() {
        equal_apart_and_together(gpu, &gpt_after(most_args, &[Pass::Precision]));
    }
}

fn equal_apart_and_together(gpu: &Gpu, program: &Program) {
    let (sizes, mut rng) = (allocations(program), Rng(5));
    let words: Vec<(Unit, Vec<u32>)> = sizes
        .iter()
        .map(|(unit, n)| (Unit::Storage(*unit), (0..*n).map(|_| (rng.float() as f32).to_bits()).collect()))
        .collect();
    let upload = || -> HashMap<Unit, wgpu::Buffer> { words.iter().map(|(u, w)| (*u, gpu.buffer(w))).collect() };
    let (mut seen, mut several, mut split) = (HashSet::new(), 0, 0);
    for bundle in bundles(program, &gpu.caps).unwrap().iter().filter(|b| b.pieces.len() > 1) {
        // The default, and all that may be in two parts: sums of which a second dispatch makes the results.
        let mut parts = bundle.choices[0].clone();
        for v in &mut parts.variants {
            if let Variant::Reduce { split, .. } | Variant::Contract { split, .. } = v {
                *split = 2;
            }
        }
        for choice in [&bundle.choices[0], &parts] {
            let Ok(modules) = bundle.emit(&gpu.caps, choice) else { continue };
            let module = &modules[0];
            if !seen.insert(module.hash) {
                continue;
            }
            several += 1;
            split += usize::from(module.dispatches.len() > 1);
            let source = module.source(Dialect::Naga);
            validate(&source, &gpu.caps).unwrap_or_else(|e| panic!("{}: {e}\n{source}", module.name));
            let (apart, together) = (upload(), upload());
            for ((_, piece), variant) in bundle.pieces.iter().zip(&choice.variants) {
                gpu.run(&emit(piece, &gpu.caps, variant).unwrap(), &apart);
            }
            gpu.run(module, &together);
            let mut changed = 0;
            for (unit, before) in &words {
                let (want, got) = (gpu.read(&apart[unit]), gpu.read(&together[unit]));
                assert!(want == got, "{}: other bits in {unit:?}", module.name);
                changed += usize::from(got != *before);
            }
            assert!(changed >= 2, "{} wrote {changed} allocations", module.name);
        }
    }
    assert!(several >= 6 && split >= 2, "{several} bundles of several, {split} in several dispatches");
}

/// In mixed precision products on cooperative matrices go together too, and what becomes of them is approved and has SPIR-V.
#[test]
fn cooperative_products_are_one_module() {
    let caps = Caps { f16: true, cooperative: Some(32), workgroup_bytes: 48 << 10, ..wide() };
    let program = gpt_after(24, &[Pass::Precision]);
    let mut linked = 0;
    for bundle in bundles(&program, &caps).unwrap().iter().filter(|b| b.pieces.len() > 1) {
        for choice in bundle.choices.iter().filter(|c| c.together) {
            let Ok(modules) = bundle.emit(&caps, choice) else { continue };
            let products = choice.variants.iter().filter(|v| matches!(v, Variant::Cooperate { .. })).count();
            assert_eq!((modules.len(), modules[0].cooperative), (1, products > 0));
            linked += usize::from(products > 1);
            let source = modules[0].source(Dialect::Naga);
            let (naga, info) = validate(&source, &caps).unwrap_or_else(|e| panic!("{e}\n{source}"));
            tinygpt_codegen_wgsl::validate::spirv(&naga, &info).unwrap();
        }
    }
    assert!(linked > 10, "{linked} modules of several cooperative products");
}

#[test]
fn products_of_a_layer_and_bias_gradients_are_one_module() {
    let (program, caps) = (gpt(24), wide());
    let all = bundles(&program, &caps).unwrap();
    let mut pieces_of: BTreeMap<KernelId, usize> = BTreeMap::new();
    for bundle in &all {
        let stages: HashSet<usize> = bundle
            .pieces
            .iter()
            .map(|(id, _)| program.stages.iter().position(|(from, to)| (*from..*to).contains(&id.0)).unwrap())
            .collect();
        assert_eq!(stages.len(), 1, "of one stage");
        bundle.pieces.iter().for_each(|(id, _)| *pieces_of.entry(*id).or_default() += 1);
    }
    let expected: BTreeMap<KernelId, usize> =
        program.kernels.iter().map(|(id, k)| (id, pieces(&program, k, &caps).unwrap().len())).collect();
    assert_eq!(pieces_of, expected, "every piece of every kernel once");
    let of = |name: &str| {
        let has = |b: &&Bundle| b.pieces.iter().any(|(_, p)| p.name == name);
        let bundle = all.iter().find(has).unwrap_or_else(|| panic!("no kernel {name}"));
        let mut kinds: Vec<&str> = bundle.pieces.iter().map(|(_, p)| p.kind.archetype()).collect();
        kinds.dedup();
        (bundle.pieces.len(), kinds)
    };
    assert_eq!(
        of("contract_grad_blocks_0_mlp_fc_in"),
        (3, vec!["contract", "reduce"]),
        "both gradients, then the bias"
    );
    assert_eq!(of("attention_blocks_0_attn"), (1, vec!["attention"]));
}

#[test]
fn limits_make_smaller_bundles() {
    // As many bindings as WebGPU promises: products of several operands no longer go together.
    let (program, caps) = (gpt(7), Caps::webgpu());
    for bundle in bundles(&program, &caps).unwrap() {
        let module = &bundle.emit(&caps, &bundle.choices[0]).unwrap()[0];
        assert!(module.bindings.len() <= caps.max_storage_buffers as usize, "{}", module.name);
        validate(&module.source(Dialect::Naga), &caps).unwrap_or_else(|e| panic!("{}: {e}", module.name));
    }
    let one = Caps { max_workgroups: 1, ..wide() };
    let small = bundles(&gpt(24), &wide()).unwrap();
    let bundle = small.iter().find(|b| b.pieces.len() > 1).unwrap();
    let e = bundle.emit(&one, &bundle.choices[0]).unwrap_err().to_string();
    assert!(e.contains("workgroups") || e.contains("cannot be one module in these variants"), "{e}");
}

/// Weights, moments, gradients and scalars of the step are each one binding: with the ten that Chrome has, the parameters are updated in as many launches as
/// with more.
#[test]
fn few_bindings_suffice_for_the_optimizer() {
    for most in [9, 24] {
        let program = gpt(most);
        let caps = Caps { max_storage_buffers: most as u32 + 1, ..wide() };
        let mut updates = 0;
        for bundle in bundles(&program, &caps).unwrap() {
            let module = &bundle.emit(&caps, &bundle.choices[0]).unwrap()[0];
            assert!(module.bindings.len() <= most + 1, "{}", module.name);
            updates += bundle.pieces.iter().filter(|(_, p)| matches!(p.kind, KernelKind::Update(_))).count();
        }
        assert_eq!(updates, 2, "{most} arguments: parameters with weight decay and without");
        let of_optimizer =
            |k: &&tinygpt_ir::program::Kernel| k.provenance.scopes.iter().all(|s| s.starts_with("optimizer"));
        let kernels: Vec<&str> = program.kernels.values().filter(of_optimizer).map(|k| k.kind.archetype()).collect();
        assert_eq!(kernels, ["fold", "reduce", "update", "update"], "{most} arguments");
    }
}

#[test]
fn a_choice_names_a_variant_of_each_piece() {
    let all = bundles(&gpt(24), &wide()).unwrap();
    let bundle = all.iter().find(|b| b.pieces.len() > 1).unwrap();
    assert!(bundle.choices.iter().any(|c| !c.together), "the pieces apart are a choice");
    for choice in &bundle.choices {
        let modules = bundle.emit(&wide(), choice).unwrap();
        assert_eq!(modules.len(), if choice.together { 1 } else { bundle.pieces.len() });
        assert_eq!(choice.to_string().parse::<Choice>().as_ref(), Ok(choice));
    }
    let e = bundle.emit(&wide(), &Choice { variants: Vec::new(), together: true }).unwrap_err().to_string();
    assert!(e.contains("has a variant for each: found 0"), "{e}");
    // Workgroups of different sizes are no module.
    let mut mixed = bundle.choices[0].clone();
    let contract = |b: &Bundle, at: usize| matches!(b.pieces[at].1.kind, KernelKind::Contract(_));
    let at = (0..mixed.variants.len()).find(|at| contract(bundle, *at)).unwrap();
    let size = mixed.variants[at].invocations();
    let other = bundle.choices.iter().find(|c| c.variants[at].invocations() != size).unwrap();
    mixed.variants[at] = other.variants[at];
    let e = bundle.emit(&wide(), &mixed).unwrap_err().to_string();
    assert!(e.contains("cannot be one module in these variants"), "{e}");
}

#[test]
fn no_module_for_browsers_binds_what_they_refuse() {
    let mut linked = 0;
    for buffers in [8, 10, 16, 32] {
        let caps = Caps { max_storage_buffers: buffers, ..Caps::webgpu() };
        let program = gpt(buffers as usize - 1);
        for bundle in bundles(&program, &caps).unwrap() {
            let default = bundle.emit(&caps, &bundle.choices[0]).unwrap();
            linked += usize::from(default.len() < bundle.pieces.len());
            for module in default {
                for (i, a) in module.bindings.iter().enumerate() {
                    let meets = |b: &&tinygpt_codegen_wgsl::Binding| {
                        b.unit == a.unit
                            && (a.write || b.write)
                            && a.offset < b.offset + b.size
                            && b.offset < a.offset + a.size
                    };
                    let other = module.bindings[i + 1..].iter().find(meets);
                    assert!(other.is_none(), "{} of {buffers} buffers binds {a:?} and {other:?}", module.name);
                }
            }
        }
    }
    assert!(linked > 10, "{linked} bundles run as one module");
}
