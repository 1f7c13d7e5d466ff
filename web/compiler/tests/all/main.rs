//! The compiler for a page, natively and as it is built for one. One binary: each links the whole compiler.

mod entries;
mod graphs;
mod page;
mod requests;
