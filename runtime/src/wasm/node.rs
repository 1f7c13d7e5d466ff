//! The Node process that runs a module, and the conversation with it: web/runner/src/host.ts is the other side, and specifies it.
//!
//! Invariants
//! - After [`Node::prepare`], commands are written in the order of the calls and answered in that order; nothing is answered but reads. So a step
//!   with its writes and reads is one message and one answer.
//! - Nothing is allocated by a command.
//! - A process that fails stays failed: every later call is an error with the same sentence.

use crate::error::one_line;
use crate::wasm::bundle::Layout;
use crate::wasm::runner::{HOST, SCRIPTS};
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

/// The environment variable that names Node's executable.
pub const NODE_VARIABLE: &str = "TINYGPT_NODE";

/// The oldest Node that runs the modules.
const OLDEST: u32 = 18;

/// Commands of the conversation.
const WRITE: u32 = 1;
const READ: u32 = 2;
const RUN: u32 = 3;

/// Bytes of commands that are sent together.
const BUFFER_BYTES: usize = 1 << 16;

/// Longest frame that Node sends.
const MAX_FRAME: usize = 1 << 20;

/// What the engine offers: features.ts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Features {
    pub simd: bool,
    pub relaxed: bool,
    pub threads: bool,
    pub memory64: bool,
    pub isolated: bool,
}

#[derive(Deserialize)]
struct Hello {
    version: String,
    features: Features,
}

#[derive(Serialize)]
struct Asked<'a> {
    layout: &'a Layout,
    entry: &'a str,
    threads: usize,
    shared: bool,
}

#[derive(Deserialize)]
struct Prepared {
    error: Option<String>,
}

/// A running Node.
pub struct Node {
    child: Child,
    to: BufWriter<ChildStdin>,
    from: ChildStdout,
    /// Ends with the last line that Node wrote to its standard error.
    last_words: Option<JoinHandle<String>>,
    version: String,
    features: Features,
    /// The folder of the scripts, needed until the threads have started.
    scripts: Option<tempfile::TempDir>,
    /// Why it cannot be used any more.
    failed: Option<Error>,
}

