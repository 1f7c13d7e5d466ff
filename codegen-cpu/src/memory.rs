//! Memory that a prepared program runs in.
//!
//! Invariants
//! - Memory is zeroed and aligned to [`ALIGN`] bytes; its address stays the same when the value moves.
//! - Pieces of [`HUGE`] bytes and more start on a huge page and ask the system for huge pages: a step walks through hundreds of
//!   megabytes, and packing reads a few cache lines of each small page. The system may refuse; then only speed changes.

use memmap2::MmapMut;
use std::io;

/// Alignment in bytes: a cache line.
pub const ALIGN: usize = 64;
/// Bytes of a huge page on x86-64, and on 64-bit Arm with small pages of 4 KiB.
const HUGE: usize = 2 << 20;

/// Zeroed memory.
#[derive(Debug)]
pub struct Memory {
    map: MmapMut,
    /// Bytes before the first one handed out.
    skip: usize,
}

impl Memory {
    /// # Errors
    /// What the system says if it has no such piece of address space or memory.
    pub fn new(bytes: usize) -> io::Result<Memory> {
        if bytes < HUGE {
            return Ok(Memory { map: MmapMut::map_anon(bytes.max(1))?, skip: 0 });
        }
        let map = MmapMut::map_anon(bytes.checked_add(HUGE).ok_or(io::ErrorKind::OutOfMemory)?)?;
        // A hint: where it is refused, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let skip = map.as_ptr().align_offset(HUGE);
        Ok(Memory { map, skip })
    }

    /// The first byte.
    pub fn ptr(&mut self) -> *mut u8 {
        self.map[self.skip..].as_mut_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_every_size_are_zeroed_aligned_and_writable() {
        for bytes in [0, 1, 63, 4096, HUGE - 1, HUGE, 3 * HUGE + 5] {
            let mut memory = Memory::new(bytes).expect("so much memory there is");
            let start = memory.ptr();
            assert!(start.addr().is_multiple_of(if bytes < HUGE { ALIGN } else { HUGE }));
            // SAFETY: the piece has so many bytes, and nothing else refers to it.
            let all = unsafe { std::slice::from_raw_parts_mut(start, bytes) };
            assert!(all.iter().all(|byte| *byte == 0));
            all.fill(7);
        }
    }

    #[test]
    fn more_than_there_is_is_an_error() {
        assert!(Memory::new(1 << 62).is_err());
        assert!(Memory::new(usize::MAX).is_err());
    }
}
