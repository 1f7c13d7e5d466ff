//! Where the time of a step goes: kernels by time, arithmetic, traffic and share of the machine's roofline.
//!
//! An executor that keeps clocks gives a [`Timeline`] of one step: who ran which kernel from when to when. A [`Profile`] is the summary of
//! several such steps.
//!
//! Invariants
//! - **It accounts for the step.** A kernel's time is the time that all tracks spent in it, divided by the number of tracks. Kernel times and
//!   idle time (waiting, taking tasks, meeting) add up to the time of the step, which is shown beside the time of steps without clocks.
//! - **Roofline** (Williams, Waterman and Patterson 2009): the least time of a kernel is the larger of its operations over the measured arithmetic
//!   peak and its bytes over the measured bandwidth; the share is that time over the kernel's. Traffic is counted as
//!   `tinygpt_ir::program::stats` counts it, with caches empty between kernels, so that data that stays in a cache gives shares above one.

mod text;
mod trace;

pub use trace::trace;

use crate::executor::Timeline;
use crate::provenance;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tinygpt_ir::program::{KernelId, Program, kernel_stats};

/// Nanoseconds of each kernel, summed over tracks, and the number of its pieces.
fn by_kernel(timeline: &Timeline, kernels: usize) -> Vec<(u64, u64)> {
    let mut sums = vec![(0, 0); kernels];
    for region in &timeline.regions {
        let (ns, calls) = &mut sums[region.kernel.index()];
        *ns += region.end_ns - region.start_ns;
        *calls += 1;
    }
    sums
}

/// What the machine can do at most; None where it was not measured.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Peak {
    pub gflops: Option<f64>,
    /// Bytes read and written together, in GB/s.
    pub gbs: Option<f64>,
}

/// What was profiled, and where.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Subject {
    /// Preset or graph.
    pub model: String,
    pub backend: String,
    /// The processor's or the GPU's name.
    pub adapter: String,
    /// Whether the adapter is a GPU emulated in software, whose times say nothing of a GPU.
    pub software: bool,
    /// Threads of the CPU; 1 on a GPU.
    pub tracks: usize,
    /// Steps that the figures are medians of.
    pub steps: usize,
}

/// One row of a profile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// A kernel, several that run as one, or a group of kernels.
    pub name: String,
    pub kernels: usize,
    /// Archetype; the names of all for a group.
    pub kind: String,
    /// Scope paths.
    pub scopes: Vec<String>,
    /// DSL lines, `FILE:LINE`.
    pub lines: Vec<String>,
    /// Pieces of work a step: tasks on a CPU, dispatches on a GPU.
    pub calls: u64,
    pub ms: f64,
    /// Of the time of the step.
    pub share: f64,
    pub gflop: f64,
    pub gb: f64,
    pub gflops: f64,
    pub gbs: f64,
    /// Least time over time; None where a peak was not measured.
    pub roofline: Option<f64>,
}

/// Format name and version of the JSON form.
pub const FORMAT: &str = "tinygpt-profile 1";

/// A profile of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    pub format: String,
    pub subject: Subject,
    pub peak: Peak,
    /// Median milliseconds of a step with clocks, and of one without.
    pub step_ms: f64,
    pub unclocked_ms: f64,
    /// Sum over kernels, and the rest of the step.
    pub kernels_ms: f64,
    pub idle_ms: f64,
    /// By falling time.
    pub rows: Vec<Row>,
}

/// What the rows of a profile stand for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupBy {
    /// One kernel a row
    Kernel,
    /// Kernels of equal scope, block numbers aside
    Scope,
    /// Kernels of equal archetype
    Kind,
}

