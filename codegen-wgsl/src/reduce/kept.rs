//! Elements that an invocation keeps in registers from sweep to sweep.

use super::{Cut, Plan, col_point};
use crate::cx::Cx;
use crate::eval::{Eval, Value};
use std::collections::HashMap;
use tinygpt_ir::program::ScalarId;

/// An element of a row, or four, of which an invocation keeps what it has computed.
#[derive(Clone)]
pub struct Kept {
    /// The name of its column, and the suffix of all its names.
    pub column: String,
    suffix: String,
    point: Vec<String>,
    /// What holds where the element is an invocation's own; the others have read the last one instead.
    condition: Option<String>,
    known: HashMap<ScalarId, Value>,
}

impl Kept {
    /// Lets for the place of element number `u` of each invocation.
    pub fn new(cx: &mut Cx, plan: &Plan, cut: Cut, rows: &[String], u: usize) -> Kept {
        let (lanes, count) = (cut.shape.lanes as usize, plan.count_cols() / cut.cols);
        let suffix = format!("_{u}");
        let column = format!("c{suffix}");
        let number = if u == 0 { "lane".to_string() } else { format!("lane + {}u", u * lanes) };
        let at = match (cut.cols, u) {
            (1, _) => number.clone(),
            (n, 0) => format!("{number} * {n}u"),
            (n, _) => format!("({number}) * {n}u"),
        };
        let ragged = (u + 1) * lanes > count;
        cx.code.line(match ragged {
            true => format!("let {column} = min({at}, COLS - {}u);", cut.cols),
            false => format!("let {column} = {at};"),
        });
        let point = col_point(cx, plan, rows, &column, &suffix);
        let condition = ragged.then(|| format!("{number} < {count}u"));
        Kept { column, suffix, point, condition, known: HashMap::new() }
    }

    /// Runs `compute` at this element, with what is known of it, and keeps what it computes.
    pub fn with(self, eval: &mut Eval, compute: impl FnOnce(&mut Eval)) -> Kept {
        let mark = eval.mark();
        eval.recall(&self.known);
        let row = std::mem::replace(&mut eval.point, self.point.clone());
        eval.suffix = self.suffix.clone();
        compute(eval);
        let known = eval.since(&mark);
        eval.suffix.clear();
        eval.point = row;
        eval.reset(mark);
        Kept { known, ..self }
    }

    /// Where some invocations lack the element, begins what the others do.
    pub fn open(&self, cx: &mut Cx) {
        if let Some(condition) = &self.condition {
            cx.code.open(format!("if ({condition})"));
        }
    }

    pub fn close(&self, cx: &mut Cx) {
        if self.condition.is_some() {
            cx.code.close();
        }
    }
}
