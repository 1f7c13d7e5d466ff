//! Memory: an interval checker that shares no code with the pass that places buffers.
//!
//! Invariant: live ranges are recomputed from the kernels; those in the program are only compared with them.

use super::kernel::not_in_place;
use super::order::{Touch, touches};
use super::{Invariant, Report};
use crate::program::uses::uses;
use crate::program::{Buffer, BufferId, BufferKind, MemoryPlan, Place, PlacementPolicy, Program};

/// A placed temporary.
struct Placed<'a> {
    id: BufferId,
    buffer: &'a Buffer,
    /// First and last stage that touches it.
    live: (u32, u32),
    /// Slot number (0 in the slab), first byte, end.
    bytes: (u32, usize, usize),
}

impl Placed<'_> {
    fn live_in(&self, stage: u32) -> bool {
        (self.live.0..=self.live.1).contains(&stage)
    }
}

pub(super) fn check(program: &Program, report: &mut Report) {
    let touches = touches(program);
    let temps = || program.buffers.iter().filter(|(_, b)| b.kind == BufferKind::Temp);
    let planned = temps().any(|(_, b)| b.place != Place::Own);
    packs(program, report);
    for (id, b) in program.buffers.iter() {
        let label = &b.label;
        let packed = matches!(b.place, Place::Pack { .. });
        let own = b.place == Place::Own || (packed && matches!(b.kind, BufferKind::State(_) | BufferKind::Output(_)));
        if b.kind != BufferKind::Temp || !planned {
            report.expect(own && b.live.is_none() && b.takes_over.is_none(), Invariant::Placement, || {
                format!(
                    "{id} ({label}) is {:?} at {:?}, live {:?}: expected storage of its own, no live range and no takeover",
                    b.kind, b.place, b.live
                )
            });
            continue;
        }
        let policy = match b.place {
            Place::Own => None,
            Place::Slab(_) => Some(PlacementPolicy::Slab),
            Place::Slot(_) | Place::Pack { .. } => Some(PlacementPolicy::Slot),
        };
        report.expect(policy == Some(program.target.placement), Invariant::Placement, || {
            format!("{id} ({label}) lies at {:?}: expected a {:?} place", b.place, program.target.placement)
        });
    }
    if !planned {
        let none = MemoryPlan { packs: program.memory.packs.clone(), ..MemoryPlan::default() };
        report.expect(program.memory == none, Invariant::MemoryTotals, || {
            format!("no temporary is placed, and the memory plan is {:?}: expected an empty one", program.memory)
        });
        return;
    }
    let placed: Vec<Placed<'_>> =
        temps().filter_map(|(id, b)| place(program, id, b, &touches[id.index()], report)).collect();
    overlap(&placed, report);
    for p in placed.iter().filter(|p| p.buffer.takes_over.is_some()) {
        takeover(program, p, &placed, &touches, report);
    }
    totals(program, &placed, report);
}

fn place<'a>(
    program: &Program,
    id: BufferId,
    buffer: &'a Buffer,
    touches: &[Touch],
    report: &mut Report,
) -> Option<Placed<'a>> {
    let label = &buffer.label;
    // A temporary that nothing touches has no writer, which is another violation.
    let live = (touches.first()?.stage, touches.last()?.stage);
    report.expect(buffer.live == Some(live), Invariant::LiveRange, || {
        format!("{id} ({label}) is live {:?}, and used in stages {} to {}", buffer.live, live.0, live.1)
    });
    let bytes = match buffer.place {
        Place::Own => return None,
        // Past all slots, so that parts of packs are compared with each other only.
        Place::Pack { pack, offset } => {
            report.expect(buffer.takes_over.is_none(), Invariant::Takeover, || {
                format!("{id} ({label}) lies in pack {pack} and takes over another: parts of packs are never reused")
            });
            (program.memory.slots.len() as u32 + pack, offset, offset + buffer.bytes())
        }
        Place::Slab(offset) => {
            report.expect(offset % program.target.alignment == 0, Invariant::Alignment, || {
                format!("{id} ({label}) lies at byte {offset}: expected a multiple of {}", program.target.alignment)
            });
            let end = offset + buffer.bytes();
            report.expect(end <= program.memory.planned, Invariant::Placement, || {
                format!("{id} ({label}) ends at byte {end} of a slab of {}", program.memory.planned)
            });
            (0, offset, end)
        }
        Place::Slot(slot) => {
            let size = program.memory.slots.get(slot as usize).copied().unwrap_or(0);
            report.expect(buffer.bytes() <= size, Invariant::Placement, || {
                format!("{id} ({label}) has {} bytes, slot {slot} has {size}", buffer.bytes())
            });
            (slot, 0, buffer.bytes())
        }
    };
    Some(Placed { id, buffer, live, bytes })
}

/// Parts of packs lie within their pack, aligned, and never share bytes, whenever they live.
fn packs(program: &Program, report: &mut Report) {
    let mut parts: Vec<(u32, usize, usize, BufferId)> = Vec::new();
    for (id, b) in program.buffers.iter() {
        if let Place::Pack { pack, offset } = b.place {
            let size = program.memory.packs.get(pack as usize).copied().unwrap_or(0);
            report.expect(offset + b.bytes() <= size, Invariant::Placement, || {
                format!("{id} ({}) ends at byte {} of pack {pack}, which has {size}", b.label, offset + b.bytes())
            });
            report.expect(offset % program.target.alignment == 0, Invariant::Alignment, || {
                format!(
                    "{id} ({}) lies at byte {offset} of pack {pack}: expected a multiple of {}",
                    b.label, program.target.alignment
                )
            });
            parts.push((pack, offset, offset + b.bytes(), id));
        }
    }
    parts.sort_unstable();
    for w in parts.windows(2) {
        report.expect(w[0].0 != w[1].0 || w[0].2 <= w[1].1, Invariant::NoOverlap, || {
            format!("{} and {} share bytes of pack {}", w[0].3, w[1].3, w[0].0)
        });
    }
}

