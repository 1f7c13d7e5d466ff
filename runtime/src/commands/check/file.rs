//! The form of a filetest.
//!
//! ```text
//! ; What this file shows.
//! ; test simplify
//! ; test expand, fuse target=gpu
//!
//! tinygpt-graph 1
//! graph example
//! ..
//!
//! ==== simplify
//! expected result
//!
//! ==== expand, fuse target=gpu
//! expected result
//! ```
//!
//! Everything above the first line that starts with `==== ` is the input, comments included, so that an error of the input has the file's line
//! numbers. Below stands a section for each `; test` line, in their order.
//!
//! Invariant: the expectation is compared whole, as text, and written as it is compared.

use super::steps::Test;

/// What a section starts with.
const SECTION: &str = "==== ";

/// A filetest, read.
#[derive(Clone, Debug, PartialEq)]
pub struct Filetest {
    /// IR text with its comments.
    pub input: String,
    /// One a `; test` line.
    pub(super) tests: Vec<Test>,
    /// All sections, as [`section`] writes them.
    pub expected: String,
}

impl Filetest {
    /// Errors: one sentence on why `text` is no filetest.
    pub fn parse(text: &str) -> Result<Filetest, String> {
        let text = text.replace("\r\n", "\n");
        let at = if text.starts_with(SECTION) { Some(0) } else { text.find("\n==== ").map(|i| i + 1) };
        let (input, expected) = text.split_at(at.unwrap_or(text.len()));
        let mut tests = Vec::new();
        for (i, line) in input.lines().enumerate() {
            let Some(words) = line.strip_prefix("; test ") else { continue };
            let test = Test::parse(words).map_err(|why| format!("line {}: {why}", i + 1))?;
            if tests.contains(&test) {
                return Err(format!("line {}: the test `{}` is there twice", i + 1, test.text));
            }
            tests.push(test);
        }
        if tests.is_empty() {
            return Err("it has no line `; test STEP, ..`, which says what to do with the IR in it".to_string());
        }
        Ok(Filetest { input: input.to_string(), tests, expected: expected.to_string() })
    }

    /// The file with `found` as its expectation.
    pub fn blessed(&self, found: &str) -> String {
        format!("{}\n\n{found}", self.input.trim_end())
    }

    /// The text of a test's section; empty if it has none.
    pub(super) fn expected_of(&self, test: &Test) -> &str {
        let title = format!("{SECTION}{}\n", test.text);
        let Some(at) = self.expected.find(&title) else { return "" };
        let body = &self.expected[at + title.len()..];
        body[..body.find("\n==== ").unwrap_or(body.len())].trim_end()
    }
}

/// The sections of tests and what came of them, blank lines between.
pub(super) fn sections<'t>(results: impl IntoIterator<Item = (&'t Test, String)>) -> String {
    let section = |(test, output): (&Test, String)| format!("{SECTION}{}\n{}\n", test.text, output.trim_end());
    results.into_iter().map(section).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = "; a comment\n; test simplify\n; test expand,  fuse target=gpu\n\ntinygpt-graph 1\ngraph g\n";

    #[test]
    fn a_blessed_file_is_read_back() {
        let new = Filetest::parse(INPUT).unwrap();
        assert_eq!((new.tests.len(), new.expected.as_str()), (2, ""));
        let found = sections(new.tests.iter().zip(["one\n".to_string(), "two\n\nthree".to_string()]));
        let text = new.blessed(&found);
        let again = Filetest::parse(&text).unwrap();
        assert_eq!((&again.tests, &again.expected), (&new.tests, &found));
        assert_eq!(again.blessed(&found), text);
        assert_eq!(Filetest::parse(&text.replace('\n', "\r\n")).unwrap(), again);
        assert_eq!(again.expected_of(&again.tests[0]), "one");
        assert_eq!(again.expected_of(&again.tests[1]), "two\n\nthree");
        assert!(text.contains("==== expand, fuse target=gpu\n"), "{text}");
    }

    #[test]
    fn what_is_no_filetest_is_told_why() {
        let why = |text: &str| Filetest::parse(text).unwrap_err();
        assert!(why("tinygpt-graph 1\n").contains("no line `; test"));
        assert!(why("; test simplfy\n").contains("line 1: there is no step `simplfy`; did you mean `simplify`?"));
        assert!(why("\n; test cse\n; test cse\n").contains("line 3: the test `cse` is there twice"));
        assert!(why("; test fuse, cse\n").contains("`fuse` ends a test"));
        assert!(why("; test cse colour=red\n").contains("`cse` takes no option `colour`"));
        assert!(why("; test fuse target=tpu\n").contains("the target `tpu`"));
        assert!(why("; test fuse max_args=many\n").contains("max_args=many"));
    }
}
