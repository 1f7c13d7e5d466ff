//! How threads meet: the functions that every threaded module has.
//!
//! Thread 0 leads. The others wait in `arrive` until it releases them into the next part of a step. Before that, it *gathers* them:
//! it waits until all have arrived. So work that thread 0 does alone, between gathering and releasing, needs no barrier of its own.
//!
//! | function | on | does |
//! |---|---|---|
//! | `arrive` | the others | counts itself as arrived, and returns when released |
//! | `gather` | thread 0 | returns when all others have arrived |
//! | `release` | thread 0 | lets them go on |
//!
//! Whoever waits looks `spins` times and then sleeps by `memory.atomic.wait32`. A sleeper announces itself before it looks for the
//! last time, and a waker looks for sleepers after it has changed the word: all of it sequentially consistent, so no one sleeps
//! through. Without sleepers nobody calls `memory.atomic.notify`, which costs far more than a store.
//!
//! The words lie in cache lines of their own.

use super::layout::control;
use super::module::Function;
use wasm_encoder::{BlockType, InstructionSink, MemArg, ValType};

/// Number of threads, thread 0 included.
pub const THREADS: usize = control(0);
/// How often a waiting thread looks before it sleeps.
pub const SPINS: usize = control(1);
/// Threads that have arrived since the last release.
pub const ARRIVED: usize = control(2);
/// Grows by one with every release.
pub const GENERATION: usize = control(3);
/// The next task of the round.
pub const NEXT: usize = control(4);
/// Threads that sleep until the generation changes, and whether thread 0 sleeps until all have arrived.
pub const SLEEPERS: usize = control(5);
pub const LEADER_SLEEPS: usize = SLEEPERS + 4;
/// What the released threads do: 0 to return from `worker`, else the number of an entry, from 1.
pub const COMMAND: usize = control(6);

/// The words' names and addresses, for listings.
pub const WORDS: [(&str, usize); 8] = [
    ("threads", THREADS),
    ("spins", SPINS),
    ("arrived", ARRIVED),
    ("generation", GENERATION),
    ("next task", NEXT),
    ("sleepers", SLEEPERS),
    ("thread 0 sleeps", LEADER_SLEEPS),
    ("command", COMMAND),
];

/// Code that works on control words.
pub struct Words<'a> {
    pub sink: InstructionSink<'a>,
    pub memory64: bool,
}

impl Words<'_> {
    fn address(&mut self, word: usize) {
        if self.memory64 {
            self.sink.i64_const(word as i64);
        } else {
            self.sink.i32_const(word as i32);
        }
    }

    pub fn load(&mut self, word: usize) {
        self.address(word);
        self.sink.i32_atomic_load(aligned());
    }

    /// Stores a constant.
    fn store(&mut self, word: usize, value: i32) {
        self.address(word);
        self.sink.i32_const(value).i32_atomic_store(aligned());
    }

    /// Stores a parameter.
    fn store_local(&mut self, word: usize, local: u32) {
        self.address(word);
        self.sink.local_get(local).i32_atomic_store(aligned());
    }

    /// Adds a constant, leaving the value before.
    pub fn add(&mut self, word: usize, value: i32) {
        self.address(word);
        self.sink.i32_const(value).i32_atomic_rmw_add(aligned());
    }

    fn add_dropped(&mut self, word: usize, value: i32) {
        self.add(word, value);
        self.sink.drop();
    }

    /// Wakes all that sleep on a word.
    fn notify(&mut self, word: usize) {
        self.address(word);
        self.sink.i32_const(-1).memory_atomic_notify(aligned()).drop();
    }

    /// Sleeps on a word as long as it has the value of a local.
    fn wait(&mut self, word: usize, local: u32) {
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
        self.load(THREADS);
        self.sink.i32_const(1).i32_sub();
    }
}

/// An access to an aligned word.
fn aligned() -> MemArg {
    MemArg { offset: 0, align: 2, target: Default::default(), ordering: None }
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
        w.store_local(THREADS, 0);
        w.store_local(SPINS, 1);
    });
    f.comments.push(
        "once, on thread 0, before anything else: the number of threads, and how often one looks before it sleeps"
            .into(),
    );
    f
}

/// `init` of a module without threads.
pub fn init_alone(memory64: bool) -> Function {
    let params = [("threads", ValType::I32), ("spins", ValType::I32)];
    let mut f = function("init", &params, &[], memory64, |_| {});
    f.comments.push("nothing to do: this module has one thread".into());
    f
}

