//! What a person sees of a run: lines where there is no terminal, a bar or a screen on one, curves and a verdict at its end. The terminal is
//! that of `script` (util-linux), and every test waits for what is printed, never for a time.

use crate::support::Cli;

/// A directory with a configuration that trains in a blink, and text that a model can learn.
fn cli(train: &str) -> Cli {
    let cli = Cli::new();
    cli.small_config(train);
    cli.file("text.txt", "Once there was a fox who liked to read. ".repeat(60));
    cli
}

const TRAIN: &str = "train --config small.toml --data text.txt --threads 1";

#[test]
fn without_a_terminal_a_run_is_lines_a_verdict_and_a_command() {
    let cli = cli("save_every = 20");
    let run = cli.ok(&format!("{TRAIN} --out run"));
    assert!(!run.stderr.contains(['\x1b', '\r']), "{:?}", run.stderr);
    assert!(run.stderr.contains("\nstep 40/40  loss "), "{}", run.stderr);
    let verdict = run.stderr.lines().find(|line| line.starts_with("Still falling: ")).unwrap_or_default();
    assert!(verdict.ends_with("; train longer, for example with --steps 80."), "{}", run.stderr);
    let more = run.stderr.lines().find_map(|line| line.strip_prefix("more: ")).unwrap();
    assert!(more.ends_with(" sample --checkpoint run"), "{more}");
    let sampled = std::process::Command::new("sh").args(["-c", more]).current_dir(cli.dir.path()).output().unwrap();
    assert!(sampled.status.success() && sampled.stdout.len() > 400, "{more}: {sampled:?}");
}

#[test]
fn the_curves_of_a_resumed_run_are_those_of_the_whole() {
    let cli = cli("eval_every = 10\nsave_every = 10");
    cli.ok(&format!("{TRAIN} --out whole"));
    cli.ok(&format!("{TRAIN} --out parts --stop-at 17"));
    let picture = |run: &str| std::fs::read_to_string(cli.path(run).join("curves.svg")).unwrap();
    assert!(picture("parts").contains("lowest validation loss") && picture("parts") != picture("whole"));
    let resumed = cli.ok("train --resume parts --threads 1");
    let whole = picture("whole");
    assert_eq!(picture("parts"), whole);
    assert!(whole.ends_with("</svg>\n") && whole.contains(" at step 40") && whole.contains("batch 2; cpu on 1"));
    // The verdict rests on the whole run as well.
    assert!(resumed.stderr.contains("--steps 80.\n"), "{}", resumed.stderr);
    assert!(!cli.path("whole/curves.svg.new").exists());
}

#[test]
fn curves_that_cannot_be_written_stop_no_training() {
    let cli = cli("save_every = 10");
    std::fs::create_dir_all(cli.path("run/curves.svg/in-the-way")).unwrap();
    let run = cli.ok(&format!("{TRAIN} --out run"));
    assert_eq!(run.stderr.matches("no curves: cannot write run/curves.svg: ").count(), 1, "{}", run.stderr);
}

#[test]
fn a_screen_needs_a_terminal() {
    let cli = cli("");
    let what = "--tui draws on standard error and reads keys from standard input, and standard error is no terminal";
    cli.refused(&format!("{TRAIN} --tui --out run"), 2, what);
    assert!(!cli.path("run").exists(), "a refused run leaves nothing behind");
}

#[cfg(target_os = "linux")]
mod pty {
    use super::{TRAIN, cli};
    use crate::support::Cli;
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    use tinygpt::runtime::ui::terminal::Modes;

    const ENTER: &str = "\x1b[?1049h";
    const LEAVE: &str = "\x1b[?1049l";
    const SHOW_CURSOR: &str = "\x1b[?25h";

    /// Set for the child of a test that is this test again.
    const CHILD: &str = "TINYGPT_TEST_CHILD";

    struct Shown {
        status: i32,
        /// Everything the terminal was sent, which is standard output and standard error.
        text: String,
    }

    /// Runs a shell's `line` on a terminal of 120 columns and 40 rows; types each key when, after the one before, its text is shown. The modes of
    /// the terminal must be the same after as before.
    fn on_terminal(cli: &Cli, line: &str, environment: &[(&str, &str)], keys: &[(&str, &str)]) -> Shown {
        let shell = format!("stty rows 40 cols 120; stty -a > before; {line}; code=$?; stty -a > after; exit $code");
        let mut child = Command::new("script")
            .args(["-qefc", &shell, "/dev/null"])
            .current_dir(cli.dir.path())
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR")
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("script, of util-linux");
        // Held to the end: script passes on the end of its input as a key.
        let mut input = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (mut bytes, mut keys, mut seen) = (Vec::new(), keys.iter(), 0);
        let mut next = keys.next();
        let mut chunk = [0; 4096];
        loop {
            let count = output.read(&mut chunk).unwrap();
            bytes.extend_from_slice(&chunk[..count]);
            if let Some((text, key)) = next {
                let at = bytes[seen..].windows(text.len()).position(|window| window == text.as_bytes());
                if let Some(at) = at {
                    input.write_all(key.as_bytes()).unwrap();
                    seen += at + text.len();
                    next = keys.next();
                }
            }
            if count == 0 {
                break;
            }
        }
        let status = child.wait().unwrap().code().unwrap();
        let text = String::from_utf8(bytes).expect("a terminal gets UTF-8");
        let modes = |name: &str| std::fs::read_to_string(cli.path(name)).unwrap();
        assert_eq!(modes("after"), modes("before"), "the modes of the terminal have changed: {text:?}");
        assert!(modes("before").contains(" icanon ") && modes("before").contains("columns 120"), "{}", modes("before"));
        Shown { status, text }
    }

