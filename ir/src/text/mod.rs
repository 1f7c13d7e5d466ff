//! Text form of graphs: printed by `Display` and [`print`], read by [`parse`]. That of programs is in [`program::print`](crate::program::print)
//! and has the same tokens; [`parse_any`] reads either.
//!
//! ```text
//! tinygpt-graph 1
//! graph gpt
//!
//! input @tokens : i32[2,8]
//! state @wte : f32[256,48] {role=weight, init=normal, std=0.02}
//!
//! %0 = param @tokens : i32[2,8]
//! %1 = param @wte : f32[256,48]
//! scope blocks.0 {
//!   %2 = gather %1, %0 : f32[2,8,48]          ; a comment ends with the line
//!   %3 = reduce_sum %2 {axes=[2]} : f32[2,8,1]
//! }
//!
//! output sum = %3
//! update @wte = %1
//! ```
//!
//! Grammar (line-oriented; blank lines and comments may stand anywhere)
//! ```text
//! file      = "tinygpt-graph" "1" EOL "graph" name EOL { statement EOL }
//! statement = ( "input" | "state" ) "@" name ":" type [ attrs ]
//!           | node
//!           | "scope" name "{" { EOL node } [ EOL ] "}"
//!           | "output" name "=" value
//!           | "update" "@" name "=" value
//! node      = value "=" op [ "@" name ] [ value { "," value } ] [ attrs ] ":" type
//! value     = "%" word
//! attrs     = "{" word "=" attr { "," word "=" attr } "}"
//! attr      = word | string | "[" [ integer { "," integer } ] "]"
//! type      = ( "f32" | "f16" | "i32" | "u32" | "bool" ) "[" [ integer { "," integer } ] "]"
//! name      = word | string
//! word      = one or more ASCII letters, digits, "_", ".", "-", "+", "/"
//! ```
//!
//! Invariants
//! - `parse(&print(g)) == g` for every well-formed graph (module `verify`) of ranks up to 26 whose real attributes are no NaN
//!   with a payload (every NaN prints as `nan`). What `parse` returns is well-formed.
//! - The text is a pure function of the graph: no addresses, times, source files or line numbers. Of where a node comes from it holds the
//!   scope path, not the DSL line; a graph that was read has no source locations, or with [`parse_located`] those of the text itself.
//! - A value prints as its [`NodeId`](crate::NodeId) and may be read under any unique word. A value is defined above
//!   its uses.
//! - Attributes that the result type already says (the shape of `reshape`, the dtype of `cast`, the sizes of
//!   `dynamic_slice`...) are not printed: they are read from the type.
//! - Scopes are interned in the order of the text; a scope without nodes of its own prints as `scope path {}` where it
//!   has to come to keep that order.
//! - Parsing never panics and never recurses: every error is a [`ParseError`] with line, column, what was found and what
//!   was expected. Every declared type must be the one that the type rules infer.

mod any;
mod cursor;
mod error;
mod lexer;
mod ops;
mod parser;
mod print;

pub use any::{Ir, parse_any};
pub(crate) use cursor::{Cursor, Read};
pub(crate) use error::Fault;
pub use error::ParseError;
pub(crate) use lexer::{Token, quoted};
pub(crate) use ops::{Attrs, literal};
pub use parser::{parse, parse_located};
pub(crate) use print::declaration;
pub use print::print;

/// First word of a graph file.
const MAGIC: &str = "tinygpt-graph";
/// Version of the text form that this crate writes and reads.
pub const VERSION: u32 = 1;
/// Greatest rank that is read.
const MAX_RANK: usize = 26;
/// Greatest integer attribute or extent that is read.
const MAX_INDEX: u64 = u32::MAX as u64;

/// `; did you mean ...?` if one of `names` is close to `word`.
pub(crate) fn suggest<'n>(word: &str, names: impl Iterator<Item = &'n str>) -> String {
    let distance = |n: &str| strsim::damerau_levenshtein(word, n);
    let near = names.filter(|_| word.len() <= 64).map(|n| (distance(n), n)).min();
    match near {
        Some((d, n)) if d <= word.len().div_ceil(3) && word.len() > 1 => format!("; did you mean `{n}`?"),
        _ => String::new(),
    }
}
