//! What a model file states makes nobody allocate: reading takes a small multiple of the file's size, whatever the file claims.
//!
//! A binary of its own with one test, since the counter counts every thread of the process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use tinygpt::runtime::formats;

/// The system's allocator, keeping count of the bytes that are in use, and of the most that were.
struct Counting;

static USED: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let used = USED.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(used, Ordering::Relaxed);
        // SAFETY: the caller keeps `alloc`'s contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        USED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps `dealloc`'s contract.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes beyond the file's own that reading may use for each byte of it, and for messages.
const MULTIPLE: usize = 16;
const CONSTANT: usize = 1 << 16;

fn safetensors(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()
}

fn tinygpt(header: &str) -> Vec<u8> {
    [b"TGPT\x02\0\0\0", &(header.len() as u32).to_le_bytes()[..], header.as_bytes(), &[0; 99]].concat()
}

#[test]
fn reading_takes_a_small_multiple_of_the_file() {
    let entry = |name: &str, shape: &str, end: u64| {
        format!(r#""{name}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}"#)
    };
    let many = |n: usize, each: &dyn Fn(usize) -> String| (0..n).map(each).collect::<Vec<_>>().join(",");
    let model = |layers: usize, rest: &str| {
        format!(
            r#"{{"__metadata__":{{"tinygpt.model":"{{\"vocab\":1048576,\"ctx\":1048576,\"layers\":{layers},\"heads\":1,\"d_model\":1048576,\"d_mlp\":1048576,\"gelu\":\"erf\"}}"}}{rest}}}"#
        )
    };
    let config = |layers: usize| format!(r#""config":{{"ctx":1048576,"layers":{layers},"heads":1,"dModel":262144}}"#);
    let cases = [
        (
            "a header said to be huge",
            safetensors("{}").into_iter().enumerate().map(|(i, b)| if i < 4 { 0xff } else { b }).collect(),
        ),
        ("the longest header there may be", [&100_000_000u64.to_le_bytes()[..], b"{}"].concat()),
        ("a tensor of 2^42 bytes", safetensors(&format!("{{{}}}", entry("a", "[1048576,1048576]", 1 << 42)))),
        (
            "a tensor whose size overflows",
            safetensors(&format!("{{{}}}", entry("a", "[1048576,1048576,1048576,1048576]", 0))),
        ),
        ("a model without tensors", safetensors(&model(4096, ""))),
        ("a model with some", safetensors(&model(3, &format!(",{}", many(70, &|i| entry(&i.to_string(), "[0]", 0)))))),
        (
            "many layers by one name",
            safetensors(&format!("{{{}}}", many(2, &|i| entry(&format!("blocks.{}.x", i * 4000), "[0]", 0)))),
        ),
        ("many empty tensors", safetensors(&format!("{{{}}}", many(20_000, &|i| entry(&i.to_string(), "[0]", 0))))),
        (
            "a shape of many sizes",
            safetensors(&format!("{{{}}}", entry("a", &format!("[{}]", many(100_000, &|_| "0".into())), 0))),
        ),
        ("arrays in arrays", safetensors(&"[".repeat(200_000))),
        ("an unknown key that is deep", safetensors(&format!(r#"{{"a":{{"x":{}"#, "[".repeat(200_000)))),
        ("a .tinygpt header said to be huge", [b"TGPT\x02\0\0\0", &[0xff; 4][..], b"{}"].concat()),
        ("a .tinygpt of 2^52 weights", tinygpt(&format!(r#"{{{},"manifest":[]}}"#, config(4096)))),
        (
            "a long manifest",
            tinygpt(&format!(
                r#"{{{},"manifest":[{}]}}"#,
                config(1),
                many(20_000, &|_| r#"{"name":"","shape":[]}"#.into())
            )),
        ),
        (
            "many losses",
            tinygpt(&format!(
                r#"{{{},"manifest":[],"lossHistory":[{}]}}"#,
                config(1),
                many(20_000, &|_| r#"{"step":1}"#.into())
            )),
        ),
        ("a deep .tinygpt header", tinygpt(&"[".repeat(200_000))),
        ("a pickle", b"PK\x03\x04".repeat(1000)),
    ];
    let cases: [(&str, Vec<u8>); 17] = cases;
    for (what, bytes) in cases {
        let length = bytes.len();
        let before = USED.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let error = formats::decode("x", bytes, Some(1)).expect_err(what).to_string();
        let took = MOST.load(Ordering::Relaxed) - before;
        println!("{what}: {length} bytes, {took} more in use: {error}");
        assert!(took <= CONSTANT + MULTIPLE * length, "{what}: a file of {length} bytes took {took} more");
        assert!(error.starts_with("x ") && error.len() < 1000, "{what}: {error}");
    }
}
