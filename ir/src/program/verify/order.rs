//! Order: who writes a buffer, and when.

use super::{Invariant, Report};
use crate::program::{ArgMode, BufferId, BufferKind, KernelId, Program};

/// One kernel that touches a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub stage: u32,
    pub kernel: KernelId,
    pub mode: ArgMode,
}

/// Who touches each buffer, in execution order. The stages cover the kernels, and arguments exist.
pub(super) fn touches(program: &Program) -> Vec<Vec<Touch>> {
    let mut out = vec![Vec::new(); program.buffers.len()];
    for stage in 0..program.stages.len() {
        for kernel in program.stage_kernels(stage) {
            for a in &program.kernels[kernel].args {
                out[a.buffer.index()].push(Touch { stage: stage as u32, kernel, mode: a.mode });
            }
        }
    }
    out
}

pub(super) fn check(program: &Program, report: &mut Report) {
    let touches = touches(program);
    for (id, b) in program.buffers.iter() {
        let list = &touches[id.index()];
        independent(program, id, list, report);
        let writers: Vec<&Touch> = list.iter().filter(|t| t.mode.writes()).collect();
        let label = &b.label;
        match b.kind {
            BufferKind::Input(_) => {
                report.expect(writers.is_empty(), Invariant::SingleWriter, || {
                    format!("input {id} ({label}) is written by kernel {}", names(program, &writers))
                });
            }
            BufferKind::Temp | BufferKind::Output(_) => {
                let [writer] = writers[..] else {
                    let found = match writers.len() {
                        0 => "no kernel".into(),
                        n => format!("{n} kernels: {}", names(program, &writers)),
                    };
                    report.add(
                        Invariant::SingleWriter,
                        format!("{id} ({label}) is written by {found}: expected exactly one"),
                    );
                    continue;
                };
                for r in list.iter().filter(|t| t.mode.reads() && t.stage <= writer.stage) {
                    report.add(
                        Invariant::SingleWriter,
                        format!(
                            "{id} ({label}) is read in stage {} by kernel {} and written in stage {} by kernel {}: expected the write in an earlier stage",
                            r.stage, program.kernels[r.kernel].name, writer.stage, program.kernels[writer.kernel].name
                        ),
                    );
                }
            }
            BufferKind::State(_) => {
                report.expect(writers.len() <= 1, Invariant::SingleWriter, || {
                    format!(
                        "state {id} ({label}) is written by {}: expected at most one kernel",
                        names(program, &writers)
                    )
                });
                let Some(writer) = writers.first() else { continue };
                for r in list.iter().filter(|t| t.kernel != writer.kernel && t.stage >= writer.stage) {
                    report.add(
                        Invariant::StateLast,
                        format!(
                            "state {id} ({label}) is written in stage {} by kernel {} and used in stage {} by kernel {}",
                            writer.stage, program.kernels[writer.kernel].name, r.stage, program.kernels[r.kernel].name
                        ),
                    );
                }
            }
        }
    }
}

fn names(program: &Program, touches: &[&Touch]) -> String {
    touches.iter().map(|t| program.kernels[t.kernel].name.as_str()).collect::<Vec<_>>().join(", ")
}

fn independent(program: &Program, id: BufferId, list: &[Touch], report: &mut Report) {
    for (i, a) in list.iter().enumerate() {
        for b in list[i + 1..].iter().take_while(|b| b.stage == a.stage) {
            report.expect(!a.mode.writes() && !b.mode.writes(), Invariant::StageIndependent, || {
                format!(
                    "kernels {} and {} of stage {} share buffer {id} ({}), which one of them writes",
                    program.kernels[a.kernel].name, program.kernels[b.kernel].name, a.stage, program.buffers[id].label
                )
            });
        }
    }
}
