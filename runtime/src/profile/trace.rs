//! A timeline in the Trace Event Format (Google, "Trace Event Format", JSON object form), which Perfetto and chrome://tracing open.
//!
//! Threads (or the GPU's queue) are tracks, kernels are complete events with their scopes, lines and figures, and a counter shows the bytes of
//! temporaries that are live in each stage of the plan.

use crate::executor::Timeline;
use crate::provenance;
use serde_json::{Value, json};
use tinygpt_ir::program::{BufferKind, Program, kernel_stats};

/// The trace of one step. `track` names a track by its number.
pub fn trace(program: &Program, timeline: &Timeline, track: impl Fn(usize) -> String) -> Value {
    let us = |ns: u64| ns as f64 * 1e-3;
    let mut events = vec![json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": program.name}})];
    for at in 0..timeline.tracks {
        events.push(json!({"ph": "M", "pid": 1, "tid": at, "name": "thread_name", "args": {"name": track(at)}}));
    }
    for region in &timeline.regions {
        let kernel = &program.kernels[region.kernel];
        let all = timeline.together.iter().find(|kernels| kernels[0] == region.kernel);
        let all = all.map_or(std::slice::from_ref(&region.kernel), Vec::as_slice);
        let names: Vec<&str> = all.iter().map(|id| program.kernels[*id].name.as_str()).collect();
        let stats: Vec<_> = all.iter().map(|id| kernel_stats(program, &program.kernels[*id])).collect();
        events.push(json!({
            "ph": "X", "pid": 1, "tid": region.track, "name": names.join(" + "), "cat": kernel.kind.archetype(),
            "ts": us(region.start_ns), "dur": us(region.end_ns - region.start_ns),
            "args": {
                "scopes": kernel.provenance.scopes, "lines": provenance::lines(&kernel.provenance),
                "flop of the whole kernel": stats.iter().map(|s| s.flops).sum::<u64>(),
                "bytes of the whole kernel": stats.iter().map(|s| s.bytes()).sum::<u64>(),
            },
        }));
    }
    let live = live_bytes(program);
    for (stage, bytes) in live.iter().enumerate() {
        let (from, to) = program.stages[stage];
        let starts = timeline.regions.iter().filter(|r| (from..to).contains(&r.kernel.0)).map(|r| r.start_ns);
        if let Some(start) = starts.min() {
            events.push(
                json!({"ph": "C", "pid": 1, "name": "live temporaries", "ts": us(start), "args": {"bytes": bytes}}),
            );
        }
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}

/// Bytes of temporaries live in each stage: from the stage that writes one to the last that reads it.
pub fn live_bytes(program: &Program) -> Vec<u64> {
    let stage_of = |kernel: usize| {
        program.stages.iter().position(|&(from, to)| (from as usize..to as usize).contains(&kernel)).unwrap_or(0)
    };
    let mut spans = vec![None; program.buffers.len()];
    for (id, kernel) in program.kernels.iter() {
        let stage = stage_of(id.index());
        for arg in &kernel.args {
            let span: &mut Option<(usize, usize)> = &mut spans[arg.buffer.index()];
            *span = Some(span.map_or((stage, stage), |(from, _)| (from, stage)));
        }
    }
    let mut live = vec![0; program.stages.len()];
    for ((_, buffer), span) in program.buffers.iter().zip(spans) {
        if let (BufferKind::Temp, Some((from, to))) = (buffer.kind, span) {
            live[from..=to].iter_mut().for_each(|bytes| *bytes += buffer.bytes() as u64);
        }
    }
    live
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Region;
    use tinygpt_ir::program::{KernelId, TargetModel};
    use tinygpt_ir::{Builder, Init};

    #[test]
    fn a_trace_has_a_track_a_thread_and_the_live_bytes_of_each_stage() {
        let b = Builder::new("g");
        let w = b.weight("w", [16, 16], Init::Ones);
        let x = w.contract("ij,jk->ik", w);
        b.output("y", x.contract("ij,jk->ik", w).contract("ij,jk->ik", x));
        let program = tinygpt_passes::compile::to_program(&b.finish().unwrap(), &TargetModel::cpu(), true).unwrap();
        // Two temporaries of 1 KiB: both live in the last stage only, where the second is read and the first still is.
        assert_eq!(live_bytes(&program), [1024, 2048, 2048]);
        let regions = (0..3).map(|k| {
            let start_ns = 10_000 * u64::from(k);
            Region { kernel: KernelId(k), track: (k % 2) as usize, start_ns, end_ns: start_ns + 5_000 }
        });
        let timeline = Timeline { tracks: 2, step_ns: 30_000, regions: regions.collect(), together: Vec::new() };
        let trace = trace(&program, &timeline, |at| format!("thread {at}"));
        let events = trace["traceEvents"].as_array().unwrap();
        let of = |ph: &str| events.iter().filter(|e| e["ph"] == ph).collect::<Vec<_>>();
        assert_eq!((of("M").len(), of("X").len(), of("C").len()), (3, 3, 3));
        assert_eq!((&of("X")[1]["ts"], &of("X")[1]["dur"], &of("X")[1]["tid"]), (&json!(10.0), &json!(5.0), &json!(1)));
        assert_eq!(of("C")[1]["args"]["bytes"], 2048);
    }
}
