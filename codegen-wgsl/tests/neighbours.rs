//! Neighbours of choices: what a search may come to computes what the default does.

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use support::Rng;
use support::gpu::{Gpu, gpu};
use tinygpt_codegen_wgsl::{Bundle, Caps, Choice, Dialect, Module, Unit, bundles, neighbours, validate};
use tinygpt_ir::program::{Place, Program, StorageUnit, TargetModel};
use tinygpt_passes::compile::to_program;
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};

/// The training step of a small GPT: sizes are no multiples of tiles.
fn gpt(most_args: usize, mixed: bool) -> Program {
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
    let mut passes = vec![Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    passes.extend(mixed.then_some(Pass::Precision));
    let graph = Pipeline::new(passes).run(step).unwrap().graph;
    let target = TargetModel { f16_operands: mixed, ..TargetModel::gpu(most_args, 128 << 20) };
    to_program(&graph, &target, true).unwrap()
}

/// A walk of at most so many steps from the default, each to a neighbour that the adapter's limits allow.
fn walk(bundle: &Bundle, caps: &Caps, rng: &mut Rng, steps: usize) -> Vec<(Choice, Vec<Module>)> {
    let mut path: Vec<(Choice, Vec<Module>)> = Vec::new();
    let mut now = bundle.choices[0].clone();
    for _ in 0..steps {
        let near = neighbours(bundle, &now, caps);
        let distinct: HashSet<&Choice> = near.iter().collect();
        assert!(distinct.len() == near.len() && !distinct.contains(&now), "{now}: {near:?}");
        let allowed: Vec<(Choice, Vec<Module>)> =
            near.into_iter().filter_map(|c| Some((c.clone(), bundle.emit(caps, &c).ok()?))).collect();
        if allowed.is_empty() {
            break;
        }
        let next = allowed[rng.below(allowed.len())].clone();
        now = next.0.clone();
        path.push(next);
    }
    path
}

/// Every bundle of one structure once.
fn structures(program: &Program, caps: &Caps) -> Vec<Bundle> {
    let mut seen = HashSet::new();
    let all = bundles(program, caps).unwrap().into_iter();
    all.filter(|b| seen.insert(b.emit(caps, &b.choices[0]).unwrap()[0].hash)).collect()
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

fn compute_the_same(gpu: &Gpu, program: &Program, steps: usize) -> usize {
    let mut rng = Rng(11);
    let words: Vec<(Unit, Vec<u32>)> = allocations(program)
        .into_iter()
        .map(|(unit, n)| (Unit::Storage(unit), (0..n).map(|_| (rng.float() as f32).to_bits()).collect()))
        .collect();
    let run = |modules: &[Module]| -> HashMap<Unit, Vec<u32>> {
        let units: HashMap<Unit, wgpu::Buffer> = words.iter().map(|(u, w)| (*u, gpu.buffer(w))).collect();
        modules.iter().for_each(|module| gpu.run(module, &units));
        units.iter().map(|(unit, buffer)| (*unit, gpu.read(buffer))).collect()
    };
    let mut walked = 0;
    for bundle in structures(program, &gpu.caps) {
        let want = run(&bundle.emit(&gpu.caps, &bundle.choices[0]).unwrap());
        for (choice, modules) in walk(&bundle, &gpu.caps, &mut rng, steps) {
            let got = run(&modules);
            for (unit, want) in &want {
                let floats = |words: &[u32]| words.iter().map(|w| f32::from_bits(*w)).collect::<Vec<f32>>();
                let (a, b) = (floats(want), floats(&got[unit]));
                let largest = a.iter().filter(|x| x.is_finite()).fold(1.0f32, |m, x| m.max(x.abs()));
                for (at, (a, b)) in a.iter().zip(&b).enumerate() {
                    let equal =
                        a.to_bits() == b.to_bits() || (a - b).abs() <= 2e-5 * largest || (a.is_nan() && b.is_nan());
                    assert!(equal, "{choice}\nof {}: {b} instead of {a} at {at} of {unit:?}", bundle.pieces[0].1.name);
                }
            }
            walked += 1;
        }
    }
    walked
}

#[test]
fn neighbours_compute_what_the_default_does() {
    let Some(gpu) = gpu() else { return };
    let most_args = gpu.caps.max_storage_buffers as usize - 8;
    for (mixed, steps) in [(false, 4), (true, 2)] {
        let walked = compute_the_same(gpu, &gpt(most_args, mixed), steps);
        assert!(walked > 20 * steps, "{walked} choices, mixed {mixed}");
    }
}

/// On adapters with cooperative matrices and subgroups walks come to matrices too, and what they come to is approved.
#[test]
fn neighbours_are_valid() {
    let caps = Caps {
        f16: true,
        cooperative: Some(32),
        max_storage_buffers: 32,
        max_invocations: 1024,
        subgroups: Some((32, 32)),
        overlapping_writes: true,
        workgroup_bytes: 48 << 10,
        ..Caps::webgpu()
    };
    let (mut rng, mut seen, mut matrices) = (Rng(3), HashSet::new(), 0);
    for bundle in structures(&gpt(24, true), &caps) {
        for (choice, modules) in walk(&bundle, &caps, &mut rng, 10) {
            assert_eq!(choice.to_string().parse::<Choice>().as_ref(), Ok(&choice));
            for module in modules.iter().filter(|m| seen.insert(m.hash)) {
                let source = module.source(Dialect::Naga);
                validate(&source, &caps).unwrap_or_else(|e| panic!("{choice}: {e}\n{source}"));
                matrices += usize::from(module.cooperative);
            }
        }
    }
    assert!(seen.len() > 100 && matrices > 20, "{} modules, {matrices} on matrices", seen.len());
}
