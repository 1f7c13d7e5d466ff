//! The bytes of every instruction of wide loops, read back by Capstone: mnemonic and operands are those that were meant.
//!
//! Invariant: what is expected is spelled here from the operands alone, and shares no code with the encoder.

use super::evex::*;
use capstone::arch::{BuildsCapstone, BuildsCapstoneSyntax, x86};
use capstone::{Capstone, Insn};

/// The operands that an instruction takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    /// `inst zmm, zmm, zmm`
    Three,
    /// `inst zmm, zmm, zmm, imm`
    ThreeImm,
    /// `inst zmm, zmm`
    Two,
    /// `inst zmm, zmm, imm`
    TwoImm,
    /// `inst k, zmm, zmm`, after which stands the predicate, if there is one
    Compare,
    /// `inst zmm, zmm, imm`, the destination in the place of the second operand, and in its own the extension of the opcode
    Shift,
    /// `inst zmm, m512`
    Load,
    /// `inst m512, zmm`
    Store,
    /// `inst zmm, m32`
    Broadcast,
}

/// What each of [`ALL`] takes.
fn takes(inst: Inst) -> Takes {
    match inst {
        SQRT | ABS_I | F32_FROM_I32 | F32_FROM_U32 | I32_FROM_F32 | MOVE => Takes::Two,
        ROUND => Takes::TwoImm,
        TERNARY => Takes::ThreeImm,
        COMPARE | COMPARE_I | COMPARE_U | TEST_BITS => Takes::Compare,
        SHIFT => Takes::Shift,
        LOAD => Takes::Load,
        STORE => Takes::Store,
        BROADCAST => Takes::Broadcast,
        _ => Takes::Three,
    }
}

const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// Displacements around those that one byte, or one byte of 64-byte units, could hold.
const DISPLACEMENTS: [i32; 14] = [0, 1, -1, 63, 64, -64, 127, 128, -128, -129, 64 * 127, 64 * 128, i32::MAX, i32::MIN];

fn disassembler() -> Capstone {
    let built = Capstone::new().x86().mode(x86::ArchMode::Mode64).syntax(x86::ArchSyntax::Intel).build();
    built.expect("Capstone knows x86-64")
}

/// One instruction as `mnemonic operands`: numbers decimal, memory as `[base + index + displacement]` without its size.
fn text(insn: &Insn) -> String {
    let mut operands = insn.op_str().unwrap_or_default().replace(" {", "{");
    // RIZ is Capstone's name for a SIB byte without an index.
    for size in ["zmmword ptr ", "dword ptr ", "qword ptr ", " + riz"] {
        operands = operands.replace(size, "");
    }
    let mut out = String::new();
    for (at, part) in operands.split("0x").enumerate() {
        let end = if at == 0 { 0 } else { part.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(part.len()) };
        if at > 0 {
            out += &u64::from_str_radix(&part[..end], 16).expect("hexadecimal digits").to_string();
        }
        out += &part[end..];
    }
    format!("{} {out}", insn.mnemonic().unwrap_or_default()).trim_end().to_owned()
}

/// Assembles, disassembles, and compares line by line.
fn compare(wanted: &[String], asm: Assembler) {
    let (code, _) = asm.finish(&[]);
    let capstone = disassembler();
    let found = capstone.disasm_all(&code, 0).expect("Capstone reads bytes");
    let found: Vec<String> = found.iter().map(text).collect();
    // The constants start at a multiple of four bytes: zeros before them read as instructions of their own.
    assert!(found.len() >= wanted.len(), "{} of {} instructions can be read: {found:?}", found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!(found, wanted);
    }
    let bytes: usize = capstone.disasm_count(&code, 0, wanted.len()).expect("bytes").iter().map(Insn::len).sum();
    assert!(
        code[bytes..].len() < 4 && code[bytes..].iter().all(|b| *b == 0),
        "{} bytes are left over",
        code.len() - bytes
    );
}

fn mem(base: Gpr, moving: bool, disp: i32) -> (Mem, String) {
    let disp_text = match disp {
        0 => String::new(),
        _ if disp < 0 => format!(" - {}", i64::from(disp).unsigned_abs()),
        _ => format!(" + {disp}"),
    };
    let index = if moving { " + rax" } else { "" };
    (Mem::At { base, moving, disp }, format!("[{}{index}{disp_text}]", GPR[base as usize]))
}

