//! Worker threads that run one function at once, again and again, and wait for each other's progress inside.
//!
//! A training step is a few hundred short parallel regions, each after the one before. The threads are those of a dedicated rayon
//! pool, entered once through `spawn_broadcast` and kept inside [`Workers`] for its lifetime, so that a step starts threads, allocates
//! and takes locks for nothing. The caller is worker 0.
//!
//! What is waited for is work, not workers: a region ends when its last task does ([`Progress`]). A worker that has no processor just then,
//! and so has taken no task, holds up nobody before the end of the run.
//!
//! Invariants
//! - Between calls of [`Workers::run`] no worker runs anything of the caller's: the borrow that `run` hands out ends before it returns.
//! - Waiting spins briefly (a region ends within microseconds), then sleeps. With more workers than cores it sleeps at once: a
//!   spinning worker would hold the core that the awaited one needs.
//! - A panic in a worker ends the process: others would wait for it for ever.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// Spins before sleeping: about 50 microseconds.
const SPINS: u32 = 20_000;

/// How many regions of a run have ended.
pub struct Progress {
    ended: AtomicU32,
    sleepers: Sleepers,
}

impl Progress {
    /// Before a run: none has ended.
    pub fn reset(&self) {
        self.ended.store(0, Ordering::Relaxed);
    }

    /// The next region has ended: called once a region, by a thread that has seen the end of all its tasks.
    pub fn advance(&self) {
        self.sleepers.advance(&self.ended);
    }

    /// Returns once `regions` have ended; what was written in them is visible after.
    pub fn wait_for(&self, regions: usize) {
        loop {
            let ended = self.ended.load(Ordering::Acquire);
            if ended as usize >= regions {
                return;
            }
            self.sleepers.wait_while(&self.ended, ended);
        }
    }
}

/// A reusable meeting point of a fixed number of threads.
struct Barrier {
    threads: usize,
    arrived: AtomicUsize,
    round: AtomicU32,
    sleepers: Sleepers,
}

