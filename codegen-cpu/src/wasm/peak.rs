//! A loop of multiply-adds in registers alone: what an engine reaches at most, against which everything else is measured.
//!
//! Without fused multiply-add each accumulator waits for a multiplication and then for an addition, and x86-64 has registers for 13 of them in V8
//! (14 are spilled), which does not quite fill its units: Node 20 on a Zen 5 core reaches 0.88 of what it does with `relaxed_madd`, whose
//! figure is the units' own limit.

use super::module::{Function, encode};
use wasm_encoder::{BlockType, InstructionSink, ValType};

/// Accumulators: as many as x86-64 has registers for.
const ACCUMULATORS: u32 = 13;
/// Rounds of all accumulators in one iteration of the loop.
const UNROLL: u32 = 16;
/// Floating-point operations of one iteration of `peak`: a multiplication and an addition of four lanes, for each accumulator and round.
pub const PEAK_FLOP: u32 = 2 * 4 * ACCUMULATORS * UNROLL;

/// A module that exports `peak(iterations: i32) -> f32`, [`PEAK_FLOP`] operations an iteration, and imports nothing.
pub fn peak_module(relaxed: bool) -> Vec<u8> {
    let (iterations, x, y, first) = (0, 1, 2, 3);
    let mut code = Vec::new();
    let mut i = InstructionSink::new(&mut code);
    // acc = acc * x + y tends to 2: no overflow, no denormal numbers.
    i.f32_const(0.5.into()).f32x4_splat().local_set(x);
    i.f32_const(1.0.into()).f32x4_splat().local_set(y);
    for acc in 0..ACCUMULATORS {
        i.f32_const((acc as f32).into()).f32x4_splat().local_set(first + acc);
    }
    i.loop_(BlockType::Empty);
    for _ in 0..UNROLL {
        for acc in first..first + ACCUMULATORS {
            i.local_get(acc).local_get(x);
            if relaxed {
                i.local_get(y).f32x4_relaxed_madd();
            } else {
                i.f32x4_mul().local_get(y).f32x4_add();
            }
            i.local_set(acc);
        }
    }
    i.local_get(iterations).i32_const(1).i32_sub().local_tee(iterations).br_if(0).end();
    i.local_get(first);
    for acc in first + 1..first + ACCUMULATORS {
        i.local_get(acc).f32x4_add();
    }
    i.f32x4_extract_lane(0).end();
    let locals = vec![ValType::V128; 2 + ACCUMULATORS as usize];
    let mut body = wasm_encoder::Function::new_with_locals_types(locals);
    body.raw(code);
    let names = ["iterations", "x", "y"].map(String::from).into_iter();
    let peak = Function {
        name: "peak".into(),
        params: vec![ValType::I32],
        result: Some(ValType::F32),
        body,
        locals: names.chain((0..ACCUMULATORS).map(|a| format!("acc{a}"))).collect(),
        comments: Vec::new(),
    };
    encode(None, false, &[peak], &[("peak".into(), 0)], (0, &[]))
}