/// Sets of three registers in which each operand takes each of 32 values beside low and high others.
fn registers() -> impl Iterator<Item = [Zmm; 3]> {
    (0..32).flat_map(|r| [[r, 1, 2], [1, r, 2], [1, 2, r], [r, 29, 22], [29, r, 22], [29, 22, r], [r, r, r]])
}

/// The mnemonic of a comparison, in which Capstone spells the predicate of those that have names for it.
fn compared(inst: Inst, predicate: u8) -> String {
    let float = ["eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord"];
    let more = ["eq_uq", "nge", "ngt", "false", "neq_oq", "ge", "gt", "true"];
    let quiet = ["eq_os", "lt_oq", "le_oq", "unord_s", "neq_us", "nlt_uq", "nle_uq", "ord_s"];
    let last = ["eq_us", "nge_uq", "ngt_uq", "false_os", "neq_os", "ge_oq", "gt_oq", "true_us"];
    let whole = ["eq", "lt", "le", "false", "neq", "nlt", "nle", "true"];
    match inst {
        COMPARE => format!("vcmp{}ps", [float, more, quiet, last].concat()[predicate as usize]),
        COMPARE_I => format!("vpcmp{}d", whole[predicate as usize]),
        _ => format!("vpcmp{}ud", whole[predicate as usize]),
    }
}

/// `inst` on registers, and what it should read as.
fn on_registers(inst: Inst, asm: &mut Assembler, wanted: &mut Vec<String>) {
    let name = inst.name;
    for [d, a, b] in registers() {
        let last = Rm::Zmm(b);
        match takes(inst) {
            Takes::Three => {
                asm.vector(inst, d, a, last, Mask::None, None);
                asm.vector(inst, d, a, last, Mask::Keep(1), None);
                asm.vector(inst, d, a, last, Mask::Zero(7), None);
                for mask in ["", "{k1}", "{k7}{z}"] {
                    wanted.push(format!("{name} zmm{d}{mask}, zmm{a}, zmm{b}"));
                }
            }
            Takes::ThreeImm => {
                asm.vector(inst, d, a, last, Mask::None, Some(3));
                asm.vector(inst, d, a, last, Mask::Zero(1), Some(255));
                wanted.push(format!("{name} zmm{d}, zmm{a}, zmm{b}, 3"));
                wanted.push(format!("{name} zmm{d}{{k1}}{{z}}, zmm{a}, zmm{b}, 255"));
            }
            Takes::Two => {
                asm.vector(inst, d, 0, last, Mask::None, None);
                wanted.push(format!("{name} zmm{d}, zmm{b}"));
            }
            Takes::TwoImm => {
                asm.vector(inst, d, 0, last, Mask::None, Some(8));
                wanted.push(format!("{name} zmm{d}, zmm{b}, 8"));
            }
            Takes::Compare => {
                let predicates: &[u8] = match inst {
                    COMPARE => &[0, 4, 0x11, 0x12, 0x1d, 0x1e],
                    TEST_BITS => &[],
                    _ => &[0, 1, 2, 4, 5, 6],
                };
                for k in 1..8 {
                    for predicate in predicates {
                        asm.vector(inst, k, a, last, Mask::None, Some(*predicate));
                        wanted.push(format!("{} k{k}, zmm{a}, zmm{b}", compared(inst, *predicate)));
                    }
                    if predicates.is_empty() {
                        asm.vector(inst, k, a, last, Mask::None, None);
                        wanted.push(format!("{name} k{k}, zmm{a}, zmm{b}"));
                    }
                }
            }
            Takes::Shift => {
                for (extension, name) in [(6, "vpslld"), (4, "vpsrad"), (2, "vpsrld")] {
                    asm.vector(inst, extension, d, last, Mask::None, Some(31));
                    wanted.push(format!("{name} zmm{d}, zmm{b}, 31"));
                }
            }
            Takes::Load | Takes::Store | Takes::Broadcast => {}
        }
    }
}

