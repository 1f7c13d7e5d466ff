//! Small programs for tests, one for each group of archetypes, and the builder they are made with.

use super::*;
use crate::graph::{Init, NodeId, StateRole};
use crate::op::{Binary, Compare, Reduce, Unary};
use crate::types::Literal;

pub(super) const READ: ArgMode = ArgMode::Read;
pub(super) const WRITE: ArgMode = ArgMode::Write;
pub(super) const UPDATE: ArgMode = ArgMode::ReadWrite;

/// A program under construction: buffers as declared, one stage a call of `stage`.
pub(super) struct Make(pub Program);

impl Make {
    pub fn new(name: &str) -> Make {
        Make(Program {
            name: name.into(),
            target: TargetModel::cpu(),
            params: vec![],
            outputs: vec![],
            buffers: Arena::default(),
            kernels: Arena::default(),
            stages: vec![],
            memory: MemoryPlan::default(),
        })
    }

    fn buffer(&mut self, label: &str, dtype: DType, len: usize, kind: BufferKind) -> BufferId {
        let label = label.to_string();
        self.0.buffers.push(Buffer { label, dtype, len, kind, place: Place::Own, live: None, takes_over: None })
    }

    pub fn param(&mut self, name: &str, ty: TensorType, kind: ParamKind) -> BufferId {
        let i = self.0.params.len();
        let of = if kind == ParamKind::Input { BufferKind::Input(i) } else { BufferKind::State(i) };
        let buffer = self.buffer(name, ty.dtype, ty.numel(), of);
        self.0.params.push(ProgramParam { name: name.into(), kind, ty, buffer });
        buffer
    }

    pub fn input(&mut self, name: &str, shape: &[usize]) -> BufferId {
        self.param(name, TensorType::f32(shape), ParamKind::Input)
    }

    pub fn weight(&mut self, name: &str, shape: &[usize], init: Init) -> BufferId {
        self.param(name, TensorType::f32(shape), ParamKind::State { init, role: StateRole::Weight })
    }

    pub fn output(&mut self, name: &str, shape: &[usize]) -> BufferId {
        let ty = TensorType::f32(shape);
        let buffer = self.buffer(name, DType::F32, ty.numel(), BufferKind::Output(self.0.outputs.len()));
        self.0.outputs.push(ProgramOutput { name: name.into(), ty, buffer });
        buffer
    }

    pub fn temp(&mut self, label: &str, len: usize) -> BufferId {
        self.buffer(label, DType::F32, len, BufferKind::Temp)
    }

    /// Places a temporary in the slab.
    pub fn place(&mut self, b: BufferId, offset: usize, live: (u32, u32), takes_over: Option<BufferId>) {
        let b = &mut self.0.buffers[b];
        (b.place, b.live, b.takes_over) = (Place::Slab(offset), Some(live), takes_over);
    }

    /// Adds a stage with these kernels.
    pub fn stage(&mut self, kernels: Vec<Kernel>) {
        let from = self.0.kernels.len() as u32;
        for k in kernels {
            self.0.kernels.push(k);
        }
        self.0.stages.push((from, self.0.kernels.len() as u32));
    }
}

pub(super) fn kernel(name: &str, args: &[(BufferId, ArgMode)], kind: KernelKind) -> Kernel {
    let args = args.iter().map(|(buffer, mode)| Arg { buffer: *buffer, mode: *mode }).collect();
    Kernel { name: name.into(), args, kind, provenance: Provenance::default() }
}

pub(super) fn at(arg: u32, strides: &[i64]) -> Access {
    Access::direct(ArgId(arg), 0, strides.to_vec())
}

pub(super) fn store(arg: u32, strides: &[i64], value: ScalarId) -> Store {
    Store { access: at(arg, strides), value }
}

/// Shorthand for bodies of f32 scalars.
impl Body {
    pub(super) fn load(&mut self, arg: u32, strides: &[i64]) -> ScalarId {
        self.push(ScalarOp::Load(at(arg, strides)), DType::F32)
    }
    pub(super) fn constant(&mut self, x: f64) -> ScalarId {
        self.push(ScalarOp::Const(Literal::f32(x)), DType::F32)
    }
    pub(super) fn binary(&mut self, op: Binary, a: ScalarId, b: ScalarId) -> ScalarId {
        self.push(ScalarOp::Binary(op, a, b), DType::F32)
    }
    pub(super) fn unary(&mut self, op: Unary, a: ScalarId) -> ScalarId {
        self.push(ScalarOp::Unary(op, a), DType::F32)
    }
    pub(super) fn acc(&mut self, i: u32) -> ScalarId {
        self.push(ScalarOp::Acc(i), DType::F32)
    }
}

