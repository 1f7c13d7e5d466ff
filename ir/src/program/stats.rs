//! What a program costs: arithmetic, memory traffic, launches; and what fusion saved.
//!
//! Conventions
//! - Floating-point operations: a multiply-add is two. A contraction of extents b, m, n, k takes 2 b m n k a term. Attention is
//!   counted over the full square, causal or not, so that figures compare with those of others: with P = 2 B H T S D a product,
//!   forward P for the scores and P for the output, backward P for the scores, P for their gradient (if dq or dk is stored), and P for each
//!   of dq, dk and dv; so 4 B H T S D and 10 B H T S D when all is stored.
//! - Any other arithmetic scalar (unary, binary, compare, select, random) is one operation each time it has a new value: once a point; in a reduce
//!   kernel once a row if it does not vary along cols, and each reduction one an element. Loads, casts and indices are free. That a backend
//!   computes a scalar again in a later sweep is not counted.
//! - Bytes moved: of each argument, the distinct elements read plus those written; caches are taken as perfect within a kernel and as
//!   empty between kernels. Overlapping accesses of one argument are summed, up to the whole buffer.

use std::collections::HashSet;
use std::fmt;

use super::uses::{Use, uses};
use super::{Body, BufferKind, Kernel, KernelKind, Program, ScalarOp};
use crate::types::numel;

/// Names of the archetypes, in the order of reports.
pub const ARCHETYPES: [&str; 8] =
    ["pointwise", "update", "fold", "reduce", "contract", "attention", "attention_grad", "scatter"];

/// Cost of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelStats {
    pub flops: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

impl KernelStats {
    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }
}

/// Cost of one step of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// By kernel id.
    pub kernels: Vec<KernelStats>,
    pub stages: usize,
    /// Kernels of each of [`ARCHETYPES`].
    pub archetypes: [usize; 8],
    pub flops: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
    /// Bytes of all temporaries together.
    pub temp_bytes: u64,
    pub planned_bytes: u64,
    pub lower_bound_bytes: u64,
}

