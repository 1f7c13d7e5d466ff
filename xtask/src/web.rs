//! `cargo xtask web`: the compiler for the page, `web/dist/tinygpt_web.wasm`.
//!
//! Rust for wasm32-unknown-unknown comes one of two ways, the first that works:
//! 1. rustup's: the target is added to the toolchain that runs xtask, where it is missing;
//! 2. Debian's packages rustc-web, cargo-web and rust-web-src, where rustup cannot fetch a target (a mirror without it, a distribution's Rust): the
//!    standard library is built from source. apt-get installs them where it may.
//!
//! Invariants:
//! - A target directory of its own, `target/web`: nothing else is built again for it.
//! - The same source gives the same bytes wherever it lies: paths of this machine are mapped away.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Failure, cargo, root, step};

const TARGET: &str = "wasm32-unknown-unknown";
const PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
/// Where Debian's packages put what they install.
const DEBIAN: [&str; 2] = ["/usr/bin/cargo", "/usr/bin/rustc"];
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/std";

#[derive(clap::Args)]
pub struct Args {
    /// Build with Debian's packages although rustup's target works
    #[arg(long)]
    debian: bool,
}

/// Build the compiler for the page, and print its size.
pub fn web(args: &Args) -> Result<(), Failure> {
    build(args.debian, false)
}

/// Builds the compiler for the page; with `strict`, warnings are errors where the pinned toolchain builds it.
pub fn build(debian: bool, strict: bool) -> Result<(), Failure> {
    let command = match if debian { None } else { by_rustup(strict) } {
        Some(command) => command,
        None => by_debian()?,
    };
    step(&mut finished(command))?;
    let made = root().join("target/web").join(TARGET).join("web/tinygpt_web.wasm");
    let kept = root().join("web/dist/tinygpt_web.wasm");
    let written = std::fs::create_dir_all(root().join("web/dist")).and_then(|()| std::fs::copy(&made, &kept));
    let bytes =
        written.map_err(|e| Failure::Failed(format!("cannot copy {} to {}: {e}", made.display(), kept.display())))?;
    let packed = gzipped(&kept).map_or("not known, since there is no gzip".to_owned(), |n| format!("{n} bytes"));
    println!("web/dist/tinygpt_web.wasm: {bytes} bytes; gzip -9: {packed}");
    Ok(())
}

/// A cargo and its compiler for the target, before its arguments are complete.
struct Way {
    command: Command,
    flags: String,
}

/// What both ways have in common.
fn finished(Way { mut command, mut flags }: Way) -> Command {
    let registry =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let places = [Some((root().to_path_buf(), ".")), registry.map(|home| (home.join("registry/src"), "crates"))];
    for (from, to) in places.into_iter().flatten() {
        flags += &format!("\x1f--remap-path-prefix={}={to}", from.display());
    }
    command.args(["--profile", "web", "--package", "tinygpt-web", "--lib", "--crate-type", "cdylib"]);
    command.args(["--target", TARGET, "--target-dir", "target/web"]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.trim_start_matches('\x1f'));
    command
}

/// Rustup's target, added where it is missing; None where rustup cannot.
fn by_rustup(strict: bool) -> Option<Way> {
    let has_target = || {
        let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        let output = rustc.args(["--print", "target-libdir", "--target", TARGET]).current_dir(root()).output();
        output.is_ok_and(|o| o.status.success() && Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_dir())
    };
    if !has_target() {
        let mut rustup = Command::new("rustup");
        rustup.args(["target", "add", TARGET]).current_dir(root());
        if step(&mut rustup).is_err() || !has_target() {
            return None;
        }
    }
    let flags = if strict { "-D\x1fwarnings".to_owned() } else { String::new() };
    Some(Way { command: cargo(&["rustc"]), flags })
}

/// Debian's compiler, installed where it is missing, and the standard library from its source.
fn by_debian() -> Result<Way, Failure> {
    let installed = || DEBIAN.iter().all(|path| Path::new(path).is_file()) && Path::new(DEBIAN_SOURCE).is_dir();
    if !installed() {
        // Without the right to install, this fails, and the sentence below says what to do.
        let _ = apt_get(&["update"])
            .and_then(|()| apt_get(&[&["install", "-y", "--no-install-recommends"], &PACKAGES[..]].concat()));
    }
    if !installed() {
        return Err(Failure::Unusable(format!(
            "found no Rust for {TARGET}: run `rustup target add {TARGET}`, or on Debian, as root, `apt-get install {}`",
            PACKAGES.join(" ")
        )));
    }
    let mut command = Command::new(DEBIAN[0]);
    command.current_dir(root()).args(["rustc", "-Zbuild-std=std,panic_abort"]);
    // Building the standard library is no stable feature of cargo.
    command.env("RUSTC", DEBIAN[1]).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO");
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker()?);
    Ok(Way { command, flags: String::new() })
}

/// A linker for WebAssembly: that of the toolchain that runs xtask, or LLVM's on the path.
fn linker() -> Result<PathBuf, Failure> {
    let printed = |what: &str| {
        let output = Command::new("rustc").args(["--print", what]).current_dir(root()).output().ok()?;
        Some(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
    };
    let of_rust = printed("target-libdir").and_then(|lib| Some(lib.parent()?.join("bin/rust-lld")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).map(|dir| dir.join("wasm-ld"));
    of_rust.into_iter().chain(on_path).find(|path| path.is_file()).ok_or_else(|| {
        Failure::Unusable("found no linker for WebAssembly: run `apt-get install lld` as root, or use rustup's Rust, which has rust-lld".into())
    })
}

/// Runs apt-get as root: as we are, or through sudo where that asks for no password.
fn apt_get(args: &[&str]) -> Result<(), Failure> {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout == b"0\n");
    let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
    if !is_root {
        command.args(["-n", "apt-get"]);
    }
    step(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"))
}

/// Bytes of the file after gzip -9; None where there is no gzip.
pub fn gzipped(path: &Path) -> Option<usize> {
    let output = Command::new("gzip").args(["-9", "-c"]).arg(path).stdin(Stdio::null()).output().ok()?;
    std::io::stderr().write_all(&output.stderr).ok()?;
    output.status.success().then_some(output.stdout.len())
}