impl Profile {
    /// The profile of `program` from at least one timeline of it, and from the times in milliseconds of steps without clocks.
    pub fn new(
        program: &Program,
        subject: Subject,
        peak: Peak,
        timelines: &[Timeline],
        unclocked_ms: &[f64],
    ) -> Profile {
        let n = program.kernels.len();
        let per_step: Vec<Vec<(u64, u64)>> = timelines.iter().map(|t| by_kernel(t, n)).collect();
        let tracks = subject.tracks.max(1) as f64;
        let step_ms = median(timelines.iter().map(|t| t.step_ns as f64 * 1e-6).collect());
        let mut rows: BTreeMap<KernelId, Row> = program
            .kernels
            .iter()
            .map(|(id, kernel)| {
                let ms = median(per_step.iter().map(|s| s[id.index()].0 as f64 * 1e-6 / tracks).collect());
                let stats = kernel_stats(program, kernel);
                let row = Row {
                    name: kernel.name.clone(),
                    kernels: 1,
                    kind: kernel.kind.archetype().to_owned(),
                    scopes: kernel.provenance.scopes.clone(),
                    lines: provenance::lines(&kernel.provenance),
                    calls: per_step.last().map_or(0, |s| s[id.index()].1),
                    ms,
                    share: 0.0,
                    gflop: stats.flops as f64 * 1e-9,
                    gb: stats.bytes() as f64 * 1e-9,
                    gflops: 0.0,
                    gbs: 0.0,
                    roofline: None,
                };
                (id, row)
            })
            .collect();
        for (first, others) in timelines.iter().take(1).flat_map(|t| &t.together).filter_map(|k| k.split_first()) {
            for other in others.iter().filter_map(|id| rows.remove(id)).collect::<Vec<_>>() {
                if let Some(row) = rows.get_mut(first) {
                    row.join(&other);
                    row.name = format!("{} + {}", row.name, other.name);
                }
            }
        }
        let mut rows: Vec<Row> = rows.into_values().collect();
        rows.iter_mut().for_each(|row| row.rates(step_ms, peak));
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.name.cmp(&b.name)));
        let kernels_ms = rows.iter().map(|r| r.ms).sum::<f64>();
        Profile {
            format: FORMAT.to_owned(),
            subject,
            peak,
            step_ms,
            unclocked_ms: median(unclocked_ms.to_vec()),
            kernels_ms,
            idle_ms: step_ms - kernels_ms,
            rows,
        }
    }

    /// The same with rows joined; kernels stay as they are for [`GroupBy::Kernel`].
    pub fn grouped(&self, by: GroupBy) -> Profile {
        let key = |row: &Row| match by {
            GroupBy::Kernel => row.name.clone(),
            GroupBy::Kind => row.kind.clone(),
            GroupBy::Scope => row.scopes.first().map_or("(no scope)".to_owned(), |s| without_numbers(s)),
        };
        let mut groups: BTreeMap<String, Row> = BTreeMap::new();
        for row in &self.rows {
            let name = key(row);
            match groups.get_mut(&name) {
                None => {
                    groups.insert(name.clone(), Row { name, ..row.clone() });
                }
                Some(group) => group.join(row),
            }
        }
        let mut rows: Vec<Row> = groups.into_values().collect();
        rows.iter_mut().for_each(|row| row.rates(self.step_ms, self.peak));
        rows.sort_by(|a, b| b.ms.total_cmp(&a.ms).then_with(|| a.name.cmp(&b.name)));
        Profile { rows, ..self.clone() }
    }
}

impl Row {
    fn rates(&mut self, step_ms: f64, peak: Peak) {
        let per_second = |amount: f64| if self.ms > 0.0 { amount / (self.ms * 1e-3) } else { 0.0 };
        (self.gflops, self.gbs) = (per_second(self.gflop), per_second(self.gb));
        self.share = if step_ms > 0.0 { self.ms / step_ms } else { 0.0 };
        self.roofline = match peak {
            Peak { gflops: Some(gflops), gbs: Some(gbs) } => {
                Some(if self.ms > 0.0 { (self.gflop / gflops).max(self.gb / gbs) / (self.ms * 1e-3) } else { 0.0 })
            }
            _ => None,
        };
    }

    fn join(&mut self, other: &Row) {
        self.kernels += other.kernels;
        self.calls += other.calls;
        self.ms += other.ms;
        self.gflop += other.gflop;
        self.gb += other.gb;
        if !self.kind.split(", ").any(|kind| kind == other.kind) {
            self.kind = format!("{}, {}", self.kind, other.kind);
        }
        for (to, from) in [(&mut self.scopes, &other.scopes), (&mut self.lines, &other.lines)] {
            let new: Vec<String> = from.iter().filter(|x| !to.contains(x)).cloned().collect();
            to.extend(new);
        }
    }
}

/// `blocks.3.attn` as `blocks.*.attn`.
fn without_numbers(scope: &str) -> String {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let level = |level: &str| level.split('.').map(|p| if number(p) { "*" } else { p }).collect::<Vec<_>>().join(".");
    scope.split('/').map(level).collect::<Vec<_>>().join("/")
}

