//! The terminal behind standard error: what it can, its modes, and who may write to it.
//!
//! Invariants
//! - Raw mode and the alternate screen end with the process, however it ends, kill -9 excepted: by [`Modes`]'s drop, by a panic on any thread, and
//!   by [`leave`], which whatever calls `exit` calls before.
//! - Nothing is drawn after [`leave`]: drawing and leaving exclude each other.
//! - While a bar or a screen is up, lines of the program go through it, by [`divert`].

use crate::{Error, Result};
use ratatui::crossterm::cursor::{Hide, Show};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use std::io::{IsTerminal, stderr, stdin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Whether the modes are set.
static ENTERED: AtomicBool = AtomicBool::new(false);

/// Held while something is drawn or the modes change.
static DRAWING: Mutex<()> = Mutex::new(());

/// Longest wait for a drawing under way. One that panicked never ends.
const PATIENCE: Duration = Duration::from_millis(500);

/// Who prints lines instead of standard error.
type Printer = Box<dyn Fn(&str) + Send>;
static PRINTER: Mutex<Option<Printer>> = Mutex::new(None);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether standard error is a terminal that moves its cursor.
pub fn can_move() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

/// Whether colours are wanted: see no-color.org.
pub fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// An error unless a full screen can be shown and keys be read.
pub fn check_screen() -> Result<()> {
    let what = match (stdin().is_terminal(), stderr().is_terminal(), can_move()) {
        (_, false, _) => "standard error is no terminal",
        (false, ..) => "standard input is no terminal",
        (.., false) => "the terminal, by TERM, cannot move its cursor",
        _ => return Ok(()),
    };
    Err(Error::input(format!(
        "--tui draws on standard error and reads keys from standard input, and {what}: leave it out, and progress is printed as lines"
    )))
}

/// Raw mode, the alternate screen and a hidden cursor, until dropped.
pub struct Modes(());

impl Modes {
    pub fn enter() -> Result<Modes> {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let next = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                leave();
                next(info);
            }));
        });
        // Dropped on an error, and then it restores what was set.
        let modes = Modes(());
        let set = {
            let _held = locked(&DRAWING);
            ENTERED.store(true, Ordering::SeqCst);
            enable_raw_mode().and_then(|()| execute!(stderr(), EnterAlternateScreen, Hide))
        };
        set.map_err(|e| Error::failed(format!("cannot set up the terminal for --tui: {e}")))?;
        Ok(modes)
    }
}

impl Drop for Modes {
    fn drop(&mut self) {
        leave();
    }
}

/// Restores the terminal, if it is to be restored.
pub fn leave() {
    let start = Instant::now();
    let _held = loop {
        match DRAWING.try_lock() {
            Ok(held) => break Some(held),
            Err(TryLockError::Poisoned(held)) => break Some(held.into_inner()),
            Err(TryLockError::WouldBlock) if start.elapsed() > PATIENCE => break None,
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    if ENTERED.swap(false, Ordering::SeqCst) {
        // Nobody is left to be told of a failure.
        let _ = execute!(stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Draws, unless the terminal has been restored.
pub fn drawing<T>(draw: impl FnOnce() -> T) -> Option<T> {
    let _held = locked(&DRAWING);
    ENTERED.load(Ordering::SeqCst).then(draw)
}

/// Lines of the program go to `printer`, or again to standard error.
pub fn set_printer(printer: Option<Printer>) {
    *locked(&PRINTER) = printer;
}

/// Gives a line to whoever has the terminal; false if nobody has.
pub fn divert(line: &str) -> bool {
    let printer = locked(&PRINTER);
    printer.as_ref().is_some_and(|print| {
        print(line);
        true
    })
}
