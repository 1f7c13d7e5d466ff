//! Errors of the DSL as their reader sees them: the refused line, the lines of both operands, their shapes.
//!
//! The excerpts quote this file; line numbers are blotted out so that only a change of the models here shows.

use annotate_snippets::Renderer;
use tinygpt_ir::{Builder, Init, T, TensorType};

/// Builds `model`, which must be refused, and compares the rendered error with the snapshot `name`.
fn check(name: &str, model: fn(&Builder)) {
    let b = Builder::new("model");
    model(&b);
    let error = b.finish().expect_err("the model is ill-typed");
    assert!(
        error.loc.is_some_and(|l| l.file.ends_with("errors.rs")),
        "the error points here, not into the DSL: {error}"
    );
    let renderer = Renderer::plain().anonymized_snippet_line_numbers(true).anonymized_origin_line_numbers(true);
    let text = error
        .render_with(&renderer, &|path| path.ends_with("errors.rs").then(|| include_str!("errors.rs").to_string()));
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!(name, text);
    });
}

#[test]
fn broadcast_mismatch() {
    check("error-broadcast-mismatch", |b| {
        let x = b.input("x", TensorType::f32([16, 64]));
        let bias = b.weight("bias", [32], Init::Zeros);
        b.output("y", x.exp() + bias);
    });
}

#[test]
fn contract_extent_mismatch() {
    check("error-contract-extent-mismatch", |b| {
        let x = b.input("x", TensorType::f32([2, 8, 64]));
        let w = b.weight("w", [96, 48], Init::Normal(0.02));
        b.output("y", x.contract("bti,oi->bto", w));
    });
}

#[test]
fn reshape_of_other_size() {
    check("error-reshape-of-other-size", |b| {
        let x = b.input("x", TensorType::f32([2, 8, 64]));
        let _heads = x.reshape([2, 8, 4, 12]);
    });
}

/// A layer as models write it: errors inside name its scope.
fn layer<'g>(b: &'g Builder, x: T<'g>) -> T<'g> {
    let _scope = b.scope("mlp");
    let weight = b.weight("weight", [96, 48], Init::Normal(0.02));
    let bias = b.weight("bias", [96], Init::Zeros);
    x.linear(weight, Some(bias))
}

#[test]
fn linear_of_other_width() {
    check("error-linear-of-other-width", |b| {
        let x = b.input("x", TensorType::f32([2, 8, 64]));
        let _block = b.scope("blocks.0");
        b.output("y", layer(b, x).silu());
    });
}

#[test]
fn operands_of_one_line() {
    check("error-operands-of-one-line", |b| {
        let ids = b.input("ids", TensorType::new(tinygpt_ir::DType::I32, [4]));
        b.output("y", ids / ids);
    });
}

#[test]
fn duplicate_name() {
    check("error-duplicate-name", |b| {
        b.input("x", TensorType::f32([]));
        b.input("x", TensorType::f32([2]));
    });
}

#[test]
fn the_first_error_is_kept_and_poison_spreads_silently() {
    let b = Builder::new("model");
    let x = b.input("x", TensorType::f32([2, 3]));
    let bad = x.transpose([0, 0]);
    assert!((bad + x).exp().id().is_none());
    let _second = x.reshape([7]);
    let error = b.finish().expect_err("two errors");
    assert_eq!(error.message, "transpose needs a permutation of the 2 axes, found [0, 0]");
    assert_eq!(error.operands.len(), 1);
}

#[test]
fn files_are_found_from_the_package_folder() {
    let b = Builder::new("model");
    b.input("x", TensorType::f32([2])).reshape([3]);
    let text = b.finish().expect_err("sizes differ").render();
    assert!(text.contains(r#"b.input("x", TensorType::f32([2])).reshape([3]);"#), "no excerpt in\n{text}");
}
