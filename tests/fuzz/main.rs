//! Every parser of the project on hostile input: mutated from valid seeds by a fixed generator, so that input N of a target is the same on every
//! run and machine; TINYGPT_FUZZ_SECONDS (default 2) says how long each target goes on.
//!
//! What must hold for every input:
//! - no panic, and no memory beyond a multiple of the input's length ([`meter`]);
//! - what is refused is refused in one sentence;
//! - what is read prints, and what was printed reads back as the same.
//!
//! A failing input is written to target/fuzz/ and named; so is one that ends the process, as TARGET.current. Inputs in `tests/fuzz/kept/`
//! once failed: each is tried first, by the target that its name begins with.

mod meter;
mod mutate;
mod targets;

use mutate::{Mutator, Random};
use std::cell::RefCell;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

/// What became of an input that broke no rule.
pub enum Outcome {
    Read,
    /// With this message.
    Refused(String),
}

/// Tries an input. Panics where what it read does not read back.
pub type Check = Box<dyn Fn(&[u8]) -> Outcome>;

/// A parser, and how it is tried.
pub struct Target {
    pub name: &'static str,
    /// Valid inputs, which the others are made from.
    pub seeds: Vec<Vec<u8>>,
    /// Bytes of memory that may be live at once: so many for each byte of input, and so many more; None where the input is compiled.
    pub memory: Option<(usize, usize)>,
    pub check: Check,
}

/// Inputs tried, however short the time.
const LEAST: u64 = 200;

/// Most characters of a message.
const LONGEST: usize = 1300;

thread_local! {
    /// What the panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps panics from printing: thousands may be caught.
fn catch_quietly() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let default = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let testing = PANIC.with_borrow(|said| said == "trying");
            if testing {
                PANIC.with_borrow_mut(|said| *said = panic.to_string());
            } else {
                default(panic);
            }
        }));
    });
}

impl Target {
    /// Tries one input; an error says which rule it broke.
    fn attempt(&self, input: &[u8]) -> Result<Outcome, String> {
        PANIC.with_borrow_mut(|said| "trying".clone_into(said));
        let (outcome, peak) = meter::peak_of(|| catch_unwind(AssertUnwindSafe(|| (self.check)(input))));
        let panic = PANIC.take();
        let outcome = outcome.map_err(|_| panic)?;
        if let Some((factor, constant)) = self.memory {
            let most = factor * input.len() + constant;
            if peak > most {
                return Err(format!(
                    "{} bytes of input took {peak} bytes of memory, and {most} is the most",
                    input.len()
                ));
            }
        }
        if let Outcome::Refused(why) = &outcome {
            let wrong = [
                (why.trim().is_empty(), "empty"),
                (why.chars().any(char::is_control), "not one line of plain text"),
                (why.ends_with('.') && !why.ends_with(".."), "ended by a full stop"),
                (why.chars().count() > LONGEST, "too long to be one sentence"),
            ];
            if let Some((_, what)) = wrong.iter().find(|(wrong, _)| *wrong) {
                return Err(format!("its message is {what}: {why:?}"));
            }
        }
        Ok(outcome)
    }

    /// Tries the kept inputs, the seeds, and mutations of the seeds until the time is up.
    fn run(self) {
        catch_quietly();
        let folder = folder();
        let current = folder.join(format!("{}.current", self.name));
        let attempt = |input: &[u8], what: &str| {
            fs::write(&current, input).unwrap();
            self.attempt(input).unwrap_or_else(|why| {
                let path = folder.join(format!("{}-{what}", self.name));
                fs::write(&path, input).unwrap();
                panic!("{} breaks the rules on {}: {why}", self.name, path.display());
            })
        };
        for seed in &self.seeds {
            if let Outcome::Refused(why) = attempt(seed, "seed") {
                panic!("a seed of {} is refused: {why}", self.name);
            }
        }
        for (name, input) in kept(self.name) {
            attempt(&input, &name);
        }
        let mutator = Mutator::new(&self.seeds);
        let (end, mut number, mut read) = (Instant::now() + duration(), 0, 0);
        while number < LEAST || Instant::now() < end {
            let input = mutator.input(&mut Random::new(self.name, number));
            read += u64::from(matches!(attempt(&input, &number.to_string()), Outcome::Read));
            number += 1;
        }
        fs::remove_file(&current).unwrap();
        println!("{}: {number} inputs, {read} of them read", self.name);
        assert!(read > 0 && read < number, "{}: {read} of {number} inputs were read: mutations try nothing", self.name);
    }
}

/// How long each target goes on.
fn duration() -> Duration {
    let text = std::env::var("TINYGPT_FUZZ_SECONDS").unwrap_or("2".to_owned());
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds.unwrap_or_else(|| panic!("TINYGPT_FUZZ_SECONDS must be a number of seconds, and is {text:?}"))
}

/// Where failing inputs go.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("fuzz");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Paths of the inputs that once failed; there is no folder while there is none.
fn kept_files() -> Vec<PathBuf> {
    match fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/kept")) {
        Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
        Err(e) => {
            assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "tests/fuzz/kept cannot be listed: {e}");
            Vec::new()
        }
    }
}

/// Inputs of a target that once failed, by their names.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for path in kept_files() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.split('-').next() == Some(target) {
            found.push((name, fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

/// A test a target.
macro_rules! fuzz {
    ($($target:ident)+) => { $(
        #[test]
        fn $target() {
            let target = targets::$target();
            assert_eq!(target.name, stringify!($target));
            target.run();
        }
    )+

        /// A kept input that no target's name begins would never be tried.
        #[test]
        fn every_kept_input_has_a_target() {
            let names = [$(stringify!($target)),+];
            for path in kept_files() {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                assert!(names.iter().any(|target| name.split('-').next() == Some(target)), "no target tries {name}");
            }
        }
    };
}

fuzz! { config graph program safetensors tinygpt checkpoint filetest plan request }

/// The rules can be broken: by a panic, by memory, by two lines, by nothing said.
#[test]
fn a_parser_that_breaks_a_rule_is_found() {
    catch_quietly();
    let with = |check: fn(&[u8]) -> Outcome| Target {
        name: "broken",
        seeds: Vec::new(),
        memory: Some((10, 1000)),
        check: Box::new(check),
    };
    let why = |check: fn(&[u8]) -> Outcome| with(check).attempt(b"input").err().unwrap_or_default();
    assert!(why(|_| panic!("a bug")).contains("a bug"));
    assert!(
        why(|input| Outcome::Refused(format!("{}", vec![0u8; 2000 + input.len()].len()))).contains("bytes of memory")
    );
    assert!(why(|_| Outcome::Refused("two\nlines".into())).contains("not one line"));
    assert!(why(|_| Outcome::Refused(String::new())).contains("empty"));
    assert!(why(|_| Outcome::Refused("a sentence.".into())).contains("full stop"));
    assert!(
        why(|_| Outcome::Refused("long ".repeat(1000))).contains("memory")
            || why(|_| Outcome::Refused("a".repeat(1400))).contains("memory")
    );
    assert_eq!(why(|_| Outcome::Refused("a sentence".into())), "");
    assert_eq!(why(|_| Outcome::Read), "");
}
