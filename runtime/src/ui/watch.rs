//! The observer of `train`: keeps the board, shows it, and writes the picture of the curves.
//!
//! Invariants: the picture is written aside and renamed, at every checkpoint and at the end, so that a reader always finds a whole one; failing to
//! write it is said once and stops no training.

use super::bar::Bar;
use super::board::{About, Board};
use super::curves::{self, Labels};
use super::history::History;
use super::screen::{Screen, SharedBoard};
use super::terminal;
use super::verdict::{Verdict, verdict};
use crate::commands::say;
use crate::rundir::RunDir;
use crate::trainer::{Event, Lines, Observer, Requests};
use crate::{Error, Result};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The picture in a run directory.
pub const CURVES_FILE: &str = "curves.svg";

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Lines,
    Bar,
    Screen,
}

impl Mode {
    /// The screen where it is asked for, else a bar on a terminal and lines elsewhere. Errors: no screen can be shown here.
    pub fn choose(tui: bool) -> Result<Mode> {
        match (tui, terminal::can_move()) {
            (true, _) => terminal::check_screen().map(|()| Mode::Screen),
            (false, true) => Ok(Mode::Bar),
            (false, false) => Ok(Mode::Lines),
        }
    }
}

enum Display {
    Lines(Lines<fn(&str)>),
    Bar(Bar),
    Screen(Screen),
}

/// See the module comment.
pub struct Watch {
    board: SharedBoard,
    display: Display,
    told_failure: bool,
}

impl Watch {
    /// Begins to show the run of `dir`, whose metrics so far are the beginning of its curves.
    pub fn start(mode: Mode, about: About, dir: &RunDir, requests: &'static Requests) -> Result<Watch> {
        let mut history = History::default();
        for past in dir.metrics()? {
            history.add(past.step, past.loss, past.grad_norm, past.val_loss);
        }
        let board = Arc::new(Mutex::new(Board::new(about, history)));
        let colours = terminal::wants_colours();
        let display = match mode {
            Mode::Lines => Display::Lines(Lines::new(say)),
            Mode::Bar => {
                let bar = Bar::new(colours);
                terminal::set_printer(Some(Box::new(bar.printer())));
                Display::Bar(bar)
            }
            Mode::Screen => {
                let screen = Screen::open(Arc::clone(&board), requests, colours)?;
                let noted = Arc::clone(&board);
                let note = move |line: &str| locked(&noted).notes.push(line.to_owned());
                terminal::set_printer(Some(Box::new(note)));
                Display::Screen(screen)
            }
        };
        Ok(Watch { board, display, told_failure: false })
    }

    /// Gives the terminal back, says there what only the screen has shown, and writes the picture.
    pub fn close(&mut self) {
        terminal::set_printer(None);
        match &mut self.display {
            Display::Lines(_) => {}
            Display::Bar(bar) => bar.close(),
            Display::Screen(screen) => {
                let closed = screen.close();
                let notes = std::mem::take(&mut locked(&self.board).notes);
                notes.iter().for_each(|note| say(note));
                closed.err().iter().for_each(|e| say(&e.to_string()));
            }
        }
        self.draw_curves();
    }

    /// What the run came to.
    pub fn verdict(&self) -> Verdict {
        let board = locked(&self.board);
        verdict(&board.history, board.about.vocab)
    }

    fn draw_curves(&mut self) {
        let board = locked(&self.board);
        let About { name, model, device, dir, vocab, .. } = &board.about;
        let subtitle = format!("{model}; {device}");
        let picture = curves::svg(&board.history, &Labels { title: name, subtitle: &subtitle, vocab: *vocab });
        let written = write_aside(&dir.join(CURVES_FILE), &picture);
        drop(board);
        if let (Err(e), false) = (written, std::mem::replace(&mut self.told_failure, true)) {
            say(&format!("no curves: {e}"));
        }
    }
}

impl Observer for Watch {
    fn event(&mut self, event: &Event<'_>) {
        locked(&self.board).event(event);
        match &mut self.display {
            Display::Lines(lines) => lines.event(event),
            Display::Bar(bar) => bar.event(event, &locked(&self.board)),
            Display::Screen(_) => {}
        }
        if matches!(event, Event::Saved { .. }) {
            self.draw_curves();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        terminal::set_printer(None);
    }
}

fn locked(board: &SharedBoard) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_aside(path: &Path, text: &str) -> Result<()> {
    let aside = path.with_extension("svg.new");
    let written = fs::write(&aside, text).and_then(|()| fs::rename(&aside, path));
    written.map_err(|e| {
        // What a full disk left of it; that it stays is no worse.
        let _ = fs::remove_file(&aside);
        Error::writing(path, e)
    })
}
