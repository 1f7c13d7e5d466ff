//! The compiler for a page, natively and as it is built for one. One binary: each links the whole compiler.

mod entries;
mod files;
mod graphs;
mod inspect;
mod page;
mod requests;
