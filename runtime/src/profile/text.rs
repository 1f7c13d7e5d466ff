//! A profile as a table.

use super::{Profile, Row};
use std::fmt;

/// Columns before the name: milliseconds, share, calls, rates, share of the roofline.
const HEAD: &str = "       ms   share   calls  GFLOP/s     GB/s  roofline  ";

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = &self.subject;
        let tracks = if s.backend == "cpu" { format!(", {} thread(s)", s.tracks) } else { String::new() };
        let software = if s.software { " (a software adapter: no figures of a GPU)" } else { "" };
        writeln!(f, "# {} on {}: {}{software}{tracks}; medians of {} steps", s.model, s.backend, s.adapter, s.steps)?;
        let peak = |x: Option<f64>, unit: &str| x.map_or("not measured".to_owned(), |x| format!("{x:.1} {unit}"));
        writeln!(
            f,
            "# measured peaks: arithmetic {}, memory {}",
            peak(self.peak.gflops, "GFLOP/s"),
            peak(self.peak.gbs, "GB/s")
        )?;
        writeln!(
            f,
            "# step {:.3} ms = kernels {:.3} ms + idle {:.3} ms ({:.1}%); without clocks {:.3} ms, a difference of {:+.3} ms",
            self.step_ms,
            self.kernels_ms,
            self.idle_ms,
            100.0 * self.idle_ms / self.step_ms.max(f64::MIN_POSITIVE),
            self.unclocked_ms,
            self.step_ms - self.unclocked_ms,
        )?;
        let width = self.rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(6);
        writeln!(f, "{HEAD}{:width$}  scopes; lines", "kernel")?;
        self.rows.iter().try_for_each(|row| line(f, row, width))
    }
}

fn line(f: &mut fmt::Formatter<'_>, row: &Row, width: usize) -> fmt::Result {
    let roofline = row.roofline.map_or("-".to_owned(), |r| format!("{:.1}%", 100.0 * r));
    let some = |all: &[String]| match all {
        [] => "-".to_owned(),
        [a] => a.clone(),
        [a, b] => format!("{a} {b}"),
        [a, b, rest @ ..] => format!("{a} {b} +{}", rest.len()),
    };
    writeln!(
        f,
        "{:9.4}  {:5.1}%  {:6}  {:7.2}  {:7.2}  {:>8}  {:width$}  {}; {}",
        row.ms,
        100.0 * row.share,
        row.calls,
        row.gflops,
        row.gbs,
        roofline,
        row.name,
        some(&row.scopes),
        some(&row.lines),
    )
}
