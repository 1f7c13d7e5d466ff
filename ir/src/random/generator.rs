//! The pool of values that a random graph grows from, and what recipes need to draw from it.

use super::{RandomOptions, Rng, recipes};
use crate::dsl::{Builder, T, broadcast_shape};
use crate::graph::Init;
use crate::types::{DType, Literal, Shape, TensorType, numel};

/// Greatest number of elements of a value drawn.
pub(super) const MAX_ELEMENTS: usize = 600;
/// Float elements of all parameters together: the grid of `random_inputs` keeps its spacing.
const GRID_ELEMENTS: usize = 4096;
/// Beyond this magnitude a value is scaled down.
const MAX_MAGNITUDE: f64 = 64.0;

/// How the elements of a value are ordered, whatever rounding does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Order {
    /// Unknown.
    Free,
    /// Strictly increasing image of grid values: elements compare as these do.
    Monotone,
    /// Exact: parameters and constants, re-indexed, negated or selected.
    Grid,
}

/// A value of the graph, and what is known of its elements.
#[derive(Clone, Copy)]
pub(super) struct Value<'g> {
    pub t: T<'g>,
    pub lo: f64,
    pub hi: f64,
    pub order: Order,
}

impl Value<'_> {
    pub fn magnitude(&self) -> f64 {
        self.lo.abs().max(self.hi.abs())
    }

    pub fn is(&self, dtype: DType) -> bool {
        self.t.dtype() == dtype
    }

    /// The order of a strictly increasing image.
    pub fn image(&self) -> Order {
        self.order.min(Order::Monotone)
    }
}

pub(super) struct Generator<'g> {
    pub b: &'g Builder,
    pub rng: Rng,
    pub o: RandomOptions,
    pub pool: Vec<Value<'g>>,
    grid_left: usize,
    names: usize,
}

/// Builds a random graph in `b`; returns its values with what is known of them.
pub(super) fn fill<'g>(b: &'g Builder, seed: u64, options: &RandomOptions) -> Vec<Value<'g>> {
    let mut o = options.clone();
    o.max_extent = o.max_extent.max(2);
    let mut g = Generator { b, rng: Rng::new(seed), o, pool: Vec::new(), grid_left: GRID_ELEMENTS, names: 0 };
    for _ in 0..2 {
        let rank = g.rng.range(1, 3);
        let shape = g.shape(rank);
        g.param(shape, DType::F32);
    }
    let table = recipes::table(&g.o);
    while b.with_graph(|g| g.nodes.len()) < g.o.nodes {
        let recipe = g.rng.pick(&table);
        let scope = g.rng.pick(&["", "", "stem", "blocks.0", "blocks.0.attn", "head"]);
        if scope.is_empty() {
            recipe(&mut g);
        } else {
            let _guard = b.scope(scope);
            recipe(&mut g);
        }
    }
    g.finish();
    g.pool
}

