//! How threads work together: the functions that every threaded module has.
//!
//! Thread 0 leads; what is waited for within a step is work, not threads. Each parallel round has two counters: tasks taken and tasks
//! ended. Thread 0 *starts* a round; whoever is awake takes tasks until there are none; thread 0 goes on when the last one has ended,
//! alone if the next round is its own. A thread that comes late finds a later round started, and skips what is over. Only when
//! the next step begins do all threads have to be idle, so that the counters can begin anew.
//!
//! | function | on | does |
//! |---|---|---|
//! | `begin` | thread 0 | waits until the others are idle, resets the counters, gives them their command |
//! | `advance` | thread 0 | changes a word that others wait for: the round started, the generation |
//! | `wait` | thread 0 | returns when a counter has reached its goal: tasks ended, threads idle |
//! | `count` | all | adds one to such a counter |
//! | `until` | the others | returns when a word has grown to a value |
//!
//! Whoever waits looks `spins` times and then sleeps by `memory.atomic.wait32`. A sleeper announces itself before it looks for the
//! last time, and a waker looks for sleepers after it has changed the word: all of it sequentially consistent, so no one sleeps
//! through. Without sleepers nobody calls `memory.atomic.notify`, which costs far more than a store.
//!
//! The words lie in cache lines of their own; the two counters of a round share one.

use super::func::ptr_type;
use super::layout::{COUNTERS, LINE, control};
use super::module::Function;
use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

/// Number of threads, thread 0 included.
pub const THREADS: usize = control(0);
/// How often a waiting thread looks before it sleeps.
pub const SPINS: usize = control(1);
/// Threads that are idle.
pub const IDLE: usize = control(2);
/// Grows by one with every step.
pub const GENERATION: usize = control(3);
/// Parallel rounds of this step that have been started.
pub const STARTED: usize = control(4);
/// Threads that sleep in `until`, and whether thread 0 sleeps in `wait`.
pub const SLEEPERS: usize = control(5);
pub const LEADER_SLEEPS: usize = SLEEPERS + 4;
/// What the others do in this generation: 0 to return from `worker`, else the number of an entry, from 1.
pub const COMMAND: usize = control(6);

/// Tasks of a parallel round (by number in its entry, from 0) that have been taken.
pub const fn taken(round: usize) -> usize {
    COUNTERS + LINE * round
}

/// Tasks of a parallel round that have ended.
pub const fn ended(round: usize) -> usize {
    taken(round) + 4
}

/// The words' names and addresses, for listings.
pub const WORDS: [(&str, usize); 9] = [
    ("threads", THREADS),
    ("spins", SPINS),
    ("idle", IDLE),
    ("generation", GENERATION),
    ("started", STARTED),
    ("sleepers", SLEEPERS),
    ("thread 0 sleeps", LEADER_SLEEPS),
    ("command", COMMAND),
    ("counters of rounds, taken and ended", COUNTERS),
];

/// A word in memory.
#[derive(Clone, Copy)]
pub enum Word {
    At(usize),
    /// The address is in a local of pointer type.
    In(u32),
}

/// Code that works on words.
pub struct Words<'a> {
    pub sink: InstructionSink<'a>,
    pub memory64: bool,
}

