//! Wide loops are only faster: a training step gives the same bits with them and without.

use std::sync::Arc;
use tinygpt_codegen_cpu::compile::{CpuOptions, PreparedProgram};
use tinygpt_ir::program::{Buffer, BufferKind, Program, TargetModel};
use tinygpt_ir::types::DType;
use tinygpt_models::{gpt, preset};
use tinygpt_passes::optimizer::{AdamWConfig, training_step};
use tinygpt_passes::pass::{Pass, Pipeline};
use tinygpt_simd::Isa;

fn step_of_small() -> Program {
    let config = preset("small").expect("there is such a preset").config;
    let forward = gpt(&config).expect("a preset is sound");
    let step = training_step(&forward, &AdamWConfig::default()).expect("a preset has gradients");
    let passes = [Pass::Expand, Pass::Simplify, Pass::SplitReduce, Pass::Simplify];
    let graph = Pipeline::new(passes).run(step).expect("the passes take presets").graph;
    tinygpt_passes::compile::to_program(&graph, &TargetModel::cpu(), true).expect("every op has a kernel")
}

/// What a buffer holds before the step: made-up numbers, the same for buffers of one length.
fn start(b: &Buffer) -> Vec<u32> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let is_state = matches!(b.kind, BufferKind::State { .. });
    let element = |i: usize| match b.dtype {
        DType::F32 if is_state => (next().abs() * 0.1).to_bits(),
        DType::F32 => next().to_bits(),
        _ => i as u32 % 100,
    };
    (0..b.len).map(element).collect()
}

/// All buffers after a step, and whether the machine code has wide functions.
fn run(program: &Program, options: &CpuOptions) -> (Vec<Vec<u32>>, bool) {
    let prepared = Arc::new(PreparedProgram::new(program, options).expect("compiles"));
    let mut memory: Vec<Vec<u32>> = program.buffers.values().map(start).collect();
    let addresses: Vec<*mut u8> = memory.iter_mut().map(|m| m.as_mut_ptr().cast()).collect();
    // SAFETY: every buffer has its length and outlives `bound`.
    let bound = unsafe { prepared.bind(&addresses) }.expect("one address a buffer");
    let mut scratch = vec![0u32; prepared.scratch_bytes() / 4 + 16];
    let at = scratch.as_ptr().align_offset(64);
    for round in 0..bound.rounds() {
        for task in 0..bound.tasks(round) {
            // SAFETY: rounds run in order on one thread; scratch is long enough and aligned.
            unsafe { bound.run(round, task, scratch[at..].as_mut_ptr().cast()) }
        }
    }
    drop(bound);
    let has_wide = program.kernels.ids().any(|k| prepared.asm_text(k).contains("wide0:"));
    (memory, has_wide)
}

#[test]
fn a_step_has_the_same_bits_with_wide_loops_and_without() {
    if !Isa::available().contains(&Isa::Avx512) {
        eprintln!("skipped: this machine has no AVX-512");
        return;
    }
    let program = step_of_small();
    let wide = CpuOptions { isa: Some(Isa::Avx512), texts: true, ..CpuOptions::default() };
    let narrow = CpuOptions { narrow_loops: true, ..wide };
    let ((with, has_wide), (without, has_none)) = (run(&program, &wide), run(&program, &narrow));
    assert!(has_wide && !has_none, "one run has wide functions and the other has none");
    for (b, (with, without)) in program.buffers.values().zip(with.iter().zip(&without)) {
        let differs = with.iter().zip(without).position(|(a, b)| a != b);
        assert_eq!(differs, None, "buffer `{}` differs", b.label);
    }
    let steps = |(b, memory): (&Buffer, &Vec<u32>)| matches!(b.kind, BufferKind::State { .. }) && *memory != start(b);
    assert!(program.buffers.values().zip(&with).any(steps), "the step changes no weight");
}
