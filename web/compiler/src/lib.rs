//! The compiler for a page: configurations in, WebAssembly modules, WGSL and texts out, without a server.
//!
//! `cargo xtask web` builds this crate for wasm32-unknown-unknown as `web/dist/tinygpt_web.wasm`, which imports nothing. `compiler.js`
//! wraps it for JavaScript. Everything is one function, [`answer`], from a request to a response; natively it is called as it is.
//!
//! # The module's exports
//!
//! | export | does |
//! |---|---|
//! | `memory` | the module's memory; a view of it is stale after any call, which may grow it |
//! | `alloc(len) -> pointer` | `len` bytes for a request; 0 if there is no memory left |
//! | `free(pointer, len)` | gives back a request (by the length it was allocated with) or a response (by its total length) |
//! | `call(pointer, len) -> pointer` | answers the request in these bytes, which stay the caller's; the response is the caller's to free |
//! | `failure() -> pointer` | after `call` has trapped: the response that says why, or 0 if nothing is known |
//!
//! `call` traps where the compiler has a fault or runs out of memory. The instance is then spent: read `failure`, and instantiate the module again.
//!
//! # Requests
//!
//! JSON, UTF-8: an object with the key `request` and the keys of that request; with blobs, a block as a response is, whose header is that object.
//!
//! `config` is what a configuration file says (`preset`, `[model]`, `[train]`, `[data]`), as JSON; what it leaves out comes from the preset. Instead of
//! `model` it may have `graph`: the model as the text of a forward graph (`tinygpt_runtime::architecture` says what it must have).
//!
//! | request | keys | result | blobs |
//! |---|---|---|---|
//! | `presets` | | `default`, and of each of `presets` what `resolve` says | |
//! | `keys` | | `keys` of a configuration: `section`, `key`, `type` (`integer`, `number`, `pair`, `flag`, `text`, `choice`), `choices`, `min`, `max`, `without` (the bound that is not in the range), `optional`, `native` (of the command line alone), `help` | |
//! | `resolve` | `config` | `config` (complete), `params`, `memory` (in bytes; an estimate, for a graph exact), `flop_per_step`, `batch`, `ctx`, `vocab`, `entries` (those that `compile` makes unasked) | |
//! | `compile` | `config`, `variants` (list of `{relaxed, threads}`, else all four), `entries`, `fusion`, `clocks` | the manifest | the files of `tinygpt export --format web` but for state and runner, `manifest.json` among them; of a graph also `model.gir` |
//! | `graph` | `config`, `stage` (`graph`, `grad`, `fused`, `program`), `entry`, `fusion` | `text` | |
//! | `wgsl` | `config`, `entry`, `fusion`, `caps` (what the adapter has beyond every WebGPU adapter) | allocations, slots, modules, launches: see [`gpu`] | |
//! | `wat` | `config`, `entry`, `fusion`, `variant` (else plain, one thread) | `kernels`: `name`, `archetype` and `text` of each | |
//! | `init` | `config`, `seed` (else the configuration's) | | `model.safetensors`, as in a checkpoint |
//! | `differences` | `config`, `seed`, `count` (12) | central differences of the loss in f64: `coordinates` (`weight`, `index`, `difference`), the `loss`, and the `config` that they are of, with one short row of a GPT | the `model.safetensors` that they are taken at, and its batch, `ids` and `targets` as i32 |
//! | `inspect` | `config`, `target` (`wasm`, `webgpu`), `entry`, `fusion`, `caps`, `profile` (list of `kernel`, `seconds`, `share`) | totals: `nodes`, `kernels`, `archetypes`, `launches` (of a module: rounds between barriers), `stages`, `flop`, `bytes_read`, `bytes_written`, `planned_bytes` of temporaries and their `lower_bound_bytes`; `by_kernel` | `page.html`: lines, graph after each pass, kernels and code, linked; one file, to show in a frame |
//! | `encode` | `format` (`safetensors`, `tinygpt`, `hf-gpt2`); blobs: `model.safetensors`, `optim.safetensors`, `state.json` of a checkpoint | | the format's files |
//! | `decode` | `name`, `heads` (of a file that does not state them); blob: a file of any of these formats but the last | `config`, `step`, `elapsed_s`, `params`, `moments` (whether the file had them), `history` (`step`, `loss`, `val_loss`), `saved_at` | the files of a checkpoint |
//! | `corpus` | | | `corpus.txt` |
//!
//! `entry` is the program meant: `train` (also where it is left out), `evaluate` (loss of a batch), `decode` (one token with cached keys and values),
//! `logits` (of one row), `gradient` (loss and `grad.NAME` for each weight, of a batch) or `look` (logits and attention weights of one row). A graph has
//! no `decode` and no `look`; its `logits` take its own rows. With `fusion` false each node of the graph has a kernel of its own. With
//! `clocks` modules import `env.clock: () -> f64`, in seconds, run kernel by kernel, and leave what each kernel took where the manifest's `clocks` of the
//! entry says, an f64 each, summed over steps; their layout is their own.
//!
//! # Responses
//!
//! Little-endian, all offsets from the start of the response:
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | u32: total length |
//! | 4..8 | u32: length of the header |
//! | 8.. | the header, JSON, UTF-8, padded with spaces |
//! | .. | the blobs, each from a multiple of 8 |
//!
//! The header is `{"ok": true, "result": {..}, "blobs": [{"name", "offset", "bytes"}, ..]}`, or
//! `{"ok": false, "error": "one sentence"}`, with `line` and `column` (from 1) where the sentence is about a place in a graph's text.
//!
//! # Invariants
//!
//! - Equal requests give equal bytes, here and natively: no clock, no randomness, no threads, no order that depends on addresses.
//! - No request traps, but for faults of the compiler: every other failure is a response with one sentence.

mod differences;
mod files;
pub mod gpu;
mod inspect;
mod request;
mod response;
mod subject;

#[cfg(any(target_arch = "wasm32", test))]
mod exports;

pub use request::answer;
pub use response::{Response, read, write_request};
