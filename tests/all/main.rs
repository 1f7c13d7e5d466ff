//! Tests across crates: what only the whole road from model to machine code, or the command line, can show.
//!
//! - [`parity`]: every backend reproduces PyTorch's fixtures
//! - [`programs`]: operations, random graphs and a model that is no GPT on the CPU against the interpreter
//! - [`testing`]: the checks that users run on their own models can fail
//! - [`training`]: the overfit gate; runs are equal to the last bit over threads and resumes
//! - [`reliability`]: runs that are stopped, killed, locked, out of room, or out of finite numbers
//! - [`gpu`]: all of this on a GPU adapter, and what only GPUs have: steps in flight, counters, plans
//! - [`cli`]: the command line's contract: output, sentences, exit statuses
//! - [`refusals`]: bad input, each with its sentence and its exit status
//! - [`decode`]: sampling with a cache has the logits and the text of the whole sequence
//! - [`dump`]: stages, passes, differences, whole dumps with their manifest
//! - [`snapshots`]: the text of every stage for a small model
//! - [`own_model`]: models from a file: train, sample, resume, dump
//! - [`opt`]: pipelines over text, and reproducers of passes that fail
//! - [`run`]: seeded runs of graphs and programs, and their comparison
//! - [`text`]: graphs and programs read back from their text
//! - [`check`]: filetests, and that there is one for all that needs one
//! - [`wasm`]: WebAssembly run by Node, exports run by the JavaScript runner in Node and in Chromium
//! - [`site`]: the playground in Chromium
//! - [`inspect`]: profiles, and the page that shows a program
//! - [`serve`]: the playground's server
//! - [`ui`]: what a person sees of a run, with a terminal and without
//! - [`docs`]: what the documents repeat of the code is what the code says
//! - [`formats`]: model files of other programs, hostile files, export and import, real PyTorch
//!
//! `tests/allocation.rs` and `tests/hostile_memory.rs` are binaries of their own, since they count the allocations of a process.

mod check;
mod cli;
mod decode;
mod docs;
mod dump;
mod formats;
mod gpu;
mod inspect;
mod opt;
mod own_model;
mod parity;
mod programs;
mod refusals;
#[cfg(unix)]
mod reliability;
mod run;
mod runner;
mod serve;
mod site;
mod snapshots;
mod support;
mod testing;
mod text;
mod training;
mod ui;
mod wasm;
