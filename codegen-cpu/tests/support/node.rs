//! One Node process a test binary, which runs modules on request: see `node.mjs`.

#![allow(dead_code)] // each test file uses its own part

use serde_json::{Value, json};
use std::io::{BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

/// The engine, and what it has.
pub struct Engine {
    /// Whether it takes relaxed SIMD, and whether its multiply-add rounds once.
    pub relaxed: bool,
    pub fused: bool,
    pub memory64: bool,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    input: ChildStdin,
    /// Answers, read by a thread of their own.
    answers: Receiver<(Value, Vec<u8>)>,
}

/// Longer than any request takes: threads that never meet would wait for ever.
const PATIENCE: Duration = Duration::from_secs(300);

/// What to run.
#[derive(Default)]
pub struct Request<'a> {
    pub module: &'a [u8],
    pub pages: usize,
    pub memory64: bool,
    /// 0 for a module without `init`; the memory is shared if `shared` says so.
    pub threads: usize,
    pub shared: bool,
    /// Address and bytes.
    pub writes: Vec<(usize, Vec<u8>)>,
    /// Name and arguments.
    pub calls: Vec<(&'a str, Vec<i64>)>,
    /// Address and number of bytes.
    pub reads: Vec<(usize, usize)>,
}

/// The engine. None where there is no Node: then the test says that it is skipped, or fails with TINYGPT_REQUIRE_NODE=1.
pub fn engine() -> Option<&'static Engine> {
    static ENGINE: OnceLock<Option<Engine>> = OnceLock::new();
    let engine = ENGINE.get_or_init(start);
    if engine.is_none() {
        let why = "found no Node: install Node 20 or newer";
        assert!(std::env::var_os("TINYGPT_REQUIRE_NODE").is_none_or(|v| v != "1"), "{why}");
        println!("skipped: {why}");
    }
    engine.as_ref()
}

fn start() -> Option<Engine> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/node.mjs");
    let mut child = Command::new("node").arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
    let (input, output) = (child.stdin.take()?, child.stdout.take()?);
    let (sender, answers) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        while let Ok(answer) = read_answer(&mut output) {
            if sender.send(answer).is_err() {
                break;
            }
        }
    });
    let mut process = Process { child, input, answers };
    let (has, _) = process.answer();
    let is = |key: &str| has[key].as_bool().expect("node.mjs says so");
    Some(Engine { relaxed: is("relaxed"), fused: is("fused"), memory64: is("memory64"), process: Mutex::new(process) })
}

fn read_answer(output: &mut impl Read) -> std::io::Result<(Value, Vec<u8>)> {
    let mut part = |bytes: usize| {
        let mut out = vec![0; bytes];
        output.read_exact(&mut out).map(|()| out)
    };
    let lengths = part(8)?;
    let length = |at: usize| u32::from_le_bytes(lengths[at..at + 4].try_into().expect("four bytes")) as usize;
    let header = part(length(0))?;
    Ok((serde_json::from_slice(&header)?, part(length(4))?))
}

impl Process {
    fn answer(&mut self) -> (Value, Vec<u8>) {
        self.answers.recv_timeout(PATIENCE).unwrap_or_else(|e| {
            let _ = self.child.kill(); // whether it still lives does not matter
            panic!("Node gave no answer ({e}): it died, or threads wait for each other")
        })
    }
}

impl Engine {
    /// Runs a request and returns what was read, or what went wrong.
    pub fn run(&self, r: &Request) -> Result<Vec<Vec<u8>>, String> {
        // Index values are 64 bits wide in a module with 64-bit memory: BigInt, which JSON has not.
        let arg = |x: &i64| if r.memory64 { json!(x.to_string()) } else { json!(x) };
        let header = json!({
            "module": r.module.len(),
            "pages": r.pages,
            "shared": r.shared,
            "memory64": r.memory64,
            "threads": r.threads,
            "writes": r.writes.iter().map(|(at, bytes)| json!([at, bytes.len()])).collect::<Vec<_>>(),
            "calls": r.calls.iter().map(|(name, args)| {
                let mut call = vec![json!(name)];
                call.extend(args.iter().map(arg));
                Value::Array(call)
            }).collect::<Vec<_>>(),
            "reads": r.reads.iter().map(|(at, bytes)| json!([at, bytes])).collect::<Vec<_>>(),
        });
        let header = header.to_string().into_bytes();
        let data = r.writes.iter().fold(r.module.to_vec(), |all, (_, bytes)| [all, bytes.clone()].concat());
        let mut process = self.process.lock().expect("no test panics while it talks to Node");
        let mut frame = Vec::new();
        frame.extend((header.len() as u32).to_le_bytes());
        frame.extend((data.len() as u32).to_le_bytes());
        frame.extend(header);
        frame.extend(data);
        process.input.write_all(&frame).expect("Node listens");
        process.input.flush().expect("Node listens");
        let (header, mut data) = process.answer();
        drop(process);
        if let Some(error) = header["error"].as_str() {
            return Err(error.to_string());
        }
        let reads = r.reads.iter().map(|&(_, bytes)| data.drain(..bytes).collect());
        Ok(reads.collect())
    }
}

/// Little-endian bytes of words.
pub fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// Words of little-endian bytes.
pub fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()
}
