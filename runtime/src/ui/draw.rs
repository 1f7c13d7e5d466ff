//! One drawing of the board: curves, figures, the last sample, keys.
//!
//! Invariants: a drawing is a function of the board and the size of the screen, and draws something at every size; colours only add to
//! what symbols and words say.

use super::bar::line;
use super::board::{Board, clock};
use super::history::Point;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, BorderType, Chart, Dataset, GraphType, LegendPosition, Paragraph, Wrap};

/// Below it, one line is all that is drawn.
const LEAST: (u16, u16) = (50, 14);

/// Width of the figures.
const FIGURES: u16 = 30;

struct Styles {
    frame: Style,
    label: Style,
    strong: Style,
    train: Style,
    val: Style,
}

impl Styles {
    fn new(colours: bool) -> Styles {
        let colour = |colour| if colours { Style::new().fg(colour) } else { Style::new() };
        Styles {
            frame: colour(Color::DarkGray),
            label: colour(Color::Gray),
            strong: Style::new().add_modifier(Modifier::BOLD),
            train: colour(Color::Cyan),
            val: colour(Color::Yellow),
        }
    }

    fn block<'t>(&self, title: impl Into<Line<'t>>) -> Block<'t> {
        Block::bordered().border_type(BorderType::Rounded).border_style(self.frame).title(title)
    }
}

/// Draws `board` over the whole screen.
pub fn draw(frame: &mut Frame, board: &Board, colours: bool) {
    let styles = Styles::new(colours);
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = vec![Line::from(line(board)), Line::from("q stops and saves")];
        frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: true }), area);
        return;
    }
    let sample_height = if board.about.samples && area.height >= 24 { area.height / 4 } else { 0 };
    let rows = [Constraint::Length(2), Constraint::Min(8), Constraint::Length(sample_height), Constraint::Length(2)];
    let [head, middle, sample, foot] = Layout::vertical(rows).areas(area);
    let [curves, figures] = Layout::horizontal([Constraint::Min(20), Constraint::Length(FIGURES)]).areas(middle);
    draw_head(frame, head, board, &styles);
    draw_curves(frame, curves, board, &styles);
    draw_figures(frame, figures, board, &styles);
    if sample_height > 0 {
        draw_sample(frame, sample, board, &styles);
    }
    draw_foot(frame, foot, board, &styles);
}

/// `small: 366432 parameters, ..` and the device, over a bar of the steps done.
fn draw_head(frame: &mut Frame, area: Rect, board: &Board, styles: &Styles) {
    let about = &board.about;
    let title = Line::from(vec![
        Span::styled(format!(" {}", about.name), styles.strong),
        Span::raw(format!(": {}; {}", about.model, about.device)),
    ]);
    let (step, planned) = (board.step(), board.run.planned.max(1));
    let share = step as f64 / planned as f64;
    let words = format!(" {step}/{planned}  {:.0}% ", (100.0 * share).floor());
    let width = usize::from(area.width).saturating_sub(words.chars().count() + 1);
    let filled = ((width as f64 * share) as usize).min(width);
    let bar = Line::from(vec![
        Span::raw(" "),
        Span::styled("━".repeat(filled), styles.train),
        Span::styled("─".repeat(width - filled), styles.frame),
        Span::raw(words),
    ]);
    frame.render_widget(Paragraph::new(vec![title, bar]), area);
}

fn draw_curves(frame: &mut Frame, area: Rect, board: &Board, styles: &Styles) {
    let history = &board.history;
    // Two points a column are what braille can show.
    let columns = usize::from(area.width.max(8)) * 2;
    let pairs = |points: &[Point]| -> Vec<(f64, f64)> { points.iter().map(|p| (p.step as f64, p.loss)).collect() };
    let train = pairs(&means(history.train(), columns));
    let val = pairs(&means(history.val(), columns));
    let guess = (board.about.vocab as f64).ln();
    let (low, high) = history.range().map_or((0.0, guess), |(low, high)| (low, high.min(1.3 * guess)));
    let shows_guess = history.from_scratch(guess);
    let (low, high) = (low.min(high), if shows_guess { high.max(guess) } else { high });
    let room = (0.05 * (high - low)).max(0.01);
    let (low, high) = ((low - room).max(0.0), high + room);
    let last = history.last_step().max(10) as f64;

    let ends = [(0.0, guess), (last, guess)];
    let mut sets = Vec::new();
    if shows_guess {
        let name = format!("ln {} = {guess:.2}", board.about.vocab);
        sets.push(dataset(&ends, styles.frame).name(name).marker(Marker::Dot).graph_type(GraphType::Line));
    }
    sets.push(dataset(&train, styles.train).name("training").marker(Marker::Braille).graph_type(GraphType::Line));
    if !val.is_empty() {
        let joined = if val.len() > 1 { GraphType::Line } else { GraphType::Scatter };
        sets.push(dataset(&val, styles.val).name("validation").marker(Marker::Braille).graph_type(joined));
    }
    let steps = [0.0, (last / 2.0).round(), last].map(|step| format!("{step:.0}"));
    let count = if area.height >= 16 { 5 } else { 3 };
    let levels: Vec<String> =
        (0..count).map(|i| format!("{:.2}", low + (high - low) * f64::from(i) / f64::from(count - 1))).collect();
    let x = Axis::default().bounds([0.0, last]).labels(steps).style(styles.label).title("step");
    let y = Axis::default().bounds([low, high]).labels(levels).style(styles.label);
    let chart = Chart::new(sets)
        .block(styles.block(" loss, nats per byte "))
        .x_axis(x)
        .y_axis(y)
        .legend_position(Some(LegendPosition::TopRight))
        .hidden_legend_constraints((Constraint::Ratio(1, 2), Constraint::Ratio(1, 2)));
    frame.render_widget(chart, area);
}

