//! The module's exports: `alloc`, `free`, `call`, `failure`. What each promises is in the crate's comment.
//!
//! Invariants:
//! - a block that goes out is a boxed slice of the length that its owner knows, so that `free` gives back what was allocated;
//! - the panic hook is set before a request is read, so that every fault leaves its sentence before the module traps.
//!
//! The names are exported on wasm32 only: elsewhere `free` is libc's, and the functions are there to be tested.

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
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
pub extern "C" fn alloc(len: usize) -> *mut u8 {
    // SAFETY: the layout has a size of at least one byte.
    layout(len).map_or(std::ptr::null_mut(), |layout| unsafe { allocate(layout) })
}

/// Gives back a block.
///
/// # Safety
/// `pointer` came from `alloc(len)`, or from `call` with a response of `len` bytes, and was not freed.
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
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
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
pub unsafe extern "C" fn call(pointer: *const u8, len: usize) -> *mut u8 {
    keep_panics();
    // SAFETY: the caller promises `len` initialised bytes that nobody writes during the call.
    let request = unsafe { std::slice::from_raw_parts(pointer, len) };
    hand_out(&crate::answer(request))
}

/// Why `call` trapped; 0 if nothing is known.
#[cfg_attr(target_arch = "wasm32", unsafe(no_mangle))]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response::read;

    /// The response at an address, copied and given back.
    fn take(pointer: *mut u8) -> Vec<u8> {
        // SAFETY: a response begins with its total length, and all of it was written.
        let bytes = unsafe {
            let total = u32::from_le_bytes(*pointer.cast::<[u8; 4]>()) as usize;
            std::slice::from_raw_parts(pointer, total).to_vec()
        };
        // SAFETY: the block came from `call` with this length.
        unsafe { free(pointer, bytes.len()) };
        bytes
    }

    #[test]
    fn a_call_answers_and_a_fault_leaves_its_sentence() {
        let text = br#"{"request":"resolve","config":{"preset":"tiny"}}"#;
        let request = alloc(text.len());
        assert!(!request.is_null());
        // SAFETY: `alloc` gave as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), request, text.len()) };
        // SAFETY: the request was written above.
        let response = take(unsafe { call(request, text.len()) });
        assert_eq!(response, crate::answer(text));
        assert_eq!(read(&response).unwrap().result["params"], 70464);
        // SAFETY: the request came from `alloc` with this length.
        unsafe { free(request, text.len()) };
        assert!(alloc(usize::MAX).is_null());

        // `call` has set the hook, which must not hide what other tests of this process have to say.
        assert!(failure().is_null());
        let fault = std::panic::catch_unwind(|| panic!("a table of {} rows", 3));
        let _ = std::panic::take_hook();
        assert!(fault.is_err());
        let sentence = read(&take(failure())).unwrap_err().to_string();
        assert!(sentence.starts_with("the compiler has a fault at web/compiler/src/exports.rs:"), "{sentence}");
        assert!(sentence.ends_with("please report it: a table of 3 rows"), "{sentence}");
    }
}
