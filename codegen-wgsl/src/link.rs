//! Linking: modules of kernels that wait for nothing of each other as one module, whose workgroups are theirs in turn.
//!
//! Each entry point of a member becomes a function of the number of the workgroup among its own, and the new entry point calls the one whose
//! turn it is. First dispatches go together, and so do second ones. Names of a member get its number, but for helper functions and for workgroup
//! memory of one name and type, which a workgroup uses for one member alone.
//!
//! Invariants
//! - A member computes the same operations in the same order as by itself: equal bits.
//! - All invocations of a workgroup call the same member, so that barriers stay uniform.
//! - Members have different ranges of scratch.

use crate::bind::{Binding, Unit};
use crate::caps::Caps;
use crate::module::{Dispatch, Module, fnv};
use crate::text::{Code, NON_FINITE};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;

/// The parts of a module's text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parts {
    /// Name and array type of each binding.
    pub bindings: Vec<(String, String)>,
    /// Declarations.
    pub constants: Vec<String>,
    /// Name, type and bytes of each.
    pub workgroup: Vec<(String, String, u32)>,
    /// By name.
    pub helpers: BTreeMap<String, String>,
    pub functions: String,
    /// The text in `functions` with which each entry point begins, up to where `group` is known.
    pub entries: Vec<String>,
}

impl Parts {
    /// The whole text, without what [`Module::source`] adds.
    pub fn text(&self, bindings: &[Binding]) -> String {
        let mut top = Code::default();
        for (i, ((name, ty), b)) in self.bindings.iter().zip(bindings).enumerate() {
            let access = if b.write { "read_write" } else { "read" };
            top.line(format!("@group(0) @binding({i}) var<storage, {access}> {name}: {ty};"));
        }
        let workgroup: Vec<String> =
            self.workgroup.iter().map(|(name, ty, _)| format!("var<workgroup> {name}: {ty};")).collect();
        for section in [&self.constants, &workgroup] {
            if !section.is_empty() {
                top.blank();
                section.iter().for_each(|l| top.line(l));
            }
        }
        if self.helpers.values().chain([&self.functions]).any(|t| t.contains("inf_bits") || t.contains("nan_bits")) {
            top.blank();
            top.line(NON_FINITE);
        }
        for h in self.helpers.values() {
            top.blank();
            top.line(h);
        }
        top.into_text() + &self.functions
    }
}

