//! Epilogues of contractions: the scalar body over a tile of finished sums, row by row, while the tile is in the caches.
//!
//! The portable path runs it in the function that computes the sums; a precompiled template calls it as a function: [`epilogue`].

use super::eval::{Acc, Analysis, Eval};
use super::nest::{enter_flat, pieces};
use super::product::Product;
use super::rows::RowCode;
use super::{BufRef, Frame, LowerError, LowerOptions};
use std::collections::BTreeSet;
use std::sync::Arc;
use tinygpt_ir::program::ArgId;
use tinygpt_ir::types::DType;
use tinygpt_vloop::{Addr, Builder, Func, Idx, Reg};

/// Index parameters of an epilogue function: row stride of the tile, flat batch, ranges of flat m and n.
pub const EPILOGUE_PARAMS: [&str; 6] = ["ld", "batch", "m0", "m1", "n0", "n1"];

/// An epilogue by itself.
#[derive(Clone, Debug)]
pub struct Epilogue {
    pub func: Func,
    /// The first is [`BufRef::Tile`], whose element 0 is the sum at (m0, n0).
    pub bufs: Arc<[BufRef]>,
}

/// The epilogue of a product as a function over a tile of finished sums.
pub fn epilogue(p: &Product, args: &[DType], options: LowerOptions) -> Result<Epilogue, LowerError> {
    let reads: BTreeSet<ArgId> = p.body.loads().map(|a| a.arg).collect();
    let writes: BTreeSet<ArgId> = p.stores.iter().map(|s| s.access.arg).collect();
    let (mut frame, tile) = Frame::with_tile("epilogue", args, &reads, &writes);
    let an = analysis(p, &frame);
    let b = &mut frame.b;
    options.allow(b);
    let [ld, batch, m0, m1, n0, n1] = EPILOGUE_PARAMS.map(|name| b.param(name));
    let mut rows = rows_of(&an, p, options);
    let mut ev = Eval::new(&an);
    ev.prepare(b, &[], &p.stores);
    let block = Block { batch, m: (m0, m1), n: (n0, n1), columns: None };
    run_epilogue(b, &ev, p, &mut rows, tile.at(), Idx::Reg(ld), block);
    let (func, bufs) = frame.finish()?;
    Ok(Epilogue { func, bufs })
}

pub fn analysis(p: &Product, frame: &Frame) -> Analysis {
    let space = p.space();
    let every = u64::MAX >> (64 - space.len());
    let v = space.len() - 1;
    Analysis::new(p.body.clone(), space, v, every, frame.bufs.clone())
}

pub fn rows_of<'a>(an: &'a Analysis, p: &Product, options: LowerOptions) -> RowCode<'a> {
    RowCode::new(an, vec![an.vector], p.stores.clone(), options.row_templates)
}

/// A block of the output, in flat numbers.
pub struct Block {
    pub batch: Reg,
    pub m: (Reg, Reg),
    pub n: (Reg, Reg),
    /// The number of columns, if it is known: loops over them then have constant bounds.
    pub columns: Option<usize>,
}

/// Runs the epilogue over a block whose sums lie at `tile`, rows `ld` apart.
pub fn run_epilogue<'a>(
    b: &mut Builder,
    ev: &Eval<'a>,
    p: &Product,
    rows: &mut RowCode<'a>,
    tile: Addr,
    ld: Idx,
    block: Block,
) {
    let (nb, nm) = (p.batch.len(), p.m.len());
    let mut ev = ev.clone();
    enter_flat(b, &mut ev, &(0..nb).collect::<Vec<_>>(), block.batch);
    ev.prepare(b, &[], &p.stores);
    let (m0, m1) = block.m;
    b.for_("m", m0, m1, 1, |b, m| {
        let mut ev = ev.clone();
        enter_flat(b, &mut ev, &(nb..nb + nm).collect::<Vec<_>>(), m);
        ev.prepare(b, &[], &p.stores);
        let row = b.sub(m, m0);
        let row = match ld {
            Idx::Reg(ld) => b.mul(row, ld),
            Idx::Const(ld) => b.mul_const(row, ld),
        };
        let row = b.sub(row, block.n.0);
        let last = p.n[p.n.len() - 1];
        match block.columns {
            Some(columns) if p.n.len() == 1 => {
                ev.move_origin(b, block.n.0);
                ev.set_acc(0, Acc::Row(tile.clone().plus(row, 1)));
                ev.prepare(b, &[], &p.stores);
                rows.row(b, &ev, (0.into(), columns.into()));
            }
            // Whole runs of the last axis.
            Some(columns) if columns.is_multiple_of(last) => {
                let first = b.div_const(block.n.0, last as i64);
                b.for_("o", 0, columns / last, 1, |b, o| {
                    let o = b.add(first, o);
                    let mut ev = ev.clone();
                    enter_flat(b, &mut ev, &(nb + nm..nb + nm + p.n.len() - 1).collect::<Vec<_>>(), o);
                    let start = b.mul_const(o, last as i64);
                    let column = b.add(row, start);
                    ev.set_acc(0, Acc::Row(tile.clone().plus(column, 1)));
                    ev.prepare(b, &[], &p.stores);
                    rows.row(b, &ev, (0.into(), last.into()));
                });
            }
            _ => pieces(b, &p.n, block.n.0.into(), block.n.1.into(), &mut |b, outer, start, lo, hi| {
                let mut ev = ev.clone();
                for (i, &index) in outer.iter().enumerate() {
                    ev.enter(nb + nm + i, index);
                }
                let column = match start {
                    Some(start) => b.add(row, start),
                    None => row,
                };
                ev.set_acc(0, Acc::Row(tile.clone().plus(column, 1)));
                ev.prepare(b, &[], &p.stores);
                rows.row(b, &ev, (lo, hi));
            }),
        }
    });
}
