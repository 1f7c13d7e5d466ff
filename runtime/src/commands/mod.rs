//! What each command does. A command takes parsed flags, calls the crate, and prints.
//!
//! Invariants: results go to standard output, progress and diagnostics to standard error; a failure is an [`Error`](crate::Error)
//! with its exit status, and nothing here ends the process.

pub mod bench;
pub mod check;
pub mod devices;
pub mod dump;
pub mod eval;
pub mod export;
pub mod opt;
pub mod parity;
pub mod profile;
pub mod run;
pub mod sample;
pub mod serve;
pub mod train;
pub mod tune;
pub mod viz;

use crate::architecture::Architecture;
use crate::cli::{CheckpointArgs, ExecArgs};
use crate::compile::ExecOptions;
use crate::config::TrainConfig;
use crate::tensor_file::Tensors;
use crate::ui::terminal;
use crate::{Error, Result, checkpoint};
use std::io::{ErrorKind, Write};
use std::path::Path;
use tinygpt_ir::text::Ir;

/// How a command ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Done,
    /// The user interrupted it, and it has saved what there was.
    Interrupted,
}

impl Ending {
    /// The process exit status that stands for it.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Interrupted => 130,
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`tinygpt dump | head`) is no failure.
pub(crate) fn print(bytes: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::failed(format!("cannot write to standard output: {e}")))
        }
        _ => Ok(()),
    }
}

/// One line to standard error, above the bar or on the screen where there is one; a standard error that is closed loses it.
pub fn say(line: &str) {
    if terminal::divert(line) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What runs the programs of a command. Says which GPU it is, where it is one: nobody shall take a software adapter for a GPU.
pub(crate) fn exec_options(flags: &ExecArgs, config: Option<&TrainConfig>) -> Result<ExecOptions> {
    let options = ExecOptions::resolve(flags, config)?;
    if let Some(gpu) = &options.gpu {
        say(&gpu.notice());
    }
    Ok(options)
}

/// The architecture and weights that a command is given.
pub(crate) fn load_model(args: &CheckpointArgs) -> Result<(Architecture, Tensors)> {
    checkpoint::load_model(&args.checkpoint, args.heads)
}

/// What preparing programs on a GPU has to say.
pub(crate) fn say_notes(options: &ExecOptions) {
    options.gpu.iter().flat_map(|gpu| gpu.tuner().take_notes()).for_each(|note| say(&format!("gpu: {note}")));
}

/// Writes `contents` to `DIR/name`, or to standard output where there is no DIR.
pub(crate) fn deliver(out: Option<&Path>, name: &str, contents: impl AsRef<[u8]>) -> Result<()> {
    let Some(dir) = out else { return print(contents.as_ref()) };
    std::fs::create_dir_all(dir).map_err(|e| Error::writing(dir, e))?;
    let path = dir.join(name);
    std::fs::write(&path, contents).map_err(|e| Error::writing(&path, e))
}

/// The text of a file, or of standard input where the file is `-`.
pub(crate) fn read_text(file: &Path) -> Result<String> {
    if file != Path::new("-") {
        return std::fs::read_to_string(file).map_err(|e| Error::reading(file, e));
    }
    std::io::read_to_string(std::io::stdin()).map_err(|e| Error::input(format!("cannot read standard input: {e}")))
}

/// The graph or program that the text of `file` holds. An error shows the place in the text on standard error first.
pub(crate) fn parse_ir(text: &str, file: &Path) -> Result<Ir> {
    let name = file.display().to_string();
    tinygpt_ir::text::parse_any(text).map_err(|e| {
        say(&e.render(Some(&name)));
        Error::input(format!("{name} holds no graph or program: {e}"))
    })
}
