//! No allocation in a step after the first: writing the batches, the step itself on two threads, what passes between the programs of several
//! micro-batches, reading loss and norm.
//!
//! A binary of its own with one test, since the counter counts every thread of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use tinygpt::passes::optimizer::AdamWConfig;
use tinygpt::runtime::compile::ExecOptions;
use tinygpt::runtime::config::{Backend, RunConfig};
use tinygpt::runtime::model::{Batch, TrainStep};

/// The system's allocator, counting.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_step_after_the_first_allocates_nothing() {
    let model = RunConfig::preset("tiny").unwrap().model;
    for (no_templates, micro_batches) in [(false, 1), (true, 1), (false, 3)] {
        let options = ExecOptions { backend: Backend::Cpu, threads: 2, isa: None, no_templates, gpu: None };
        let mut train = TrainStep::accumulating(&model, 2, AdamWConfig::default(), micro_batches, &options).unwrap();
        train.start(42).unwrap();
        let batch = Batch::zeros(2, model.ctx).unwrap();
        let mut step = |number| {
            (0..micro_batches).for_each(|_| train.feed(&batch).unwrap());
            train.submit_fed(1e-3, number).unwrap();
            train.take().unwrap()
        };
        step(1);
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        (2..6).for_each(|number| assert!(step(number).is_finite()));
        let count = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(
            count, 0,
            "four steps made {count} allocations (templates off: {no_templates}, {micro_batches} micro-batches)"
        );
    }
}