pub(super) fn pointwise(space: &[usize], body: Body, stores: Vec<Store>) -> KernelKind {
    KernelKind::Pointwise(Pointwise { space: space.to_vec(), body, stores })
}

/// y = x + c, elementwise over n elements; arguments x, y.
pub(super) fn plus(n: usize, c: f64) -> KernelKind {
    let mut b = Body::default();
    let x = b.load(0, &[1]);
    let c = b.constant(c);
    let y = b.binary(Binary::Add, x, c);
    pointwise(&[n], b, vec![store(1, &[1], y)])
}

/// h = x w^T; s = row sums of h; z = h * s (over h's bytes); y = z + 1 and w = 0.9 w.
///
/// x [2,3], w [4,3], h and z [2,4], s [2], y [2,4].
pub(super) fn linear() -> Program {
    let mut p = Make::new("linear");
    let x = p.input("x", &[2, 3]);
    let w = p.weight("w", &[4, 3], Init::Normal(0.02));
    let y = p.output("y", &[2, 4]);
    let (h, s, z) = (p.temp("mlp.h", 8), p.temp("mlp.sum", 2), p.temp("mlp.z", 8));
    p.place(h, 0, (0, 2), None);
    p.place(s, 64, (1, 2), None);
    p.place(z, 0, (2, 3), Some(h));
    p.0.memory = MemoryPlan { planned: 128, lower_bound: 128, slots: vec![], packs: vec![] };

    let mut b = Body::default();
    let acc = b.acc(0);
    let terms = vec![Term { k: vec![3], f16: false, lhs: at(0, &[3, 1]), rhs: at(1, &[3, 1]) }];
    let stores = vec![store(2, &[4, 1], acc)];
    let part = ContractPart { batch: vec![], m: vec![2], n: vec![4], terms, body: b, stores };
    let mut product = kernel(
        "contract_mlp_0",
        &[(x, READ), (w, READ), (h, WRITE)],
        KernelKind::Contract(Contract { parts: vec![part] }),
    );
    product.provenance.scopes = vec!["mlp".into(), String::new()];
    product.provenance.nodes = vec![NodeId(2), NodeId(3)];
    product.provenance.recomputed = vec![NodeId(1)];
    p.stage(vec![product]);

    let mut b = Body::default();
    let value = b.load(0, &[4, 1]);
    let sum = b.acc(0);
    let reduce = ReduceKernel {
        rows: vec![2],
        cols: vec![4],
        body: b,
        reductions: vec![Reduction { op: Reduce::Sum, value }],
        stores: vec![store(1, &[1, 0], sum)],
    };
    p.stage(vec![kernel("reduce_mlp_1", &[(h, READ), (s, WRITE)], KernelKind::Reduce(reduce))]);

    let mut b = Body::default();
    let (hv, sv) = (b.load(0, &[4, 1]), b.load(1, &[1, 0]));
    let zv = b.binary(Binary::Mul, hv, sv);
    let scale = pointwise(&[2, 4], b, vec![store(2, &[4, 1], zv)]);
    p.stage(vec![kernel("scale_mlp_2", &[(h, READ), (s, READ), (z, WRITE)], scale)]);

    let mut b = Body::default();
    let wv = b.load(0, &[1]);
    let c = b.constant(0.9);
    let decayed = b.binary(Binary::Mul, wv, c);
    let decay = pointwise(&[12], b, vec![store(0, &[1], decayed)]);
    p.stage(vec![
        kernel("plus_mlp_3", &[(z, READ), (y, WRITE)], plus(8, 1.0)),
        kernel("decay_w_4", &[(w, UPDATE)], decay),
    ]);
    p.0
}

pub(super) const SHAPE: AttentionShape =
    AttentionShape { batch: 2, heads: 2, q_len: 3, k_len: 3, head_dim: 2, causal: true, scale: 0.5 };

/// Attention and its gradients: q, k, v, dout -> out, lse (a temporary), dq, dk, dv. q is [B,T,H,D] in its buffer, all else [B,H,T,D].
pub(super) fn attention() -> Program {
    let mut p = Make::new("attention");
    let s = SHAPE;
    let shape = s.q_space();
    let n = &shape[..];
    let (q, k, v, dout) = (p.input("q", &[2, 3, 2, 2]), p.input("k", n), p.input("v", n), p.input("dout", n));
    let [out, dq, dk, dv] = ["out", "dq", "dk", "dv"].map(|name| p.output(name, n));
    let lse = p.temp("lse", 12);
    let whole = |arg| at(arg, &[12, 6, 2, 1]);
    let forward = Attention {
        shape: s,
        q: at(0, &[12, 2, 4, 1]),
        k: whole(1),
        v: Some(whole(2)),
        out: Some(whole(3)),
        lse: Some(at(4, &[6, 3, 1])),
    };
    let args = [(q, READ), (k, READ), (v, READ), (out, WRITE), (lse, WRITE)];
    p.stage(vec![kernel("attention_0", &args, KernelKind::Attention(forward))]);
    let backward = AttentionGrad {
        shape: s,
        q: at(0, &[12, 2, 4, 1]),
        k: whole(1),
        v: whole(2),
        out: whole(3),
        lse: at(4, &[6, 3, 1]),
        dout: whole(5),
        dq: Some(whole(6)),
        dk: Some(whole(7)),
        dv: Some(whole(8)),
    };
    let args = [
        (q, READ),
        (k, READ),
        (v, READ),
        (out, READ),
        (lse, READ),
        (dout, READ),
        (dq, WRITE),
        (dk, WRITE),
        (dv, WRITE),
    ];
    p.stage(vec![kernel("attention_grad_1", &args, KernelKind::AttentionGrad(backward))]);
    p.0
}

