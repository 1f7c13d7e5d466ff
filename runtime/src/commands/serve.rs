//! `serve`: the built playground on this machine, with the headers that give it threads.
//!
//! Invariants
//! - It listens on 127.0.0.1 alone, and answers GET and HEAD alone.
//! - Nothing outside the folder is served: paths are plain names, and what they lead to lies inside once links are followed.
//! - What the site's build names by its contents (`assets/`) may be kept by a browser; everything else is asked for again.

use super::{Ending, print, say};
use crate::cli::ServeArgs;
use crate::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tiny_http::{Header, Method, Request, Response, Server};

/// Where `cargo xtask site` puts the site, from the workspace's root.
const BUILT: &str = "web/site/dist";

/// Requests that are answered at once: a browser asks for a few files together.
const WORKERS: usize = 4;

/// On every answer. The first two isolate the page, which is what browsers share memory between threads for.
const HEADERS: [(&str, &str); 4] = [
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Content-Type-Options", "nosniff"),
];

const TYPES: [(&str, &str); 13] = [
    ("html", "text/html; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("mjs", "text/javascript; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("json", "application/json"),
    ("webmanifest", "application/manifest+json"),
    ("wasm", "application/wasm"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("ico", "image/x-icon"),
    ("woff2", "font/woff2"),
    ("txt", "text/plain; charset=utf-8"),
    ("map", "application/json"),
];

pub fn run(args: &ServeArgs) -> Result<Ending> {
    let folder = match &args.dir {
        Some(dir) => site(dir, "name the folder of a built site with --dir")?,
        None => site(&built(), "run `cargo xtask site` in tinygpt's workspace first, or name another with --dir")?,
    };
    let server = Server::http(("127.0.0.1", args.port)).map_err(|e| {
        Error::failed(format!(
            "cannot listen on port {} of 127.0.0.1 ({e}): choose another with --port, or 0 for any that is free",
            args.port
        ))
    })?;
    let server = Arc::new(server);
    let port = server.server_addr().to_ip().map_or(args.port, |address| address.port());
    let stopped = Arc::clone(&server);
    ctrlc::set_handler(move || (0..WORKERS).for_each(|_| stopped.unblock()))
        .map_err(|e| Error::failed(format!("cannot listen for interrupts: {e}")))?;
    let url = format!("http://127.0.0.1:{port}/");
    say(&format!("{}, until Ctrl-C", folder.display()));
    print(format!("{url}\n").as_bytes())?;
    if args.open
        && let Err(e) = open(&url)
    {
        say(&format!("cannot open a browser ({e}): open {url} yourself"));
    }
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            // `recv` fails when it is woken, and only then.
            scope.spawn(|| while server.recv().is_ok_and(|request| answer(request, &folder)) {});
        }
    });
    Ok(Ending::Done)
}

/// The built site in this folder or one above, else in the workspace that this binary was built in.
fn built() -> PathBuf {
    let current = std::env::current_dir().unwrap_or_default();
    let above = current.ancestors().map(|dir| dir.join(BUILT)).find(|dir| dir.is_dir());
    above.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("").join(BUILT))
}

/// A folder with an index.html, without links in its path.
fn site(folder: &Path, advice: &str) -> Result<PathBuf> {
    if !folder.join("index.html").is_file() {
        return Err(Error::input(format!("{} holds no built site (no index.html): {advice}", folder.display())));
    }
    fs::canonicalize(folder).map_err(|e| Error::reading(folder, e))
}

/// Shows a page in the browser that the system opens pages with.
fn open(url: &str) -> std::io::Result<()> {
    let (program, arguments): (&str, &[&str]) = match std::env::consts::OS {
        "windows" => ("cmd", &["/c", "start", ""]),
        "macos" => ("open", &[]),
        _ => ("xdg-open", &[]),
    };
    std::process::Command::new(program).args(arguments).arg(url).spawn().map(drop)
}

