//! The text form of graphs: `parse(print(g)) == g`, errors with positions, no panic on any input.

use insta::assert_snapshot;
use proptest::prelude::*;
use tinygpt_ir::dot::{dot, to_petgraph};
use tinygpt_ir::op::{AdamWPart, GeluForm, Real, Wrt};
use tinygpt_ir::random::{RandomOptions, random_graph};
use tinygpt_ir::spec::OPS;
use tinygpt_ir::text::{parse, print};
use tinygpt_ir::verify::verify;
use tinygpt_ir::{Builder, Composite, DType, Graph, Init, Literal, Op, StateRole, TensorType};

#[track_caller]
fn round_trips(g: &Graph) {
    let text = print(g);
    match parse(&text) {
        Ok(read) => {
            assert_eq!(read, *g, "{text}");
            assert_eq!(print(&read), text);
        }
        Err(e) => panic!("{}\n{text}", e.render(None)),
    }
}

#[test]
fn random_graphs_round_trip() {
    let mut seen = std::collections::BTreeSet::new();
    let all = RandomOptions { f16: true, ..RandomOptions::default() };
    for o in [all.clone(), RandomOptions { differentiable: true, ..all }] {
        for seed in 0..200 {
            let g = random_graph(seed, &o);
            round_trips(&g);
            seen.extend(g.nodes.values().map(|n| n.op.name()));
        }
    }
    let missing: Vec<&str> = OPS.iter().map(|s| s.name).filter(|n| !seen.contains(n)).collect();
    assert!(missing.is_empty(), "no graph had {missing:?}");
}

fn real() -> impl Strategy<Value = f64> {
    let special = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, 5e-324, -1e-310, f64::MAX];
    prop_oneof![
        prop::sample::select(special.to_vec()),
        any::<u64>().prop_map(f64::from_bits).prop_map(|x| if x.is_nan() { f64::NAN } else { x }),
        -10.0..10.0,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_attribute_round_trips(
        r in prop::collection::vec(real(), 8),
        int in any::<i32>(), uint in any::<u32>(), truth in any::<bool>(), stream in any::<u32>(),
        std in 0.0f64..1e30, erf in any::<bool>(), wrt in 0usize..3, part in 0usize..3,
        blocks in 1usize..1 << 32,
    ) {
        let b = Builder::new("attributes");
        for (i, init) in [Init::Zeros, Init::Ones, Init::Normal(std)].into_iter().enumerate() {
            for role in [StateRole::Weight, StateRole::Optimizer, StateRole::Other] {
                b.state(&format!("{i}{role:?}"), TensorType::f32([2]), init, role);
            }
        }
        for dtype in [DType::F32, DType::F16] {
            let s = b.splat([2], Literal::new(dtype, r[0]));
            b.node(Op::Pad { low: vec![1], high: vec![0], value: Literal::new(dtype, r[1]) }, &[s]);
        }
        for literal in [
            Literal::i32(int),
            Literal::new(DType::U32, f64::from(uint)),
            Literal::new(DType::Bool, f64::from(u8::from(truth))),
        ] {
            let s = b.splat([], literal);
            b.node(Op::Pad { low: vec![], high: vec![], value: literal }, &[s]);
        }
        let seed = b.splat([], Literal::new(DType::U32, 1.0));
        b.random(seed, seed, stream, [3]);
        let x = b.input("x", TensorType::f32([1, 1, 2, 4]));
        let w = b.input("w", TensorType::f32([4]));
        let lse = b.input("lse", TensorType::f32([1, 1, 2]));
        let form = if erf { GeluForm::Erf } else { GeluForm::Tanh };
        let scale = Real(r[2]);
        b.node(Op::Composite(Composite::LayerNorm { eps: Real(r[3]) }), &[x, w, w]);
        b.node(Op::Composite(Composite::RmsNorm { eps: Real(r[4]) }), &[x, w]);
        b.node(Op::Composite(Composite::Gelu { form }), &[x]);
        b.node(Op::Composite(Composite::Attention { causal: truth, scale }), &[x, x, x]);
        b.node(Op::Composite(Composite::AttentionLse { causal: truth, scale }), &[x, x]);
        let grad = Composite::AttentionGrad { wrt: Wrt::ALL[wrt], causal: truth, scale };
        b.node(Op::Composite(grad), &[x, x, x, x, lse, x]);
        b.node(Op::Composite(Composite::Rope { base: Real(r[5]) }), &[x]);
        let one = b.scalar(1.0);
        b.node(Op::Composite(Composite::ClipByGlobalNorm { max_norm: Real(r[6]) }), &[x, one]);
        b.node(Op::Composite(Composite::SquareSums { block: blocks }), &[x, w]);
        let [beta1, beta2, eps, decay] = [r[7], r[0], r[1], r[2]].map(Real);
        let adamw = Composite::AdamW { part: AdamWPart::ALL[part], beta1, beta2, eps, decay };
        b.node(Op::Composite(adamw), &[x, x, x, x, one, one]);
        round_trips(&b.finish().unwrap());
    }

    #[test]
    fn names_round_trip(name in "\\PC*|[\u{0}-\u{ff}]{1,8}", scope in "[^.]{1,6}") {
        let b = Builder::new(name.clone());
        let x = {
            let _s = b.scope(&scope);
            let key = if name.is_empty() { "x" } else { &name };
            b.state(key, TensorType::f32([2]), Init::Zeros, StateRole::Other)
        };
        b.output(format!("out{name}"), x + 1.0);
        b.update(x, x * 2.0);
        round_trips(&b.finish().unwrap());
    }

    #[test]
    fn bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), headed in any::<bool>()) {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let text = if headed { format!("tinygpt-graph 1\ngraph g\n{text}") } else { text };
        look_at(&text);
    }

    #[test]
    fn token_soup_never_panics(picks in prop::collection::vec(prop::sample::select(TOKENS.to_vec()), 0..60)) {
        look_at(&format!("tinygpt-graph 1\ngraph g\n{}", picks.join(" ")));
    }

    #[test]
    fn mutated_graphs_never_panic(
        seed in 0u64..500, at in any::<prop::sample::Index>(), length in 0usize..6,
        insert in prop::sample::select(TOKENS.to_vec()), line in any::<bool>(),
    ) {
        let text = print(&random_graph(seed, &RandomOptions { nodes: 12, ..RandomOptions::default() }));
        let mutated = if line {
            // A line less, or moved to the end.
            let mut lines: Vec<&str> = text.lines().collect();
            let taken = lines.remove(at.index(lines.len()));
            if length % 2 == 0 {
                lines.push(taken);
            }
            lines.join("\n")
        } else {
            let start = at.index(text.len());
            let end = (start + length).min(text.len());
            format!("{}{insert}{}", &text[..start], &text[end..])
        };
        look_at(&mutated);
    }
}

