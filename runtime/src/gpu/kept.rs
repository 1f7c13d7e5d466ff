//! What the driver keeps of compiled pipelines, on disk beside the tuner's measurements, so that a later run compiles nothing anew.
//!
//! Drivers have caches of their own, which on some systems hold nothing of a process that was the first to use them. The file is one line that names the
//! format, one with the adapter and its driver, one with the data's length and hash, and the data as the driver gave it.
//!
//! Invariants
//! - Data reaches the driver only whole and unchanged, as it came from the same adapter and driver; whatever else a file holds counts as none.
//! - A file is written aside and renamed: a reader sees the old or the new one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::rng::fnv1a;
use crate::{Error, Result};

const FORMAT: &str = "tinygpt pipelines 1";

/// Most bytes of data that are taken from a file: a cache only grows, and a new one is begun beyond.
const MOST_BYTES: usize = 128 << 20;

/// The cache of an open device.
pub(super) struct Kept {
    cache: wgpu::PipelineCache,
    file: PathBuf,
    /// Name and driver.
    adapter: String,
    /// Bytes that the file holds.
    kept: AtomicUsize,
}

impl Kept {
    /// The cache of a device that has [`wgpu::Features::PIPELINE_CACHE`], with what `file` holds of it.
    pub fn open(device: &wgpu::Device, file: PathBuf, adapter: String) -> Kept {
        let data = std::fs::read(&file).ok();
        let data = data.as_deref().and_then(|bytes| contents(bytes, &adapter));
        let kept = AtomicUsize::new(data.map_or(0, <[u8]>::len));
        tracing::debug!(bytes = kept.load(Ordering::Relaxed), "read kept pipelines");
        let label = Some("pipelines");
        // SAFETY: the data's length and hash are those with which data of this adapter and driver was written as it came from `get_data`.
        let cache =
            unsafe { device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label, data, fallback: true }) };
        Kept { cache, file, adapter, kept }
    }

    pub fn cache(&self) -> &wgpu::PipelineCache {
        &self.cache
    }

    /// Keeps what was compiled since, if anything was. Errors: the file cannot be written.
    pub fn save(&self) -> Result<()> {
        let Some(data) = self.cache.get_data() else { return Ok(()) };
        if self.kept.swap(data.len(), Ordering::Relaxed) == data.len() {
            return Ok(());
        }
        tracing::debug!(bytes = data.len(), "keep pipelines");
        replace(&self.file, &packed(&data, &self.adapter))
    }
}

/// Replaces a file whole, in a folder that is made where it is missing.
pub(super) fn replace(file: &Path, bytes: &[u8]) -> Result<()> {
    let aside = file.with_extension(format!("{}.new", std::process::id()));
    let dir = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&aside, bytes))
        .and_then(|()| std::fs::rename(&aside, file))
        .map_err(|e| Error::writing(file, e))
}

fn head(data: &[u8], adapter: &str) -> String {
    format!("{FORMAT}\n{}\n{} {:016x}\n", adapter.replace('\n', " "), data.len(), fnv1a(data))
}

/// The bytes of a file.
fn packed(data: &[u8], adapter: &str) -> Vec<u8> {
    let mut bytes = head(data, adapter).into_bytes();
    bytes.extend_from_slice(data);
    bytes
}

/// The data in a file's bytes; None where they are not whole, or of another adapter, driver or format, or too long.
fn contents<'a>(bytes: &'a [u8], adapter: &str) -> Option<&'a [u8]> {
    let mut ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let (found, data) = bytes.split_at(ends.nth(2)?);
    (data.len() <= MOST_BYTES && found == head(data, adapter).as_bytes()).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_data_of_the_same_adapter_counts() {
        let data = [7, b'\n', 0, 255, 9];
        let bytes = packed(&data, "X (1.2)");
        assert_eq!(contents(&bytes, "X (1.2)"), Some(&data[..]));
        assert_eq!(contents(&packed(&[], "X"), "X"), Some(&[][..]));
        assert_eq!(contents(&bytes, "X (1.3)"), None);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(contents(&damaged, "X (1.2)"), None, "byte {at}");
            assert_eq!(contents(&bytes[..at], "X (1.2)"), None, "{at} bytes");
        }
        assert_eq!(contents(&[&bytes[..], &[0]].concat(), "X (1.2)"), None);
    }

    #[test]
    fn files_are_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("deep/pipelines-x.bin");
        replace(&file, b"one").unwrap();
        replace(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "nothing is left aside");
    }
}
