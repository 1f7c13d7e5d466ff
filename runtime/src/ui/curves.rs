//! The curves of a run as a picture: SVG, drawn with the standard library alone.
//!
//! Invariants: the text is a function of the losses and the labels; its length is bounded, however long the run (a column of pixels shows the range
//! of its losses); it is well-formed whatever the labels hold; it follows the reader's choice of a light or dark page, and is light where
//! a viewer knows no such choice.

use super::history::{History, Point};
use std::fmt::Write;

/// Pixels of the picture.
const SIZE: [f64; 2] = [880.0, 500.0];

/// The frame of the curves: left, top, right, bottom.
const FRAME: [f64; 4] = [66.0, 72.0, 856.0, 442.0];

/// Losses above this many times ln(vocab) are cut off: a diverging run would flatten everything else.
const HIGHEST: f64 = 1.3;

/// What is written around the curves.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// `small`
    pub title: &'a str,
    /// `366432 parameters, ctx 64, batch 16; cpu on 2 thread(s)`
    pub subtitle: &'a str,
    /// Tokens that the model knows.
    pub vocab: usize,
}

const STYLE: &str = "\
:root{--bg:#fff;--ink:#1f2328;--soft:#656d76;--grid:#e8eaed;--train:#2f6fde;--val:#c2570c}\
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--soft:#9198a1;--grid:#262c36;--train:#6ea8fe;--val:#f0a04b}}\
svg{background:#fff;background:var(--bg)}\
.bg{fill:#fff;fill:var(--bg)}\
text{font:13px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#656d76;fill:var(--soft)}\
.title{font-size:18px;font-weight:600;fill:#1f2328;fill:var(--ink)}\
.on{fill:#1f2328;fill:var(--ink);paint-order:stroke;stroke:#fff;stroke:var(--bg);stroke-width:4px;stroke-linejoin:round}\
.grid{stroke:#e8eaed;stroke:var(--grid);stroke-width:1}\
.guess{stroke:#656d76;stroke:var(--soft);stroke-width:1.2;stroke-dasharray:6 5}\
.line{fill:none;stroke-linejoin:round;stroke-linecap:round}\
.train{stroke:#2f6fde;stroke:var(--train)}\
.raw{stroke-width:1;stroke-opacity:.32}\
.smooth{stroke-width:2.2}\
.val{stroke:#c2570c;stroke:var(--val);stroke-width:2.2}\
.dot{fill:#c2570c;fill:var(--val)}\
.best{fill:none;stroke:#c2570c;stroke:var(--val);stroke-width:2}";

/// A linear map of steps and losses to pixels.
struct Scale {
    x: [f64; 2],
    y: [f64; 2],
}

impl Scale {
    fn at(&self, step: f64, loss: f64) -> (f64, f64) {
        let along = |value: f64, [from, to]: [f64; 2]| (value - from) / (to - from).max(f64::MIN_POSITIVE);
        let [left, top, right, bottom] = FRAME;
        let y = bottom - along(loss, self.y) * (bottom - top);
        // Far outside of the frame, viewers lose precision.
        (left + along(step, self.x) * (right - left), y.clamp(-SIZE[1], 2.0 * SIZE[1]))
    }

    fn of(&self, point: Point) -> (f64, f64) {
        self.at(point.step as f64, point.loss)
    }
}

