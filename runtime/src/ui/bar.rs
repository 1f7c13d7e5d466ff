//! A run as one line at the foot of the terminal, under the lines that a run without a terminal prints, and its samples.

use super::board::{Board, clock};
use crate::trainer::{Event, Lines, Observer};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Redraws a second, at most.
const REDRAWS: u8 = 8;

type Printer = Box<dyn FnMut(&str)>;

/// See the module comment.
pub struct Bar {
    bar: ProgressBar,
    lines: Lines<Printer>,
}

impl Bar {
    /// On standard error.
    pub fn new(colours: bool) -> Bar {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(REDRAWS));
        let drawn = if colours { "{bar:24.cyan/8}" } else { "{bar:24}" };
        let style = ProgressStyle::with_template(&format!("{drawn} {{wide_msg}}"));
        // A template that is not understood would be this file's mistake, and the plain bar does.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        let above = bar.clone();
        let lines = Lines::new(Box::new(move |line: &str| above.println(line)) as Printer);
        Bar { bar, lines }
    }

    /// What prints a line above the bar.
    pub fn printer(&self) -> impl Fn(&str) + Send + 'static {
        let bar = self.bar.clone();
        move |line| bar.println(line)
    }

    /// `board` has been told `event`.
    pub fn event(&mut self, event: &Event<'_>, board: &Board) {
        self.lines.event(event);
        match event {
            Event::Started(run) => {
                self.bar.set_length(run.planned);
                self.bar.set_position(run.done);
            }
            Event::Step { .. } => {
                self.bar.set_message(line(board));
                self.bar.set_position(board.step());
            }
            // The last one is part of the command's result.
            Event::Sampled { step, .. } if *step < board.run.planned => {
                if let Some((step, text)) = &board.sample {
                    self.bar.println(format!("\n    sample after step {step}:\n{}\n", indented(text)));
                }
            }
            Event::Finished(_) => self.close(),
            Event::Sampled { .. } | Event::Saved { .. } | Event::Skipped { .. } => {}
        }
    }

    /// Takes the bar away; the lines above it stay.
    pub fn close(&self) {
        self.bar.finish_and_clear();
    }
}

/// `35% 523/1500  loss 1.590  val 1.604  60.1k tokens/s  41% of peak  0:19 left`
pub fn line(board: &Board) -> String {
    let (step, planned) = (board.step(), board.run.planned);
    let mut line = format!("{}% {step}/{planned}", 100 * step / planned.max(1));
    let mut add = |part: Option<String>| part.into_iter().for_each(|part| line += &format!("  {part}"));
    add(board.loss().map(|loss| format!("loss {loss:.3}")));
    add(board.history.val().last().map(|val| format!("val {:.3}", val.loss)));
    add(board.tokens_per_s().map(|speed| format!("{} tokens/s", short(speed))));
    add(board.arithmetic().map(|(_, share)| format!("{:.0}% of peak", 100.0 * share)));
    add(board.left_s().map(|left| format!("{} left", clock(left))));
    line
}

/// `870`, `60.1k` or `1.2M`
pub fn short(number: f64) -> String {
    match number {
        _ if number < 1e4 => format!("{number:.0}"),
        _ if number < 1e6 => format!("{:.1}k", number / 1e3),
        _ => format!("{:.1}M", number / 1e6),
    }
}

fn indented(text: &str) -> String {
    text.trim().lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::board;
    use super::*;

    #[test]
    fn the_line_says_what_is_known() {
        assert_eq!(line(&board(0)), "0% 0/400");
        assert_eq!(line(&board(1)), "0% 1/400  loss 5.455  51.2k tokens/s  29% of peak");
        let expected = "25% 100/400  loss 2.732  val 2.705  51.2k tokens/s  29% of peak  0:06 left";
        assert_eq!(line(&board(100)), expected);
        let mut graph = board(100);
        graph.about.peak = None;
        assert!(!line(&graph).contains("peak"));
    }

    #[test]
    fn large_numbers_are_short() {
        assert_eq!([870.4, 9999.0, 60_123.0, 1_240_000.0].map(short), ["870", "9999", "60.1k", "1.2M"]);
        assert_eq!(indented("\n a\nb\n"), "    a\n    b");
    }
}