pub fn arrive(memory64: bool) -> Function {
    let locals = [("generation", ValType::I32), ("spins", ValType::I32)];
    let (generation, spins) = (0, 1);
    let mut f = function("arrive", &[], &locals, memory64, |w| {
        w.load(GENERATION);
        w.sink.local_set(generation);
        // The last to arrive wakes thread 0, should it sleep.
        w.add(ARRIVED, 1);
        w.sink.i32_const(1).i32_add();
        w.others();
        w.sink.i32_eq();
        w.when(|w| {
            w.load(LEADER_SLEEPS);
            w.when(|w| w.notify(ARRIVED));
        });
        w.load(SPINS);
        w.sink.local_set(spins);
        w.sink.loop_(BlockType::Empty);
        w.load(GENERATION);
        w.sink.local_get(generation).i32_ne().if_(BlockType::Empty).return_().end();
        w.sink.local_get(spins).i32_const(1).i32_sub().local_tee(spins).i32_const(0).i32_ge_s().br_if(0).end();
        w.add_dropped(SLEEPERS, 1);
        w.sink.loop_(BlockType::Empty);
        w.wait(GENERATION, generation);
        w.load(GENERATION);
        w.sink.local_get(generation).i32_eq().br_if(0).end();
        w.add_dropped(SLEEPERS, -1);
    });
    f.comments.push("counts this thread as arrived, and returns when thread 0 releases it".into());
    f
}

pub fn gather(memory64: bool) -> Function {
    let locals = [("others", ValType::I32), ("arrived", ValType::I32), ("spins", ValType::I32)];
    let (others, arrived, spins) = (0, 1, 2);
    let mut f = function("gather", &[], &locals, memory64, |w| {
        w.others();
        w.sink.local_set(others);
        w.load(SPINS);
        w.sink.local_set(spins);
        w.sink.loop_(BlockType::Empty);
        w.load(ARRIVED);
        w.sink.local_get(others).i32_eq().if_(BlockType::Empty).return_().end();
        w.sink.local_get(spins).i32_const(1).i32_sub().local_tee(spins).i32_const(0).i32_ge_s().br_if(0).end();
        w.store(LEADER_SLEEPS, 1);
        w.sink.loop_(BlockType::Empty);
        w.load(ARRIVED);
        w.sink.local_tee(arrived).local_get(others).i32_ne();
        w.sink.if_(BlockType::Empty);
        w.wait(ARRIVED, arrived);
        w.sink.br(1).end().end();
        w.store(LEADER_SLEEPS, 0);
    });
    f.comments.push("on thread 0: returns when all other threads have arrived".into());
    f
}

pub fn release(memory64: bool) -> Function {
    let mut f = function("release", &[], &[], memory64, |w| {
        w.store(ARRIVED, 0);
        w.store(NEXT, 0);
        w.add_dropped(GENERATION, 1);
        w.load(SLEEPERS);
        w.when(|w| w.notify(GENERATION));
    });
    f.comments.push("on thread 0, after gather: starts a new round of tasks, and lets the other threads go on".into());
    f
}

/// `stop()`: `gather` and `release` are functions of these numbers.
pub fn stop(memory64: bool, gather: u32, release: u32) -> Function {
    let mut f = function("stop", &[], &[], memory64, |w| {
        w.sink.call(gather);
        w.store(COMMAND, 0);
        w.sink.call(release);
    });
    f.comments.push("on thread 0, between steps: the other threads return from worker".into());
    f
}

/// Gives the other threads their command: what an entry does on thread 0 before it releases them.
pub fn command(sink: &mut Vec<u8>, memory64: bool, number: i32) {
    Words { sink: InstructionSink::new(sink), memory64 }.store(COMMAND, number);
}

/// `worker(thread)`: `arrive` and the entries' parts for other threads are functions of these numbers; `scratch` is where thread 0's
/// scratch begins, and how many bytes each thread has.
pub fn worker(memory64: bool, arrive: u32, entries: &[u32], scratch: (usize, usize)) -> Function {
    let ptr = super::func::ptr_type(memory64);
    let locals = [("scratch", ptr), ("command", ValType::I32)];
    let (thread, own, command) = (0, 1, 2);
    let mut f = function("worker", &[("thread", ValType::I32)], &locals, memory64, |w| {
        w.sink.local_get(thread);
        if memory64 {
            w.sink.i64_extend_i32_u().i64_const(scratch.1 as i64).i64_mul().i64_const(scratch.0 as i64).i64_add();
        } else {
            w.sink.i32_const(scratch.1 as i32).i32_mul().i32_const(scratch.0 as i32).i32_add();
        }
        w.sink.local_set(own);
        w.sink.loop_(BlockType::Empty);
        w.sink.call(arrive);
        w.load(COMMAND);
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