const TOKENS: &[&str] = &[
    "%0",
    "%1",
    "%2",
    "%",
    "=",
    ":",
    ",",
    "{",
    "}",
    "[",
    "]",
    "@",
    "\"",
    "\"ab,bc->ac\"",
    "\n",
    ";",
    "input",
    "state",
    "output",
    "update",
    "scope",
    "param",
    "add",
    "contract",
    "reshape",
    "attention",
    "softmax",
    "splat",
    "iota",
    "pad",
    "f32[2]",
    "f32[]",
    "f16[1,2]",
    "i32[]",
    "bool[2]",
    "u32[0]",
    "f32[4294967295,4294967295]",
    "x",
    "y",
    "{axis=0}",
    "{axes=[0]}",
    "{value=1e999}",
    "{value=nan}",
    "{labels=\"abcdefgh,h->a\"}",
    "99999999999999999999999",
    "-1",
    "1e400",
    "é",
    "\u{1f600}",
    "\\",
    "\u{0}",
    "\r\n",
    "input @x : f32[2]\n",
    "%0 = param @x : f32[2]\n",
    "%1 = exp %0 : f32[2]\n",
];

/// Reads `text`; what is read is well-formed and round-trips, what is not has an error that points into the text.
fn look_at(text: &str) {
    match parse(text) {
        Ok(g) => {
            verify(&g).unwrap();
            round_trips(&g);
        }
        Err(e) => {
            assert!(e.line >= 1 && e.line <= text.matches('\n').count() + 1, "{e}");
            assert!(e.column >= 1 && text.get(e.span.clone()).is_some(), "{e}");
            assert!(e.render(Some("x.gir")).contains("x.gir"));
        }
    }
}

#[test]
fn long_and_nested_texts_end_in_errors() {
    for piece in ["{", "[", "scope a {\n", "%", "\"", "f32[1,", "{a=[", "@a"] {
        look_at(&format!("tinygpt-graph 1\ngraph g\n{}", piece.repeat(100_000)));
        look_at(&format!("tinygpt-graph 1\ngraph g\n%0 = splat {}", piece.repeat(100_000)));
    }
    look_at(&format!("tinygpt-graph 1\ngraph g\n{}", "a".repeat(1_000_000)));
}

