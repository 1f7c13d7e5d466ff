//! What the peers need: a Python environment, a shared object that shows MKL its AVX-512 path, burn's program, and tinygpt itself.
//!
//! Invariant: all of it lies in target/peers, apart from tinygpt; what is there already is used as it is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::Peer;
use crate::{Failure, cargo, root, step};

/// What pip installs for the peers of each module.
const TORCH: &[&str] = &["torch==2.15.0", "numpy"];
const JAX: &[&str] = &["jax==0.10.2", "numpy"];

/// Where everything lies. A path that no chosen peer needs may name nothing.
pub struct Setup {
    pub folder: PathBuf,
    pub tinygpt: PathBuf,
    pub python: PathBuf,
    /// The shared object to preload.
    pub mkl_avx512: PathBuf,
    pub burn: PathBuf,
}

impl Setup {
    /// Builds and installs what the chosen peers need and is not there yet. With `python` nothing is installed there.
    pub fn new(folder: &Path, peers: &[Peer], python: Option<&Path>) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", folder.display())))?;
        let suffix = std::env::consts::EXE_SUFFIX;
        // The binary beside xtask, which is where cargo builds it.
        let xtask = std::env::current_exe()
            .map_err(|error| Failure::Unusable(format!("cannot tell where xtask lies: {error}")))?;
        let setup = Setup {
            folder: folder.to_owned(),
            tinygpt: xtask.with_file_name(format!("tinygpt{suffix}")),
            python: python.map_or_else(|| folder.join("venv/bin/python"), Path::to_owned),
            mkl_avx512: folder.join("mkl_avx512.so"),
            burn: folder.join(format!("burn/release/burn-step{suffix}")),
        };
        step(&mut cargo(&["build", "--release", "--package", "tinygpt", "--bin", "tinygpt"]))?;
        let needs = |script: &str| peers.iter().any(|peer| peer.script().is_some_and(|(name, _)| name == script));
        for (script, module, packages) in [("torch_step.py", "torch", TORCH), ("jax_step.py", "jax", JAX)] {
            if needs(script) {
                setup.install(module, packages, python.is_some())?;
            }
        }
        if peers.iter().any(|peer| peer.avx512_mkl()) {
            let source = root().join("benches/peers/mkl_avx512.c");
            step(Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&setup.mkl_avx512).arg(source))?;
        }
        if peers.contains(&Peer::Burn) {
            let manifest = root().join("benches/peers/burn/Cargo.toml");
            let mut build = cargo(&["build", "--release", "--locked", "--manifest-path"]);
            build.arg(manifest).arg("--target-dir").arg(folder.join("burn"));
            step(build.env("RUSTFLAGS", "-C target-cpu=native"))?;
        }
        Ok(setup)
    }

    /// Makes `import module` work: in our own environment with pip.
    fn install(&self, module: &str, packages: &[&str], foreign: bool) -> Result<(), Failure> {
        let import = || runs(Command::new(&self.python).args(["-c", &format!("import {module}, numpy")]));
        if import() {
            return Ok(());
        }
        if foreign {
            return Err(Failure::Unusable(format!(
                "{} cannot import {module} and numpy: install {} there, or leave --python away",
                self.python.display(),
                packages.join(" and ")
            )));
        }
        if !self.python.exists() {
            step(Command::new("python3").args(["-m", "venv"]).arg(self.folder.join("venv")))?;
        }
        step(Command::new(&self.python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
        if import() {
            return Ok(());
        }
        Err(Failure::Failed(format!(
            "{} cannot import {module} after pip has installed it: remove {} and try again",
            self.python.display(),
            self.folder.join("venv").display()
        )))
    }

    /// Writes the start of a preset with `losses` first batches, and returns its path.
    pub fn save_start(&self, preset: &str, losses: u32) -> Result<PathBuf, Failure> {
        let path = self.folder.join(format!("{preset}.safetensors"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::Failed(format!("cannot remove {}: {error}", path.display())));
            }
            _ => {}
        }
        let mut save = Command::new(&self.tinygpt);
        save.args(["bench", "--preset", preset, "--losses", &losses.to_string(), "--save-start"]).arg(&path);
        step(save.stdout(Stdio::null()))?;
        Ok(path)
    }
}

/// Whether a command starts and succeeds; its output is left away.
pub fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
