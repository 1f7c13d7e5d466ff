//! `parse(print(p)) == p` for the sample programs (`tests/all/text.rs` has those of every preset and of random graphs), errors with
//! positions, and no panic on any text.

use insta::assert_snapshot;
use proptest::prelude::*;

use super::*;
use crate::program::samples::{attention, embedding, linear, norm};
use crate::program::{KernelKind, verify};

#[track_caller]
fn round_trips(p: &Program) {
    let text = p.to_string();
    match parse(&text) {
        Ok(read) => {
            assert_eq!(read, *p, "{text}");
            assert_eq!(read.to_string(), text);
        }
        Err(e) => panic!("{}\n{text}", e.render(None)),
    }
}

#[test]
fn samples_round_trip() {
    for mut p in [linear(), attention(), embedding(), norm()] {
        round_trips(&p);
        p.name = "two \"words\"\n".into();
        p.memory.packs = vec![128, 64];
        p.buffers[BufferId(1)].place = Place::Pack { pack: 1, offset: 64 };
        p.buffers[BufferId(0)].place = Place::Slot(7);
        p.target.max_arg_bytes = 1 << 30;
        p.target.f16_values = Some(1 << 20);
        round_trips(&p);
        p.target.f16_operands = true;
        round_trips(&p);
        for k in p.kernels.values_mut() {
            if let KernelKind::Contract(k) = &mut k.kind {
                k.parts[0].terms[0].f16 = true;
            }
        }
        round_trips(&p);
        // Between fusion and scheduling, and half way.
        let all = std::mem::take(&mut p.stages);
        round_trips(&p);
        p.stages.extend(all.first());
        round_trips(&p);
    }
}

#[test]
fn source_lines_are_all_that_the_text_leaves_out() {
    let mut p = linear();
    let lines = &mut p.kernels[crate::program::KernelId(0)].provenance.locs;
    lines.push(crate::graph::Loc::caller());
    let read = parse(&p.to_string()).unwrap();
    assert_eq!(read, p, "equality ignores source lines");
    assert!(read.kernels.values().all(|k| k.provenance.locs.is_empty()));
}

#[test]
fn spacing_and_comments_are_free() {
    let text = linear().to_string();
    let loose = text.replace('\n', "  ; a comment\r\n\r\n").replace("a0[3*m0 + k0]", "a0[ k0  +  3 * m0 + 0*m0 - 0 ]");
    assert!(parse(&loose).unwrap_err().message.contains("`m0` occurs twice"));
    let loose = loose.replace(" + 0*m0", "");
    assert_eq!(parse(&loose).unwrap_or_else(|e| panic!("{}", e.render(None))), linear());
}

/// The rendered errors of typical mistakes: each is one replacement in the text of a sample.
#[test]
fn errors_say_what_was_found_and_expected() {
    let (linear, embedding, norm) = (linear().to_string(), embedding().to_string(), norm().to_string());
    let cases = [
        (&linear, "tinygpt-program 1", "tinygpt-program 2"),
        (&linear, "program linear\n", "graph linear\n"),
        (&linear, "placement=slab", "placement=slabs"),
        (&linear, "lower_bound=128, ", ""),
        (&linear, ": f32[4,3] {role=weight, ", ": f32[4,3] {"),
        (&linear, "= b2\n", "= b9\n"),
        (&linear, "b2 = output 0", "b3 = output 0"),
        (&linear, "slab 64", "slabs 64"),
        (&linear, "live 1..2", "live 1-2"),
        (&linear, "stage 1", "stage 3"),
        (&linear, "stage 0\n", ""),
        (&linear, "= reduce {", "= reduction {"),
        (&linear, "  a1 = read b1", "  a2 = read b1"),
        (&linear, "a2 = write b3", "a2 = writes b3"),
        (&linear, "a0[3*m0 + k0]", "a0[3*n0 + k0]"),
        (&linear, "a1[3*n0 + k0]", "a7[3*n0 + k0]"),
        (&linear, "a1[3*n0 + k0]", "b1[3*n0 + k0]"),
        (&embedding, "2*clamp(%0,5)", "9007199254740992*clamp(%0,4294967294)"),
        (&linear, "part m0=2 n0=4", "part m0=2 n0=0"),
        (&linear, "part m0=2 n0=4", "part m0=4294967000 n0=4294967000"),
        (&linear, "%1 = acc 0", "%2 = acc 0"),
        (&linear, "mul %0, %1", "mull %0, %1"),
        (&linear, "mul %0, %1", "mul %0, %5"),
        (&linear, "const 0.9 : f32", "const 1e99999 : f32"),
        (&linear, "acc 0 = reduce_sum", "acc 0 = reduce_sums"),
        (&linear, "computes %2 %3", "computes %3..%2"),
        (&linear, "recomputes %1\n}", "recomputes %1\n  store a2[0] = %0\n}"),
        (&embedding, "clamp(%0,5)", "clamp(%3,5)"),
        (&embedding, "table row=5", "table rows=5"),
        (&embedding, "role1[0]", "role2[0]"),
        (&embedding, "select %3, %5, %0", "select %3, %5"),
        (&norm, "block 2", "block 0"),
        (&norm, "fold reduce_sum", "fold reduce_add"),
        (&norm, "out role1[j0]", "out role1[i0]"),
    ];
    let error = |(text, from, to): &(&String, &str, &str)| {
        assert!(text.contains(from), "no {from:?} in the sample");
        let changed = text.replacen(from, to, 1);
        parse(&changed).expect_err(to).render(None)
    };
    assert_snapshot!(cases.iter().map(error).collect::<Vec<_>>().join("\n\n"));
    let e = parse(&linear.replacen("slab 64", "slab x", 1)).unwrap_err();
    assert_eq!(e.to_string(), "line 14, column 26: found `x`, expected an integer from 0 to 9007199254740992");
}