/// The picture of `history`: training loss of each step and smoothed, validation loss with its lowest point, and the loss of a guess.
pub fn svg(history: &History, labels: &Labels) -> String {
    let guess = (labels.vocab as f64).ln();
    let (lowest, highest) = history.range().unwrap_or((0.0, guess));
    let shows_guess = history.from_scratch(guess);
    let top = if shows_guess { highest.clamp(guess, HIGHEST * guess) } else { highest };
    let room = (0.04 * (top - lowest)).max(1e-3);
    let scale =
        Scale { x: [0.0, history.last_step().max(1) as f64], y: [(lowest.min(top) - room).max(0.0), top + room] };
    let mut out = String::new();
    let [width, height] = SIZE;
    let [left, frame_top, right, bottom] = FRAME;
    let title = escape(labels.title);
    let about = match (history.best(), history.train().last()) {
        (Some(best), _) => format!("lowest validation loss {:.4} at step {}", best.loss, best.step),
        (None, Some(last)) => format!("training loss {:.4} at step {}", last.loss, last.step),
        (None, None) => "no step yet".to_owned(),
    };
    // Writing to a string cannot fail.
    let mut put = |text: std::fmt::Arguments| out.write_fmt(text).unwrap_or_default();
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         aria-labelledby=\"t d\">\n<title id=\"t\">{title}: loss by step</title>\n<desc id=\"d\">{about}</desc>\n<style>{STYLE}</style>\n\
         <clipPath id=\"frame\"><rect x=\"{left}\" y=\"{frame_top}\" width=\"{}\" height=\"{}\"/></clipPath>\n\
         <rect class=\"bg\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"{left}\" y=\"32\">{title}</text>\n<text x=\"{left}\" y=\"53\">{}</text>\n",
        right - left + 6.0,
        bottom - frame_top,
        escape(labels.subtitle)
    ));
    let steps = ticks(scale.x, 8, 1.0);
    for step in &steps {
        let (x, _) = scale.at(*step, 0.0);
        put(format_args!(
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{frame_top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{step}</text>\n",
            bottom + 20.0
        ));
    }
    let levels = ticks(scale.y, 6, 1e-6);
    let digits = digits(&levels);
    for loss in &levels {
        let (_, y) = scale.at(0.0, *loss);
        put(format_args!(
            "<line class=\"grid\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{loss:.digits$}</text>\n",
            left - 9.0,
            y + 4.5
        ));
    }
    let (middle_x, middle_y) = ((left + right) / 2.0, (frame_top + bottom) / 2.0);
    put(format_args!(
        "<text x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\">step</text>\n\
         <text transform=\"translate(20 {middle_y}) rotate(-90)\" text-anchor=\"middle\">loss (nats per byte)</text>\n",
        bottom + 42.0
    ));
    if shows_guess {
        let (_, y) = scale.at(0.0, guess);
        put(format_args!("<line class=\"guess\" x1=\"{left}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\n"));
    }
    put(format_args!("<g clip-path=\"url(#frame)\">\n"));
    let raw = columns(history.train(), &scale);
    put(format_args!("<path class=\"line train raw\" d=\"{}\"/>\n", path(raw.into_iter())));
    let half = (history.train().len() / 120).max(2);
    let smoothed = thin(&history.smoothed(half), 600);
    put(format_args!("<path class=\"line train smooth\" d=\"{}\"/>\n", path(smoothed.iter().map(|p| scale.of(*p)))));
    put(format_args!(
        "<path class=\"line val\" d=\"{}\"/>\n",
        path(thin(history.val(), 600).iter().map(|p| scale.of(*p)))
    ));
    if history.val().len() <= 60 {
        for point in history.val() {
            let (x, y) = scale.of(*point);
            put(format_args!("<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>\n"));
        }
    }
    put(format_args!("</g>\n"));
    if let Some(best) = history.best() {
        let (x, y) = scale.of(best);
        let y = y.clamp(frame_top, bottom);
        let (anchor, label_x) = if x > middle_x { ("end", (x + 4.0).min(right)) } else { ("start", x - 4.0) };
        // Below the lowest point there is the least in the way, unless the frame ends there.
        let label_y = if y + 26.0 < bottom { y + 24.0 } else { y - 20.0 };
        put(format_args!(
            "<circle class=\"best\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6.5\"/>\
             <text class=\"on\" x=\"{label_x:.1}\" y=\"{label_y:.1}\" text-anchor=\"{anchor}\">best {:.4} at step {}</text>\n",
            best.loss, best.step
        ));
    }
    let mut entry_y = frame_top + 24.0;
    if shows_guess {
        let (_, y) = scale.at(0.0, guess);
        put(format_args!(
            "<text class=\"on\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">ln {} = {guess:.3}, a guess</text>\n",
            right - 8.0,
            y + 17.0,
            labels.vocab
        ));
        entry_y = y + 44.0;
    }
    for (class, name) in
        [("train raw", "training, each step"), ("train smooth", "training, smoothed"), ("val", "validation")]
    {
        put(format_args!(
            "<path class=\"line {class}\" d=\"M{:.1} {entry_y:.1}h26\"/><text class=\"on\" x=\"{:.1}\" y=\"{:.1}\">{name}</text>\n",
            right - 178.0,
            right - 144.0,
            entry_y + 4.5
        ));
        entry_y += 21.0;
    }
    put(format_args!("</svg>\n"));
    out
}

/// Multiples of 1, 2 or 5 times a power of ten, at least `least`, about `count` of them within the range.
fn ticks([from, to]: [f64; 2], count: usize, least: f64) -> Vec<f64> {
    let rough = ((to - from) / count as f64).max(least);
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (from / step).ceil();
    (0..).map(|i| (first + f64::from(i)) * step).take_while(|tick| *tick <= to + 1e-9 * step).collect()
}

/// Decimals that tell the ticks apart.
fn digits(ticks: &[f64]) -> usize {
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(1.0, f64::min);
    (-step.log10().floor()).max(1.0) as usize
}

/// Where the line through `points` runs: through each, or, where a column of half a pixel holds several, through their lowest and highest.
fn columns(points: &[Point], scale: &Scale) -> Vec<(f64, f64)> {
    let column = |point: &Point| (2.0 * scale.of(*point).0).floor();
    let mut line = Vec::new();
    for group in points.chunk_by(|a, b| column(a) == column(b)) {
        let pixels = || group.iter().map(|point| scale.of(*point));
        let x = pixels().map(|(x, _)| x).sum::<f64>() / group.len() as f64;
        let high = pixels().map(|(_, y)| y).fold(f64::INFINITY, f64::min);
        let low = pixels().map(|(_, y)| y).fold(f64::NEG_INFINITY, f64::max);
        line.push((x, high));
        if group.len() > 1 {
            line.push((x, low));
        }
    }
    line
}