fn overlap(placed: &[Placed<'_>], report: &mut Report) {
    // In order of place, so that only neighbours that may share a byte are compared.
    let mut order: Vec<&Placed<'_>> = placed.iter().collect();
    order.sort_by_key(|p| p.bytes);
    for (i, a) in order.iter().enumerate() {
        let near = order[i + 1..].iter().take_while(|b| b.bytes.0 == a.bytes.0 && b.bytes.1 < a.bytes.2);
        for b in near {
            let taken = |taker: &Placed<'_>, old: &Placed<'_>| {
                taker.buffer.takes_over == Some(old.id) && taker.live.0 == old.live.1
            };
            let common = a.live.0.max(b.live.0) <= a.live.1.min(b.live.1);
            report.expect(!common || taken(a, b) || taken(b, a), Invariant::NoOverlap, || {
                format!(
                    "{} ({}) at bytes {}..{} in stages {:?} and {} ({}) at {}..{} in {:?} share bytes while both live",
                    a.id,
                    a.buffer.label,
                    a.bytes.1,
                    a.bytes.2,
                    a.live,
                    b.id,
                    b.buffer.label,
                    b.bytes.1,
                    b.bytes.2,
                    b.live
                )
            });
        }
    }
}

fn takeover(program: &Program, new: &Placed<'_>, placed: &[Placed<'_>], touches: &[Vec<Touch>], report: &mut Report) {
    let old_id = new.buffer.takes_over.unwrap_or(new.id);
    let mut refuse = |why: String| {
        report.add(Invariant::Takeover, format!("{} ({}) takes over {old_id}: {why}", new.id, new.buffer.label));
    };
    let Some(old) = placed.iter().find(|p| p.id == old_id && p.id != new.id) else {
        return refuse("which is no other placed temporary".into());
    };
    if (old.bytes.0, old.bytes.1) != (new.bytes.0, new.bytes.1) {
        refuse(format!("it begins at {:?}, the old one at {:?}", new.buffer.place, old.buffer.place));
    }
    if old.buffer.dtype.size() != new.buffer.dtype.size() {
        refuse(format!("its elements are {}, the old ones {}", new.buffer.dtype, old.buffer.dtype));
    }
    let Some(writer) = touches[new.id.index()].iter().find(|t| t.mode.writes()) else { return };
    let name = &program.kernels[writer.kernel].name;
    let last: Vec<&Touch> = touches[old_id.index()].iter().filter(|t| t.stage >= writer.stage).collect();
    if last.len() != 1 || last[0].kernel != writer.kernel {
        return refuse(format!(
            "kernel {name}, which writes it, is not the only and last one to use the old one from its stage on"
        ));
    }
    let kernel = &program.kernels[writer.kernel];
    let list = uses(kernel);
    let position = |id: BufferId| kernel.args.iter().position(|a| a.buffer == id);
    if let (Some(read), Some(written)) = (position(old_id), position(new.id))
        && let Some(u) = not_in_place(&list, read, written)
    {
        refuse(format!(
            "in kernel {name}, {} reads the old one elsewhere than at the point that overwrites it",
            u.what
        ));
    }
}

fn totals(program: &Program, placed: &[Placed<'_>], report: &mut Report) {
    let memory = &program.memory;
    let end = placed.iter().map(|p| p.bytes.2).max().unwrap_or(0);
    let (least, most) = match program.target.placement {
        PlacementPolicy::Slab => (end, end.next_multiple_of(program.target.alignment.max(1))),
        PlacementPolicy::Slot => {
            let parts = placed.iter().filter(|p| matches!(p.buffer.place, Place::Pack { .. }));
            let sum = memory.slots.iter().sum::<usize>()
                + parts.map(|p| p.buffer.bytes().next_multiple_of(program.target.alignment.max(1))).sum::<usize>();
            (sum, sum)
        }
    };
    report.expect((least..=most).contains(&memory.planned), Invariant::MemoryTotals, || {
        format!("planned is {} bytes, and the temporaries take {least}", memory.planned)
    });
    let slots_fit = program.target.placement == PlacementPolicy::Slot || memory.slots.is_empty();
    report.expect(slots_fit, Invariant::MemoryTotals, || "a slab plan has slots".into());
    let aligned = |b: &Buffer| b.bytes().next_multiple_of(program.target.alignment.max(1));
    let bound = (0..program.stages.len() as u32)
        .map(|stage| {
            let shared = |p: &Placed<'_>| {
                // Bytes of `p` that it has from a temporary that is still read in this stage.
                let old = p.buffer.takes_over.filter(|_| p.live.0 == stage);
                old.and_then(|id| placed.iter().find(|o| o.id == id && o.live_in(stage)))
                    .map_or(0, |o| aligned(o.buffer).min(aligned(p.buffer)))
            };
            placed.iter().filter(|p| p.live_in(stage)).map(|p| aligned(p.buffer) - shared(p)).sum::<usize>()
        })
        .max()
        .unwrap_or(0);
    report.expect(memory.lower_bound == bound, Invariant::MemoryTotals, || {
        format!("the lower bound is given as {} bytes, and is {bound}", memory.lower_bound)
    });
}