impl Words<'_> {
    fn address(&mut self, word: Word) {
        match word {
            Word::In(local) => drop(self.sink.local_get(local)),
            Word::At(at) => self.constant(at),
        }
    }

    /// An address.
    pub fn constant(&mut self, at: usize) {
        if self.memory64 {
            self.sink.i64_const(at as i64);
        } else {
            self.sink.i32_const(at as u32 as i32);
        }
    }

    fn load(&mut self, word: Word) {
        self.address(word);
        self.sink.i32_atomic_load(aligned());
    }

    /// Stores a constant.
    fn store(&mut self, word: usize, value: i32) {
        self.address(Word::At(word));
        self.sink.i32_const(value).i32_atomic_store(aligned());
    }

    /// Stores a local.
    fn store_local(&mut self, word: Word, local: u32) {
        self.address(word);
        self.sink.local_get(local).i32_atomic_store(aligned());
    }

    /// Adds a constant, leaving the value before.
    pub fn add(&mut self, word: Word, value: i32) {
        self.address(word);
        self.sink.i32_const(value).i32_atomic_rmw_add(aligned());
    }

    fn add_dropped(&mut self, word: usize, value: i32) {
        self.add(Word::At(word), value);
        self.sink.drop();
    }

    /// Wakes all that sleep on a word.
    fn notify(&mut self, word: Word) {
        self.address(word);
        self.sink.i32_const(-1).memory_atomic_notify(aligned()).drop();
    }

    /// Sleeps on a word as long as it has the value of a local.
    fn sleep(&mut self, word: Word, local: u32) {
        self.address(word);
        self.sink.local_get(local).i64_const(-1).memory_atomic_wait32(aligned()).drop();
    }

    /// Does something if the value on the stack is not 0.
    fn when(&mut self, body: impl FnOnce(&mut Self)) {
        self.sink.if_(BlockType::Empty);
        body(self);
        self.sink.end();
    }

    /// The number of threads other than thread 0.
    fn others(&mut self) {
        self.load(Word::At(THREADS));
        self.sink.i32_const(1).i32_sub();
    }

    /// Calls a function of a word and a value.
    fn call(&mut self, function: u32, word: usize, value: impl FnOnce(&mut Self)) {
        self.address(Word::At(word));
        value(self);
        self.sink.call(function);
    }
}

/// An access to an aligned word.
fn aligned() -> MemArg {
    MemArg { offset: 0, align: 2, target: Default::default(), ordering: None }
}

/// The functions of a module by which its threads work together.
pub struct Meet {
    pub count: u32,
    pub wait: u32,
    pub advance: u32,
    pub until: u32,
    pub begin: u32,
}

impl Meet {
    /// Adds them to a module's functions, whose numbers begin behind those imported.
    pub fn add(functions: &mut Vec<Function>, imported: u32, memory64: bool, counters: usize) -> Meet {
        let first = imported + functions.len() as u32;
        let meet = Meet { count: first, wait: first + 1, advance: first + 2, until: first + 3, begin: first + 4 };
        functions.extend([count(memory64), wait(memory64), advance(memory64), until(memory64)]);
        functions.push(meet.begin_function(memory64, counters));
        meet
    }

    /// On thread 0: begins a step of the entry with this number.
    pub fn begin(&self, w: &mut Words, number: usize) {
        w.sink.i32_const(number as i32).call(self.begin);
    }

    /// On thread 0: starts a parallel round.
    pub fn start(&self, w: &mut Words, round: usize) {
        w.call(self.advance, STARTED, |w| {
            w.sink.i32_const(round as i32 + 1);
        });
    }

    /// On thread 0: waits for the end of a parallel round.
    pub fn finish(&self, w: &mut Words, round: usize, tasks: usize) {
        w.call(self.wait, ended(round), |w| {
            w.sink.i32_const(tasks as i32);
        });
    }

    /// On thread 0: waits until the others are idle.
    fn all_idle(&self, w: &mut Words) {
        w.call(self.wait, IDLE, Words::others);
    }

    /// On another thread: leaves on the stack whether a parallel round is to be worked on, once it or a later one has been started.
    pub fn join(&self, w: &mut Words, round: usize) {
        w.call(self.until, STARTED, |w| {
            w.sink.i32_const(round as i32 + 1);
        });
        w.sink.i32_const(round as i32 + 1).i32_eq();
    }

    /// On any thread: a task of a parallel round has ended.
    pub fn end_task(&self, w: &mut Words, round: usize, tasks: usize) {
        w.call(self.count, ended(round), |w| {
            w.sink.i32_const(tasks as i32);
        });
    }

