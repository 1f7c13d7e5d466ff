//! The tables: ratios of tinygpt's step to its peers', as Markdown.

use super::result::{Run, loss_distance, median_of, ms};
use super::{Measured, Peer};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// What was run, the table of steps, and the table of first steps and memory.
pub fn report(all: &[Measured], threads: u32, rounds: u32, steps: u32, realtime: bool) -> String {
    let runs = || all.iter().flat_map(|measured| &measured.sides).flat_map(|(_, runs)| runs);
    let versions: BTreeSet<&str> = runs().flat_map(|run| run.versions.iter().map(String::as_str)).collect();
    let cpu = runs().find_map(|run| run.adapter.as_deref()).unwrap_or("an unknown processor");
    let peak = median_of(all.first().map_or(&[], |measured| measured.ours()), |run| run.peak_gflops);
    let mut text = format!(
        "{cpu}, {threads} thread(s), measured FMA peak {}; {}; {rounds} alternating round(s) of {steps} steps{}\n\n",
        number(peak, 0, " GFLOP/s"),
        versions.into_iter().collect::<Vec<_>>().join(", "),
        if realtime { " at real-time priority" } else { "" },
    );
    text += "| preset | tinygpt, ms | share of peak | PyTorch as installed: eager, compiled, ms | ratio | PyTorch on MKL's AVX-512 path: eager, compiled, ms | ratio | JAX: as written, flat, ms | burn, ms | losses differ by at most |\n";
    text += "|---|---|---|---|---|---|---|---|---|---|\n";
    for measured in all {
        let of = |peer| measured.of(peer).and_then(ms);
        let pair = |a, b| format!("{}, {}", number(of(a), 1, ""), number(of(b), 1, ""));
        let ratio_to = |a, b| number(ratio(ms(measured.ours()), &[of(a), of(b)]), 2, "");
        let share = median_of(measured.ours(), |run| Some(run.gflops? / run.peak_gflops?));
        let distance = measured.sides.iter().map(|(_, runs)| loss_distance(measured.ours(), runs)).fold(0.0, f64::max);
        let cells = [
            measured.preset.clone(),
            number(ms(measured.ours()), 2, ""),
            number(share, 2, ""),
            pair(Peer::Torch, Peer::TorchCompile),
            ratio_to(Peer::Torch, Peer::TorchCompile),
            pair(Peer::TorchAvx512, Peer::TorchCompileAvx512),
            ratio_to(Peer::TorchAvx512, Peer::TorchCompileAvx512),
            pair(Peer::Jax, Peer::JaxFlat),
            number(of(Peer::Burn), 1, ""),
            format!("{distance:.0e}"),
        ];
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text += "\nA ratio is tinygpt's time by the faster of the two.\n\n";
    text += "| preset | first step after the process's start, s: tinygpt | PyTorch eager, compiled | JAX | burn | peak RSS, MiB: tinygpt | PyTorch eager, compiled | JAX | burn |\n";
    text += "|---|---|---|---|---|---|---|---|---|\n";
    for measured in all {
        let first = |runs: Option<&[Run]>| number(runs.and_then(|runs| median_of(runs, |run| run.first_step_s)), 2, "");
        let rss = |runs: Option<&[Run]>| number(runs.and_then(|runs| median_of(runs, |run| run.peak_rss_mib)), 0, "");
        let row = |cell: &dyn Fn(Option<&[Run]>) -> String| {
            let of = |peer| cell(measured.of(peer));
            [
                cell(Some(measured.ours())),
                format!("{}, {}", of(Peer::Torch), of(Peer::TorchCompile)),
                of(Peer::JaxFlat),
                of(Peer::Burn),
            ]
            .join(" | ")
        };
        let _ = writeln!(text, "| {} | {} | {} |", measured.preset, row(&first), row(&rss));
    }
    text
}

/// tinygpt's time by the faster of its peers that were measured; none where none was.
fn ratio(ours: Option<f64>, theirs: &[Option<f64>]) -> Option<f64> {
    let fastest = theirs.iter().flatten().copied().min_by(f64::total_cmp)?;
    Some(ours? / fastest)
}

/// A number with so many decimals and its unit, or a dash.
fn number(value: Option<f64>, decimals: usize, unit: &str) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.decimals$}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::super::result::tests::run;
    use super::*;

    #[test]
    fn a_ratio_is_to_the_faster_peer() {
        assert_eq!(ratio(Some(10.0), &[Some(40.0), Some(20.0)]), Some(0.5));
        assert_eq!(ratio(Some(10.0), &[Some(40.0), None]), Some(0.25));
        assert_eq!(ratio(Some(10.0), &[None, None]), None);
        assert_eq!(ratio(None, &[Some(40.0)]), None);
    }

    #[test]
    fn the_table_holds_medians_ratios_and_dashes() {
        let ours = |median_ms| Run {
            adapter: Some("a CPU".into()),
            gflops: Some(150.0),
            peak_gflops: Some(200.0),
            versions: vec![],
            losses: vec![5.5, 5.2504],
            ..run(median_ms)
        };
        let sides = vec![
            (None, vec![ours(70.0), ours(80.0), ours(90.0)]),
            (Some(Peer::Torch), vec![run(100.0), run(200.0), run(300.0)]),
            (Some(Peer::TorchCompile), vec![run(160.0), run(150.0), run(170.0)]),
            (Some(Peer::TorchAvx512), vec![run(100.0); 3]),
            (Some(Peer::Burn), vec![run(320.0); 3]),
        ];
        let text = report(&[Measured { preset: "large".into(), sides }], 2, 3, 20, true);
        let expected = "a CPU, 2 thread(s), measured FMA peak 200 GFLOP/s; torch 2.15.0; 3 alternating round(s) of 20 steps at real-time priority\n";
        assert!(text.starts_with(expected), "{text}");
        let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| large")).collect();
        let expected = [
            "| large | 80.00 | 0.75 | 200.0, 160.0 | 0.50 | 100.0, – | 0.80 | –, – | 320.0 | 4e-4 |",
            "| large | 3.50 | 3.50, 3.50 | – | 3.50 | 890 | 890, 890 | – | 890 |",
        ];
        assert_eq!(rows, expected);
    }
}
