//! What may be asked of a run while it goes on, from any thread: by a signal, a key, or an observer.
//!
//! Invariant: the run looks between two steps, and what is asked for changes no number of the training.

use std::sync::atomic::{AtomicBool, Ordering};

/// What is asked for and not yet done.
#[derive(Debug, Default)]
pub struct Requests {
    stop: AtomicBool,
    save: AtomicBool,
    sample: AtomicBool,
}

impl Requests {
    pub const fn new() -> Self {
        Self { stop: AtomicBool::new(false), save: AtomicBool::new(false), sample: AtomicBool::new(false) }
    }

    /// Asks for an end after the step under way, with a checkpoint. True if that had been asked for before.
    pub fn stop(&self) -> bool {
        self.stop.swap(true, Ordering::Relaxed)
    }

    /// Asks for a checkpoint after the step under way.
    pub fn save(&self) {
        self.save.store(true, Ordering::Relaxed);
    }

    /// Asks for a sample after the step under way; of a run without samples (`sample_bytes` 0) it gets none.
    pub fn sample(&self) {
        self.sample.store(true, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether the weights are to be looked at before the next step.
    pub(super) fn pending(&self) -> bool {
        [&self.stop, &self.save, &self.sample].iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    pub(super) fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::Relaxed)
    }

    pub(super) fn take_sample(&self) -> bool {
        self.sample.swap(false, Ordering::Relaxed)
    }
}
