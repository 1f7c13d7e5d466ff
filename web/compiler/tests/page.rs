//! The compiler as a page has it, `web/dist/tinygpt_web.wasm` in Node, gives the bytes that it gives natively.
//!
//! Needs Node, and the module as `cargo xtask web` has just built it (`cargo xtask test` does); says `skipped` where one is missing, and fails
//! instead with TINYGPT_REQUIRE_WEB=1, which `.ci/run` sets.

use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tinygpt_web::{answer, read};

/// The responses of the built module; None, said so, where it cannot run here.
fn in_node(requests: &[Value]) -> Option<Vec<Vec<u8>>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let module = root.join("web/dist/tinygpt_web.wasm");
    if !module.is_file() || Command::new("node").arg("--version").output().is_err() {
        let why = "found no Node, or no web/dist/tinygpt_web.wasm: install nodejs and run `cargo xtask web`";
        assert!(std::env::var_os("TINYGPT_REQUIRE_WEB").is_none_or(|v| v != "1"), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let mut node = Command::new("node")
        .arg(root.join("web/compiler/tests/respond.mjs"))
        .arg(&module)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines: String = requests.iter().map(|request| format!("{request}\n")).collect();
    node.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(output.status.success(), "node ended with {}", output.status);
    let (mut rest, mut responses) = (output.stdout.as_slice(), Vec::new());
    while let Some(total) = rest.first_chunk() {
        let (response, others) = rest.split_at(u32::from_le_bytes(*total) as usize);
        responses.push(response.to_vec());
        rest = others;
    }
    Some(responses)
}

#[test]
fn a_page_gets_the_bytes_of_the_native_compiler() {
    let tiny = json!({"preset": "tiny", "model": {"layers": 1}});
    let mut requests = vec![
        json!({"request": "presets"}),
        json!({"request": "resolve", "config": {"preset": "tiny", "model": {"d_model": 96}, "train": {"steps": 20}}}),
        json!({"request": "corpus"}),
        json!({"request": "init", "config": tiny, "seed": 7}),
        json!({"request": "compile", "config": {"preset": "tiny"}}),
        json!({"request": "compile", "config": {"preset": "large"}, "variants": [{"relaxed": true, "threads": true}]}),
        json!({"request": "wat", "config": tiny}),
        json!({"request": "wat", "config": tiny, "entry": "decode", "variant": {"relaxed": true, "threads": true}}),
        json!({"request": "wgsl", "config": tiny}),
        json!({"request": "wgsl", "config": tiny, "entry": "evaluate", "caps": {"subgroups": [4, 4], "max_storage_buffers": 10}}),
        json!({"request": "wgsl", "config": {"preset": "large"}, "caps": {"subgroups": [32, 32]}}),
        json!({"request": "graph", "config": {"preset": "massive"}, "stage": "program"}),
        json!({"request": "resolve", "config": {"preset": "tny"}}),
        json!({"request": "init", "config": {"preset": "behemoth"}}),
    ];
    for stage in ["graph", "grad", "fused", "program"] {
        for entry in ["train", "evaluate", "decode", "logits"] {
            requests.push(json!({"request": "graph", "config": tiny, "stage": stage, "entry": entry}));
        }
    }
    let Some(responses) = in_node(&requests) else { return };
    assert_eq!(responses.len(), requests.len());
    for (request, response) in requests.iter().zip(&responses) {
        let native = answer(request.to_string().as_bytes());
        assert!(*response == native, "{request}: {}", difference(response, &native));
    }
}

/// Where two responses differ first, for people.
fn difference(page: &[u8], native: &[u8]) -> String {
    let (page, native) = match (read(page), read(native)) {
        (Ok(page), Ok(native)) => (page, native),
        (page, native) => return format!("in a page {:?}, natively {:?}", page.err(), native.err()),
    };
    for ((name, ours), (_, theirs)) in page.blobs.iter().zip(&native.blobs) {
        if ours != theirs {
            let at = ours.iter().zip(theirs).position(|(a, b)| a != b).unwrap_or(ours.len().min(theirs.len()));
            return format!("{name} differs from byte {at} on: {} and {} bytes", ours.len(), theirs.len());
        }
    }
    let (page, native) = (page.result.to_string(), native.result.to_string());
    let at = page.bytes().zip(native.bytes()).position(|(a, b)| a != b).unwrap_or(page.len().min(native.len()));
    let around = |text: &str| {
        String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(80)..text.len().min(at + 80)]).into_owned()
    };
    format!("the results differ: in a page `{}`, natively `{}`", around(&page), around(&native))
}
