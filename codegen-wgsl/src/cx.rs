//! The module under construction: bindings as WGSL sees them, helper functions, workgroup memory, entry points.

use crate::bind::{Binding, Bindings, Piece, Unit};
use crate::caps::Caps;
use crate::error::{Error, refuse};
use crate::link::{self, Parts};
use crate::math;
use crate::module::{Dispatch, Module};
use crate::text::{Code, type_name};
use std::collections::BTreeMap;
use tinygpt_ir::program::{Access, ArgId};
use tinygpt_ir::types::DType;

/// What a binding is an array of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Element {
    /// Every argument in it has this dtype.
    Of(DType),
    /// Arguments of several four-byte dtypes: words, converted at each access. Module `bind` keeps f16 apart.
    Word,
}

pub struct Cx<'a> {
    pub caps: &'a Caps,
    pub name: &'a str,
    /// See [`Piece::f16_operands`].
    pub f16_operands: bool,
    pub bindings: Bindings,
    elements: Vec<Element>,
    /// Bindings that are arrays of vec4.
    vectors: Vec<bool>,
    helpers: BTreeMap<String, String>,
    /// Module-scope declarations.
    /// Name, type and bytes of each.
    workgroup: Vec<(String, String, u32)>,
    workgroup_bytes: u32,
    constants: Vec<String>,
    /// Functions, in order.
    pub code: Code,
    dispatches: Vec<Dispatch>,
    /// How each begins: see [`Parts::entries`].
    entries: Vec<String>,
    scratch_words: usize,
    /// Whether scratch is an array of vec4<f32>.
    scratch_vectors: bool,
    table: Vec<u32>,
    subgroups: bool,
}

