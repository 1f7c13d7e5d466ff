//! The clock, where there is one: the only way this workspace's portable crates ask for the time.
//!
//! wasm32-unknown-unknown has none, and `Instant::now` panics there. Times are only ever reported, so a time that is not known is None.

use std::time::{Duration, Instant};

/// A started stop watch.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Option<Instant>);

impl Clock {
    pub fn start() -> Clock {
        Clock((!cfg!(target_arch = "wasm32")).then(Instant::now))
    }

    /// Time since the start; None where there is no clock.
    pub fn elapsed(&self) -> Option<Duration> {
        self.0.map(|start| start.elapsed())
    }
}
