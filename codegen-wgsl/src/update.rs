//! Update kernels: one body over many segments, in one dispatch.
//!
//! A workgroup works on one segment, which it finds by binary search in a table: for each segment its first workgroup, its length, and where each role
//! begins in its binding.

use crate::cx::Cx;
use crate::error::{Error, refuse};
use crate::eval::Eval;
use crate::pointwise::vectorise;
use tinygpt_ir::program::{Access, ArgId, Update};

/// Elements of a segment that a workgroup works on, in elements an invocation.
const EACH: usize = 4;

/// Whether every segment is a whole number of groups of four.
pub fn allows_four(k: &Update, offsets_aligned: bool) -> bool {
    offsets_aligned && k.segments.iter().all(|n| n % 4 == 0)
}

/// Whether every argument that is stepped through begins at a multiple of four elements of its binding.
pub fn offsets_aligned(k: &Update, offset_of: impl Fn(usize) -> usize) -> bool {
    let stepped = |role: usize| {
        let along = |a: &Access| a.arg.index() == role && a.at.coeffs[0] == 1;
        k.body.loads().any(along) || k.stores.iter().any(|s| along(&s.access))
    };
    let stepped: Vec<usize> = (0..k.roles).filter(|r| stepped(*r)).collect();
    (0..k.segments.len()).all(|s| stepped.iter().all(|r| offset_of(s * k.roles + r).is_multiple_of(4)))
}

pub fn emit(cx: &mut Cx, k: &Update, width: u32, group: u32) -> Result<(), Error> {
    let offsets: Vec<usize> = cx.bindings.args.iter().map(|a| a.offset).collect();
    if width == 4 && !allows_four(k, offsets_aligned(k, |i| offsets[i])) {
        return refuse(format!(
            "kernel {}: width 4 needs segments of multiples of 4 elements: choose width 1",
            cx.name
        ));
    }
    // Arguments as the body names them: the roles of the first segment, then the shared ones.
    let shared = k.segments.len() * k.roles;
    let own = cx.bindings.args[..k.roles].to_vec();
    let mut named: Vec<_> = own.into_iter().chain(cx.bindings.args[shared..].iter().cloned()).collect();
    for a in &mut named[..k.roles] {
        a.offset = 0;
    }
    let all = std::mem::replace(&mut cx.bindings.args, named);
    if width == 4 {
        vectorise(cx, &k.body, &k.stores, 0);
    }

    let chunk = group as usize * EACH * width as usize;
    let columns = 2 + k.roles;
    let mut table: Vec<u32> = Vec::with_capacity(columns * k.segments.len());
    let mut groups = 0usize;
    for (s, n) in k.segments.iter().enumerate() {
        table.extend([groups as u32, *n as u32]);
        table.extend(all[s * k.roles..(s + 1) * k.roles].iter().map(|a| a.offset as u32));
        groups += n.div_ceil(chunk);
    }
    let count = k.segments.len();
    cx.set_table(table);
    cx.constant("SEGMENTS", count);
    cx.constant("COLUMNS", columns);
    cx.entry("main", groups, group)?;
    find_segment(cx);
    cx.code.line(format!("let first = (group - segments[row]) * {chunk}u;"));
    cx.code.line("let length = segments[row + 1u];");
    let mut eval = Eval::new(&k.body, vec!["x".into()]);
    for r in 0..k.roles {
        cx.code.line(format!("let start_{r} = segments[row + {}u];", r + 2));
        eval.dynamic_offsets.insert(ArgId(r as u32).index(), format!("start_{r}"));
    }
    eval.vector = (width == 4).then_some(0);
    cx.code.open(format!("for (var e = 0u; e < {EACH}u; e++)"));
    cx.code.line(format!("let x = first + (e * {group}u + local) * {width}u;"));
    cx.code.open("if (x < length)");
    eval.stores(cx, &k.stores.iter().collect::<Vec<_>>());
    cx.code.close();
    cx.code.close();
    cx.code.close();
    Ok(())
}

/// Binds `segment`, the last one that begins at or before this workgroup, and `row`, its row of a table of `SEGMENTS` rows of `COLUMNS`
/// words, the first being the first workgroup of the segment.
pub fn find_segment(cx: &mut Cx) {
    cx.code.line("// The last segment that begins at or before this workgroup.");
    cx.code.line("var segment = 0u;");
    cx.code.line("var beyond = SEGMENTS;");
    cx.code.open("while (beyond - segment > 1u)");
    cx.code.line("let middle = (segment + beyond) / 2u;");
    cx.code.open("if (segments[middle * COLUMNS] <= group)");
    cx.code.line("segment = middle;");
    cx.code.otherwise(None);
    cx.code.line("beyond = middle;");
    cx.code.close();
    cx.code.close();
    cx.code.line("let row = segment * COLUMNS;");
}
