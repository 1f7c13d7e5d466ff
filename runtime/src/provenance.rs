//! From a kernel back to the model: DSL lines, and errors that lead to them.

use crate::error::one_line;
use std::fmt::Display;
use tinygpt_ir::program::{Program, Provenance};

/// Most DSL lines named in an error.
const MOST: usize = 4;

/// The distinct DSL lines of a kernel, `FILE:LINE`, in order of first appearance.
pub fn lines(provenance: &Provenance) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for loc in &provenance.locs {
        let line = format!("{}:{}", loc.file, loc.line);
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines
}

/// A code generator's message in one line, with the scopes and DSL lines of the kernel that it names.
pub(crate) fn traced(program: &Program, cause: impl Display) -> String {
    let message = one_line(cause);
    let words = || message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let Some(kernel) = program.kernels.values().find(|k| words().any(|word| word == k.name)) else { return message };
    let some = |all: &[String]| match all.len() {
        n if n > MOST => format!("{} and {} more", all[..MOST].join(", "), n - MOST),
        _ => all.join(", "),
    };
    let from = &kernel.provenance;
    let parts = [("scopes", some(&from.scopes)), ("lines", some(&lines(from)))];
    let parts: Vec<String> =
        parts.iter().filter(|(_, s)| !s.is_empty()).map(|(what, s)| format!("{what} {s}")).collect();
    if parts.is_empty() { message } else { format!("{message} (it computes {})", parts.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tinygpt_ir::program::TargetModel;
    use tinygpt_ir::{Builder, Init};

    #[test]
    fn errors_lead_back_to_the_model() {
        let b = Builder::new("g");
        let (x, line) = {
            let _scope = b.scope("part");
            (b.weight("w", [3], Init::Ones).exp(), line!())
        };
        b.output("x", x);
        let program = tinygpt_passes::compile::to_program(&b.finish().unwrap(), &TargetModel::cpu(), true).unwrap();
        let name = &program.kernels.values().next().unwrap().name;
        assert_eq!(
            traced(&program, format!("kernel `{name}` is\n too large")),
            format!("kernel `{name}` is too large (it computes scopes part; lines {}:{line})", file!())
        );
        assert_eq!(traced(&program, "no kernel"), "no kernel");
    }
}
