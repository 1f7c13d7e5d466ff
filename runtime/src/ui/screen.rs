//! The board as a full screen: a thread that draws it and reads keys.
//!
//! Invariants: the thread touches nothing of the training but [`Requests`]; it draws at most ten times a second, from a copy of the board, so that
//! the training never waits for a terminal; it ends when the screen is closed or dropped, and then the terminal is as it was.

use super::board::Board;
use super::draw::draw;
use super::terminal::{self, Modes, drawing};
use crate::commands::Ending;
use crate::trainer::Requests;
use crate::{Error, Result};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use std::io::stderr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two drawings.
const PAUSE: Duration = Duration::from_millis(100);

/// A board that is drawn while the training tells it more.
pub type SharedBoard = Arc<Mutex<Board>>;

/// See the module comment.
pub struct Screen {
    /// Dropped after the thread has ended.
    modes: Option<Modes>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Screen {
    /// Takes the terminal, and shows `board` until closed.
    pub fn open(board: SharedBoard, requests: &'static Requests, colours: bool) -> Result<Screen> {
        let modes = Modes::enter()?;
        let closing = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&closing);
        let show = move || show(&board, requests, colours, &seen);
        let thread = std::thread::Builder::new().name("screen".into()).spawn(show);
        let thread = thread.map_err(|e| Error::failed(format!("cannot start a thread for --tui: {e}")))?;
        Ok(Screen { modes: Some(modes), closing, thread: Some(thread) })
    }

    /// Gives the terminal back. Errors: it could not be drawn on.
    pub fn close(&mut self) -> Result<()> {
        self.closing.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        self.modes = None;
        match ended {
            Some(Ok(Err(e))) => Err(Error::failed(format!("the screen of --tui ended early: {e}"))),
            // A panic has been told by the hook.
            _ => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Dropped unclosed, there is an error already, and that one matters more.
        let _ = self.close();
    }
}

fn show(board: &SharedBoard, requests: &Requests, colours: bool, closing: &AtomicBool) -> std::io::Result<()> {
    let mut terminal = Terminal::new(CrosstermBackend::new(stderr()))?;
    while !closing.load(Ordering::Relaxed) {
        let now = board.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(drawn) = drawing(|| terminal.draw(|frame| draw(frame, &now, colours)).map(|_| ())) else { break };
        drawn?;
        let mut wait = PAUSE;
        while event::poll(wait)? {
            wait = Duration::ZERO;
            let Some(key) = key(&event::read()?) else { continue };
            let note = press(key, requests, now.about.samples);
            board.lock().unwrap_or_else(PoisonError::into_inner).notes.extend(note.map(str::to_owned));
        }
    }
    Ok(())
}

/// What keys ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Stop,
    Sample,
    Save,
}

fn key(event: &Event) -> Option<Key> {
    let Event::Key(key) = event else { return None };
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        _ if key.kind == KeyEventKind::Release => None,
        // In raw mode Ctrl-C is a key like any other.
        KeyCode::Char('c' | 'd') if control => Some(Key::Stop),
        _ if control => None,
        KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Stop),
        KeyCode::Char('s' | 'S') => Some(Key::Sample),
        KeyCode::Char('c' | 'C') => Some(Key::Save),
        _ => None,
    }
}

/// Does as Ctrl-C does without a screen: the second time the process ends at once.
fn press(key: Key, requests: &Requests, samples: bool) -> Option<&'static str> {
    match key {
        Key::Stop => {
            if requests.stop() {
                terminal::leave();
                std::process::exit(i32::from(Ending::Interrupted.exit_status()));
            }
            Some("stopping: saves after this step (q again to give up)")
        }
        Key::Sample if samples => {
            requests.sample();
            Some("sampling after this step")
        }
        Key::Sample => None,
        Key::Save => {
            requests.save();
            Some("saving after this step")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::crossterm::event::KeyEvent;

    #[test]
    fn keys_ask_for_what_the_screen_says() {
        let pressed = |code, modifiers| key(&Event::Key(KeyEvent::new(code, modifiers)));
        let plain = |c| pressed(KeyCode::Char(c), KeyModifiers::NONE);
        assert_eq!(
            [plain('q'), plain('s'), plain('c'), plain('x')],
            [Some(Key::Stop), Some(Key::Sample), Some(Key::Save), None]
        );
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Stop));
        assert_eq!(pressed(KeyCode::Char('s'), KeyModifiers::CONTROL), None);
        let release = KeyEvent::new_with_kind(KeyCode::Char('q'), KeyModifiers::NONE, KeyEventKind::Release);
        assert_eq!(key(&Event::Key(release)), None);
        assert_eq!(key(&Event::FocusGained), None);
    }
}
