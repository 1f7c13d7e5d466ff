//! Bundles: pieces of one stage that run as one module (horizontal fusion).
//!
//! The products of a layer's backward pass and its bias gradients wait for nothing of each other, and none of them fills a large GPU. As one module they
//! fill it together, at the cost of one dispatch. Whether that is faster on a device is
//! measured: a bundle's pieces apart are among its choices.
//!
//! Invariants
//! - The bundles of a program hold all pieces of all kernels, in the order of the stages; a bundle's are of one stage.
//! - A bundle of one piece runs as the piece does.
//! - The default of a bundle is one module.

use crate::bind::{Piece, pieces};
use crate::caps::Caps;
use crate::choose;
use crate::error::{Error, refuse};
use crate::link::link;
use crate::module::{Module, emit};
use crate::variant::{Choice, Variant};
use tinygpt_ir::program::{KernelId, KernelKind, Program};

/// Pieces that may run as one module.
#[derive(Clone, Debug, PartialEq)]
pub struct Bundle {
    /// With the kernel that each is of.
    pub pieces: Vec<(KernelId, Piece)>,
    /// The ways to run it, the default first: a variant of each piece. Others than the default may be beyond an adapter's limits.
    pub choices: Vec<Choice>,
}

/// Most pieces of a bundle: more make for long code that compiles for long.
const MOST: usize = 8;

/// How many of each piece's variants that spell out whole steps are choices apart from each other: the best by the model.
const APART: usize = 2;

/// The bundles of `program` in an order in which they may run.
///
/// Errors: as of [`pieces`].
pub fn bundles(program: &Program, caps: &Caps) -> Result<Vec<Bundle>, Error> {
    let mut all: Vec<Bundle> = Vec::new();
    for stage in 0..program.stages.len() {
        all.extend(stage_bundles(program, stage, caps)?);
    }
    Ok(all)
}

/// Those of one stage: stages may be bundled at the same time.
///
/// Errors: as of [`pieces`].
pub fn stage_bundles(program: &Program, stage: usize, caps: &Caps) -> Result<Vec<Bundle>, Error> {
    let mut its: Vec<(KernelId, Piece)> = Vec::new();
    for id in program.stage_kernels(stage) {
        its.extend(pieces(program, &program.kernels[id], caps)?.into_iter().map(|piece| (id, piece)));
    }
    let (mut together, alone): (Vec<_>, Vec<_>) = its.into_iter().partition(|(_, p)| choose::may_join(&p.kind));
    // Workgroups start in order: long ones first, so that short ones fill the gaps at the end.
    together.sort_by_key(|(_, p)| !matches!(p.kind, KernelKind::Contract(_)));
    let mut all: Vec<Bundle> = alone.into_iter().map(|piece| Bundle::alone(piece, caps)).collect();
    all.extend(join(together, caps));
    Ok(all)
}

/// As few bundles as these independent pieces make, greedily: mostly one.
fn join(pieces: Vec<(KernelId, Piece)>, caps: &Caps) -> Vec<Bundle> {
    if let Some(all) = pieces.chunks(MOST).map(|run| Bundle::of(run.to_vec(), caps)).collect() {
        return all;
    }
    let mut open: Vec<Bundle> = Vec::new();
    for piece in pieces {
        let joined = open.iter().enumerate().find_map(|(at, bundle)| {
            let wider = bundle.pieces.iter().chain([&piece]).cloned().collect();
            Bundle::of(wider, caps).map(|wider| (at, wider))
        });
        match joined {
            Some((at, wider)) => open[at] = wider,
            None => open.push(Bundle::alone(piece, caps)),
        }
    }
    open
}

impl Bundle {
    fn alone((kernel, piece): (KernelId, Piece), caps: &Caps) -> Bundle {
        let variants = choose::variants(&piece, caps).into_iter();
        let choices = variants.map(|v| Choice { variants: vec![v], together: true }).collect();
        Bundle { pieces: vec![(kernel, piece)], choices }
    }

    /// None where the pieces cannot be one module, or are too many.
    fn of(pieces: Vec<(KernelId, Piece)>, caps: &Caps) -> Option<Bundle> {
        if let [one] = &pieces[..] {
            return Some(Bundle::alone(one.clone(), caps));
        }
        if pieces.len() > MOST {
            return None;
        }
        let its: Vec<&Piece> = pieces.iter().map(|(_, p)| p).collect();
        let linked = choose::together(&its, caps).into_iter();
        let choices = linked.map(|variants| Choice { variants, together: true }).collect();
        let mut bundle = Bundle { pieces, choices };
        let first = bundle.choices.iter().position(|choice| bundle.emit(caps, choice).is_ok())?;
        bundle.choices.drain(..first);
        let default = bundle.choices[0].variants.iter().map(|v| choose::as_default(*v)).collect();
        let default = Choice { variants: default, together: true };
        if default != bundle.choices[0] {
            bundle.choices.insert(0, default);
        }
        let each: Vec<Vec<Variant>> = bundle.pieces.iter().map(|(_, p)| choose::variants(p, caps)).collect();
        for rank in 0..APART {
            // The first spells out less where the second is the same, whole.
            let first = |list: &[Variant]| usize::from(list.len() > 1 && choose::as_default(list[1]) == list[0]);
            let variants = each.iter().map(|list| list[(first(list) + rank).min(list.len() - 1)]).collect();
            bundle.choices.push(Choice { variants, together: false });
        }
        Some(bundle)
    }

    /// The modules of [`Bundle::emit`], each with the kernels that it computes.
    pub fn with_kernels(&self, modules: Vec<Module>) -> Vec<(Vec<KernelId>, Module)> {
        let all: Vec<KernelId> = self.pieces.iter().map(|(id, _)| *id).collect();
        let share = if modules.len() == 1 { all.len() } else { 1 };
        all.chunks(share).map(<[_]>::to_vec).zip(modules).collect()
    }

    /// The code of one of the choices: one module, or a module a piece.
    ///
    /// Errors: as of [`emit`], and where the modules cannot be one: a choice other than the first may be refused.
    pub fn emit(&self, caps: &Caps, choice: &Choice) -> Result<Vec<Module>, Error> {
        let Choice { variants, together } = choice;
        if variants.len() != self.pieces.len() {
            return refuse(format!(
                "a bundle of {} kernels, of which {} is the first, has a variant for each: found {}",
                self.pieces.len(),
                self.pieces[0].1.name,
                variants.len()
            ));
        }
        let pairs = self.pieces.iter().zip(variants);
        let members: Vec<Module> = pairs.map(|((_, piece), v)| emit(piece, caps, v)).collect::<Result<_, _>>()?;
        if !together {
            return Ok(members);
        }
        match link(&members.iter().collect::<Vec<_>>(), caps) {
            Some(module) => Ok(vec![module]),
            None => {
                let names: Vec<&str> = self.pieces.iter().map(|(_, p)| p.name.as_str()).collect();
                refuse(format!(
                    "kernels {} cannot be one module in these variants: choose one of the bundle's choices",
                    names.join(", ")
                ))
            }
        }
    }
}
