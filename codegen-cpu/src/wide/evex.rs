//! The instructions of wide loops as bytes and as text.
//!
//! Encodings follow the Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, 2.7 "Intel AVX-512 encoding".
//! Vector instructions work on 512 bits with operands of 32 bits (EVEX.W is 0). Memory operands always have a SIB byte and a
//! displacement of 32 bits, which needs no compression. Text is in Intel's order, the destination first.

use std::fmt::Write;

/// A general register by its number. RAX, RSI and RDX have fixed roles: see [`super`].
pub type Gpr = u8;
/// A vector register by its number, 0 to 31.
pub type Zmm = u8;

pub const RAX: Gpr = 0;
pub const RDI: Gpr = 7;
pub const RSP: Gpr = 4;

const GPR_NAMES: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];

/// A vector instruction: opcode map (1: 0F, 2: 0F38, 3: 0F3A), mandatory prefix (0: none, 1: 66, 2: F3, 3: F2), opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inst {
    pub name: &'static str,
    map: u8,
    prefix: u8,
    opcode: u8,
}

macro_rules! instructions {
    ($($const:ident = $name:literal $map:literal $prefix:literal $opcode:literal;)*) => {
        $(pub const $const: Inst = Inst { name: $name, map: $map, prefix: $prefix, opcode: $opcode };)*
        #[cfg(test)]
        pub const ALL: &[Inst] = &[$($const),*];
    };
}
instructions! {
    ADD = "vaddps" 1 0 0x58;
    SUB = "vsubps" 1 0 0x5c;
    MUL = "vmulps" 1 0 0x59;
    DIV = "vdivps" 1 0 0x5e;
    MIN = "vminps" 1 0 0x5d;
    MAX = "vmaxps" 1 0 0x5f;
    SQRT = "vsqrtps" 1 0 0x51;
    ROUND = "vrndscaleps" 3 1 0x08;
    SCALE = "vscalefps" 2 1 0x2c;
    // vfmadd213ps d, v, m: d = v * d + m; vfmadd231ps d, v, m: d = v * m + d
    FMA_213 = "vfmadd213ps" 2 1 0xa8;
    FMA_231 = "vfmadd231ps" 2 1 0xb8;
    ADD_I = "vpaddd" 1 1 0xfe;
    SUB_I = "vpsubd" 1 1 0xfa;
    MUL_I = "vpmulld" 2 1 0x40;
    MIN_I = "vpminsd" 2 1 0x39;
    MAX_I = "vpmaxsd" 2 1 0x3d;
    MIN_U = "vpminud" 2 1 0x3b;
    MAX_U = "vpmaxud" 2 1 0x3f;
    ABS_I = "vpabsd" 2 1 0x1e;
    AND = "vpandd" 1 1 0xdb;
    OR = "vpord" 1 1 0xeb;
    XOR = "vpxord" 1 1 0xef;
    // Shifts by a constant: the opcode's extension, in place of a register, says which.
    SHIFT = "shift" 1 1 0x72;
    F32_FROM_I32 = "vcvtdq2ps" 1 0 0x5b;
    F32_FROM_U32 = "vcvtudq2ps" 1 3 0x7a;
    I32_FROM_F32 = "vcvtps2dq" 1 1 0x5b;
    COMPARE = "vcmpps" 1 0 0xc2;
    COMPARE_I = "vpcmpd" 3 1 0x1f;
    COMPARE_U = "vpcmpud" 3 1 0x1e;
    TEST_BITS = "vptestmd" 2 1 0x27;
    // vblendmps d{k}, v, m: d = k ? m : v
    BLEND = "vblendmps" 2 1 0x65;
    TERNARY = "vpternlogd" 3 1 0x25;
    LOAD = "vmovups" 1 0 0x10;
    STORE = "vmovups" 1 0 0x11;
    MOVE = "vmovaps" 1 0 0x28;
    BROADCAST = "vbroadcastss" 2 1 0x18;
}

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mem {
    /// `[base + disp]`, plus RAX if `moving`.
    At { base: Gpr, moving: bool, disp: i32 },
    /// A constant of the function, by its number.
    Pool(usize),
}

/// The last operand of a vector instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rm {
    Zmm(Zmm),
    Mem(Mem),
}

/// What an instruction's mask does to the elements that it leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    None,
    /// They keep their value; in memory, they are not touched. A blend takes its other operand for them.
    Keep(u8),
    Zero(u8),
}

/// A place to jump to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// A function under construction.
#[derive(Default)]
pub struct Assembler {
    code: Vec<u8>,
    text: String,
    labels: Vec<Option<usize>>,
    /// Position of the 32-bit distance, and the label.
    jumps: Vec<(usize, Label)>,
    /// Position of the 32-bit distance, bytes from there to the end of the instruction, and the constant.
    pool_uses: Vec<(usize, usize, usize)>,
}

