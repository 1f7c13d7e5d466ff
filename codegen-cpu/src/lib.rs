//! Programs to native code for the CPU.
//!
//! - [`clif`]: the vector loop IR to machine code, through Cranelift

pub mod clif;