/// `inst` on memory, and what it should read as.
fn on_memory(inst: Inst, asm: &mut Assembler, wanted: &mut Vec<String>) {
    let name = inst.name;
    let places = (0..16).flat_map(|base| {
        let both = [false, true].into_iter();
        both.flat_map(move |moving| DISPLACEMENTS.map(|disp| mem(base, moving, disp)))
    });
    for (at, (place, text)) in places.enumerate() {
        let r = (7 * at % 32) as Zmm;
        match takes(inst) {
            Takes::Load => {
                asm.vector(inst, r, 0, Rm::Mem(place), Mask::None, None);
                asm.vector(inst, r, 0, Rm::Mem(place), Mask::Zero(7), None);
                wanted.push(format!("{name} zmm{r}, {text}"));
                wanted.push(format!("{name} zmm{r}{{k7}}{{z}}, {text}"));
            }
            Takes::Store => {
                asm.vector(inst, r, 0, Rm::Mem(place), Mask::None, None);
                asm.vector(inst, r, 0, Rm::Mem(place), Mask::Keep(7), None);
                wanted.push(format!("{name} {text}, zmm{r}"));
                wanted.push(format!("{name} {text}{{k7}}, zmm{r}"));
            }
            Takes::Broadcast => {
                asm.vector(inst, r, 0, Rm::Mem(place), Mask::None, None);
                wanted.push(format!("{name} zmm{r}, {text}"));
            }
            Takes::Three => {
                asm.vector(inst, r, 31 - r, Rm::Mem(place), Mask::None, None);
                wanted.push(format!("{name} zmm{r}, zmm{}, {text}", 31 - r));
            }
            _ => {}
        }
    }
}

#[test]
fn vector_instructions_read_back_as_they_were_meant() {
    for inst in ALL {
        let (mut asm, mut wanted) = (Assembler::default(), Vec::new());
        on_registers(*inst, &mut asm, &mut wanted);
        on_memory(*inst, &mut asm, &mut wanted);
        assert!(wanted.len() >= 200, "{} is tried in few forms", inst.name);
        compare(&wanted, asm);
    }
}

#[test]
fn instructions_without_vectors_read_back_as_they_were_meant() {
    let (mut asm, mut wanted) = (Assembler::default(), Vec::new());
    for r in 0..16 {
        asm.push(r);
        asm.pop(r);
        wanted.extend(["push", "pop"].map(|name| format!("{name} {}", GPR[r as usize])));
        for base in 0..16 {
            for disp in DISPLACEMENTS {
                asm.load_word(r, base, disp);
                wanted.push(format!("mov {}, {}", GPR[r as usize], mem(base, false, disp).1));
            }
        }
    }
    for by in [64, -64, 4096, -4096] {
        asm.move_stack(by);
        wanted.push(format!("add rsp, {by}"));
    }
    compare(&wanted, asm);
}

#[test]
fn jumps_and_constants_are_where_they_are_meant_to_be() {
    let mut asm = Assembler::default();
    let [back, ahead] = [(); 2].map(|()| asm.label());
    asm.place(back);
    asm.vector(BROADCAST, 31, 0, Rm::Mem(Mem::Pool(1)), Mask::None, None);
    asm.vector(ADD, 1, 2, Rm::Mem(Mem::Pool(0)), Mask::None, None);
    asm.vector(TERNARY, 1, 2, Rm::Mem(Mem::Pool(2)), Mask::None, Some(7));
    asm.jump_if(0x84, "jz", ahead);
    asm.jump_if(0x82, "jb", back);
    asm.place(ahead);
    asm.raw(&[0xc3], "ret");
    let pool = [0x3f80_0000, 0x4000_0000, 0x4040_0000];
    let (code, _) = asm.finish(&pool);
    let capstone = disassembler();
    let all = capstone.disasm_count(&code, 0, 6).unwrap();
    let all: Vec<(u64, usize, String)> = all.iter().map(|i| (i.address(), i.len(), text(i))).collect();
    let first_constant = code.len() - 4 * pool.len();
    assert_eq!(first_constant % 4, 0);
    let mut ends = all.iter().map(|(at, len, _)| *at as usize + len);
    let [first, second, third] = [(); 3].map(|()| ends.next().unwrap());
    let ret = all[5].0;
    let wanted = [
        format!("vbroadcastss zmm31, [rip + {}]", first_constant + 4 - first),
        format!("vaddps zmm1, zmm2, [rip + {}]", first_constant - second),
        format!("vpternlogd zmm1, zmm2, [rip + {}], 7", first_constant + 8 - third),
        format!("je {ret}"),
        "jb 0".to_owned(),
        "ret".to_owned(),
    ];
    assert_eq!(all.iter().map(|(.., text)| text.clone()).collect::<Vec<_>>(), wanted);
    assert_eq!(code[first_constant..], pool.map(u32::to_le_bytes).concat());
}
