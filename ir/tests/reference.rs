//! docs/IR.md holds the op table as people read it: equal to what the table in `spec` says.

use std::fmt::Write;
use std::path::Path;

use tinygpt_ir::spec::{Class, OPS, OpSpec};

const START: &str = "<!-- ops: generated -->\n";
const END: &str = "<!-- ops: end -->";

fn title(class: Class) -> &'static str {
    match class {
        Class::Source => "Sources",
        Class::Elementwise => "Elementwise",
        Class::Reduction => "Reductions",
        Class::Movement => "Movement",
        Class::Contraction => "Contraction",
        Class::Indexing => "Computed indices",
        Class::Composite => "Composites",
    }
}

/// Operand names; `[bias]` may be left out, `start..` repeated.
fn operands(op: &OpSpec) -> String {
    let last = op.operands.len().wrapping_sub(1);
    let name = |(i, name): (usize, &&str)| {
        let name = if i == last && op.arity.most.is_none() { format!("{name}..") } else { name.to_string() };
        if i >= op.arity.least { format!("[{name}]") } else { name }
    };
    op.operands.iter().enumerate().map(name).collect::<Vec<_>>().join(", ")
}

/// One table a class, classes in order of their first op.
fn reference() -> String {
    let mut classes: Vec<Class> = Vec::new();
    for op in OPS {
        if !classes.contains(&op.class) {
            classes.push(op.class);
        }
    }
    let mut text = String::new();
    for class in classes {
        let _ = writeln!(text, "\n### {}\n", title(class));
        let _ = writeln!(text, "| op | operands | shapes | dtypes | meaning |\n|---|---|---|---|---|");
        for op in OPS.iter().filter(|op| op.class == class) {
            let cells = [&operands(op), op.shape, op.dtype, op.doc].map(|cell| cell.replace('|', "\\|"));
            let _ = writeln!(text, "| `{}` | {} |", op.name, cells.join(" | "));
        }
    }
    text + "\n"
}

#[test]
fn the_document_lists_every_operation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/IR.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(START).expect("docs/IR.md marks where the generated tables start");
    let (found, tail) = rest.split_once(END).expect("docs/IR.md marks where the generated tables end");
    let expected = reference();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, [head, START, &expected, END, tail].concat()).unwrap();
        return;
    }
    assert!(
        found == expected,
        "docs/IR.md is out of date; renew it with BLESS=1 cargo test --release -p tinygpt-ir --test reference"
    );
}
