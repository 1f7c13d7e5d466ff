//! `sample`: a checkpoint continues a prompt.

use super::{Ending, exec_options, print, say_notes};
use crate::Result;
use crate::checkpoint::Model;
use crate::cli::SampleArgs;
use crate::generate::Generator;
use crate::sampling::Sampler;

/// Prints the prompt and its continuation, byte by byte as they come.
pub fn run(args: &SampleArgs) -> Result<Ending> {
    let model = Model::load(&args.checkpoint)?;
    model.config.check_bytes()?;
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.seed)?;
    let options = exec_options(&args.exec, None)?;
    let mut generator = Generator::new(&model.config, &options)?;
    say_notes(&options);
    generator.load(&model.weights, &args.checkpoint.display().to_string())?;
    print(args.prompt.as_bytes())?;
    let mut tokens: Vec<i32> = args.prompt.bytes().map(i32::from).collect();
    generator.extend(&mut tokens, args.tokens, &mut sampler, |token| print(&[token as u8]))?;
    print(b"\n")?;
    Ok(Ending::Done)
}
