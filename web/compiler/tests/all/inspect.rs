//! Totals of programs and the page that shows them.

use crate::requests::{ask, refusal};
use serde_json::{Value, json};

/// Totals and the data of the page.
fn inspect(request: Value) -> (Value, Value) {
    let response = ask(&request);
    assert_eq!(response.blobs[0].0, "page.html");
    let page = String::from_utf8(response.blobs[0].1.clone()).unwrap();
    assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">") && !page.contains("http"), "a page of its own");
    let (_, rest) = page.split_once(r#"<script id="data" type="application/json">"#).unwrap();
    (response.result, serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap())
}

#[test]
fn totals_are_those_of_the_program_and_fusion_saves() {
    let config = json!({"preset": "tiny", "model": {"layers": 1}});
    for (target, code) in [("wasm", "WAT"), ("webgpu", "WGSL")] {
        let of =
            |fusion: bool| inspect(json!({"request": "inspect", "config": config, "target": target, "fusion": fusion}));
        let ((fused, page), (apart, _)) = (of(true), of(false));
        let number = |totals: &Value, key: &str| totals[key].as_u64().unwrap_or_else(|| panic!("{key} of {totals}"));
        let kernels = fused["by_kernel"].as_array().unwrap();
        assert_eq!(number(&fused, "kernels"), kernels.len() as u64);
        for key in ["flop", "bytes_read", "bytes_written"] {
            assert_eq!(number(&fused, key), kernels.iter().map(|k| number(k, key)).sum::<u64>(), "{key}");
        }
        let counted: u64 = fused["archetypes"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
        assert_eq!(counted, number(&fused, "kernels"));
        for key in ["kernels", "launches", "bytes_read", "bytes_written", "planned_bytes"] {
            assert!(number(&apart, key) > number(&fused, key), "{key}: {} fused, {} apart", fused[key], apart[key]);
        }
        assert!(number(&fused, "planned_bytes") >= number(&fused, "lower_bound_bytes"));
        // Kernels of one stage share a launch on a GPU, and a round of a module.
        assert!((2..number(&fused, "kernels")).contains(&number(&fused, "launches")), "{}", fused["launches"]);

        // Every kernel has its code, and all lead to lines of the model.
        assert_eq!(page["tabs"], json!([{"name": code, "target": 0}]));
        let shown = page["targets"][0]["kernels"].as_array().unwrap();
        assert_eq!(shown.len(), kernels.len());
        for kernel in shown {
            assert!(!kernel["code"][code].as_array().unwrap().is_empty(), "{kernel}");
            assert!(!kernel["locs"].as_array().unwrap().is_empty(), "{kernel}");
        }
        let names: Vec<&str> = page["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["models/gpt.rs", "passes/src/optimizer.rs"]);
        let stages: Vec<&str> =
            page["stages"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
        assert_eq!(stages[..3], ["graph", "grad", "expand"]);
    }
}

#[test]
fn the_lines_of_a_text_are_those_of_the_page() {
    let request = json!({"request": "graph", "stage": "graph", "config": {"preset": "tiny", "model": {"layers": 1}}});
    let text = ask(&request).result["text"].as_str().unwrap().to_owned();
    let (_, page) = inspect(json!({"request": "inspect", "target": "wasm", "config": {"graph": text}}));
    assert_eq!(page["files"][0]["name"], "model.gir");
    let lines: Vec<&str> = page["files"][0]["lines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap()).collect();
    assert_eq!(lines, text.lines().collect::<Vec<_>>());
    // The line of attention leads to kernels, forward and backward.
    let line = lines.iter().position(|line| line.contains("= attention ")).unwrap() + 1;
    let loc = page["locs"].as_array().unwrap().iter().position(|loc| *loc == json!([0, line])).unwrap();
    let kernels = page["targets"][0]["kernels"].as_array().unwrap().iter();
    let with: Vec<&str> = kernels
        .filter(|k| k["locs"].as_array().unwrap().contains(&json!(loc)))
        .map(|k| k["name"].as_str().unwrap())
        .collect();
    assert!(with.iter().any(|k| k.starts_with("attention_blocks")), "{with:?}");
    assert!(with.iter().any(|k| k.starts_with("attention_grad")), "{with:?}");
}

#[test]
fn times_colour_kernels_that_the_program_has() {
    let request = |kernel: &str| {
        json!({"request": "inspect", "target": "wasm", "config": {"preset": "tiny"}, "entry": "evaluate",
            "profile": [{"kernel": kernel, "seconds": 0.002, "share": 0.5, "launches": 3}]})
    };
    let (totals, _) =
        inspect(json!({"request": "inspect", "target": "wasm", "config": {"preset": "tiny"}, "entry": "evaluate"}));
    let name = totals["by_kernel"][0]["name"].as_str().unwrap();
    let (_, page) = inspect(request(name));
    let kernel = &page["targets"][0]["kernels"][0];
    assert_eq!((&kernel["ms"], &kernel["share"]), (&json!(2.0), &json!(0.5)));
    assert!(
        page["about"].as_str().unwrap().ends_with("coloured by their times, 2.000 ms together"),
        "{}",
        page["about"]
    );
    let refused = refusal(&request("no_such_kernel").to_string());
    assert!(refused.starts_with("the profile has a row no_such_kernel"), "{refused}");
}
