//! `parity`: a backend against a fixture recorded by PyTorch.

use super::{Ending, deliver, exec_options, say_notes};
use crate::cli::ParityArgs;
use crate::fixture::Fixture;
use crate::parity::reproduce;
use crate::{Error, Result};

/// Prints the table of largest errors; an error (exit status 1) when one is beyond tolerance.
pub fn run(args: &ParityArgs) -> Result<Ending> {
    let fixture = Fixture::load(&args.fixture)?;
    let options = exec_options(&args.exec, None)?;
    let found = reproduce(&fixture, &options)?;
    say_notes(&options);
    let report = fixture.compare(&found)?;
    deliver(args.out.as_deref(), "parity.txt", format!("{report}\n"))?;
    if report.passed() {
        return Ok(Ending::Done);
    }
    let beyond = report.rows.iter().filter(|row| !row.passed()).count();
    Err(Error::failed(format!("{beyond} of {} results are beyond tolerance", report.rows.len())))
}
