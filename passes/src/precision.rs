//! Mixed precision: contractions of f32 read operands that are rounded to f16; everything else stays f32.
//!
//! Each operand x of a contraction becomes `cast f32 (cast f16 x)`, the nearest f16 to x (Micikevicius et al. 2018). Fusion mostly does not compute these
//! casts but lets the contraction round as it reads ([`Term::f16`](tinygpt_ir::program::Term::f16)), so that the f32 value in the buffer serves every
//! reader; of large values it may have the f16 stored ([`TargetModel::f16_values`](tinygpt_ir::program::TargetModel::f16_values)). Hardware that multiplies f16 and adds in f32 then has operands that it takes exactly.
//!
//! Invariants
//! - Products and sums are those of f32, as are weights, the optimizer, norms, softmax and losses: only operands of contractions are
//!   rounded. The pass leaves attention as it is; a backend may round the operands of its products
//!   ([`TargetModel::f16_operands`](tinygpt_ir::program::TargetModel::f16_operands)).
//! - Decided by dtypes alone. Running the pass again changes nothing.
//! - An operand beyond 65504 becomes infinite and one below 2^-25 zero: gradients are to be scaled into that range, see
//!   [`optimizer`](crate::optimizer).

use std::collections::HashMap;

use tinygpt_ir::error::GraphError;
use tinygpt_ir::{DType, Graph, NodeId, Op};

use crate::rebuild::rebuild;

/// `graph` with the operands of its f32 contractions rounded to f16; also how many values are.
pub fn round_operands(graph: &Graph) -> Result<(Graph, usize), Box<GraphError>> {
    // By operand in `graph`, the rounded value in the result.
    let mut rounded: HashMap<NodeId, NodeId> = HashMap::new();
    let (result, _) = rebuild(graph, |b, id, node, inputs| {
        if !matches!(node.op, Op::Contract(_)) || node.ty.dtype != DType::F32 {
            return b.node(node.op.clone(), inputs);
        }
        let mut operands = inputs.to_vec();
        for (x, operand) in graph.nodes[id].inputs.iter().zip(&mut operands) {
            if rounded_source(graph, *x).is_some() {
                continue;
            }
            *operand = match rounded.get(x) {
                Some(known) => b.handle(*known),
                None => {
                    let value = operand.cast(DType::F16).cast(DType::F32);
                    if let Some(made) = value.id() {
                        rounded.insert(*x, made);
                    }
                    value
                }
            };
        }
        b.node(node.op.clone(), &operands)
    })?;
    Ok((result, rounded.len()))
}

/// The f32 value x where `id` is `cast f32 (cast f16 x)`.
pub fn rounded_source(graph: &Graph, id: NodeId) -> Option<NodeId> {
    let cast = |id: NodeId, to: DType| {
        let node = &graph.nodes[id];
        (node.op == Op::Cast(to)).then(|| node.inputs[0])
    };
    let x = cast(cast(id, DType::F32)?, DType::F16)?;
    (graph.nodes[x].ty.dtype == DType::F32).then_some(x)
}