impl Node {
    /// Starts Node and asks what it offers. Errors: there is none, it is too old, or it ends at once.
    pub fn start() -> Result<Node> {
        let program = std::env::var_os(NODE_VARIABLE).unwrap_or_else(|| OsString::from("node"));
        let scripts = tempfile::Builder::new().prefix("tinygpt-node-").tempdir();
        let scripts = scripts.map_err(|e| Error::failed(format!("cannot make a temporary directory: {e}")))?;
        let all = SCRIPTS.iter().chain([&HOST, &("package.json", "{\"type\": \"module\"}\n")]);
        for (name, text) in all {
            let path = scripts.path().join(name);
            std::fs::write(&path, text).map_err(|e| Error::writing(&path, e))?;
        }
        let mut command = Command::new(&program);
        command.arg(scripts.path().join(HOST.0));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C goes to a terminal's whole process group; Node must live until the step under way is saved.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().map_err(|e| {
            Error::input(format!(
                "cannot start Node ({}: {}), in which the backend wasm runs: install Node {OLDEST} or later, or set {NODE_VARIABLE} to its path",
                program.display(),
                one_line(e)
            ))
        })?;
        let (Some(to), Some(from), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Error::failed("Node was started without pipes, which is a fault of tinygpt"));
        };
        let last_words = std::thread::Builder::new().name("node's errors".to_owned()).spawn(move || {
            let lines = BufReader::new(errors).lines().map_while(std::io::Result::ok);
            lines.filter(|line| !line.trim().is_empty()).last().unwrap_or_default()
        });
        let last_words = last_words.map_err(|e| Error::failed(format!("cannot start a thread: {e}")))?;
        let mut node = Node {
            child,
            to: BufWriter::with_capacity(BUFFER_BYTES, to),
            from,
            last_words: Some(last_words),
            version: String::new(),
            features: Features { simd: false, relaxed: false, threads: false, memory64: false, isolated: false },
            scripts: Some(scripts),
            failed: None,
        };
        let Hello { version, features } = node.receive()?;
        let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < OLDEST) || !features.simd {
            return Err(Error::input(format!(
                "found Node {version} ({}), and the backend wasm needs Node {OLDEST} or later: install one, or set {NODE_VARIABLE} to its path",
                program.display()
            )));
        }
        (node.version, node.features) = (version, features);
        Ok(node)
    }

    /// `20.20.2`
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn features(&self) -> Features {
        self.features
    }

    /// Makes the memory and starts the threads. Errors: the engine refuses the module, or has too little memory.
    pub fn prepare(&mut self, module: &[u8], layout: &Layout, entry: &str, threads: usize, shared: bool) -> Result<()> {
        let asked = Asked { layout, entry, threads, shared };
        let asked = serde_json::to_vec(&asked).map_err(|e| Error::failed(one_line(e)))?;
        for frame in [&asked[..], module] {
            self.send(&(frame.len() as u32).to_le_bytes())?;
            self.send(frame)?;
        }
        self.flush()?;
        let prepared = self.receive::<Prepared>()?;
        // Every script is loaded, or never will be.
        self.scripts = None;
        match prepared.error {
            None => Ok(()),
            Some(sentence) => Err(Error::failed(format!("Node {}: {}", self.version, one_line(sentence)))),
        }
    }

    /// Copies `bytes` to `address` of the module's memory.
    pub fn write(&mut self, address: usize, bytes: &[u8]) -> Result<()> {
        self.command(WRITE, address, bytes.len())?;
        self.send(bytes)
    }

    /// Begins a run of the entry.
    pub fn run(&mut self) -> Result<()> {
        self.command(RUN, 0, 0)?;
        self.flush()
    }

    /// Asks for `bytes` bytes from `address`, which [`Node::answer`] gives.
    pub fn ask(&mut self, address: usize, bytes: usize) -> Result<()> {
        self.command(READ, address, bytes)
    }

    /// Sends what is buffered.
    pub fn flush(&mut self) -> Result<()> {
        self.check()?;
        let sent = self.to.flush();
        self.done(sent)
    }

    /// The answer to the oldest unanswered [`Node::ask`], of as many bytes.
    pub fn answer(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.check()?;
        let came = self.from.read_exact(bytes);
        self.done(came)
    }

    fn command(&mut self, op: u32, address: usize, bytes: usize) -> Result<()> {
        let mut command = [0; 16];
        command[..4].copy_from_slice(&op.to_le_bytes());
        command[4..8].copy_from_slice(&(bytes as u32).to_le_bytes());
        command[8..].copy_from_slice(&(address as u64).to_le_bytes());
        self.send(&command)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.check()?;
        let sent = self.to.write_all(bytes);
        self.done(sent)
    }

    /// A JSON frame.
    fn receive<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut length = [0; 4];
        self.answer(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        let not_understood = |what: String| {
            Error::failed(format!(
                "Node's first words were not understood ({what}): {NODE_VARIABLE} must name Node itself"
            ))
        };
        if length > MAX_FRAME {
            return Err(not_understood(format!("a message of {length} bytes")));
        }
        let mut frame = vec![0; length];
        self.answer(&mut frame)?;
        serde_json::from_slice(&frame).map_err(|e| not_understood(one_line(e)))
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// A pipe that breaks means that Node has ended: the error says what it said last.
    fn done(&mut self, result: std::io::Result<()>) -> Result<()> {
        let Err(cause) = result else { return Ok(()) };
        // It may not have ended, but cannot be talked to.
        let _ = self.child.kill();
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let words = self.last_words.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let words = if words.is_empty() { one_line(cause) } else { one_line(words) };
        let error = Error::failed(format!(
            "Node, in which the backend wasm runs, has ended ({status}): {words}; Node {OLDEST} or later is needed, and --backend cpu needs none"
        ));
        self.failed = Some(error.clone());
        Err(error)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nothing is lost: what mattered has been read. It may be gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