    fn begin_function(&self, memory64: bool, counters: usize) -> Function {
        let mut f = function("begin", &[("command", ValType::I32)], &[], memory64, |w| {
            self.all_idle(w);
            w.store(IDLE, 0);
            w.store(STARTED, 0);
            w.store_local(Word::At(COMMAND), 0);
            if counters > 0 {
                w.address(Word::At(COUNTERS));
                w.sink.i32_const(0);
                if memory64 {
                    w.sink.i64_const(counters as i64);
                } else {
                    w.sink.i32_const(counters as i32);
                }
                w.sink.memory_fill(0);
            }
            w.call(self.advance, GENERATION, |w| {
                w.load(Word::At(GENERATION));
                w.sink.i32_const(1).i32_add();
            });
        });
        f.comments.push("on thread 0: waits until the others are idle, and gives them their command".into());
        f
    }
}

fn function(
    name: &str,
    params: &[(&str, ValType)],
    locals: &[(&str, ValType)],
    memory64: bool,
    body: impl FnOnce(&mut Words),
) -> Function {
    let mut code = Vec::new();
    let mut words = Words { sink: InstructionSink::new(&mut code), memory64 };
    body(&mut words);
    words.sink.end();
    let mut f = wasm_encoder::Function::new_with_locals_types(locals.iter().map(|l| l.1));
    f.raw(code);
    Function {
        name: name.to_string(),
        params: params.iter().map(|p| p.1).collect(),
        result: None,
        body: f,
        locals: params.iter().chain(locals).map(|l| l.0.to_string()).collect(),
        comments: Vec::new(),
    }
}

/// `init(threads, spins)`.
pub fn init(memory64: bool) -> Function {
    let params = [("threads", ValType::I32), ("spins", ValType::I32)];
    let mut f = function("init", &params, &[], memory64, |w| {
        w.store_local(Word::At(THREADS), 0);
        w.store_local(Word::At(SPINS), 1);
    });
    let said =
        "once, on thread 0, before anything else: the number of threads, and how often one looks before it sleeps";
    f.comments.push(said.into());
    f
}

/// `init` of a module without threads.
pub fn init_alone(memory64: bool) -> Function {
    let params = [("threads", ValType::I32), ("spins", ValType::I32)];
    let mut f = function("init", &params, &[], memory64, |_| {});
    f.comments.push("nothing to do: this module has one thread".into());
    f
}

/// `count(word, goal)`.
fn count(memory64: bool) -> Function {
    let params = [("word", ptr_type(memory64)), ("goal", ValType::I32)];
    let (word, goal) = (Word::In(0), 1);
    let mut f = function("count", &params, &[], memory64, |w| {
        w.add(word, 1);
        w.sink.i32_const(1).i32_add().local_get(goal).i32_eq();
        w.when(|w| {
            w.load(Word::At(LEADER_SLEEPS));
            w.when(|w| w.notify(word));
        });
    });
    f.comments.push("adds one to a counter; whoever reaches the goal wakes thread 0, should it sleep".into());
    f
}

/// `wait(word, goal)`.
fn wait(memory64: bool) -> Function {
    let params = [("word", ptr_type(memory64)), ("goal", ValType::I32)];
    let locals = [("spins", ValType::I32), ("seen", ValType::I32)];
    let (word, goal, spins, seen) = (Word::In(0), 1, 2, 3);
    let mut f = function("wait", &params, &locals, memory64, |w| {
        w.load(Word::At(SPINS));
        w.sink.local_set(spins);
        w.sink.loop_(BlockType::Empty);
        w.load(word);
        w.sink.local_get(goal).i32_eq().if_(BlockType::Empty).return_().end();
        w.sink.local_get(spins).i32_const(1).i32_sub().local_tee(spins).i32_const(0).i32_ge_s().br_if(0).end();
        w.store(LEADER_SLEEPS, 1);
        w.sink.loop_(BlockType::Empty);
        w.load(word);
        w.sink.local_tee(seen).local_get(goal).i32_ne().if_(BlockType::Empty);
        w.sleep(word, seen);
        w.sink.br(1).end().end();
        w.store(LEADER_SLEEPS, 0);
    });
    f.comments.push("on thread 0: returns when a counter has reached its goal".into());
    f
}