/// Of at least one number; 0 of none.
fn median(mut xs: Vec<f64>) -> f64 {
    xs.sort_by(f64::total_cmp);
    match xs.len() {
        0 => 0.0,
        n if n % 2 == 1 => xs[n / 2],
        n => (xs[n / 2 - 1] + xs[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::Region;
    use tinygpt_ir::program::{KernelId, TargetModel};
    use tinygpt_ir::{Builder, Init};

    fn program() -> Program {
        let b = Builder::new("g");
        let x = {
            let _scope = b.scope("blocks.3");
            b.weight("w", [8, 8], Init::Ones).contract("ij,jk->ik", b.weight("v", [8, 8], Init::Ones))
        };
        let y = {
            let _scope = b.scope("blocks.11");
            x.contract("ij,jk->ik", x)
        };
        b.output("y", y);
        tinygpt_passes::compile::to_program(&b.finish().unwrap(), &TargetModel::cpu(), true).unwrap()
    }

    fn profile() -> Profile {
        profile_of(Vec::new())
    }

    fn profile_of(together: Vec<Vec<KernelId>>) -> Profile {
        let program = program();
        let region = |kernel, track, start_ns, end_ns| Region { kernel: KernelId(kernel), track, start_ns, end_ns };
        let regions = vec![region(0, 0, 0, 1_000_000), region(0, 1, 0, 500_000), region(1, 0, 1_000_000, 4_000_000)];
        let timeline = Timeline { tracks: 2, step_ns: 4_000_000, regions, together };
        let subject = Subject {
            model: "m".into(),
            backend: "cpu".into(),
            adapter: "A".into(),
            software: false,
            tracks: 2,
            steps: 1,
        };
        let peak = Peak { gflops: Some(1e-3), gbs: Some(1.0) };
        Profile::new(&program, subject, peak, &[timeline], &[3.5, 4.5])
    }

    #[test]
    fn it_accounts_for_the_step() {
        let p = profile();
        assert_eq!(p.rows.len(), 2);
        assert_eq!((p.step_ms, p.unclocked_ms), (4.0, 4.0));
        assert_eq!((p.rows[0].ms, p.rows[1].ms), (1.5, 0.75));
        assert_eq!((p.kernels_ms, p.idle_ms), (2.25, 1.75));
        assert_eq!((p.rows[0].calls, p.rows[1].calls), (1, 2));
        // 8 x 8 x 8 multiply-adds in 1.5 ms, of a peak of 1e-3 GFLOP/s.
        assert!((p.rows[0].gflops - 1024e-9 / 1.5e-3).abs() < 1e-12);
        assert!((p.rows[0].roofline.unwrap() - 1024e-9 / 1.5e-3 / 1e-3).abs() < 1e-9);
        assert!((p.rows[0].share - 0.375).abs() < 1e-12);
    }

    #[test]
    fn kernels_that_run_as_one_are_one_row() {
        let (apart, p) = (profile(), profile_of(vec![vec![KernelId(0), KernelId(1)]]));
        let [row] = &p.rows[..] else { panic!("{:?}", p.rows) };
        assert_eq!(row.name, format!("{} + {}", apart.rows[1].name, apart.rows[0].name));
        assert_eq!((row.kernels, row.ms, p.kernels_ms), (2, 2.25, 2.25));
        assert!((row.gflop - 2.0 * apart.rows[0].gflop).abs() < 1e-15);
        assert!((row.gflops - row.gflop / 2.25e-3).abs() < 1e-12);
    }

    #[test]
    fn rows_join_by_scope_and_kind() {
        let p = profile();
        for by in [GroupBy::Scope, GroupBy::Kind] {
            let g = p.grouped(by);
            assert_eq!(g.rows.len(), 1, "{by:?}");
            let row = &g.rows[0];
            assert_eq!((row.kernels, row.calls, row.ms), (2, 3, 2.25));
            assert_eq!(row.scopes, ["blocks.11", "blocks.3"]);
            assert_eq!(row.name, if by == GroupBy::Scope { "blocks.*" } else { "contract" });
        }
        assert_eq!(p.grouped(GroupBy::Kernel), p);
        assert_eq!(without_numbers("blocks.3.attn/x.10b"), "blocks.*.attn/x.10b");
    }

    #[test]
    fn the_text_says_what_the_step_took_and_leads_to_the_model() {
        let text = profile().to_string();
        assert!(text.contains("step 4.000 ms = kernels 2.250 ms + idle 1.750 ms"), "{text}");
        assert!(text.contains("blocks.3") && text.contains(&format!("{}:", file!())), "{text}");
    }
}
