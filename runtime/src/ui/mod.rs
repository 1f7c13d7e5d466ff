//! What a person sees of a run: lines, a bar or a screen while it trains, its curves, and a verdict at its end.
//!
//! | module | holds |
//! |---|---|
//! | [`history`] | the losses of a run, bounded |
//! | [`verdict`] | what they came to, in one sentence |
//! | [`curves`] | their picture, as SVG |
//! | [`text`] | the bytes of a model as text that a terminal may be shown |
//! | [`board`] | everything known of a run at one moment |
//! | [`watch`] | the observer that keeps the board, shows it, and writes the picture |
//! | [`bar`] | the board as one line that moves |
//! | [`screen`], [`draw`] | the board as a full screen with curves and keys |
//! | [`terminal`] | the modes of the terminal, and that they end with the process |
//!
//! Invariants: the training loop knows nothing of all this but [`Observer`](crate::trainer::Observer); what is shown goes to standard error, and
//! a standard error that is no terminal gets lines alone; `NO_COLOR` is respected.

#[cfg(not(target_arch = "wasm32"))]
pub mod bar;
#[cfg(not(target_arch = "wasm32"))]
pub mod board;
pub mod curves;
#[cfg(not(target_arch = "wasm32"))]
pub mod draw;
pub mod history;
#[cfg(not(target_arch = "wasm32"))]
pub mod screen;
#[cfg(not(target_arch = "wasm32"))]
pub mod terminal;
pub mod text;
pub mod verdict;
#[cfg(not(target_arch = "wasm32"))]
pub mod watch;
