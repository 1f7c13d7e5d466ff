//! A model that is no GPT, from a file: `train --graph`, its checkpoints, `sample`, `eval` and `dump --graph`.

use crate::support::Cli;
use tinygpt::ir::{Builder, DType, Graph, Init, TensorType};
use tinygpt::runtime::checkpoint::Checkpoint;

/// A language model of two-byte memory, [B,T] = [4,8]: embeddings of a byte and of the one before it, a hidden layer, logits if asked for.
pub fn trigram(logits: bool) -> Graph {
    let b = Builder::new("trigram");
    let (rows, ctx, width) = (4, 8, 24);
    let tokens = TensorType::new(DType::I32, [rows, ctx]);
    let (ids, targets) = (b.input("ids", tokens.clone()), b.input("targets", tokens));
    let embed = |name: &str| b.weight(&format!("{name}.weight"), [256, width], Init::Normal(0.3)).gather(ids);
    let hidden = {
        let _scope = b.scope("hidden");
        let before = embed("before").pad([0, 1, 0], [0, 0, 0], 0.0).slice([0, 0, 0], [rows, ctx, width]);
        let w = b.weight("weight", [32, width], Init::Normal(0.2));
        (embed("now") + before).linear(w, Some(b.weight("bias", [32], Init::Zeros))).tanh()
    };
    let head = b.weight("head.weight", [256, 32], Init::Normal(0.2));
    let scores = hidden.linear(head, None);
    if logits {
        b.output("logits", scores);
    }
    b.output("loss", scores.cross_entropy(targets));
    b.finish().unwrap()
}

fn cli() -> Cli {
    let cli = Cli::new();
    cli.file("f.gir", trigram(true).to_string());
    cli.file("silent.gir", trigram(false).to_string());
    cli.file("text.txt", "the fox and the hen saw the moon. ".repeat(80));
    cli
}

const TRAIN: &str = "--data text.txt --threads 1 --steps 300 --lr 2e-2 --eval-every 100 --save-every 100 --keep 0";

fn number(text: &str, key: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    words[words.iter().position(|w| *w == key).unwrap_or_else(|| panic!("no {key} in {text}")) + 1].parse().unwrap()
}

#[test]
fn a_graph_from_a_file_trains_samples_evaluates_and_resumes() {
    let cli = cli();
    let run = cli.ok(&format!("train --graph f.gir {TRAIN} --out run"));
    assert!(number(&run.stdout, "val_loss") < 0.9, "{}", run.stdout);
    assert!(run.stderr.contains("trigram: 21280 parameters, ctx 8, batch 4, 300 steps"), "{}", run.stderr);

    // The run directory is whole without the file that it came from.
    let config = std::fs::read_to_string(cli.path("run/config.toml")).unwrap();
    assert!(config.contains("graph = \"model.gir\"") && !config.contains("[model]"), "{config}");
    assert_eq!(std::fs::read_to_string(cli.path("run/model.gir")).unwrap(), trigram(true).to_string());
    std::fs::remove_file(cli.path("f.gir")).unwrap();
    let sample = cli.ok("sample --checkpoint run --prompt th --tokens 30 --temperature 0 --threads 1").stdout;
    assert!(sample.starts_with("the ") && sample.len() == 33, "{sample:?}");
    assert_eq!(
        cli.ok("sample --checkpoint run --prompt th --tokens 30 --temperature 0 --backend interp").stdout,
        sample
    );
    let eval = cli.ok("eval --checkpoint run --data text.txt --threads 1").stdout;
    assert!(number(&eval, "val_loss") < 0.9, "{eval}");

    // Stopped and resumed it is the same run, to the last bit; its configuration can be taken again.
    cli.ok(&format!("train --config run/config.toml {TRAIN} --stop-at 150 --out again"));
    cli.ok("train --resume again --threads 2");
    let [whole, again] = ["run", "again"].map(|dir| Checkpoint::load(&cli.path(dir)).unwrap());
    assert_eq!((whole.step, &whole.weights, &whole.m, &whole.v), (again.step, &again.weights, &again.m, &again.v));
    assert_eq!(again.config.graph.as_deref(), Some("model.gir"));
}

#[test]
fn a_graph_without_logits_trains_and_is_not_sampled() {
    let cli = cli();
    let run = cli.ok("train --graph silent.gir --data text.txt --threads 1 --steps 5 --out run");
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    let lacks = "the graph trigram has no output `logits` of type f32[4,8,256], so it can be trained but not sampled or evaluated on a file; its \
                 outputs are loss f32[]";
    cli.refused("sample --checkpoint run", 2, lacks);
    cli.refused("eval --checkpoint run --data text.txt", 2, lacks);
    cli.refused("train --graph silent.gir --sample-bytes 9", 2, lacks);
}

#[test]
fn what_cannot_be_trained_is_one_sentence() {
    let cli = cli();
    let text = trigram(true).to_string();
    let change = |from: &str, to: &str, part: &str| {
        assert!(text.contains(from), "no {from:?} in {text}");
        cli.file("g.gir", text.replace(from, to));
        cli.refused("train --graph g.gir --data text.txt", 2, part);
    };
    change("@ids", "@words", "it has no input `ids` i32[B,T]; its inputs are words i32[4,8], targets i32[4,8]");
    change(
        "output loss",
        "output cost",
        "it has no output `loss` f32[]; its outputs are logits f32[4,8,256], cost f32[]",
    );
    change(
        "input @targets : i32[4,8]",
        "input @targets : i32[4,8]\ninput @mask : f32[3]",
        "it has an input `mask` f32[3] besides",
    );
    change("%0 = param @ids", "%0 = parm @ids", "holds no graph: line ");
    cli.refused("train --graph none.gir", 2, "cannot read ");
    cli.refused(
        "train --graph f.gir --batch 5",
        2,
        "the graph trigram takes 4 rows a batch, and batch is 5: leave batch out",
    );
    cli.file("both.toml", "graph = \"f.gir\"\n[model]\nctx = 8\n");
    cli.refused("train --config both.toml", 2, "there is a graph and a [model], of which a run has one");
    assert_eq!(cli.run("train --graph f.gir --preset tiny").status, 2);
    cli.ok("train --graph f.gir --data text.txt --threads 1 --steps 2 --out run");
    cli.refused(
        "export --format web --checkpoint run -o web",
        2,
        "run holds the graph trigram, and a GPT is needed here",
    );
}

#[test]
fn every_stage_of_a_graph_can_be_dumped() {
    let cli = cli();
    assert_eq!(cli.ok("dump --graph f.gir --stage graph --no-lines").stdout, trigram(true).to_string());
    assert!(cli.ok("dump --graph f.gir --stage grad").stdout.contains("update @head.weight = "));
    let program = cli.ok("dump --graph f.gir --stage program --no-lines").stdout;
    let passes = "autodiff,expand,simplify,split-reduce,simplify,fuse,memory";
    assert_eq!(cli.ok(&format!("opt f.gir --passes {passes}")).stdout, program);
    assert!(cli.ok("dump --graph f.gir --stage wgsl").stdout.contains("@compute"));
    // A graph that is a step already, or has no loss, is compiled as it is.
    cli.ok("dump --graph f.gir --stage grad --no-lines -o d");
    assert_eq!(cli.ok("dump --graph d/grad.gir --stage program --no-lines").stdout, program);
    cli.ok("dump --graph f.gir --stage program --no-lines -o d");
    cli.refused(
        "dump --graph d/program.txt --stage graph",
        2,
        "d/program.txt holds a program, whose stages are behind it",
    );
}
