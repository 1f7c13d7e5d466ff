//! The module's exports: `alloc`, `free`, `call`, `failure`. What each promises is in the crate's comment.
//!
//! Invariants:
//! - a block that goes out is a boxed slice of the length that its owner knows, so that `free` gives back what was allocated;
//! - the panic hook is set before a request is read, so that every fault leaves its sentence before the module traps.

use crate::response::refusal;
use std::alloc::{Layout, alloc as allocate, dealloc};
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The response that says why `call` trapped.
static FAILURE: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// Blobs are read through typed arrays of up to eight bytes an element.
fn layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.max(1), 8).ok()
}

/// A block of these bytes for the page, which frees it.
fn hand_out(bytes: &[u8]) -> *mut u8 {
    let pointer = alloc(bytes.len());
    if pointer.is_null() {
        panic!("no memory is left for a response of {} bytes: choose a smaller model or batch", bytes.len());
    }
    // SAFETY: `alloc` has just given `bytes.len()` bytes, which nothing else knows.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer, bytes.len()) };
    pointer
}

/// Room for a request.
#[unsafe(no_mangle)]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    // SAFETY: the layout has a size of at least one byte.
    layout(len).map_or(std::ptr::null_mut(), |layout| unsafe { allocate(layout) })
}

/// Gives back a block.
///
/// # Safety
/// `pointer` came from `alloc(len)`, or from `call` with a response of `len` bytes, and was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(pointer: *mut u8, len: usize) {
    if let Some(layout) = layout(len).filter(|_| !pointer.is_null()) {
        // SAFETY: the caller promises that the block has this layout.
        unsafe { dealloc(pointer, layout) };
    }
}

/// Answers a request.
///
/// # Safety
/// `pointer` came from `alloc(len)`, was not freed, and its bytes were written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn call(pointer: *const u8, len: usize) -> *mut u8 {
    keep_panics();
    // SAFETY: the caller promises `len` initialised bytes that nobody writes during the call.
    let request = unsafe { std::slice::from_raw_parts(pointer, len) };
    hand_out(&crate::answer(request))
}

/// Why `call` trapped; 0 if nothing is known.
#[unsafe(no_mangle)]
pub extern "C" fn failure() -> *mut u8 {
    FAILURE.load(Ordering::Relaxed)
}

/// Has a panic leave its message as a response before the module traps.
fn keep_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            // The first fault is the cause: one while it is written down must not take its place.
            if !FAILURE.load(Ordering::Relaxed).is_null() {
                return;
            }
            let message = info.payload_as_str().unwrap_or("no message");
            let place = info.location().map(|at| format!(" at {}:{}", at.file(), at.line())).unwrap_or_default();
            let bytes = refusal(&format!("the compiler has a fault{place}, please report it: {message}"));
            FAILURE.store(Box::leak(bytes.into_boxed_slice()).as_mut_ptr(), Ordering::Relaxed);
        }));
    });
}
