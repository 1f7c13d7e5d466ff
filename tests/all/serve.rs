//! `serve`: the headers a page needs, nothing outside its folder, and an end by Ctrl-C.

use crate::support::Cli;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};

/// A server that runs, and its port.
struct Served {
    child: Child,
    port: u16,
}

impl Served {
    fn new(cli: &Cli, line: &str) -> Served {
        let mut child = cli.command(line).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut url).unwrap();
        let port = url.trim().strip_prefix("http://127.0.0.1:").and_then(|rest| rest.strip_suffix('/'));
        Served { child, port: port.unwrap_or_else(|| panic!("{url}")).parse().unwrap() }
    }

    /// Status line, headers in lower case, and body.
    fn ask(&self, request: &str) -> (String, String, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let (status, headers) = head.split_once("\r\n").unwrap();
        (status.to_owned(), headers.to_lowercase(), body.to_owned())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn site() -> Cli {
    let cli = Cli::new();
    for folder in ["site", "site/assets"] {
        std::fs::create_dir(cli.path(folder)).unwrap();
    }
    cli.file("site/index.html", "<title>hello</title>");
    cli.file("site/assets/m.wasm", "wasm");
    cli.file("secret", "secret");
    cli
}

#[test]
fn a_page_gets_its_headers_and_nothing_else() {
    let cli = site();
    let server = Served::new(&cli, "serve --dir site --port 0");
    let (status, headers, body) = server.ask("GET /");
    assert!(status.contains(" 200 "), "{status}");
    assert_eq!(body, "<title>hello</title>");
    for header in [
        "cross-origin-opener-policy: same-origin",
        "cross-origin-embedder-policy: require-corp",
        "content-type: text/html; charset=utf-8",
        "cache-control: no-cache",
        "content-length: 20",
    ] {
        assert!(headers.lines().any(|line| line == header), "{header} is not in\n{headers}");
    }
    assert!(server.ask("GET /assets/m.wasm").1.contains("content-type: application/wasm"));
    let (status, headers, body) = server.ask("HEAD /index.html");
    assert!(status.contains(" 200 ") && headers.contains("content-length: 20") && body.is_empty(), "{headers}\n{body}");
    for path in ["/none", "/../secret", "/%2e%2e/secret", "/assets/../../secret", "/assets/"] {
        let (status, headers, body) = server.ask(&format!("GET {path}"));
        assert!(status.contains(" 404 ") && !body.contains("secret"), "{path}: {status} {body}");
        assert!(headers.contains("cross-origin-embedder-policy: require-corp"), "{headers}");
    }
    let (status, headers, _) = server.ask("POST /");
    assert!(status.contains(" 405 ") && headers.contains("allow: get, head"), "{status}\n{headers}");
}

#[test]
fn what_cannot_be_served_is_one_sentence() {
    let cli = site();
    cli.refused(
        "serve --dir none",
        2,
        "none holds no built site (no index.html): name the folder of a built site with --dir",
    );
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    cli.refused(&format!("serve --dir site --port {port}"), 1, &format!("cannot listen on port {port} of 127.0.0.1"));
}

#[cfg(unix)]
#[test]
fn an_interrupt_is_its_end() {
    let cli = site();
    let mut server = Served::new(&cli, "serve --dir site --port 0");
    assert!(server.ask("GET /").0.contains(" 200 "));
    // The shell's own kill: not every machine has it as a program.
    let kill = format!("kill -INT {}", server.child.id());
    assert!(std::process::Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}
