//! Remarks: what fusion considered, what it decided, and why.
//!
//! Every edge between two computed nodes that might share a kernel, every pair of kernels that might become one, and every value that might be
//! computed again instead of stored gives a [`Remark`]. People read them (`; test remarks` in a filetest, `dump --remarks`); no pass does.
//!
//! Invariants
//! - Remarks follow from the decisions, never the other way round: fusing with and without them gives the same program.
//! - Nothing is built while nobody asks: [`Remarks::add`] takes closures.
//! - A remark names nodes of the graph that was fused. A kernel is named by its first node in the order of the graph, a merged one by the first
//!   node of its first part.

use std::fmt;

use tinygpt_ir::{Graph, NodeId, ParamId};

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Producer and consumer, or two kernels, share a kernel.
    Fused,
    /// They do not.
    NotFused,
    /// A value that other kernels read is computed again by each of them.
    Recomputed,
    /// A value that other kernels read, or might be spared, is in a buffer.
    Stored,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Fused, Kind::NotFused, Kind::Recomputed, Kind::Stored];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Fused => "fused",
            Kind::NotFused => "not fused",
            Kind::Recomputed => "recomputed",
            Kind::Stored => "stored",
        }
    }
}

/// Declares the reasons: variant, the fields its sentence uses, kind, sentence.
macro_rules! reasons {
    ($($(#[$meta:meta])* $Var:ident $({ $($field:ident: $ty:ty),* })? $Kind:ident $text:literal;)*) => {
        /// Why something was or was not fused: see the module comment.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$meta])* #[doc = $text] $Var $({ $($field: $ty),* })?),* }

        impl Reason {
            /// Name and sentence of every reason, `{field}` standing for a number.
            pub const ALL: &'static [(&'static str, &'static str)] = &[$((stringify!($Var), $text)),*];

            pub fn kind(self) -> Kind {
                match self { $(Reason::$Var $({ $($field: _),* })? => Kind::$Kind),* }
            }
        }

        /// The reason as a sentence without capital and full stop.
        impl fmt::Display for Reason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self { $(Reason::$Var $({ $($field),* })? => write!(f, $text)),* }
            }
        }
    };
}

reasons! {
    // Producer and consumer.
    SamePoint Fused "every element needs only the producer's element of the same point";
    Epilogue Fused "every element needs only one finished sum of the contraction: an epilogue";
    RowValue Fused "it needs only results of the row, so it is computed once a row, after its sweep";
    RowSweep Fused "it runs over the rows of the reduction: a further sweep";
    Prologue Fused "the reduction reads every element once, at its own point: a prologue";
    SameRows Fused "both reduce the same rows";
    MovedIn Fused "all that the kernel reads of the producer is at its own point, so the producer's kernel moves in";
    SameOperands Fused "one kernel computes all results of attention over the same operands";
    SumOfProducts Fused "a sum of products is one contraction with several terms";
    Rounding Fused "the contraction rounds its operand to f16 as it reads it";
    Half NotFused "the kernel that computes it rounds it to f16 for contractions to read";
    // Pairs of kernels.
    SharedRows Fused "kernels over the same rows that read a common value of full size become one";
    Scalars Fused "kernels of one element each become one";
    ScalarsOfRow Fused "a kernel of one element moves into one that reduces a single row, where nothing then waits for longer";
    SharedOperand Fused "contractions that read one operand in one way become parts of one kernel";
    AlikeBodies Fused "kernels of equal bodies over whole buffers, which nothing waits for, become segments of one launch";

    OwnPositions NotFused "it reads the value at positions of its own choice, so the value must be in a buffer";
    NoEpilogue NotFused "attention and scatter kernels have no epilogue";
    NoPrologue NotFused "a reduction joins pointwise and reduce kernels only";
    NotItsPoints NotFused "through the views between them its elements are not the points of the producer's kernel";
    OtherElement NotFused "a value of one kernel would be read at another element than its own, which a kernel cannot do";
    Cycle NotFused "another operand depends on the producer's kernel, so neither could run first";
    SmallWaits { bytes: usize, launch: usize } NotFused "its {bytes} bytes, against the {launch} that a launch costs, are not worth making the kernel wait for another one";
    TooManyArgs { args: usize, most: usize } NotFused "the kernel would touch {args} buffers, and the target takes {most}";
    OtherAxes NotFused "the producer's kernel reduces other axes";
    NotPointwise NotFused "only a pointwise kernel moves into another, and the producer's is none";
    Between NotFused "a third kernel lies between them";
    SharedProduct NotFused "one of the products has other readers, so it is computed by itself";
    OtherSides NotFused "the products differ in which axes are batch, rows and columns";
    NoCommonValue NotFused "their kernels, over the same rows, read no common value of full size";
    Dependent NotFused "one of the kernels depends on the other";
    TooManyBytes NotFused "the merged kernel would bind more buffers or bytes than the target takes";
    Awaited NotFused "another kernel waits for this one, and would wait for the whole merged kernel";

    // Values that other kernels read.
    Cheap { ops: usize, loads: usize } Recomputed "computing it again costs no more than loading it (operations: {ops}, loads of full size: {loads})";
    Costly Stored "computing it again takes a costly operation, or a result that is not stored";
    TooManyOps { most: usize } Stored "computing it again takes more than {most} operations";
    TooManyLoads { loads: usize, readers: usize } Stored "computing it again takes {loads} loads of full size (kernels that read it: {readers})";
    SmallForOthers Stored "it is small, and spares others a large value";
    NotElementwise Stored "results of contractions, reductions, attention, scatters and computed indices are not computed again";
    NeedsBuffer Stored "a kernel that was to compute it again cannot, or would touch too many buffers";
    NeedsRowMajor Stored "a reshape reads it in an order that strides cannot express, so it is copied in that order";
    NeedsPlace Stored "a kernel reads it at positions of its own choice, and constants have no buffer, so it is copied into one";
    NeedsWhole Stored "a kernel reads it as one run of elements from the start of a buffer, so it is copied in that order";
    Window Stored "the update replaces a window of the state, so only the window is written, in place";
    OldValueNeeded Stored "the state is not updated in place: within the step a kernel needs its old value after, or its new value";
}