impl ProgramStats {
    /// Of a program that satisfies the verifier.
    pub fn new(program: &Program) -> ProgramStats {
        let kernels: Vec<KernelStats> = program.kernels.values().map(|k| kernel_stats(program, k)).collect();
        let count = |name: &str| program.kernels.values().filter(|k| k.kind.archetype() == name).count();
        let temps = program.buffers.values().filter(|b| b.kind == BufferKind::Temp);
        ProgramStats {
            stages: program.stages.len(),
            archetypes: ARCHETYPES.map(count),
            flops: kernels.iter().map(|k| k.flops).sum(),
            bytes_read: kernels.iter().map(|k| k.bytes_read).sum(),
            bytes_written: kernels.iter().map(|k| k.bytes_written).sum(),
            temp_bytes: temps.map(|b| b.bytes() as u64).sum(),
            planned_bytes: program.memory.planned as u64,
            lower_bound_bytes: program.memory.lower_bound as u64,
            kernels,
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes_read + self.bytes_written
    }
}

/// Cost of `kernel`, one of `program`'s.
pub fn kernel_stats(program: &Program, kernel: &Kernel) -> KernelStats {
    let list = uses(kernel);
    let moved = |writes: bool| {
        let bytes = kernel.args.iter().enumerate().map(|(i, arg)| {
            let buffer = &program.buffers[arg.buffer];
            let mut seen = HashSet::new();
            let elements: usize = list
                .iter()
                .filter(|u| u.arg == i && u.writes == writes && seen.insert((u.access, &u.space)))
                .map(distinct)
                .sum();
            (elements.min(buffer.len) * buffer.dtype.size()) as u64
        });
        bytes.sum()
    };
    KernelStats { flops: flops(&kernel.kind), bytes_read: moved(false), bytes_written: moved(true) }
}

/// Distinct elements of an access: its points without the axes that it ignores, at most the span it reaches.
fn distinct(u: &Use<'_>) -> usize {
    let a = u.access;
    let varies = |c: &i64| *c != 0 || !a.indirect.is_empty();
    let points: usize = a.at.coeffs.iter().zip(&u.space).filter(|(c, _)| varies(c)).map(|(_, n)| n).product();
    let (lo, hi) = a.range(&u.space);
    points.min((hi - lo) as usize + 1)
}

fn flops(kind: &KernelKind) -> u64 {
    let points = |space: &[usize]| numel(space) as u64;
    match kind {
        KernelKind::Pointwise(k) => operations(&k.body) * points(&k.space),
        KernelKind::Update(k) => operations(&k.body) * k.segments.iter().sum::<usize>() as u64,
        KernelKind::Fold(k) => (operations(&k.body) + 1) * k.segments.iter().sum::<usize>() as u64,
        KernelKind::Reduce(k) => {
            let varies = k.varies_along_cols();
            let count = |along: bool| {
                k.body.scalars.iter().filter(|(id, s)| counts(&s.op) && varies[id.index()] == along).count() as u64
            };
            let each = count(true) + k.reductions.len() as u64;
            points(&k.rows) * (count(false) + each * points(&k.cols))
        }
        KernelKind::Contract(k) => {
            let of = |p: &super::ContractPart| {
                let space = points(&p.space());
                p.terms.iter().map(|t| 2 * space * points(&t.k)).sum::<u64>() + operations(&p.body) * space
            };
            k.parts.iter().map(of).sum()
        }
        KernelKind::Attention(k) => product(&k.shape) * (1 + u64::from(k.out.is_some())),
        KernelKind::AttentionGrad(k) => {
            let stored = [&k.dq, &k.dk, &k.dv].map(|g| u64::from(g.is_some()));
            let score_grad = stored[0].max(stored[1]);
            product(&k.shape) * (1 + score_grad + stored.iter().sum::<u64>())
        }
        KernelKind::Scatter(k) => (operations(&k.body) + 1) * points(&k.ids) * points(&k.inner),
    }
}

/// Operations of one product of attention over the full square.
fn product(s: &super::AttentionShape) -> u64 {
    2 * (s.batch * s.heads * s.q_len * s.k_len * s.head_dim) as u64
}

fn counts(op: &ScalarOp) -> bool {
    match op {
        ScalarOp::Unary(..) | ScalarOp::Binary(..) | ScalarOp::Compare(..) | ScalarOp::Select(..) => true,
        ScalarOp::Random { .. } => true,
        ScalarOp::Const(_) | ScalarOp::Load(_) | ScalarOp::Index(_) | ScalarOp::Acc(_) | ScalarOp::Cast(_) => false,
    }
}

fn operations(body: &Body) -> u64 {
    body.scalars.values().filter(|s| counts(&s.op)).count() as u64
}

/// What fusion did: one graph as a program without and with it. Prints as a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FusionReport {
    pub before: ProgramStats,
    pub after: ProgramStats,
}

impl FusionReport {
    pub fn new(unfused: &Program, fused: &Program) -> FusionReport {
        FusionReport { before: ProgramStats::new(unfused), after: ProgramStats::new(fused) }
    }

    /// Rows of the table: name, before, after.
    fn rows(&self) -> Vec<(String, u64, u64)> {
        let (b, a) = (&self.before, &self.after);
        let mut rows = vec![("kernels".to_string(), b.kernels.len() as u64, a.kernels.len() as u64)];
        for (i, name) in ARCHETYPES.iter().enumerate() {
            if b.archetypes[i] + a.archetypes[i] > 0 {
                rows.push((format!("  {name}"), b.archetypes[i] as u64, a.archetypes[i] as u64));
            }
        }
        rows.push(("stages".into(), b.stages as u64, a.stages as u64));
        rows.push(("bytes moved".into(), b.bytes(), a.bytes()));
        rows.push(("flops".into(), b.flops, a.flops));
        rows.push(("temporaries, bytes".into(), b.temp_bytes, a.temp_bytes));
        rows.push(("  planned".into(), b.planned_bytes, a.planned_bytes));
        rows.push(("  lower bound".into(), b.lower_bound_bytes, a.lower_bound_bytes));
        rows
    }
}