/// The linked module; None where the members cannot be one: they have workgroups of different sizes, or tables, or more workgroups, bindings or
/// workgroup memory than one dispatch may have, or one writes an allocation that another reads, or a range that overlaps another's where that is
/// refused.
pub fn link(members: &[&Module], caps: &Caps) -> Option<Module> {
    let (first, rest) = members.split_first()?;
    if rest.is_empty() {
        return Some((*first).clone());
    }
    let subgroups = members.iter().any(|m| m.subgroups);
    let mut out = Parts::default();
    let (mut bindings, mut scratch_bytes): (Vec<Binding>, u64) = (Vec::new(), 0);
    let rounds = members.iter().map(|m| m.dispatches.len()).max()?;
    let mut calls: Vec<Vec<(String, u32)>> = vec![Vec::new(); rounds];
    let mut functions = String::new();
    for (number, m) in members.iter().enumerate() {
        if !m.table.is_empty() {
            return None;
        }
        let own = |name: &str| format!("k{number}_{name}");
        let mut names = NewNames::default();
        for (b, (name, ty)) in m.bindings.iter().zip(&m.parts.bindings) {
            if b.unit == Unit::Scratch {
                let offset = scratch_bytes.next_multiple_of(u64::from(caps.offset_alignment.max(16)));
                scratch_bytes = offset + b.size;
                bindings.push(Binding { offset, ..b.clone() });
                out.bindings.push((own(name), ty.clone()));
                names.add(name, own(name));
                continue;
            }
            if bindings.iter().any(|other| other.unit == b.unit && other.write != b.write) {
                return None;
            }
            let known = bindings.iter().position(|other| other == b).filter(|at| out.bindings[*at].1 == *ty);
            let at = known.unwrap_or(bindings.len());
            if known.is_none() {
                let overlap = |other: &Binding| {
                    other.unit == b.unit && other.offset < b.offset + b.size && b.offset < other.offset + other.size
                };
                if b.write && !caps.overlapping_writes && bindings.iter().any(overlap) {
                    return None;
                }
                bindings.push(b.clone());
                out.bindings.push((format!("buf{at}"), ty.clone()));
            }
            names.add(name, format!("buf{at}"));
        }
        for line in &m.parts.constants {
            let name = line.strip_prefix("const ")?.split(':').next()?;
            names.add(name, own(name));
        }
        for (name, ty, bytes) in &m.parts.workgroup {
            let clash = out.workgroup.iter().any(|(other, its, _)| other == name && its != ty);
            let renamed = if clash { own(name) } else { name.clone() };
            if !out.workgroup.iter().any(|(other, ..)| *other == renamed) {
                out.workgroup.push((renamed.clone(), ty.clone(), *bytes));
            }
            names.add(name, renamed);
        }
        let mut text = m.parts.functions.clone();
        for (round, (dispatch, entry)) in m.dispatches.iter().zip(&m.parts.entries).enumerate() {
            let [x, 1, 1] = dispatch.workgroups else { return None };
            let others = if m.subgroups { ", subgroup_size: u32, subgroup_lane: u32" } else { "" };
            let header = format!("fn {}(group: u32, local: u32{others}) {{\n", dispatch.entry);
            if !text.contains(entry.as_str()) {
                return None;
            }
            text = text.replacen(entry.as_str(), &header, 1);
            let others = if m.subgroups { ", subgroup_size, subgroup_lane" } else { "" };
            calls[round].push((format!("{}(GROUP, local{others});", own(&dispatch.entry)), x));
        }
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn ").and_then(|l| l.split('(').next()) {
                names.add(name, own(name));
            }
        }
        out.constants.extend(m.parts.constants.iter().map(|line| names.apply(line)));
        out.helpers.extend(m.parts.helpers.clone());
        functions += &names.apply(&text);
    }
    let mut code = Code::default();
    let mut dispatches = Vec::new();
    for (round, calls) in calls.iter().enumerate() {
        let mut its = members.iter().filter_map(|m| m.dispatches.get(round));
        let Dispatch { entry, invocations, .. } = its.next()?;
        if its.any(|d| d.invocations != *invocations) {
            return None;
        }
        let workgroups: u32 = calls.iter().try_fold(0u32, |sum, (_, x)| sum.checked_add(*x))?;
        if workgroups > caps.max_workgroups {
            return None;
        }
        dispatches.push(Dispatch { entry: entry.clone(), workgroups: [workgroups, 1, 1], invocations: *invocations });
        code.blank();
        code.line(format!("@compute @workgroup_size({invocations})"));
        let builtins = if subgroups {
            ", @builtin(subgroup_size) subgroup_size: u32, @builtin(subgroup_invocation_id) subgroup_lane: u32"
        } else {
            ""
        };
        code.open(format!(
            "fn {entry}(@builtin(workgroup_id) group_id: vec3<u32>, @builtin(local_invocation_index) local: u32{builtins})"
        ));
        code.line("let group = group_id.x;");
        choose(&mut code, calls);
        code.close();
    }
    out.functions = functions + &code.into_text();
    let workgroup_bytes: u32 = out.workgroup.iter().map(|(_, _, bytes)| bytes).sum();
    let largest = bindings.iter().map(|b| b.size).max().unwrap_or(0);
    let most = caps.max_storage_buffers as usize;
    if workgroup_bytes > caps.workgroup_bytes || largest > caps.max_binding_bytes || bindings.len() > most {
        return None;
    }
    let code = out.text(&bindings);
    let hash = hash(&code, &dispatches);
    Some(Module {
        name: format!("{}+{}", first.name, rest.len()),
        header: members.iter().map(|m| m.header.as_str()).collect(),
        f16: members.iter().any(|m| m.f16),
        cooperative: members.iter().any(|m| m.cooperative),
        code,
        subgroups,
        dispatches,
        bindings,
        scratch_bytes,
        table: Vec::new(),
        workgroup_bytes,
        hash,
        parts: out,
    })
}

/// See [`Module::hash`].
pub fn hash(code: &str, dispatches: &[Dispatch]) -> u64 {
    let mut shape = String::new();
    for d in dispatches {
        let _ = writeln!(shape, "{} {:?} {}", d.entry, d.workgroups, d.invocations);
    }
    fnv(&[code.as_bytes(), shape.as_bytes()])
}

/// Calls the member that workgroup `group` belongs to: each call, in which GROUP stands for the number of the workgroup among the member's own,
/// with the number of its workgroups.
fn choose(code: &mut Code, calls: &[(String, u32)]) {
    let mut first = 0;
    for (i, (call, workgroups)) in calls.iter().enumerate() {
        match i {
            _ if calls.len() == 1 => {}
            0 => code.open(format!("if (group < {workgroups}u)")),
            _ if i + 1 == calls.len() => code.otherwise(None),
            _ => code.otherwise(Some(&format!("group < {}u", first + workgroups))),
        }
        let group = if first == 0 { "group".to_string() } else { format!("group - {first}u") };
        code.line(call.replace("GROUP", &group));
        first += workgroups;
    }
    if calls.len() > 1 {
        code.close();
    }
}

/// New names of a member's declarations.
#[derive(Default)]
struct NewNames(HashMap<String, String>);

impl NewNames {
    fn add(&mut self, name: &str, new: String) {
        self.0.insert(name.to_string(), new);
    }

    /// Replaces whole identifiers, but for those after a dot, which are components of vectors.
    fn apply(&self, text: &str) -> String {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let mut out = String::with_capacity(text.len() + text.len() / 8);
        let mut rest = text;
        while let Some(start) = rest.find(part) {
            let (before, from) = rest.split_at(start);
            let end = from.find(|c| !part(c)).unwrap_or(from.len());
            let (word, after) = from.split_at(end);
            out += before;
            out += match self.0.get(word) {
                Some(new) if !out.ends_with('.') => new,
                _ => word,
            };
            rest = after;
        }
        out + rest
    }
}
