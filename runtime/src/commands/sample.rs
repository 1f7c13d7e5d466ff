//! `sample`: a checkpoint continues a prompt.
//!
//! Invariant: a file or a pipe gets the model's bytes as they are; a terminal gets them as text, see [`text`].

use super::{Ending, exec_options, load_model, print, say, say_notes};
use crate::Result;
use crate::cli::SampleArgs;
use crate::generate::Generator;
use crate::sampling::Sampler;
use crate::ui::text::{self, Utf8Stream};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Prints the prompt and its continuation, byte by byte as they come, and then says how fast they came.
pub fn run(args: &SampleArgs) -> Result<Ending> {
    let (model, weights) = load_model(&args.checkpoint)?;
    model.check_bytes()?;
    let mut sampler = Sampler::new(args.temperature, args.top_k, args.seed)?;
    let options = exec_options(&args.exec, None)?;
    let mut generator = Generator::new(&model, &options)?;
    say_notes(&options);
    generator.load(&weights, &args.checkpoint.checkpoint.display().to_string())?;
    let prompt = args.prompt.as_bytes();
    // Bytes of a sequence that is not yet whole, on a terminal.
    let mut stream = std::io::stdout().is_terminal().then(Utf8Stream::default);
    match &stream {
        Some(_) => print(text::shown(prompt).as_bytes())?,
        None => print(prompt)?,
    }
    let mut tokens: Vec<i32> = prompt.iter().map(|byte| i32::from(*byte)).collect();
    let mut speed = Speed::new(model.ctx(), tokens.len());
    generator.extend(&mut tokens, args.tokens, &mut sampler, |token| {
        speed.count();
        match &mut stream {
            Some(stream) => print(stream.push(token as u8).as_bytes()),
            None => print(&[token as u8]),
        }
    })?;
    print(stream.map_or(String::new(), Utf8Stream::finish).as_bytes())?;
    print(b"\n")?;
    speed.report().iter().for_each(|line| say(line));
    Ok(Ending::Done)
}

/// Tokens a second, within the context and beyond it.
struct Speed {
    ctx: usize,
    /// Tokens of the text so far.
    length: usize,
    last: Instant,
    /// Time to the first new token: the prompt's.
    first: Option<Duration>,
    within: (usize, Duration),
    beyond: (usize, Duration),
}

impl Speed {
    fn new(ctx: usize, prompt: usize) -> Speed {
        let (within, beyond) = Default::default();
        Speed { ctx, length: prompt, last: Instant::now(), first: None, within, beyond }
    }

    /// One more token has been chosen.
    fn count(&mut self) {
        let took = self.last.elapsed();
        if self.first.is_none() {
            self.first = Some(took);
        } else {
            let (tokens, time) = if self.length <= self.ctx { &mut self.within } else { &mut self.beyond };
            *tokens += 1;
            *time += took;
        }
        self.length += 1;
        self.last = Instant::now();
    }

    /// `4.1 ms to the first token; then 2100 tokens/s within the context of 128 (122 tokens); 300 tokens/s beyond it (72 tokens), ..`; None if
    /// there is no new token.
    fn report(&self) -> Option<String> {
        let mut line = format!("{:.1} ms to the first token", self.first?.as_secs_f64() * 1e3);
        let speed = |(tokens, time): (usize, Duration)| tokens as f64 / time.as_secs_f64().max(1e-9);
        if self.within.0 > 0 {
            let (n, ctx) = (self.within.0, self.ctx);
            line += &format!("; then {:.0} tokens/s within the context of {ctx} ({n} tokens)", speed(self.within));
        }
        if self.beyond.0 > 0 {
            let n = self.beyond.0;
            line += &format!("; {:.0} tokens/s beyond it ({n} tokens), where the context slides", speed(self.beyond));
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_counted_within_and_beyond_the_context() {
        let mut speed = Speed::new(4, 2);
        assert_eq!(speed.report(), None);
        speed.count();
        let first = speed.report().unwrap();
        assert!(first.ends_with(" ms to the first token"), "{first}");
        (0..5).for_each(|_| speed.count());
        // Texts of 3 and 4 tokens fit the context of 4; those of 5, 6 and 7 do not.
        assert_eq!((speed.within.0, speed.beyond.0), (2, 3));
        let line = speed.report().unwrap();
        assert!(line.contains(" tokens/s within the context of 4 (2 tokens); "), "{line}");
        assert!(line.ends_with(" tokens/s beyond it (3 tokens), where the context slides"), "{line}");
    }
}