impl Assembler {
    /// One vector instruction `inst reg, v, rm, imm`; `v` is 0 where the instruction has no such operand, and `reg` may be a mask
    /// register or the extension of an opcode.
    pub fn vector(&mut self, inst: Inst, reg: u8, v: Zmm, rm: Rm, mask: Mask, imm: Option<u8>) {
        let (aaa, z) = match mask {
            Mask::None => (0, 0),
            Mask::Keep(k) => (k, 0),
            Mask::Zero(k) => (k, 1),
        };
        let bit = |x: u8, n: u8| x >> n & 1;
        // Of a register operand, X is bit 4; of memory, B extends the base and X the index, which is RAX or none.
        let (b, x) = match rm {
            Rm::Zmm(r) => (bit(r, 3), bit(r, 4)),
            Rm::Mem(Mem::At { base, .. }) => (bit(base, 3), 0),
            Rm::Mem(Mem::Pool(_)) => (0, 0),
        };
        let not = |x: u8| x ^ 1;
        self.code.extend([
            0x62,
            not(bit(reg, 3)) << 7 | not(x) << 6 | not(b) << 5 | not(bit(reg, 4)) << 4 | inst.map,
            (!v & 15) << 3 | 4 | inst.prefix,
            z << 7 | 2 << 5 | not(bit(v, 4)) << 3 | aaa,
            inst.opcode,
        ]);
        let reg_bits = (reg & 7) << 3;
        match rm {
            Rm::Zmm(r) => self.code.push(3 << 6 | reg_bits | r & 7),
            Rm::Mem(Mem::At { base, moving, disp }) => {
                let index = if moving { RAX } else { 4 }; // 4: none
                self.code.extend([2 << 6 | reg_bits | 4, index << 3 | base & 7]);
                self.code.extend(disp.to_le_bytes());
            }
            Rm::Mem(Mem::Pool(constant)) => {
                self.code.push(reg_bits | 5); // relative to the next instruction
                self.pool_uses.push((self.code.len(), 4 + imm.is_some() as usize, constant));
                self.code.extend([0; 4]);
            }
        }
        self.code.extend(imm);
    }

    /// The line of a vector instruction in the text.
    pub fn say(&mut self, line: std::fmt::Arguments) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "  {line}");
    }

    /// An instruction without vectors, given as bytes.
    pub fn raw(&mut self, bytes: &[u8], text: &str) {
        self.code.extend(bytes);
        self.say(format_args!("{text}"));
    }

    /// `mov to, [base + disp]`, 64 bits.
    pub fn load_word(&mut self, to: Gpr, base: Gpr, disp: i32) {
        let rex = 0x48 | (to >> 3) << 2 | base >> 3;
        self.code.extend([rex, 0x8b, 2 << 6 | (to & 7) << 3 | 4, 4 << 3 | base & 7]);
        self.code.extend(disp.to_le_bytes());
        self.say(format_args!("mov {}, [{} + {disp}]", GPR_NAMES[to as usize], GPR_NAMES[base as usize]));
    }

    pub fn push(&mut self, r: Gpr) {
        self.stack(0x50, "push", r);
    }

    pub fn pop(&mut self, r: Gpr) {
        self.stack(0x58, "pop", r);
    }

    fn stack(&mut self, opcode: u8, name: &str, r: Gpr) {
        if r >= 8 {
            self.code.push(0x41);
        }
        self.raw(&[opcode | r & 7], &format!("{name} {}", GPR_NAMES[r as usize]));
    }

    /// Moves the stack pointer by a number of bytes.
    pub fn move_stack(&mut self, by: i32) {
        if by != 0 {
            self.code.extend([0x48, 0x81, 0xc4]);
            self.code.extend(by.to_le_bytes());
            self.say(format_args!("add rsp, {by}"));
        }
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    pub fn place(&mut self, label: Label) {
        self.labels[label.0] = Some(self.code.len());
        let _ = writeln!(self.text, "l{}:", label.0);
    }

    /// A conditional jump by its second opcode byte.
    pub fn jump_if(&mut self, opcode: u8, name: &str, to: Label) {
        self.code.extend([0x0f, opcode]);
        self.jumps.push((self.code.len(), to));
        self.code.extend([0; 4]);
        self.say(format_args!("{name} l{}", to.0));
    }

    /// The finished bytes, which end with the constants, and the text.
    pub fn finish(mut self, pool: &[u32]) -> (Vec<u8>, String) {
        let mut patch = |at: usize, from: usize, to: usize| {
            let distance = to as i64 - from as i64;
            let distance = i32::try_from(distance).expect("a function is shorter than 2 GiB");
            self.code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        };
        for &(at, label) in &self.jumps {
            patch(at, at + 4, self.labels[label.0].expect("every label is placed"));
        }
        let pool_start = self.code.len().next_multiple_of(4);
        let mut patch = |at: usize, from: usize, to: usize| {
            let distance = (to - from) as i32;
            self.code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
        };
        for &(at, rest, constant) in &self.pool_uses {
            patch(at, at + rest, pool_start + 4 * constant);
        }
        self.code.resize(pool_start, 0);
        for (i, bits) in pool.iter().enumerate() {
            self.code.extend(bits.to_le_bytes());
            let _ = writeln!(self.text, "c{i}: {bits:#010x} ; {:?}", f32::from_bits(*bits));
        }
        (self.code, self.text)
    }
}

/// A memory operand as text.
pub fn mem_text(mem: Mem) -> String {
    match mem {
        Mem::At { base, moving, disp } => {
            let index = if moving { " + rax" } else { "" };
            let disp = if disp == 0 { String::new() } else { format!(" + {disp}") };
            format!("[{}{index}{disp}]", GPR_NAMES[base as usize])
        }
        Mem::Pool(constant) => format!("[c{constant}]"),
    }
}