/// Reads `text`; what is read can be verified and round-trips, what is not has an error that points into the text.
fn look_at(text: &str) {
    match parse(text) {
        Ok(p) => {
            let _ = verify(&p);
            round_trips(&p);
        }
        Err(e) => {
            assert!(e.line >= 1 && e.line <= text.matches('\n').count() + 1, "{e}");
            assert!(e.column >= 1 && text.get(e.span.clone()).is_some(), "{e}");
            assert!(e.render(Some("x.gir")).contains("x.gir"));
        }
    }
}

const PIECES: &[&str] = &[
    "0",
    "1",
    "2",
    "7",
    "4294967295",
    "9007199254740992",
    "99999999999999999999",
    "-",
    "+",
    "*",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "=",
    ":",
    ",",
    "%",
    "%0",
    "%9",
    "a0",
    "a9",
    "b0",
    "b9",
    "role0",
    "i0",
    "i1",
    "r0",
    "c0",
    "m0",
    "n0",
    "k0",
    "clamp(%0,3)",
    "\n",
    ";",
    "\"",
    "é",
    "f32",
    "bool",
    "i32",
    "stage 0\n",
    "unordered\n",
    "read",
    "write",
    "update",
    "live 0..0",
    "takes b3",
    "takes b5",
    "slab 0",
    "slot 1",
    "pack 0+0",
    "own",
    "acc 0",
    "exp %0",
    "load a0[0]",
    "index i0",
    "nan",
    "inf",
    "row",
    "part",
    "term",
    "from x\n",
    "computes %0..%9\n",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_programs_never_panic(
        sample in 0usize..4, at in any::<prop::sample::Index>(), length in 0usize..6,
        insert in prop::sample::select(PIECES.to_vec()), way in 0usize..3, other in any::<prop::sample::Index>(),
    ) {
        let text = [linear(), attention(), embedding(), norm()][sample].to_string();
        let mutated = match way {
            0 => {
                // A line less, or moved.
                let mut lines: Vec<&str> = text.lines().collect();
                let taken = lines.remove(at.index(lines.len()));
                if length % 2 == 0 {
                    lines.insert(other.index(lines.len()), taken);
                }
                lines.join("\n")
            }
            1 => {
                let start = at.index(text.len());
                let end = (start + length).min(text.len());
                format!("{}{insert}{}", &text[..start], &text[end..])
            }
            _ => {
                // Another number.
                let digits: Vec<usize> = text.bytes().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| i).collect();
                let i = digits[at.index(digits.len())];
                format!("{}{}{}", &text[..i], other.index(12), &text[i + 1..])
            }
        };
        look_at(&mutated);
    }

    #[test]
    fn token_soup_never_panics(picks in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40)) {
        let text = linear().to_string();
        let (head, _) = text.split_once("  part ").unwrap();
        look_at(&format!("{head}{}", picks.join(" ")));
    }
}

#[test]
fn long_texts_end_in_errors() {
    let text = linear().to_string();
    let (head, _) = text.split_once("a0[3*m0").unwrap();
    for piece in ["a0[", "1 + ", "m0 + ", "4294967294 + ", "clamp(", "-", "9007199254740992*m0 - ", "\"", "%"] {
        look_at(&format!("{head}a0[{}", piece.repeat(100_000)));
    }
}
