//! Two vectors of trips side by side.
//!
//! A function such as erf is one long chain of operations, each waiting for the one before it. Two vectors, operation by operation in
//! turn, keep the units busy: gelu and its slope over 768 columns take two thirds of the time.

use super::{Kind, Node, Place, Recorded, Source, Val};

/// Operations of a body that gains: a shorter one waits for memory.
const LEAST: usize = 24;
/// Operations of the longest body that is written out twice more.
const MOST: usize = 512;
/// Bytes from a vector to the next.
const VECTOR: i32 = 64;

/// The body for two vectors, the second 64 bytes on, if it gains by that. Each vector's operations keep their order; values before
/// the loop, constants and pointers are those of `recorded`.
pub(super) fn pair(recorded: &Recorded) -> Option<Recorded> {
    if !(LEAST..=MOST).contains(&recorded.nodes.len()) {
        return None;
    }
    let mut out = Recorded { nodes: Vec::with_capacity(2 * recorded.nodes.len()), ..recorded.clone() };
    let second: Vec<Val> = (0..recorded.values.len())
        .map(|v| match recorded.values[v] {
            Source::Node => {
                out.values.push(Source::Node);
                Val(out.values.len() - 1)
            }
            Source::Pool(_) | Source::Scalar(_) => Val(v),
        })
        .collect();
    let next = |place: Place| Place { bytes: place.bytes + if place.moving { VECTOR } else { 0 }, ..place };
    for node in &recorded.nodes {
        let kind = match node.kind {
            Kind::Load(place) => Kind::Load(next(place)),
            Kind::Store(place) => Kind::Store(next(place)),
            other => other,
        };
        let operands = node.operands.iter().map(|v| second[v.0]).collect();
        out.nodes.push(node.clone());
        out.nodes.push(Node { kind, operands, result: node.result.map(|v| second[v.0]) });
    }
    Some(out)
}
