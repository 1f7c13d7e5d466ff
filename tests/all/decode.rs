//! Decoding with a cache: the logits and the text are those of the whole sequence, on every backend.

use crate::support::{Cli, INTERP, cpus, gpu};
use crate::wasm;
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Gelu, ModelConfig};
use tinygpt::runtime::generate::Generator;
use tinygpt::runtime::model::{Logits, forward, initial_weights};
use tinygpt::runtime::sampling::Sampler;
use tinygpt::runtime::tensor::HostTensor;
use tinygpt::runtime::tensor_file::Tensors;

const CTX: usize = 24;

/// Heads of 20: neither a whole number of vectors of 8 nor of 16.
fn model() -> ModelConfig {
    ModelConfig { vocab: 256, ctx: CTX, layers: 2, heads: 3, d_model: 60, d_mlp: 100, gelu: Gelu::Erf }
}

/// Matrices so large that attention prefers some tokens to others.
fn weights() -> Tensors {
    let mut weights = initial_weights(&forward(&model(), 1).unwrap(), 7).unwrap();
    for matrix in weights.values_mut().filter(|t| t.shape().len() == 2) {
        matrix.as_f32_mut().unwrap().iter_mut().for_each(|x| *x *= 6.0);
    }
    weights
}

/// Generator and forward program with equal weights.
fn programs(options: &ExecOptions) -> (Generator, Logits) {
    let mut generator = Generator::new(&model(), options).unwrap();
    generator.load(&weights(), "the test's weights").unwrap();
    let mut logits = Logits::new(&model(), 1, options).unwrap();
    logits.load(&weights(), "the test's weights").unwrap();
    (generator, logits)
}

/// The logits after each of `tokens`, which are as many as the context, without a cache.
fn uncached(logits: &mut Logits, tokens: &[i32]) -> Vec<Vec<f32>> {
    let ids = HostTensor::i32(&[1, CTX], tokens.to_vec()).unwrap();
    logits.run(&ids).unwrap().as_f32().unwrap().chunks(256).map(<[f32]>::to_vec).collect()
}

/// Cached and uncached logits differ by rounding alone: sums of up to 100 products in another order, through two layers, and on the
/// interpreter that of keys and values to f32. Relative to the largest logit, whose last place is worth 6e-8 to 1.2e-7 of it.
const TOLERANCE: f32 = 2e-6;

fn agree(options: &ExecOptions) {
    let (mut generator, mut logits) = programs(options);
    let tokens: Vec<i32> = (0..CTX as i32).map(|i| (i * i * 7 + 3 * i + 65) % 256).collect();
    let expected = uncached(&mut logits, &tokens);
    for (n, expected) in (1..).zip(&expected) {
        let found = generator.next(&tokens[..n]).unwrap();
        let scale = expected.iter().fold(0f32, |m, x| m.max(x.abs()));
        let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs() / scale));
        assert!(worst <= TOLERANCE, "{options:?}: after {n} tokens the logits differ by {worst:e} of the largest");
    }

    // Beyond the context the text is its last tokens, at positions from 0.
    let long: Vec<i32> = [9, 8, 7].iter().chain(&tokens).copied().collect();
    assert_eq!(generator.next(&long).unwrap(), expected[CTX - 1], "{options:?}: the window is not its tokens");

    // The likeliest text, which passes the end of the context.
    let mut sampler = Sampler::new(0.0, None, 0).unwrap();
    let text = generator.text(b"Once", CTX + 8, &mut sampler).unwrap();
    let mut tokens: Vec<i32> = b"Once".iter().map(|b| i32::from(*b)).collect();
    for byte in text {
        let shown = &tokens[tokens.len().saturating_sub(CTX)..];
        let mut ids = shown.to_vec();
        ids.resize(CTX, 0);
        let row = &uncached(&mut logits, &ids)[shown.len() - 1];
        assert_eq!(u32::from(byte), sampler.choose(row, 0).unwrap(), "{options:?}: after {} tokens", tokens.len());
        tokens.push(byte.into());
    }
}

#[test]
fn the_cache_is_exact_on_the_interpreter() {
    agree(&INTERP);
}

#[test]
fn the_cache_is_exact_on_the_cpu_in_every_form() {
    cpus().iter().for_each(agree);
}

#[test]
fn the_cache_is_exact_on_the_gpu() {
    if let Some(gpu) = gpu() {
        agree(&ExecOptions::on_gpu(gpu));
    }
}

#[test]
fn the_cache_is_exact_in_webassembly() {
    if wasm::have_node() {
        [1, 2].map(wasm::options).iter().for_each(agree);
    }
}

#[test]
fn threads_change_no_bit_of_the_logits() {
    for options in cpus().into_iter().filter(|options| options.threads == 1) {
        let all = |threads: usize| -> Vec<Vec<u32>> {
            let mut generator = programs(&ExecOptions { threads, ..options.clone() }).0;
            let text: Vec<i32> = (0..CTX as i32 + 2).map(|i| i * 9 % 256).collect();
            let bits = |logits: &[f32]| logits.iter().map(|x| x.to_bits()).collect();
            (1..=text.len()).map(|n| bits(generator.next(&text[..n]).unwrap())).collect()
        };
        let one = all(1);
        for threads in [2, 3] {
            assert!(all(threads) == one, "{options:?}: {threads} threads differ from one");
        }
    }
}

#[test]
fn sample_says_how_fast_it_was() {
    let cli = Cli::new();
    cli.small_config("");
    cli.ok("train --config small.toml --threads 1 --stop-at 1 --out run");
    let run = cli.ok("sample --checkpoint run --prompt Once --tokens 9 --threads 1");
    let line = run.stderr.lines().last().unwrap_or_default();
    let words =
        [" ms to the first token", " tokens/s within the context of 8 (4 tokens)", " tokens/s beyond it (4 tokens)"];
    assert!(words.iter().all(|words| line.contains(words)), "{line}");
    assert_eq!(run.stdout.lines().next().map(|line| line.starts_with("Once")), Some(true), "{}", run.stdout);
}
