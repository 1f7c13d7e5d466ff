//! Programs to native code for the CPU.
//!
//! - [`compile`]: a program prepared for this processor, and run task by task
//! - [`lower`]: kernels to functions of the vector loop IR
//! - [`clif`]: the vector loop IR to machine code, through Cranelift

pub mod clif;
pub mod compile;
pub mod lower;