/// Answers a request; true, since a client that has gone away is no failure.
fn answer(request: Request, folder: &Path) -> bool {
    let (status, mut headers, body) = match request.method() {
        Method::Get | Method::Head => found(request.url(), folder),
        _ => (405, vec![("Allow", "GET, HEAD".to_owned())], b"this server answers GET and HEAD\n".to_vec()),
    };
    if status >= 400 {
        headers.push(("Content-Type", "text/plain; charset=utf-8".to_owned()));
    }
    let fixed = HEADERS.iter().map(|(name, value)| (*name, (*value).to_owned()));
    let mut response = Response::from_data(body).with_status_code(status);
    for (name, value) in fixed.chain(headers) {
        if let Ok(header) = Header::from_bytes(name, value) {
            response.add_header(header);
        }
    }
    let _ = request.respond(response);
    true
}

/// Status, headers of its own and body of what lies at a path.
fn found(url: &str, folder: &Path) -> (u16, Vec<(&'static str, String)>, Vec<u8>) {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let nothing = || (404, vec![("Cache-Control", "no-cache".to_owned())], b"there is no such file here\n".to_vec());
    let Some(mut file) = inside(path, folder) else { return nothing() };
    if file.is_dir() {
        if !path.ends_with('/') {
            // The last name alone: relative, whatever the server is called.
            let name = path.rsplit('/').next().unwrap_or_default();
            return (301, vec![("Location", format!("{name}/"))], Vec::new());
        }
        file.push("index.html");
    }
    let kind = file.extension().and_then(|ending| ending.to_str());
    let kind = TYPES.iter().find(|(ending, _)| Some(*ending) == kind).map_or("application/octet-stream", |t| t.1);
    let hashed = file.strip_prefix(folder).is_ok_and(|within| within.starts_with("assets"));
    let kept = if hashed { "public, max-age=31536000, immutable" } else { "no-cache" };
    match fs::read(&file) {
        Ok(body) => (200, vec![("Content-Type", kind.to_owned()), ("Cache-Control", kept.to_owned())], body),
        Err(_) => nothing(),
    }
}

/// What a path leads to, if that lies within the folder.
fn inside(path: &str, folder: &Path) -> Option<PathBuf> {
    let path = decoded(path.strip_prefix('/')?)?;
    let plain = |name: &str| !name.is_empty() && !name.starts_with('.') && !name.contains(['\\', ':', '\0']);
    let names = path.strip_suffix('/').unwrap_or(&path);
    if !names.is_empty() && !names.split('/').all(plain) {
        return None;
    }
    let file = fs::canonicalize(folder.join(names)).ok()?;
    file.starts_with(folder).then_some(file)
}

/// A path without its percent signs.
fn decoded(path: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_nowhere_but_inside() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let site = root.join("site");
        fs::create_dir_all(site.join("a b")).unwrap();
        fs::write(site.join("a b/é.js"), "1").unwrap();
        fs::write(root.join("secret"), "no").unwrap();
        assert_eq!(inside("/", &site), Some(site.clone()));
        assert_eq!(inside("/a%20b/%C3%A9.js", &site), Some(site.join("a b/é.js")));
        for path in [
            "/../secret",
            "/%2e%2e/secret",
            "/a%20b/../../secret",
            "/..%2fsecret",
            "/..%5csecret",
            "/a%20b/./é.js",
            "//etc/passwd",
            "secret",
            "",
            "/%",
            "/%zz",
            "/%ff",
            "/C:/x",
            "/.git/config",
            "/none",
        ] {
            assert_eq!(inside(path, &site), None, "{path}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.join("secret"), site.join("link")).unwrap();
            assert_eq!(inside("/link", &site), None);
        }
    }

    #[test]
    fn types_and_keeping_are_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let site = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(site.join("assets")).unwrap();
        for name in ["index.html", "assets/m-1a.wasm", "x.unknown"] {
            fs::write(site.join(name), "x").unwrap();
        }
        let headers = |path: &str| {
            let (status, headers, _) = found(path, &site);
            assert_eq!(status, 200, "{path}");
            (headers[0].1.clone(), headers[1].1.clone())
        };
        assert_eq!(headers("/?q#h"), ("text/html; charset=utf-8".to_owned(), "no-cache".to_owned()));
        assert_eq!(headers("/assets/m-1a.wasm").0, "application/wasm");
        assert!(headers("/assets/m-1a.wasm").1.contains("immutable"));
        assert_eq!(headers("/x.unknown").0, "application/octet-stream");
        assert_eq!(found("/assets", &site).1, [("Location", "assets/".to_owned())]);
        assert_eq!(found("/assets/", &site).0, 404);
    }
}