/// Threads that wait until a number changes.
struct Sleepers {
    /// Looks at the number before sleeping.
    spins: u32,
    count: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Sleepers {
    fn new(spins: u32) -> Sleepers {
        Sleepers { spins, count: AtomicUsize::new(0), lock: Mutex::default(), wake: Condvar::new() }
    }

    /// Waits until `word` is no longer `old`.
    fn wait_while(&self, word: &AtomicU32, old: u32) {
        for _ in 0..self.spins {
            if word.load(Ordering::Acquire) != old {
                return;
            }
            std::hint::spin_loop();
        }
        self.count.fetch_add(1, Ordering::SeqCst);
        // A poisoned lock only means that another waiter panicked; it guards no data.
        let mut guard = self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while word.load(Ordering::SeqCst) == old {
            guard = self.wake.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        drop(guard);
        self.count.fetch_sub(1, Ordering::SeqCst);
    }

    /// Changes `word` and wakes those who sleep on it.
    fn advance(&self, word: &AtomicU32) {
        word.fetch_add(1, Ordering::SeqCst);
        if self.count.load(Ordering::SeqCst) > 0 {
            drop(self.lock.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
            self.wake.notify_all();
        }
    }
}

impl Barrier {
    fn new(threads: usize, spins: u32) -> Barrier {
        Barrier { threads, arrived: AtomicUsize::new(0), round: AtomicU32::new(0), sleepers: Sleepers::new(spins) }
    }

    /// Returns once every worker has called it; what they wrote before is visible after.
    fn wait(&self) {
        if self.threads == 1 {
            return;
        }
        let round = self.round.load(Ordering::Acquire);
        if self.arrived.fetch_add(1, Ordering::AcqRel) + 1 == self.threads {
            self.arrived.store(0, Ordering::Relaxed);
            self.sleepers.advance(&self.round);
        } else {
            self.sleepers.wait_while(&self.round, round);
        }
    }
}

type Job = dyn Fn(usize) + Sync;

struct Shared {
    barrier: Barrier,
    /// Counts runs; a change starts the workers.
    run: AtomicU32,
    idle: Sleepers,
    exit: AtomicBool,
    /// The current job: a pointer to a fat reference on the stack of `run`.
    job: AtomicPtr<&'static Job>,
}

/// A fixed set of threads, the caller's included.
pub struct Workers {
    shared: Arc<Shared>,
    /// Threads beside the caller's; None if there are none.
    pool: Option<rayon::ThreadPool>,
}

impl Workers {
    /// `threads` workers (at least 1), the caller's thread included.
    ///
    /// Errors: one sentence, if the system refuses to start threads.
    pub fn new(threads: usize) -> Result<Workers, String> {
        let threads = threads.max(1);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let spins = if threads <= cores { SPINS } else { 0 };
        let shared = Arc::new(Shared {
            barrier: Barrier::new(threads, spins),
            run: AtomicU32::new(0),
            idle: Sleepers::new(spins),
            exit: AtomicBool::new(false),
            job: AtomicPtr::new(std::ptr::null_mut()),
        });
        let pool = match threads {
            1 => None,
            _ => {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("tinygpt-worker-{}", i + 1))
                    .panic_handler(|_| std::process::abort())
                    .build()
                    .map_err(|e| {
                        format!("{threads} threads could not be started ({e}); ask for fewer with --threads")
                    })?;
                let shared = Arc::clone(&shared);
                pool.spawn_broadcast(move |ctx| worker(&shared, ctx.index() + 1));
                Some(pool)
            }
        };
        Ok(Workers { shared, pool })
    }

    pub fn threads(&self) -> usize {
        self.shared.barrier.threads
    }

    /// Counts the regions of runs of these workers.
    pub fn progress(&self) -> Progress {
        Progress { ended: AtomicU32::new(0), sleepers: Sleepers::new(self.shared.idle.spins) }
    }

    /// Calls `job(worker)` on every worker at once; returns when all have returned.
    pub fn run(&mut self, job: &(dyn Fn(usize) + Sync)) {
        if self.pool.is_none() {
            return job(0);
        }
        // SAFETY: only the lifetime changes. The reference is used by workers between the start below and the last barrier, and `run` does
        // not return (nor unwind: see AbortOnUnwind) before every worker has passed that barrier.
        let mut job: &'static Job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static Job>(job) };
        let guard = AbortOnUnwind;
        self.shared.job.store(&mut job, Ordering::Release);
        self.shared.idle.advance(&self.shared.run);
        job(0);
        self.shared.barrier.wait();
        std::mem::forget(guard);
    }
}

/// Ends the process if it is dropped: workers still use the caller's stack.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

fn worker(shared: &Shared, index: usize) {
    let mut run = 0;
    loop {
        shared.idle.wait_while(&shared.run, run);
        run = run.wrapping_add(1);
        if shared.exit.load(Ordering::Acquire) {
            return;
        }
        // SAFETY: `Workers::run` stored a pointer to a live reference before it advanced `shared.run`, and keeps both alive until this worker
        // has passed the barrier below.
        let job = unsafe { *shared.job.load(Ordering::Acquire) };
        job(index);
        shared.barrier.wait();
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.exit.store(true, Ordering::Release);
        self.shared.idle.advance(&self.shared.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_worker_takes_part_in_every_region_of_every_run() {
        for threads in [1, 2, 3, 40] {
            let mut workers = Workers::new(threads).unwrap();
            assert_eq!(workers.threads(), threads);
            let progress = workers.progress();
            for run in 0..50 {
                let counts: Vec<AtomicUsize> = (0..20).map(|_| AtomicUsize::new(0)).collect();
                let early = AtomicUsize::new(0);
                progress.reset();
                workers.run(&|_| {
                    for (region, count) in counts.iter().enumerate() {
                        if count.fetch_add(1, Ordering::AcqRel) + 1 == threads {
                            progress.advance();
                        }
                        progress.wait_for(region + 1);
                        // Everyone has counted here, and nobody has started on the region after next.
                        let seen = count.load(Ordering::Relaxed);
                        early.fetch_add(usize::from(seen != threads), Ordering::Relaxed);
                        let next = counts.get(region + 2).map_or(0, |c| c.load(Ordering::Relaxed));
                        early.fetch_add(usize::from(next != 0), Ordering::Relaxed);
                    }
                });
                assert_eq!(early.load(Ordering::Relaxed), 0, "{threads} threads, run {run}");
            }
        }
    }

    /// Worker 0 does all the tasks while the others are away, and gets past every region without them.
    #[test]
    fn nobody_waits_for_a_worker_without_a_task() {
        let mut workers = Workers::new(3).unwrap();
        let progress = workers.progress();
        let away = AtomicBool::new(true);
        workers.run(&|worker| {
            if worker == 0 {
                for region in 0..10 {
                    progress.advance();
                    progress.wait_for(region + 1);
                }
                away.store(false, Ordering::Release);
            }
            while away.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            progress.wait_for(10);
        });
        assert!(!away.load(Ordering::Relaxed));
    }

    #[test]
    fn workers_sleep_between_runs_and_wake() {
        let mut workers = Workers::new(2).unwrap();
        let sum = AtomicUsize::new(0);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(5));
            workers.run(&|worker| {
                sum.fetch_add(worker + 1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 9);
    }
}
