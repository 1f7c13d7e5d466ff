//! Programs to native code for the CPU.
//!
//! - [`lower`]: kernels to functions of the vector loop IR
//! - [`clif`]: the vector loop IR to machine code, through Cranelift

pub mod clif;
pub mod lower;