/// `advance(word, value)`.
fn advance(memory64: bool) -> Function {
    let params = [("word", ptr_type(memory64)), ("value", ValType::I32)];
    let mut f = function("advance", &params, &[], memory64, |w| {
        w.store_local(Word::In(0), 1);
        w.load(Word::At(SLEEPERS));
        w.when(|w| w.notify(Word::In(0)));
    });
    f.comments.push("on thread 0: gives a word that the others wait for a larger value".into());
    f
}

/// `until(word, least) -> value`.
fn until(memory64: bool) -> Function {
    let params = [("word", ptr_type(memory64)), ("least", ValType::I32)];
    let locals = [("spins", ValType::I32), ("seen", ValType::I32)];
    let (word, least, spins, seen) = (Word::In(0), 1, 2, 3);
    let mut f = function("until", &params, &locals, memory64, |w| {
        w.load(Word::At(SPINS));
        w.sink.local_set(spins);
        w.sink.loop_(BlockType::Empty);
        w.load(word);
        w.sink.local_tee(seen).local_get(least).i32_ge_s();
        w.sink.if_(BlockType::Empty).local_get(seen).return_().end();
        w.sink.local_get(spins).i32_const(1).i32_sub().local_tee(spins).i32_const(0).i32_ge_s().br_if(0).end();
        w.add_dropped(SLEEPERS, 1);
        w.sink.loop_(BlockType::Empty);
        w.load(word);
        w.sink.local_tee(seen).local_get(least).i32_lt_s().if_(BlockType::Empty);
        w.sleep(word, seen);
        w.sink.br(1).end().end();
        w.add_dropped(SLEEPERS, -1);
        w.sink.local_get(seen);
    });
    f.result = Some(ValType::I32);
    f.comments.push("on the other threads: returns a word's value when that is large enough".into());
    f
}

/// `stop()`.
pub fn stop(memory64: bool, meet: &Meet) -> Function {
    let mut f = function("stop", &[], &[], memory64, |w| meet.begin(w, 0));
    f.comments.push("on thread 0, between steps: the other threads return from worker".into());
    f
}

/// `worker(thread)`: the entries' parts for other threads are functions of these numbers; `scratch` is where thread 0's scratch begins, and
/// how many bytes each thread has.
pub fn worker(memory64: bool, meet: &Meet, entries: &[u32], scratch: (usize, usize)) -> Function {
    let locals = [("scratch", ptr_type(memory64)), ("generation", ValType::I32), ("command", ValType::I32)];
    let (thread, own, generation, command) = (0, 1, 2, 3);
    let mut f = function("worker", &[("thread", ValType::I32)], &locals, memory64, |w| {
        w.sink.local_get(thread);
        if memory64 {
            w.sink.i64_extend_i32_u().i64_const(scratch.1 as i64).i64_mul().i64_const(scratch.0 as i64).i64_add();
        } else {
            w.sink.i32_const(scratch.1 as i32).i32_mul().i32_const(scratch.0 as i32).i32_add();
        }
        w.sink.local_set(own);
        w.sink.loop_(BlockType::Empty);
        // The generation cannot change between these: thread 0 waits until this thread is idle.
        w.load(Word::At(GENERATION));
        w.sink.local_set(generation);
        w.call(meet.count, IDLE, Words::others);
        w.call(meet.until, GENERATION, |w| {
            w.sink.local_get(generation).i32_const(1).i32_add();
        });
        w.sink.drop();
        w.load(Word::At(COMMAND));
        w.sink.local_set(command);
        for (i, &entry) in entries.iter().enumerate() {
            w.sink.local_get(command).i32_const(i as i32 + 1).i32_eq().if_(BlockType::Empty);
            w.sink.local_get(own).call(entry).br(1).end();
        }
        w.sink.end();
    });
    f.comments.push("on the other threads: takes part in every step until stop".into());
    f
}