    fn tinygpt(line: &str) -> String {
        format!("{} {line}", env!("CARGO_BIN_EXE_tinygpt"))
    }

    impl Shown {
        /// The alternate screen was entered and left once, and the cursor is back; what was shown after it.
        #[track_caller]
        fn after_the_screen(&self) -> &str {
            assert_eq!((self.text.matches(ENTER).count(), self.text.matches(LEAVE).count()), (1, 1), "{:?}", self.text);
            let (_, after) = self.text.split_once(LEAVE).unwrap();
            assert!(after.contains(SHOW_CURSOR), "{:?}", self.text);
            after
        }
    }

    #[test]
    fn a_terminal_gets_a_bar_under_the_lines() {
        let cli = cli("save_every = 10");
        let run = on_terminal(&cli, &tinygpt(&format!("{TRAIN} --out run")), &[], &[]);
        assert_eq!(run.status, 0, "{}", run.text);
        assert!(run.text.contains("step 40/40  loss ") && run.text.contains("Still falling: "), "{:?}", run.text);
        assert!(run.text.contains("% of peak") && run.text.contains("sample after step 10:"), "{:?}", run.text);
        assert!(run.text.contains("\x1b[36m"), "no colour in {:?}", run.text);
        let plain = on_terminal(&cli, &tinygpt(&format!("{TRAIN} --out plain")), &[("NO_COLOR", "1")], &[]);
        assert!(plain.text.contains("% of peak") && !plain.text.contains("\x1b[3"), "{:?}", plain.text);
        let dumb = on_terminal(&cli, &tinygpt(&format!("{TRAIN} --out dumb")), &[("TERM", "dumb")], &[]);
        assert!(dumb.text.contains("step 40/40  loss ") && !dumb.text.contains('\x1b'), "{:?}", dumb.text);
    }

    #[test]
    fn a_screen_ends_with_the_run() {
        let cli = cli("");
        let run = on_terminal(&cli, &tinygpt(&format!("{TRAIN} --tui --out run")), &[], &[]);
        assert_eq!(run.status, 0, "{}", run.text);
        let after = run.after_the_screen();
        assert!(after.contains("step 40 val_loss ") && after.contains("Still falling: "), "{after:?}");
    }

    #[test]
    fn keys_sample_save_and_stop() {
        let cli = cli("save_every = 0\neval_every = 0");
        // Words: between them the screen moves its cursor over what is blank already.
        let keys = [("checkpoint", "s"), ("sampling", "cq")];
        let line = tinygpt(&format!("{TRAIN} --tui --steps 9000000 --out run"));
        let run = on_terminal(&cli, &line, &[], &keys);
        assert_eq!(run.status, 130, "{}", run.text);
        let after = run.after_the_screen();
        assert!(after.contains("saving after this step") && after.contains("train --resume run"), "{after:?}");
        assert!(std::fs::read_to_string(cli.path("run/samples.txt")).unwrap().starts_with("== step "));
        let resumed = cli.run("train --resume run --stop-at 1");
        assert!(resumed.stderr.contains("is reached: the run has done"), "{}", resumed.stderr);
    }

    #[test]
    fn an_error_restores_the_terminal() {
        let cli = cli("warmup = 0\nlr = 1e30");
        let text = std::fs::read_to_string(cli.path("small.toml")).unwrap().replace("warmup = 4\n", "");
        cli.file("small.toml", text);
        let run = on_terminal(&cli, &tinygpt(&format!("{TRAIN} --tui --out run")), &[], &[]);
        assert_eq!(run.status, 1, "{}", run.text);
        let after = run.after_the_screen();
        assert!(after.contains("tinygpt: ") && after.contains("so training has stopped"), "{after:?}");
    }

    #[test]
    fn a_panic_restores_the_terminal() {
        if std::env::var_os(CHILD).is_some() {
            let modes = Modes::enter().unwrap();
            assert!(std::thread::spawn(|| panic!("a planned panic")).join().is_err());
            // What the hook restored, nothing else has to.
            std::mem::forget(modes);
            return;
        }
        let cli = Cli::new();
        let this = std::env::current_exe().unwrap();
        let line = format!("{} --exact ui::pty::a_panic_restores_the_terminal --nocapture", this.display());
        let run = on_terminal(&cli, &line, &[(CHILD, "1")], &[]);
        assert_eq!(run.status, 0, "{}", run.text);
        assert!(run.after_the_screen().contains("a planned panic"), "{:?}", run.text);
    }

    #[test]
    fn a_terminal_gets_text_and_a_pipe_bytes() {
        let cli = cli("");
        cli.ok(&format!("{TRAIN} --stop-at 1 --out run"));
        let line = "sample --checkpoint run --tokens 300 --temperature 2 --threads 1";
        let piped = cli.command(line).output().unwrap().stdout;
        assert!(String::from_utf8(piped.clone()).is_err() && piped.contains(&0x1b), "a model that knows nothing");
        let shown = on_terminal(&cli, &tinygpt(line), &[], &[]);
        assert!(shown.text.contains('\u{fffd}') && !shown.text.contains('\x1b'), "{:?}", shown.text);
        assert_eq!(piped.len(), 302, "the prompt's newline, 300 bytes, and a newline");
    }
}