impl fmt::Display for FusionReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>16} {:>16} {:>7}", "", "unfused", "fused", "ratio")?;
        for (name, before, after) in self.rows() {
            let ratio = if before == 0 { "-".into() } else { format!("{:.3}", after as f64 / before as f64) };
            writeln!(f, "{name:<20} {before:>16} {after:>16} {ratio:>7}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::KernelId;
    use crate::program::samples::{attention, embedding, linear, norm};

    fn stats(p: &Program, k: u32) -> (u64, u64, u64) {
        let s = kernel_stats(p, &p.kernels[KernelId(k)]);
        (s.flops, s.bytes_read, s.bytes_written)
    }

    #[test]
    fn costs_by_hand() {
        let p = linear();
        // 2 x 4 x 3 multiply-adds; x 6 and w 12 elements in, 8 out.
        assert_eq!(stats(&p, 0), (2 * 24, 72, 32));
        // 8 additions; 8 in, 2 out.
        assert_eq!(stats(&p, 1), (8, 32, 8));
        assert_eq!(stats(&p, 2), (8, 40, 32));
        assert_eq!(stats(&p, 4), (12, 48, 48));
        let p = attention();
        // B H T S D = 2 2 3 3 2 = 72. Five arrays of 24 and the log-sum-exp of 12.
        assert_eq!(stats(&p, 0), (4 * 72, 4 * 72, 4 * 36));
        assert_eq!(stats(&p, 1), (10 * 72, 4 * (5 * 24 + 12), 4 * 72));
        let p = embedding();
        // Six gathered elements, not the whole table; ids once.
        assert_eq!(stats(&p, 0), (0, 4 * (6 + 3), 24));
        // Base and rows in; the whole table out.
        assert_eq!(stats(&p, 1), (6, 4 * (10 + 3 + 6), 40));
        // Compare, multiply, subtract, select on 4 + 3 elements; lr is one argument.
        assert_eq!(stats(&p, 2), (4 * 7, 4 * (7 + 1), 28));
        // A square and an addition an element; four blocks out.
        assert_eq!(stats(&norm(), 0), (2 * 6, 4 * 6, 16));
    }

    #[test]
    fn a_partial_gradient_of_attention_costs_less() {
        let mut p = attention();
        if let KernelKind::AttentionGrad(k) = &mut p.kernels[KernelId(1)].kind {
            (k.dq, k.dk) = (None, None);
        }
        assert_eq!(stats(&p, 1).0, 4 * 72);
    }

    #[test]
    fn totals_and_report() {
        let p = linear();
        let s = ProgramStats::new(&p);
        assert_eq!((s.kernels.len(), s.stages, s.archetypes), (5, 4, [3, 0, 0, 1, 1, 0, 0, 0]));
        assert_eq!((s.flops, s.bytes()), (48 + 8 + 8 + 8 + 12, 104 + 40 + 72 + 64 + 96));
        assert_eq!((s.temp_bytes, s.planned_bytes, s.lower_bound_bytes), (72, 128, 128));
        let report = FusionReport::new(&p, &embedding()).to_string();
        let want = "                              unfused            fused   ratio
kernels                             5                3   0.600
  pointwise                         3                1   0.333
  update                            0                1       -
  reduce                            1                0   0.000
  contract                          1                0   0.000
  scatter                           0                1       -
stages                              4                2   0.500
bytes moved                       376              236   0.628
flops                              84               34   0.405
temporaries, bytes                 72                0   0.000
  planned                         128                0   0.000
  lower bound                     128                0   0.000
";
        assert_eq!(report, want, "\n{report}");
    }
}