impl<'a> Cx<'a> {
    pub fn new(piece: &'a Piece, caps: &'a Caps) -> Result<Cx<'a>, Error> {
        let bindings = piece.bindings.clone();
        let mut elements: Vec<Option<Element>> = vec![None; bindings.list.len()];
        for a in &bindings.args {
            let e = &mut elements[a.binding];
            *e = match *e {
                None => Some(Element::Of(a.dtype)),
                Some(Element::Of(d)) if d == a.dtype => *e,
                _ => Some(Element::Word),
            };
        }
        let f16 = bindings.args.iter().any(|a| a.dtype == DType::F16);
        if f16 && !caps.f16 {
            return refuse(format!(
                "kernel {} works on f16 and the adapter has no shader-f16: compile the program in f32",
                piece.name
            ));
        }
        let elements: Vec<Element> = elements.into_iter().map(|e| e.unwrap_or(Element::Word)).collect();
        Ok(Cx {
            caps,
            name: &piece.name,
            f16_operands: piece.f16_operands,
            vectors: vec![false; elements.len()],
            bindings,
            elements,
            helpers: BTreeMap::new(),
            workgroup: Vec::new(),
            workgroup_bytes: 0,
            constants: Vec::new(),
            code: Code::default(),
            dispatches: Vec::new(),
            entries: Vec::new(),
            scratch_words: 0,
            scratch_vectors: false,
            table: Vec::new(),
            subgroups: false,
        })
    }

    /// Declares the binding of `arg` an array of vec4 if that holds for every access to it. `aligned` says of an access, its argument's offset
    /// included, whether it touches whole groups of four.
    pub fn vectorise(&mut self, accesses: &[(&Access, bool)]) {
        for binding in 0..self.elements.len() {
            let mut its =
                accesses.iter().filter(|(a, _)| self.bindings.args[a.arg.index()].binding == binding).peekable();
            let whole = its.peek().is_some() && its.all(|(_, aligned)| *aligned);
            self.vectors[binding] = whole;
        }
    }

    pub fn dtype(&self, arg: ArgId) -> DType {
        self.bindings.args[arg.index()].dtype
    }

    /// The first element of `arg` in its binding.
    pub fn offset(&self, arg: ArgId) -> i64 {
        self.bindings.args[arg.index()].offset as i64
    }

    pub fn is_vector(&self, arg: ArgId) -> bool {
        self.vectors[self.bindings.args[arg.index()].binding]
    }

    fn typed_word(&self, arg: ArgId, word: String, wide: bool) -> String {
        let dtype = self.dtype(arg);
        match (self.elements[self.bindings.args[arg.index()].binding], dtype) {
            (Element::Of(DType::Bool) | Element::Word, DType::Bool) => {
                if wide {
                    format!("({word} != vec4<u32>())")
                } else {
                    format!("({word} != 0u)")
                }
            }
            (Element::Word, d) if d != DType::U32 => format!("bitcast<{}>({word})", type_name(d, wide)),
            _ => word,
        }
    }

    fn to_word(&self, arg: ArgId, value: &str, wide: bool) -> String {
        let dtype = self.dtype(arg);
        match (self.elements[self.bindings.args[arg.index()].binding], dtype) {
            (_, DType::Bool) => {
                if wide {
                    format!("vec4<u32>({value})")
                } else {
                    format!("u32({value})")
                }
            }
            (Element::Word, d) if d != DType::U32 => format!("bitcast<{}>({value})", type_name(DType::U32, wide)),
            _ => value.to_string(),
        }
    }

    /// The element of `arg` at `index`, counted from the start of the binding. The binding must not be an array of vec4.
    pub fn load(&self, arg: ArgId, index: &str) -> String {
        self.typed_word(arg, format!("buf{}[{index}]", self.bindings.args[arg.index()].binding), false)
    }

    /// Four elements from `index` on, a multiple of four; the binding must be an array of vec4.
    pub fn load4(&self, arg: ArgId, index: &str) -> String {
        self.typed_word(arg, format!("buf{}[{}]", self.bindings.args[arg.index()].binding, quarter(index)), true)
    }

    /// The vector of four elements numbered `index`; the binding must be an array of vec4.
    pub fn load_vector(&self, arg: ArgId, index: &str) -> String {
        self.typed_word(arg, format!("buf{}[{index}]", self.bindings.args[arg.index()].binding), true)
    }

    pub fn store(&mut self, arg: ArgId, index: &str, value: &str) {
        let word = self.to_word(arg, value, false);
        self.code.line(format!("buf{}[{index}] = {word};", self.bindings.args[arg.index()].binding));
    }

    pub fn store4(&mut self, arg: ArgId, index: &str, value: &str) {
        let word = self.to_word(arg, value, true);
        self.code.line(format!("buf{}[{}] = {word};", self.bindings.args[arg.index()].binding, quarter(index)));
    }

    /// A function of [`math`], defined on first use; its name.
    pub fn helper(&mut self, name: &str, wide: bool) -> String {
        let (name, text) = math::helper(name, wide);
        self.helpers.entry(name.clone()).or_insert(text);
        name
    }

    /// Declares `name` in workgroup memory.
    pub fn workgroup(&mut self, name: &str, ty: &str, bytes: u32) {
        let declaration = (name.to_string(), ty.to_string(), bytes);
        if !self.workgroup.contains(&declaration) {
            self.workgroup.push(declaration);
            self.workgroup_bytes += bytes;
        }
    }

    pub fn constant(&mut self, name: &str, value: usize) {
        let declaration = format!("const {name}: u32 = {value}u;");
        if !self.constants.contains(&declaration) {
            self.constants.push(declaration);
        }
    }

    /// Reserves words of scratch; the first one.
    pub fn scratch(&mut self, words: usize) -> usize {
        self.scratch_words += words;
        self.scratch_words - words
    }

    /// Makes scratch an array of vec4<f32>, for modules that only ever touch whole vectors of it: no word is accessed by itself.
    pub fn use_scratch_vectors(&mut self) {
        self.scratch_vectors = true;
    }

    /// Writes a value of a four-byte dtype to a word of scratch.
    pub fn store_scratch(&mut self, index: &str, dtype: DType, value: &str) {
        let word = if dtype == DType::U32 { value.to_string() } else { format!("bitcast<u32>({value})") };
        self.code.line(format!("scratch[{index}] = {word};"));
    }

    pub fn load_scratch(index: &str, dtype: DType) -> String {
        if dtype == DType::U32 { format!("scratch[{index}]") } else { format!("bitcast<{dtype}>(scratch[{index}])") }
    }

    pub fn set_table(&mut self, table: Vec<u32>) {
        self.table = table;
    }

    pub fn use_subgroups(&mut self) {
        self.subgroups = true;
    }

    /// Opens the entry point `name` over at least `groups` workgroups of `invocations`; `group` is the number of the workgroup and `local` of the
    /// invocation in it. Surplus workgroups return at once. Close it with `cx.code.close()`.
    pub fn entry(&mut self, name: &str, groups: usize, invocations: u32) -> Result<(), Error> {
        if invocations > self.caps.flat_workgroup() {
            return refuse(format!(
                "kernel {}: the variant wants {invocations} invocations a workgroup and the adapter allows {}: choose another",
                self.name,
                self.caps.flat_workgroup()
            ));
        }
        let most = self.caps.max_workgroups as usize;
        let y = groups.div_ceil(most);
        let x = groups.div_ceil(y.max(1));
        if y > most {
            return refuse(format!(
                "kernel {}: {groups} workgroups are more than the adapter's {most} x {most}: use a smaller batch",
                self.name
            ));
        }
        self.dispatches.push(Dispatch { entry: name.to_string(), workgroups: [x as u32, y as u32, 1], invocations });
        self.code.blank();
        let subgroups = if self.subgroups {
            ", @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32"
        } else {
            ""
        };
        let mut begin = format!("@compute @workgroup_size({invocations})\n");
        begin += &format!(
            "fn {name}(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(local_invocation_index) local: u32{subgroups}) {{\n"
        );
        begin += &match y {
            1 => "  let group = group_id.x;\n".to_string(),
            _ => format!("  let group = group_id.y * {x}u + group_id.x;\n"),
        };
        self.code.begin(&begin);
        self.entries.push(begin);
        if x * y != groups {
            self.code.line(format!("if (group >= {groups}u) {{ return; }}"));
        }
        Ok(())
    }

    /// The finished module, without a header.
    pub fn finish(self) -> Result<Module, Error> {
        let mut list: Vec<Binding> = self.bindings.list.clone();
        let mut names: Vec<(String, String)> = Vec::new();
        for i in 0..list.len() {
            let element = match self.elements[i] {
                Element::Of(DType::Bool) | Element::Word => DType::U32,
                Element::Of(d) => d,
            };
            names.push((format!("buf{i}"), format!("array<{}>", type_name(element, self.vectors[i]))));
        }
        if self.scratch_words > 0 {
            let ty = if self.scratch_vectors { "array<vec4<f32>>" } else { "array<u32>" };
            names.push(("scratch".into(), ty.into()));
            let size = 4 * self.scratch_words as u64;
            list.push(Binding { unit: Unit::Scratch, write: true, offset: 0, size });
        }
        if !self.table.is_empty() {
            names.push(("segments".into(), "array<u32>".into()));
            let size = 4 * self.table.len() as u64;
            list.push(Binding { unit: Unit::Table, write: false, offset: 0, size });
        }
        if list.len() > self.caps.max_storage_buffers as usize {
            return refuse(format!(
                "kernel {} binds {} buffers in this variant and the adapter allows {}: choose another variant, or compile for a target with fewer arguments a kernel",
                self.name,
                list.len(),
                self.caps.max_storage_buffers
            ));
        }
        if let Some(b) = list.iter().find(|b| b.size > self.caps.max_binding_bytes) {
            return refuse(format!(
                "kernel {} binds {} bytes in this variant and the adapter allows {}: choose another variant",
                self.name, b.size, self.caps.max_binding_bytes
            ));
        }
        if self.workgroup_bytes > self.caps.workgroup_bytes {
            return refuse(format!(
                "kernel {}: the variant wants {} bytes of workgroup memory and the adapter has {}: choose another",
                self.name, self.workgroup_bytes, self.caps.workgroup_bytes
            ));
        }
        let parts = Parts {
            bindings: names,
            constants: self.constants,
            workgroup: self.workgroup,
            helpers: self.helpers,
            functions: self.code.into_text(),
            entries: self.entries,
        };
        let code = parts.text(&list);
        let hash = link::hash(&code, &self.dispatches);
        let f16 = code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "f16");
        let cooperative = code.contains("coop_mat");
        Ok(Module {
            name: self.name.to_string(),
            header: String::new(),
            code,
            f16,
            subgroups: self.subgroups,
            cooperative,
            dispatches: self.dispatches,
            bindings: list,
            scratch_bytes: 4 * self.scratch_words as u64,
            table: self.table,
            workgroup_bytes: self.workgroup_bytes,
            hash,
            parts,
        })
    }
}

/// An index of elements as one of groups of four.
pub fn quarter(index: &str) -> String {
    let is_name = index.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match index.strip_suffix('u').and_then(|n| n.parse::<u64>().ok()) {
        Some(n) => format!("{}u", n / 4),
        None if is_name => format!("{index} / 4u"),
        None => format!("({index}) / 4u"),
    }
}