impl<'g> Generator<'g> {
    pub fn fresh(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names - 1)
    }

    /// A shape of `rank` within the element limit.
    pub fn shape(&mut self, rank: usize) -> Shape {
        let mut shape: Shape = Vec::new();
        for _ in 0..rank {
            let room = (MAX_ELEMENTS / numel(&shape)).min(self.o.max_extent);
            let d = if room < 2 || self.rng.chance(33) { 1 } else { self.rng.range(2, room) };
            shape.push(d);
        }
        self.rng.shuffle(&mut shape);
        shape
    }

    /// A non-empty subset of the axes, ascending.
    pub fn axes(&mut self, rank: usize) -> Vec<usize> {
        let must = self.rng.below(rank);
        (0..rank).filter(|a| *a == must || self.rng.chance(35)).collect()
    }

    pub fn any_shape(&mut self) -> Shape {
        let rank = self.rng.pick(&[0, 1, 1, 2, 2, 2, 3, 3, 3, 4]);
        self.shape(rank)
    }

    /// Puts a value into the pool; a float of great magnitude is scaled down first.
    pub fn push(&mut self, t: T<'g>, lo: f64, hi: f64, order: Order) -> Value<'g> {
        let v = Value { t, lo, hi, order };
        self.pool.push(v);
        if v.is(DType::F32) && v.magnitude() > MAX_MAGNITUDE { self.within(v, 4.0) } else { v }
    }

    /// Whether `n` more float elements of parameters keep the grid's spacing; counts them if so.
    pub fn take_grid(&mut self, n: usize) -> bool {
        let fits = n <= self.grid_left;
        if fits {
            self.grid_left -= n;
        }
        fits
    }

    /// A new parameter, or f32 constants once the grid is used up.
    pub fn param(&mut self, shape: impl Into<Shape>, dtype: DType) -> Value<'g> {
        let shape = shape.into();
        let n = numel(&shape);
        let ty = TensorType::new(dtype, shape);
        match dtype {
            DType::F32 if !self.take_grid(n) => {
                let flat = self.b.iota([n], DType::F32, 0);
                let t = (flat * 1.7 + 0.3).sin().reshape(ty.shape);
                self.push(t, -1.0, 1.0, Order::Free)
            }
            DType::F32 => {
                let init = self.rng.pick(&[Init::Zeros, Init::Ones, Init::Normal(0.02)]);
                let state = self.o.differentiable || self.rng.chance(50);
                let t = if state {
                    let name = self.fresh("w");
                    self.b.weight(&name, ty.shape, init)
                } else {
                    let name = self.fresh("x");
                    self.b.input(name, ty)
                };
                self.push(t, -2.0, 2.0, Order::Grid)
            }
            _ => {
                let name = self.fresh(dtype.name());
                let t = self.b.input(name, ty);
                let (lo, hi) = match dtype {
                    DType::U32 => (0.0, u32::MAX as f64),
                    DType::Bool => (0.0, 1.0),
                    // Wide enough for whatever `random_inputs` gives to indices.
                    _ => (-8.0, MAX_ELEMENTS as f64),
                };
                self.push(t, lo, hi, Order::Grid)
            }
        }
    }

    /// A pool value that satisfies `ok`; recent ones more often, so that chains grow.
    pub fn find(&mut self, ok: impl Fn(&Value<'g>) -> bool) -> Option<Value<'g>> {
        let found: Vec<Value<'g>> = self.pool.iter().filter(|v| ok(v)).copied().collect();
        if found.is_empty() {
            return None;
        }
        let from = if self.rng.chance(50) { found.len().saturating_sub(5) } else { 0 };
        Some(self.rng.pick(&found[from..]))
    }

    /// An f32 value of at least `rank` axes and this order.
    pub fn float_of(&mut self, rank: usize, order: Order) -> Value<'g> {
        let found = self
            .find(|v| v.is(DType::F32) && v.t.rank() >= rank && v.order >= order && v.t.ty().numel() <= MAX_ELEMENTS);
        match found {
            Some(v) if self.rng.chance(92) => v,
            _ => {
                let extra = self.rng.below(3);
                let shape = self.shape(rank + extra);
                let v = self.param(shape.clone(), DType::F32);
                if v.order >= order { v } else { self.constant(shape) }
            }
        }
    }

    pub fn float(&mut self) -> Value<'g> {
        self.float_of(0, Order::Free)
    }

    /// A value of `dtype` with at least `rank` axes.
    pub fn of(&mut self, dtype: DType, rank: usize) -> Value<'g> {
        match self.find(|v| v.is(dtype) && v.t.rank() >= rank && v.t.ty().numel() <= MAX_ELEMENTS) {
            Some(v) if self.rng.chance(85) => v,
            _ => {
                let extra = self.rng.below(3);
                let shape = self.shape(rank + extra);
                self.param(shape, dtype)
            }
        }
    }

    /// A value of mostly f32 and sometimes another dtype, for ops that move any element.
    pub fn any(&mut self, rank: usize) -> Value<'g> {
        if self.o.integers && self.rng.chance(20) {
            let dtype = self.rng.pick(&[DType::I32, DType::U32, DType::Bool]);
            self.of(dtype, rank)
        } else {
            self.float_of(rank, Order::Free)
        }
    }

    /// A grid constant of this shape.
    pub fn constant(&mut self, shape: impl Into<Shape>) -> Value<'g> {
        let c = self.rng.pick(&[-1.5, -0.5, 0.0, 0.5, 1.0, 2.0]);
        let t = self.b.splat(shape, Literal::f32(c));
        self.push(t, c, c, Order::Grid)
    }

    /// An f32 value of exactly this shape.
    pub fn tensor(&mut self, shape: &[usize]) -> Value<'g> {
        let n = numel(shape);
        if self.rng.chance(65) {
            if let Some(v) = self.find(|v| v.is(DType::F32) && v.t.shape() == shape) {
                return v;
            }
            if let Some(v) = self.find(|v| v.is(DType::F32) && v.t.ty().numel() == n) {
                let t = v.t.reshape(shape);
                return self.push(t, v.lo, v.hi, v.order);
            }
        }
        self.param(shape, DType::F32)
    }

    /// An f32 value that broadcasts to `x` (or `x` to it), of at least this order.
    pub fn mate(&mut self, x: Value<'g>, order: Order) -> Value<'g> {
        let shape = x.t.shape();
        match self.rng.below(10) {
            0..=4 => {
                let fits = |v: &Value<'g>| {
                    let to = broadcast_shape(&v.t.shape(), &shape);
                    v.is(DType::F32) && v.order >= order && to.is_some_and(|s| numel(&s) <= MAX_ELEMENTS)
                };
                self.find(fits).unwrap_or(x)
            }
            5 if order == Order::Free && !shape.is_empty() => {
                let axes = self.axes(shape.len());
                let n: usize = axes.iter().map(|a| shape[*a]).product();
                let t = x.t.sum(&axes);
                self.push(t, x.lo * n as f64, x.hi * n as f64, Order::Free)
            }
            6..=8 => {
                let mut part: Shape = shape.iter().map(|d| if self.rng.chance(40) { 1 } else { *d }).collect();
                if !part.is_empty() && self.rng.chance(40) {
                    part.remove(0);
                }
                let v = self.param(part, DType::F32);
                if v.order >= order { v } else { self.constant([]) }
            }
            _ => {
                let shape = if self.rng.chance(50) { vec![] } else { shape };
                self.constant(shape)
            }
        }
    }

    /// `v` brought to magnitudes of at most `limit`.
    pub fn within(&mut self, v: Value<'g>, limit: f64) -> Value<'g> {
        let m = v.magnitude();
        if m <= limit {
            v
        } else if self.rng.chance(70) {
            let t = v.t * (limit / m);
            self.push(t, v.lo * limit / m, v.hi * limit / m, v.image())
        } else {
            let t = (v.t * (2.0 / m)).tanh() * limit.min(1.0);
            self.push(t, -limit.min(1.0), limit.min(1.0), v.image())
        }
    }

    /// A value made of `v` that is at least 1/4.
    pub fn positive(&mut self, v: Value<'g>) -> Value<'g> {
        if v.lo >= 0.25 {
            return v;
        }
        let v = self.within(v, 4.0);
        match self.rng.below(4) {
            0 => {
                let t = v.t * v.t + 0.5;
                self.push(t, 0.5, v.magnitude() * v.magnitude() + 0.5, Order::Free)
            }
            1 => {
                let t = v.t.tanh().exp();
                self.push(t, 0.36, 2.72, v.image())
            }
            2 => {
                let t = v.t + (1.0 - v.lo);
                self.push(t, 1.0, v.hi - v.lo + 1.0, v.image())
            }
            _ => {
                let v = self.within(v, 1.0);
                let t = ((-v.t).exp() + 1.0).recip();
                // 1 / (1 + e) is 0.268...
                self.push(t, 0.268, 0.74, v.image())
            }
        }
    }

    /// i32 ids of this shape for an axis of `extent`.
    pub fn ids(&mut self, shape: &[usize], extent: usize) -> T<'g> {
        let n = numel(shape);
        if self.rng.chance(40)
            && let Some(v) = self.find(|v| v.is(DType::I32) && v.t.ty().numel() == n)
        {
            return v.t.reshape(shape);
        }
        if n > 1 && self.rng.chance(15) {
            return self.b.iota([n], DType::I32, 0).reshape(shape);
        }
        if n == 1 && self.rng.chance(30) {
            let i = self.rng.below(extent) as i32;
            return self.b.splat(shape, Literal::i32(i));
        }
        self.param(shape, DType::I32).t
    }

    /// Names the results: every value that nothing uses and some that are used as well.
    fn finish(&mut self) {
        let used: Vec<bool> = self.b.with_graph(|g| {
            let users = g.users();
            let updated: Vec<_> = g.updates.iter().map(|(_, n)| *n).collect();
            g.nodes.ids().map(|id| !users[id.index()].is_empty() || updated.contains(&id)).collect()
        });
        let mut unused: Vec<Value<'g>> = self.pool.clone();
        unused.retain(|v| v.t.id().is_some_and(|id| !used[id.index()]));
        let mut seen = std::collections::HashSet::new();
        unused.retain(|v| seen.insert(v.t.id()));
        let mut results: Vec<T<'g>> = if self.o.differentiable {
            let (floats, others): (Vec<_>, Vec<_>) = unused.into_iter().partition(|v| v.is(DType::F32));
            // A graph whose floats all serve as indices or conditions: the first weights are always there.
            let of = if floats.is_empty() { self.pool[..2].to_vec() } else { floats };
            self.loss(&of);
            others.iter().map(|v| v.t).collect()
        } else {
            unused.iter().map(|v| v.t).collect()
        };
        for _ in 0..2 {
            let v = self.rng.pick(&self.pool.clone());
            if !results.iter().any(|t| t.id() == v.t.id()) {
                results.push(v.t);
            }
        }
        for t in results {
            let name = self.fresh("out");
            self.b.output(name, t);
        }
    }

    /// The scalar `loss`: every value of `of` weighted by a wave, so that no gradient is all ones, and summed. The first
    /// few have terms of their own, the rest is concatenated.
    fn loss(&mut self, of: &[Value<'g>]) {
        let own = of.len().min(2);
        let mut parts: Vec<T<'g>> = of[..own].iter().map(|v| v.t).collect();
        let rest: Vec<T<'g>> = of[own..].iter().map(|v| v.t.flatten()).collect();
        if !rest.is_empty() {
            parts.push(self.b.concat(&rest, 0));
        }
        let mut total = self.b.scalar(0.0);
        for t in parts {
            let n = t.ty().numel();
            let wave = (self.b.iota([n], DType::F32, 0) * 1.7 + 0.5).sin();
            total = total + (t.flatten() * wave).sum(&[0]).reshape([]);
        }
        self.b.output("loss", total);
    }
}
