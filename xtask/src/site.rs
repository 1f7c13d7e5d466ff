//! `cargo xtask site`: the playground as static files, `web/site/dist`, for any host.
//!
//! Invariants:
//! - The compiler in it is built from the same source: `web` comes first.
//! - Packages are those of `web/package-lock.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::suite::{fetch_packages, has_npm};
use crate::{Failure, root, step, web};

/// Build the playground, and print what it weighs.
pub fn site() -> Result<(), Failure> {
    if !has_npm() {
        return Err(Failure::Unusable(
            "found no npm, which builds the site: install Node with npm (on Debian, as root, `apt-get install nodejs npm`)".into(),
        ));
    }
    web::build(false, false)?;
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
