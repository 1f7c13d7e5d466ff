//! The builtin corpus: about a megabyte of short stories, told by a seeded grammar.
//!
//! A fresh clone trains without a download, on text whose quality is known: plain English, a vocabulary of about two
//! thousand words, people and animals who keep their names and pronouns, small problems that are solved. Invariants:
//!
//! - **A constant.** The text is a pure function of [`SEED`] and the grammar: the same bytes on every machine and in every
//!   run. Its hash is a test, so that a change to the grammar is a change on purpose.
//! - **Printable ASCII and newlines.** A story is a title line and paragraphs of one line each; an empty line follows.
//! - **Made on first use**, in some tens of milliseconds, and kept: nothing of that size is in the repository or the binary.
//!
//! [`grammar`] expands templates, [`lexicon`] holds words, and [`plots`] the stories themselves.

mod grammar;
mod lexicon;
mod plots;

use crate::rng::{Cursor, Stream};
use grammar::Teller;
use std::sync::OnceLock;

/// Seed of the corpus.
const SEED: u64 = 1;

/// The corpus ends with the first story that reaches this many bytes.
const BYTES: usize = 1_000_000;

/// The text.
pub fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| stories(SEED, BYTES))
}

/// Stories under `seed` until there are `bytes` of them.
fn stories(seed: u64, bytes: usize) -> String {
    let mut random = Cursor::new(Stream::new(seed, "corpus"));
    let mut text = String::with_capacity(bytes + 4096);
    let mut order: Vec<&plots::Plot> = Vec::new();
    while text.len() < bytes {
        // Every plot once in random order before any comes again, so that both splits hold all of them.
        if order.is_empty() {
            order = plots::PLOTS.iter().collect();
            for i in (1..order.len()).rev() {
                order.swap(i, random.below(i + 1));
            }
        }
        let plot = order.pop().expect("the order was just refilled");
        text += &Teller::new(&mut random, plot).tell();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::fnv1a;
    use std::collections::{BTreeMap, BTreeSet};

    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_ascii_alphabetic() && c != '\'').filter(|word| !word.is_empty())
    }

    #[test]
    fn the_text_is_a_constant_of_about_a_megabyte() {
        assert!((BYTES..BYTES + 4096).contains(&text().len()), "{} bytes", text().len());
        assert_eq!(fnv1a(text().as_bytes()), GOLDEN, "the grammar changed: {:#018x}", fnv1a(text().as_bytes()));
        assert_eq!(stories(SEED, 50_000), text()[..stories(SEED, 50_000).len()]);
        assert_ne!(stories(SEED + 1, 1000), stories(SEED, 1000));
    }

    const GOLDEN: u64 = 0x7d9e_952c_1e2f_587d;

    #[test]
    fn it_is_printable_ascii_in_the_stated_layout() {
        assert!(text().bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
        assert!(!text().contains("\n\n\n") && text().ends_with(".\n\n") | text().ends_with("\"\n\n"));
        for story in text().trim_end().split("\n\n") {
            let (title, body) = story.split_once('\n').expect("a story has a title and a body");
            assert!(title.len() < 60 && !title.ends_with('.'), "{title}");
            assert!((400..2500).contains(&body.len()), "{} bytes: {story}", body.len());
            assert!(body.lines().all(|line| line.ends_with(['.', '!', '?', '"'])), "{story}");
        }
    }

    #[test]
    fn it_is_varied() {
        let lines: Vec<_> = text().lines().filter(|line| !line.is_empty()).collect();
        let distinct: BTreeSet<_> = lines.iter().copied().collect();
        assert!(distinct.len() * 100 >= lines.len() * 85, "{} of {} lines are distinct", distinct.len(), lines.len());
        let mut counts = BTreeMap::<String, usize>::new();
        words(text()).for_each(|word| *counts.entry(word.to_ascii_lowercase()).or_default() += 1);
        assert!((1200..4000).contains(&counts.len()), "{} distinct words", counts.len());
        let rare = counts.values().filter(|n| **n < 3).count();
        assert!(rare * 10 < counts.len(), "{rare} words are too rare to learn");
    }

    /// Mechanical faults of generated English.
    #[test]
    fn articles_spacing_and_quotes_are_right() {
        for line in text().lines() {
            let list: Vec<_> = words(line).collect();
            for pair in list.windows(2) {
                let vowel = pair[1].starts_with(['a', 'e', 'i', 'o', 'u']) && !pair[1].starts_with("one");
                let vowel = (vowel && !pair[1].starts_with("use"))
                    || ["hour", "honest"].iter().any(|start| pair[1].starts_with(start));
                assert!(pair[0] != "a" || !vowel, "\"a {}\" in: {line}", pair[1]);
                assert!(pair[0] != "an" || vowel, "\"an {}\" in: {line}", pair[1]);
            }
            let spaced: Vec<_> = line.split(' ').collect();
            for pair in spaced.windows(2) {
                let second = pair[1].trim_end_matches(|c: char| !c.is_ascii_alphabetic());
                assert!(!pair[0].eq_ignore_ascii_case(second), "\"{} {}\" in: {line}", pair[0], pair[1]);
            }
            for fault in ["  ", " .", " ,", " !", " ?", "..", ",,", ",.", ".,", "{", "}", "[", "]", "|", "/", "#", "^"]
            {
                assert!(!line.contains(fault), "{fault:?} in: {line}");
            }
            assert!(line.matches('"').count() % 2 == 0, "a quote is left open: {line}");
            assert!(!line.starts_with(' ') && !line.ends_with(' '), "{line:?}");
            assert!(line.is_empty() || line.starts_with(|c: char| c.is_ascii_uppercase() || c == '"'), "{line}");
            let mut after_stop = line.match_indices(". ").map(|(at, _)| &line[at + 2..]);
            assert!(after_stop.all(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '"')), "{line}");
        }
    }
}