/// rows = table[ids]; table += rows at ids, in place; then a and b less lr times themselves where they are positive. table [5,2], ids [3], a [4], b [3].
pub(super) fn embedding() -> Program {
    let mut p = Make::new("embedding");
    let other = |init| ParamKind::State { init, role: StateRole::Other };
    let table = p.param("table", TensorType::f32([5, 2]), other(Init::Ones));
    let ids = p.param("ids", TensorType::new(DType::I32, [3]), ParamKind::Input);
    let lr = p.input("lr", &[]);
    let (wa, wb) = (p.weight("a", &[4], Init::Zeros), p.weight("b", &[3], Init::Zeros));
    let rows = p.output("rows", &[3, 2]);

    let mut b = Body::default();
    let id = b.push(ScalarOp::Load(at(1, &[1, 0])), DType::I32);
    let mut access = at(0, &[0, 1]);
    access.indirect.push(Indirect { index: id, stride: 2, extent: 5 });
    let row = b.push(ScalarOp::Load(access), DType::F32);
    let gather = pointwise(&[3, 2], b, vec![store(2, &[2, 1], row)]);
    p.stage(vec![kernel("gather_0", &[(table, READ), (ids, READ), (rows, WRITE)], gather)]);

    let mut b = Body::default();
    let index = b.push(ScalarOp::Load(at(1, &[1, 0])), DType::I32);
    let value = b.load(2, &[2, 1]);
    let scatter = Scatter {
        table: 5,
        ids: vec![3],
        inner: vec![2],
        body: b,
        index,
        value,
        base: ScatterBase::Load(at(0, &[2, 1])),
        out: at(0, &[2, 1]),
    };
    let scatter = kernel("scatter_1", &[(table, UPDATE), (ids, READ), (rows, READ)], KernelKind::Scatter(scatter));

    let mut b = Body::default();
    let (x, lr_value, zero) = (b.load(0, &[1]), b.load(1, &[0]), b.constant(0.0));
    let positive = b.push(ScalarOp::Compare(Compare::Gt, x, zero), DType::Bool);
    let step = b.binary(Binary::Mul, lr_value, x);
    let moved = b.binary(Binary::Sub, x, step);
    let new = b.push(ScalarOp::Select(positive, moved, x), DType::F32);
    let update = Update { roles: 1, shared: 1, segments: vec![4, 3], body: b, stores: vec![store(0, &[1], new)] };
    let update = kernel("update_2", &[(wa, UPDATE), (wb, UPDATE), (lr, READ)], KernelKind::Update(update));
    p.stage(vec![scatter, update]);
    p.0
}

/// norm = |a, b|, from the sums of squares of blocks of 2. a [5], b [1].
pub(super) fn norm() -> Program {
    let mut p = Make::new("norm");
    let (a, b) = (p.input("a", &[5]), p.input("b", &[]));
    let norm = p.output("norm", &[]);
    let sums = p.temp("sums", 4);

    let mut squares = Body::default();
    let x = squares.load(0, &[1]);
    let value = squares.binary(Binary::Mul, x, x);
    let reduction = Reduction { op: Reduce::Sum, value };
    let fold = Fold { block: 2, segments: vec![5, 1], body: squares, reduction, out: at(1, &[1]) };
    p.stage(vec![kernel("fold_0", &[(a, READ), (b, READ), (sums, WRITE)], KernelKind::Fold(fold))]);

    let mut root = Body::default();
    let value = root.load(0, &[1]);
    let total = root.acc(0);
    let result = root.unary(Unary::Sqrt, total);
    let reductions = vec![Reduction { op: Reduce::Sum, value }];
    let stores = vec![store(1, &[0], result)];
    let reduce = ReduceKernel { rows: vec![], cols: vec![4], body: root, reductions, stores };
    p.stage(vec![kernel("reduce_1", &[(sums, READ), (norm, WRITE)], KernelKind::Reduce(reduce))]);
    p.0
}