fn dataset(data: &[(f64, f64)], style: Style) -> Dataset<'_> {
    Dataset::default().data(data).style(style)
}

/// At most `count` points: means of as many neighbours as it takes.
fn means(points: &[Point], count: usize) -> Vec<Point> {
    let each = points.len().div_ceil(count).max(1);
    let mean = |group: &[Point]| Point {
        step: group[group.len() - 1].step,
        loss: group.iter().map(|point| point.loss).sum::<f64>() / group.len() as f64,
    };
    points.chunks(each).map(mean).collect()
}

fn draw_figures(frame: &mut Frame, area: Rect, board: &Board, styles: &Styles) {
    let mut lines = Vec::new();
    let mut add = |label: &str, value: Option<String>, style: Style| {
        let value = value.unwrap_or_else(|| "-".to_owned());
        lines.push(Line::from(vec![Span::styled(format!(" {label:<9}"), styles.label), Span::styled(value, style)]));
    };
    let plain = Style::new();
    let at = |point: Point| format!("{:.4} at {}", point.loss, point.step);
    let history = &board.history;
    add("training", board.loss().map(|loss| format!("{loss:.4}")), styles.train.patch(styles.strong));
    add("valid.", history.val().last().copied().map(at), styles.val.patch(styles.strong));
    add("best", history.best().map(at), plain);
    add("bits", history.val().last().map(|p| format!("{:.3} per byte", p.loss / std::f64::consts::LN_2)), plain);
    add("lr", board.metrics.map(|metrics| format!("{:.2e}", metrics.lr)), plain);
    add("gradient", board.metrics.and_then(|metrics| metrics.grad_norm).map(|norm| format!("norm {norm:.2}")), plain);
    add("speed", board.tokens_per_s().map(|speed| format!("{speed:.0} tokens/s")), plain);
    if let Some((gflops, share)) = board.arithmetic() {
        add("", Some(format!("{gflops:.0} GFLOP/s")), plain);
        add("", Some(format!("{:.0}% of peak", 100.0 * share)), plain);
    }
    add("elapsed", board.elapsed_s().map(clock), plain);
    add("left", board.left_s().map(clock), plain);
    add("saved", board.saved.map(|step| format!("step {step}")), plain);
    frame.render_widget(Paragraph::new(lines).block(styles.block(" now ")), area);
}

fn draw_sample(frame: &mut Frame, area: Rect, board: &Board, styles: &Styles) {
    let (title, text) = match &board.sample {
        Some((step, text)) => (format!(" sample after step {step} "), text.trim()),
        None => (" sample ".to_owned(), "none yet: one comes with every checkpoint, and with the key s"),
    };
    let lines: Vec<Line> = text.lines().map(|line| Line::from(line.replace('\t', " "))).collect();
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(styles.block(title)), area);
}

/// The last thing said, and the keys.
fn draw_foot(frame: &mut Frame, area: Rect, board: &Board, styles: &Styles) {
    let note = board.notes.last().map_or(String::new(), |note| format!(" {note}"));
    let key = |name, does| [Span::styled(format!(" {name} "), styles.strong), Span::styled(does, styles.label)];
    let mut keys: Vec<Span> = key("q", "stop and save ").into();
    if board.about.samples {
        keys.extend(key("s", "sample "));
    }
    keys.extend(key("c", "checkpoint "));
    keys.push(Span::styled(format!("  {}", board.about.dir.display()), styles.label));
    frame.render_widget(Paragraph::new(vec![Line::from(note), Line::from(keys)]), area);
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::board;
    use super::*;
    use crate::trainer::Event;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(board: &Board, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, board, true)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn a_run_half_way() {
        let mut board = board(200);
        board.event(&Event::Sampled { step: 200, text: b"\nOnce there was a fox\nwho liked to read.\xff" });
        board.event(&Event::Saved { step: 200, checkpoint: std::path::Path::new("runs/x/step-00000200") });
        board.notes.push("sampling after this step".into());
        insta::assert_snapshot!(drawn(&board, 100, 32));
    }

    #[test]
    fn a_run_that_has_only_begun() {
        insta::assert_snapshot!(drawn(&board(0), 80, 24));
    }

    #[test]
    fn a_small_terminal_gets_a_line() {
        let text = drawn(&board(100), 40, 6);
        assert!(text.contains("25% 100/400  loss 2.732") && text.contains("q stops and saves"), "{text}");
    }

    #[test]
    fn every_size_can_be_drawn() {
        let board = board(150);
        for (width, height) in [(1, 1), (2, 40), (200, 1), (50, 14), (51, 24), (300, 90)] {
            drawn(&board, width, height);
        }
    }

    #[test]
    fn without_colours_no_cell_has_one() {
        let mut terminal = Terminal::new(TestBackend::new(90, 30)).unwrap();
        let coloured = |terminal: &Terminal<TestBackend>| {
            terminal.backend().buffer().content().iter().any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
        };
        terminal.draw(|frame| draw(frame, &board(100), false)).unwrap();
        assert!(!coloured(&terminal));
        terminal.draw(|frame| draw(frame, &board(100), true)).unwrap();
        assert!(coloured(&terminal));
    }
}
