//! Programs to code for the CPU.
//!
//! - [`compile`]: a program prepared for this processor, and run task by task
//! - [`lower`]: kernels to functions of the vector loop IR
//! - [`clif`]: the vector loop IR to machine code, through Cranelift
//! - `wide`: independent loops to AVX-512 instructions, which the code from Cranelift calls
//! - [`wasm`]: programs to WebAssembly modules, from the same functions
//!
//! On wasm32, where the compiler runs in a page, there is nothing native: no Cranelift, no templates, no executor.

#[cfg(test)]
mod cases;
#[cfg(not(target_arch = "wasm32"))]
pub mod clif;
#[cfg(not(target_arch = "wasm32"))]
pub mod compile;
pub mod lower;
#[cfg(not(target_arch = "wasm32"))]
pub mod memory;
mod units;
pub mod wasm;
#[cfg(not(target_arch = "wasm32"))]
mod wide;
