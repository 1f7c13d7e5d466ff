//! What a person sees of a run: progress while it trains, curves, and a verdict at its end.

pub mod curves;
pub mod history;
pub mod text;
pub mod verdict;
