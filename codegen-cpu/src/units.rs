//! What every way to code does with a program alike: equal kernels once, shared scratch in one arena, stages cut into rounds.

use tinygpt_ir::program::{KernelId, KernelKind, Program};
use tinygpt_ir::types::DType;
use tinygpt_vloop::SCRATCH_ALIGN;

/// The kernels of a program by structure: equal if their kinds and the dtypes of their arguments are.
pub struct Distinct {
    /// The first kernel of each structure, and the dtypes of its arguments.
    pub units: Vec<(KernelId, Vec<DType>)>,
    /// The unit of each kernel.
    pub of: Vec<usize>,
}

impl Distinct {
    pub fn new(program: &Program) -> Distinct {
        let mut units: Vec<(KernelId, Vec<DType>, &KernelKind)> = Vec::new();
        let mut of = Vec::with_capacity(program.kernels.len());
        for (id, kernel) in program.kernels.iter() {
            let dtypes: Vec<DType> = kernel.args.iter().map(|a| program.buffers[a.buffer].dtype).collect();
            let known = units.iter().position(|(_, d, kind)| *d == dtypes && **kind == kernel.kind);
            of.push(known.unwrap_or_else(|| {
                units.push((id, dtypes, &kernel.kind));
                units.len() - 1
            }));
        }
        Distinct { units: units.into_iter().map(|(id, dtypes, _)| (id, dtypes)).collect(), of }
    }
}

/// Byte offsets of each kernel's shared scratch in one arena, and the arena's bytes: kernels of one stage lie side by side, stages over
/// one another. `lengths` gives the scratch of a kernel in f32.
pub fn place_shared<'a>(stages: &[(u32, u32)], lengths: impl Fn(usize) -> &'a [usize]) -> (Vec<Vec<usize>>, usize) {
    let (mut places, mut arena) = (Vec::new(), 0);
    for &(from, to) in stages {
        let mut end = 0;
        for kernel in from as usize..to as usize {
            let mut own = Vec::new();
            for len in lengths(kernel) {
                own.push(end);
                end = (end + 4 * len).next_multiple_of(SCRATCH_ALIGN);
            }
            places.push(own);
        }
        arena = arena.max(end);
    }
    (places, arena)
}

/// (stage, phase) of each round: a stage has as many as its kernel with the most phases. `phases` gives those of a kernel.
pub fn rounds(stages: &[(u32, u32)], phases: impl Fn(usize) -> usize) -> Vec<(usize, usize)> {
    let of = |(from, to): (u32, u32)| (from..to).map(|k| phases(k as usize)).max().unwrap_or(0);
    stages.iter().enumerate().flat_map(|(s, &range)| (0..of(range)).map(move |p| (s, p))).collect()
}