/// At most about `count` of `points`, evenly, the last among them.
pub(super) fn thin(points: &[Point], count: usize) -> Vec<Point> {
    let stride = points.len().div_ceil(count).max(1);
    let mut kept: Vec<Point> = points.iter().step_by(stride).copied().collect();
    kept.extend(points.last().filter(|last| kept.last() != Some(last)));
    kept
}

fn path(line: impl Iterator<Item = (f64, f64)>) -> String {
    let mut out = String::new();
    for (at, (x, y)) in line.enumerate() {
        let _ = write!(out, "{}{x:.1} {y:.1}", if at == 0 { 'M' } else { 'L' });
    }
    out
}

/// Text within an element. Control characters have no place in XML.
fn escape(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => '\u{fffd}'.to_string(),
            c => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABELS: Labels = Labels { title: "small", subtitle: "366432 parameters", vocab: 256 };

    fn history(steps: u64) -> History {
        let mut history = History::default();
        for step in 1..=steps {
            let loss = 1.0 + 4.5 * (-(step as f64) / (0.2 * steps as f64)).exp();
            let noise = 0.1 * ((step * 7919 % 13) as f64 / 6.0 - 1.0);
            let val = (step % (steps / 10).max(1) == 0).then_some(loss + 0.02);
            history.add(step, Some(loss + noise), Some(1.0), val);
        }
        history
    }

    /// The text between every `mark="` and the next quote.
    fn values<'t>(svg: &'t str, mark: &str) -> Vec<&'t str> {
        svg.split(&format!(" {mark}=\""))
            .skip(1)
            .filter_map(|rest| rest.split_once('"'))
            .map(|(value, _)| value)
            .collect()
    }

    #[test]
    fn everything_has_its_element() {
        let svg = svg(&history(500), &LABELS);
        for part in [
            "class=\"line train raw\"",
            "class=\"line train smooth\"",
            "class=\"line val\"",
            "class=\"best\"",
            "class=\"guess\"",
            ">ln 256 = 5.545, a guess</text>",
            ">step</text>",
            ">loss (nats per byte)</text>",
            ">best 1.0503 at step 500</text>",
            ">366432 parameters</text>",
            "prefers-color-scheme:dark",
        ] {
            assert!(svg.contains(part), "no {part} in {svg}");
        }
        assert_eq!(svg.matches("class=\"dot\"").count(), 10);
    }

    #[test]
    fn elements_are_well_formed_and_within_the_picture() {
        let hostile = Labels { title: "a<b>&\"'\u{1b}[2J", subtitle: "</text><script>", vocab: 256 };
        for steps in [0, 1, 2, 3, 7, 40, 1500] {
            let text = svg(&history(steps), &hostile);
            let mut open = Vec::new();
            for tag in text.split('<').skip(1) {
                let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("an open tag: {tag}"));
                let name = tag.split([' ', '/']).next().unwrap();
                match tag {
                    _ if tag.starts_with('/') => assert_eq!(open.pop(), Some(&tag[1..]), "{steps} steps"),
                    _ if tag.ends_with('/') => {}
                    _ => open.push(name),
                }
                assert_ne!(name, "script");
            }
            assert!(
                open.is_empty() && !text.contains('\u{1b}') && !text.contains("NaN") && !text.contains("inf"),
                "{text}"
            );
            for y in values(&text, "y").into_iter().chain(values(&text, "cy")) {
                let y: f64 = y.parse().unwrap();
                assert!((0.0..=SIZE[1]).contains(&y), "{steps} steps: y {y}");
            }
            for x in values(&text, "x").into_iter().chain(values(&text, "cx")) {
                let x: f64 = x.parse().unwrap();
                assert!((0.0..=SIZE[0]).contains(&x), "{steps} steps: x {x}");
            }
        }
    }

    #[test]
    fn a_long_run_is_no_larger() {
        let length = svg(&history(300_000), &LABELS).len();
        assert!(length < 80_000, "{length} bytes");
    }

    #[test]
    fn a_loss_beyond_measure_is_cut_off() {
        let mut wild = history(100);
        wild.add(101, Some(1e12), Some(1.0), Some(1e12));
        let text = svg(&wild, &LABELS);
        assert!(text.contains(">6.0</text>"), "the scale stays that of a loss: {text}");
        assert!(!text.contains("e12") && !text.contains("000000000"), "{text}");
    }

    #[test]
    fn a_run_from_trained_weights_fills_the_frame() {
        let mut history = History::default();
        (1..=50).for_each(|step| history.add(step, Some(1.3 - step as f64 / 500.0), Some(1.0), None));
        let text = svg(&history, &LABELS);
        assert!(!text.contains("a guess") && text.contains(">1.24</text>"), "{text}");
    }

    #[test]
    fn ticks_are_round_and_within() {
        assert_eq!(ticks([0.0, 1500.0], 8, 1.0), [0.0, 200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0, 1400.0]);
        assert_eq!(ticks([0.0, 3.0], 8, 1.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(ticks([0.95, 5.7], 6, 1e-6), [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(digits(&[1.0, 2.0]), 1);
        assert_eq!(digits(&[1.2, 1.25]), 2);
    }
}