#[test]
fn text_is_legible() {
    let b = Builder::new("example");
    let ids = b.input("ids", TensorType::new(DType::I32, [2, 8]));
    let table = b.weight("wte", [16, 4], Init::Normal(0.02));
    let x = table.gather(ids);
    let y = {
        let _block = b.scope("blocks.0");
        let w = {
            let _mlp = b.scope("mlp");
            b.weight("weight", [4, 4], Init::Zeros)
        };
        let h = x.contract("bti,oi->bto", w).gelu(GeluForm::Erf);
        x + h.layer_norm(b.weight("gain", [4], Init::Ones), b.weight("bias", [4], Init::Zeros), 1e-5)
    };
    let top = y.reduce_max(&[2]).slice([0, 0, 0], [1, 8, 1]).pad([0, 0, 0], [1, 0, 2], f64::NEG_INFINITY);
    b.output("top", top);
    b.update(table, table * 0.5);
    assert_snapshot!(b.finish().unwrap());
}

#[test]
fn any_names_spacing_and_comments_are_read() {
    let text = "; a file\r\n\r\ntinygpt-graph 1 ; version\r\ngraph   \"my graph\"\r\ninput @x:f32[2,3]\r\n\
                %in=param@x:f32[2,3]\r\nscope a.b {   %y.1 = transpose %in {perm=[1,0]} : f32[3,2] }";
    // A scope's nodes stand on lines of their own.
    assert_eq!(parse(text).unwrap_err().line, 7);
    let text = text.replace("{   %y", "{\r\n %y").replace("3,2] }", "3,2]\r\n ; nothing\r\n}\r\n%c = contract %in, %y.1 {labels=\"xy,yz->zx\"} : f32[2,2] ; product\r\noutput \"π\" = %c");
    let g = parse(&text).unwrap_or_else(|e| panic!("{}", e.render(None)));
    assert_snapshot!(print(&g));
}

/// The rendered errors of typical mistakes.
#[test]
fn errors_say_what_was_found_and_expected() {
    let head = "tinygpt-graph 1\ngraph g\ninput @x : f32[2,3]\nstate @w : f32[3] {role=weight, init=zeros}\n%0 = param @x : f32[2,3]\n";
    let cases = [
        "%1 = ad %0, %0 : f32[2,3]",
        "%1 = add %0, %7 : f32[2,3]",
        "%1 = exp %0 : f32[3,2]",
        "%1 = add %0 : f32[2,3]",
        "%1 = exp %0",
        "%1 = reduce_sum %0 {axis=[0]} : f32[1,3]",
        "%1 = reduce_sum %0 {axes=[0], keep=true} : f32[1,3]",
        "%1 = concat %0 {axis=x} : f32[2,3]",
        "%1 = contract %0, %0 {labels=\"ab->a\"} : f32[2,2]",
        "%1 = gelu %0 {form=quick} : f32[2,3]",
        "%1 = splat {value=1e999} : f32[2]",
        "%1 = splat {value=3000000000} : i32[]",
        "%0 = exp %0 : f32[2,3]",
        "%1 = param @y : f32[2]",
        "%1 = param @x : f32[2,3]",
        "input @x : f32[2]",
        "input @y : f64[2]",
        "input @y : f32[0]",
        "input @y : f32[65536,65536]",
        "update @x = %0",
        "update @w = %0",
        "outptu y = %0",
        "scope a {\n%1 = exp %0 : f32[2,3]\noutput y = %1",
        "scope a..b {}",
        "state @h : i32[2] {role=weight, init=normal, std=0.5}",
        "input @\"unfinished : f32[2]",
        "€",
    ];
    let all: Vec<String> = cases
        .iter()
        .map(|c| parse(&format!("{head}{c}\n")).expect_err(c).render(None))
        .chain([parse("").unwrap_err().render(None), parse("tinygpt-graph 2\ngraph g").unwrap_err().render(None)])
        .collect();
    assert_snapshot!(all.join("\n\n"));
    let e = parse(&format!("{head}%1 = add %0, %7 : f32[2,3]")).unwrap_err();
    assert_eq!(e.to_string(), "line 6, column 14: the value `%7` is not defined above this line");
}

#[test]
fn petgraph_and_dot_show_the_dataflow() {
    for seed in 0..20 {
        let g = random_graph(seed, &RandomOptions::default());
        let flow = to_petgraph(&g);
        assert_eq!(flow.node_count(), g.nodes.len());
        assert_eq!(flow.edge_count(), g.nodes.values().map(|n| n.inputs.len()).sum::<usize>());
        assert!(petgraph::algo::toposort(&flow, None).is_ok());
        let text = dot(&g);
        assert_eq!(text.matches("label=\"%").count(), g.nodes.len());
        assert_eq!(text.matches(" -> ").count(), flow.edge_count());
    }
    let b = Builder::new("d");
    let x = b.input("x", TensorType::f32([2]));
    let y = {
        let _s = b.scope("head");
        x + x.exp()
    };
    b.output("y", y);
    assert_snapshot!(dot(&b.finish().unwrap()));
}