/// One decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remark {
    /// The value, or the first of two kernels.
    pub producer: NodeId,
    /// Who reads the value, or the second kernel; None where it is about the value alone.
    pub consumer: Option<NodeId>,
    pub reason: Reason,
}

impl Remark {
    pub fn kind(&self) -> Kind {
        self.reason.kind()
    }

    /// One line: kind, nodes with their scopes and, where the graph knows them, DSL lines, and the reason.
    pub fn line(&self, graph: &Graph) -> String {
        let node = |id: NodeId| {
            let n = &graph.nodes[id];
            let scope = graph.scope(id);
            let place = match (scope, n.loc) {
                ("", None) => String::new(),
                (scope, None) => format!(" [{scope}]"),
                ("", Some(loc)) => format!(" [{loc}]"),
                (scope, Some(loc)) => format!(" [{scope}, {loc}]"),
            };
            format!("{id} {}{place}", n.op.name())
        };
        let consumer = self.consumer.map_or(String::new(), |c| format!(" -> {}", node(c)));
        format!("{:<10} {}{consumer}: {}", self.kind().name(), node(self.producer), self.reason)
    }
}

/// Collects remarks, or nothing.
#[derive(Clone, Debug, Default)]
pub struct Remarks(Option<Vec<Remark>>);

impl Remarks {
    /// Collects.
    pub fn on() -> Remarks {
        Remarks(Some(Vec::new()))
    }

    /// Collects nothing.
    pub fn off() -> Remarks {
        Remarks(None)
    }

    pub fn edge(&mut self, producer: NodeId, consumer: NodeId, reason: Reason) {
        self.add(|| Remark { producer, consumer: Some(consumer), reason });
    }

    pub fn value(&mut self, id: NodeId, reason: Reason) {
        self.add(|| Remark { producer: id, consumer: None, reason });
    }

    /// Adds what `remark` makes, if anybody asked.
    pub fn add(&mut self, remark: impl FnOnce() -> Remark) {
        if let Some(list) = &mut self.0 {
            list.push(remark());
        }
    }

    /// The update of state `p`.
    pub fn update(&mut self, graph: &Graph, p: ParamId, reason: Reason) {
        graph.updates.iter().filter(|(q, _)| *q == p).for_each(|(_, id)| self.value(*id, reason));
    }

    /// An empty collector that collects if this one does: for an attempt whose remarks count only if it succeeds.
    pub fn again(&self) -> Remarks {
        Remarks(self.0.as_ref().map(|_| Vec::new()))
    }

    /// Adds the remarks of an attempt.
    pub fn take(&mut self, attempt: Remarks) {
        if let (Some(list), Some(more)) = (&mut self.0, attempt.0) {
            list.extend(more);
        }
    }

    /// Names other nodes.
    pub fn rename(&mut self, name: impl Fn(NodeId) -> NodeId) {
        for r in self.0.iter_mut().flatten() {
            r.producer = name(r.producer);
            r.consumer = r.consumer.map(&name);
        }
    }

    /// The remarks by producer, then consumer; of one pair in the order of the decisions.
    pub fn finish(self) -> Vec<Remark> {
        let mut list = self.0.unwrap_or_default();
        list.sort_by_key(|r| (r.producer, r.consumer.is_none(), r.consumer));
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuse::{fuse, fuse_noting};
    use crate::pass::{Pass, Stats};
    use tinygpt_ir::program::TargetModel;
    use tinygpt_ir::random::{RandomOptions, random_graph};
    use tinygpt_ir::{Builder, Init, TensorType};

    #[test]
    fn remarks_change_no_program() {
        for seed in 0..40 {
            let graph = Pass::ExpandAll.run(&random_graph(seed, &RandomOptions::default()), &mut Stats::default());
            let graph = graph.unwrap();
            for target in [TargetModel::cpu(), TargetModel::gpu(6, 1 << 20)] {
                let mut remarks = Remarks::on();
                let (plain, noted) = (fuse(&graph, &target, true), fuse_noting(&graph, &target, true, &mut remarks));
                let kernels = |d: crate::fuse::Draft| d.kernels.into_iter().map(|k| k.kernel).collect::<Vec<_>>();
                assert_eq!(plain.map(kernels), noted.map(kernels), "seed {seed}");
            }
        }
    }

    #[test]
    fn a_line_names_scopes_and_dsl_lines() {
        let b = Builder::new("g");
        let x = b.weight("x", TensorType::f32([4]).shape, Init::Zeros);
        let scope = b.scope("mlp");
        let y = x.exp();
        drop(scope);
        b.output("z", -y);
        let graph = b.finish().unwrap();
        let remarks = super::super::remarks(&graph, &TargetModel::cpu()).unwrap();
        let [only] = remarks.as_slice() else { panic!("{remarks:?}") };
        let line = only.line(&graph);
        assert!(line.starts_with("fused      %1 exp [mlp, passes/src/fuse/remark.rs:"), "{line}");
        assert!(line.contains("-> %2 neg [passes/src/fuse/remark.rs:"), "{line}");
        assert!(line.ends_with(": every element needs only the producer's element of the same point"), "{line}");
    }
}
