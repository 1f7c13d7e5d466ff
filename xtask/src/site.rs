//! `cargo xtask site`: the playground as static files, `web/site/dist`, for any host.
//!
//! Invariants:
//! - The compiler in it is built from the same source: `web` comes first.
//! - Packages are those of `web/package-lock.json`.
//! - Where something is missing, one sentence says what, before anything is built.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::suite::{fetch_packages, has_npm};
use crate::{Failure, root, step, web};

/// The least Node that Vite runs on.
const NODE: (u32, u32) = (20, 19);

/// Build the playground with its compiler, and print what it weighs.
pub fn site() -> Result<(), Failure> {
    check_node()?;
    web::build(false, false)?;
    bundle()
}

/// Build the playground around the compiler that is there, and print what it weighs.
pub fn bundle() -> Result<(), Failure> {
    check_node()?;
    if !root().join("web/dist/tinygpt_web.wasm").is_file() {
        return Err(Failure::Unusable(
            "found no web/dist/tinygpt_web.wasm, which the site holds: run `cargo xtask web`".into(),
        ));
    }
    fetch_packages()?;
    step(Command::new("npm").args(["run", "--silent", "site"]).current_dir(root().join("web")))?;
    let dist = root().join("web/site/dist");
    let files = files(&dist).map_err(|e| Failure::Failed(format!("cannot list {}: {e}", dist.display())))?;
    let bytes: u64 = files.iter().filter_map(|file| fs::metadata(file).ok()).map(|data| data.len()).sum();
    let packed: Option<usize> = files.iter().map(|file| web::gzipped(file)).sum();
    let packed = packed.map_or("not known, since there is no gzip".to_owned(), |n| format!("{n} bytes"));
    println!("web/site/dist: {} files, {bytes} bytes; gzip -9: {packed}; see it with `tinygpt serve`", files.len());
    Ok(())
}

/// Refuses a missing npm, and a Node that Vite does not run on.
fn check_node() -> Result<(), Failure> {
    if !has_npm() {
        return Err(Failure::Unusable(
            "found no npm, which builds the site: install Node with npm (on Debian, as root, `apt-get install nodejs npm`)".into(),
        ));
    }
    let output = Command::new("node").arg("--version").output();
    let said = output.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    match version(&said) {
        Some(found) if found >= NODE => Ok(()),
        _ => Err(Failure::Unusable(format!(
            "found Node \"{said}\", and the site is built with {}.{} or later: install a newer Node",
            NODE.0, NODE.1
        ))),
    }
}

/// The first two numbers of `v20.19.1`.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.strip_prefix('v')?.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

/// All files under a folder.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{NODE, version};

    #[test]
    fn versions_compare_by_number() {
        assert!(version("v20.19.0") >= Some(NODE) && version("v22.2.0") >= Some(NODE));
        assert!(version("v20.9.5") < Some(NODE) && version("v18.20.4") < Some(NODE));
        assert_eq!(version("20.19.0"), None);
        assert_eq!(version(""), None);
    }
}
