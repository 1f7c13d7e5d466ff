//! Values for the parameters of a graph.

use super::Rng;
use crate::graph::{Graph, NodeId};
use crate::op::{Composite, Op};
use crate::types::DType;

/// One value list a parameter, in the order of their ids and row-major; a pure function of the graph and `seed`.
///
/// - Floats: no two elements of the whole graph are equal or opposite; all lie within [-2, 2] at
///   (k + 1/4) spacings of 2^-10 (finer beyond 4096 elements), exact in f32.
/// - i32 that (through views) serve as ids or starts: within the axis they index. Class targets likewise. One in eight of
///   the ids and starts is out of range, to be clamped. Others: -8 to 8.
/// - u32: any. bool: either.
pub fn random_inputs(graph: &Graph, seed: u64) -> Vec<Vec<f64>> {
    let mut rng = Rng::new(seed ^ 0x1297_5f3c_a86e_44d1);
    let floats: usize = graph.params.values().filter(|p| p.ty.dtype.is_float()).map(|p| p.ty.numel()).sum();
    let mut grid = Grid::new(floats, &mut rng);
    let ranges = index_ranges(graph);
    graph
        .params
        .iter()
        .map(|(id, p)| {
            let range = ranges[id.index()];
            (0..p.ty.numel())
                .map(|_| match (p.ty.dtype, range) {
                    (DType::F32 | DType::F16, _) => grid.next(),
                    (DType::U32, _) => (rng.next() >> 32) as f64,
                    (DType::Bool, _) => rng.below(2) as f64,
                    (DType::I32, Some(r)) if r.clamped && rng.chance(12) => {
                        if rng.chance(50) {
                            -3.0
                        } else {
                            (r.extent + 2) as f64
                        }
                    }
                    (DType::I32, Some(r)) => rng.below(r.extent) as f64,
                    (DType::I32, None) => rng.below(17) as f64 - 8.0,
                })
                .collect()
        })
        .collect()
}

/// Distinct floats in a scrambled order: a bijection of 0..2^bits.
struct Grid {
    bits: u32,
    next: u64,
    offset: u64,
    factors: [u64; 2],
}

impl Grid {
    fn new(count: usize, rng: &mut Rng) -> Grid {
        let bits = count.next_power_of_two().trailing_zeros().max(12);
        Grid { bits, next: 0, offset: rng.next(), factors: [rng.next() | 1, rng.next() | 1] }
    }

    fn next(&mut self) -> f64 {
        let mask = (1u64 << self.bits) - 1;
        let mut x = self.next.wrapping_add(self.offset) & mask;
        self.next += 1;
        // Odd factors and xor with higher bits are both invertible modulo 2^bits.
        for factor in self.factors {
            x = x.wrapping_mul(factor) & mask;
            x ^= x >> (self.bits / 2);
        }
        let half = (1u64 << (self.bits - 1)) as f64;
        (x as f64 - half + 0.25) / (half / 2.0)
    }
}

#[derive(Clone, Copy)]
struct IndexRange {
    extent: usize,
    /// Whether the op that uses the index clamps it.
    clamped: bool,
}

/// By parameter, the extent of the axis it indexes, if it does: of tables, of windows' places, of the classes of cross entropy. Traced from
/// uses back through views; the smallest where there are several.
pub fn index_extents(graph: &Graph) -> Vec<Option<usize>> {
    index_ranges(graph).into_iter().map(|range| range.map(|r| r.extent)).collect()
}

/// By parameter, the axis it indexes, if it does: traced from uses back through views.
fn index_ranges(graph: &Graph) -> Vec<Option<IndexRange>> {
    let mut of_node: Vec<Option<IndexRange>> = vec![None; graph.nodes.len()];
    let narrow = |slot: &mut Option<IndexRange>, r: IndexRange| {
        *slot = Some(match *slot {
            None => r,
            Some(s) => IndexRange { extent: s.extent.min(r.extent), clamped: s.clamped && r.clamped },
        });
    };
    for id in graph.nodes.ids().rev() {
        let n = &graph.nodes[id];
        let shape = |i: usize| &graph.nodes[n.inputs[i]].ty.shape;
        let mut mark = |input: NodeId, extent: usize, clamped: bool| {
            narrow(&mut of_node[input.index()], IndexRange { extent, clamped });
        };
        match &n.op {
            Op::Gather | Op::ScatterAdd => mark(n.inputs[1], shape(0)[0], true),
            Op::DynamicSlice { sizes } => {
                for (axis, start) in n.inputs[1..].iter().enumerate() {
                    mark(*start, shape(0)[axis] - sizes[axis] + 1, true);
                }
            }
            Op::DynamicUpdate => {
                for (axis, start) in n.inputs[2..].iter().enumerate() {
                    mark(*start, shape(0)[axis] - shape(1)[axis] + 1, true);
                }
            }
            Op::Composite(Composite::CrossEntropy) => {
                mark(n.inputs[1], *shape(0).last().expect("cross_entropy has an axis of classes"), false);
            }
            op if op.is_view() => {
                if let Some(r) = of_node[id.index()] {
                    narrow(&mut of_node[n.inputs[0].index()], r);
                }
            }
            _ => {}
        }
    }
    let mut of_param = vec![None; graph.params.len()];
    for (id, n) in graph.nodes.iter() {
        if let (Op::Param(p), Some(r)) = (&n.op, of_node[id.index()]) {
            narrow(&mut of_param[p.index()], r);
        }
    }
    of_param
}
