//! Backends to run things on, and the built command.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Backend, Isa};
use tinygpt::runtime::gpu::{Gpu, GpuOptions};

/// The backend that judges the others.
pub const INTERP: ExecOptions =
    ExecOptions { backend: Backend::Interp, threads: 1, isa: None, no_templates: false, gpu: None };

/// The CPU backend in every form that must agree: templates of each instruction set that this machine has, generated code for this
/// machine, and generated code for the least machine; each with one and with two threads.
pub fn cpus() -> Vec<ExecOptions> {
    let mut forms: Vec<(Option<Isa>, bool)> = vec![(None, true), (Some(Isa::Portable), false)];
    for isa in tinygpt_simd::Isa::available() {
        let named = [Isa::Avx512, Isa::Avx2].into_iter().find(|named| named.to_string() == isa.name());
        forms.push((Some(named.expect("every template's instruction set has a flag")), false));
    }
    let with = |(isa, no_templates)| {
        [1, 2].map(|threads| ExecOptions { backend: Backend::Cpu, threads, isa, no_templates, gpu: None })
    };
    forms.into_iter().flat_map(with).collect()
}

/// An adapter, for tests that need one: with default variants and, where `TINYGPT_REQUIRE_GPU` is 1, never None.
pub fn gpu() -> Option<Arc<Gpu>> {
    match Gpu::open(&GpuOptions { tune: false, ..GpuOptions::default() }) {
        Ok(gpu) => Some(gpu),
        Err(e) => {
            let required = std::env::var_os("TINYGPT_REQUIRE_GPU").is_some_and(|value| value == "1");
            assert!(!required && e.to_string().starts_with("no GPU adapter"), "TINYGPT_REQUIRE_GPU: {e}");
            println!("skipped: no GPU adapter");
            None
        }
    }
}

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(format!("{name}.safetensors"))
}

/// The `tinygpt` command with a working directory of its own.
pub struct Cli {
    pub dir: tempfile::TempDir,
}

/// What one call of the command printed.
pub struct Run {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    pub fn new() -> Cli {
        Cli { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file into the working directory.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tinygpt"));
        command.args(line.split_whitespace()).current_dir(self.dir.path());
        command
    }

    /// Runs `tinygpt LINE`; words are separated by spaces.
    pub fn run(&self, line: &str) -> Run {
        Run::of(self.command(line).output().unwrap())
    }

    /// Runs `tinygpt LINE`, which must succeed.
    pub fn ok(&self, line: &str) -> Run {
        let run = self.run(line);
        assert_eq!(run.status, 0, "tinygpt {line}: {}", run.stderr);
        run
    }

    /// Runs `tinygpt LINE`, which must fail with this status and one sentence that contains `part`.
    #[track_caller]
    pub fn refused(&self, line: &str, status: i32, part: &str) {
        let run = self.run(line);
        let last = run.stderr.lines().last().unwrap_or_default();
        assert_eq!(run.status, status, "tinygpt {line}: {}", run.stderr);
        assert!(last.starts_with("tinygpt: ") && last.contains(part), "tinygpt {line} said {last:?}, not {part:?}");
        let sentences = run.stderr.lines().filter(|line| line.starts_with("tinygpt: ")).count();
        assert_eq!(sentences, 1, "tinygpt {line}: {}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    }

    /// A configuration that trains in a blink, as `small.toml`, with more lines for `[train]`.
    pub fn small_config(&self, train: &str) {
        let text = format!(
            "preset = \"tiny\"\n[model]\nctx = 8\nlayers = 1\nheads = 2\nd_model = 8\n\
             [train]\nbatch = 2\nsteps = 40\nwarmup = 4\neval_batches = 2\nsample_bytes = 12\n{train}\n"
        );
        self.file("small.toml", text);
    }
}

impl Run {
    pub fn of(output: Output) -> Run {
        Run {
            status: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
