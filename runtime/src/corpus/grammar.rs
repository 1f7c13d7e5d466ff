//! Expands story templates.
//!
//! A template is text with two kinds of brackets:
//!
//! | written | becomes |
//! |---|---|
//! | `[a\|b\|]` | one of the alternatives, each as likely as the others; they nest and may be empty |
//! | `{x}` | the story's variable `x`, the same throughout the story |
//! | `{x.f}` | a field of it, see [`FIELDS`] |
//! | `{x?}` | by chance the name, or the pronoun `he`, `she` |
//! | `{#pool}` | a fresh draw from a pool of the lexicon, itself expanded as a template |
//! | `{a x}`, `{a #pool}` | with `a` or `an` before it |
//! | `{s x}` | in the plural |
//! | `{^...}` | any of these with a capital first letter |
//!
//! A pool entry or variable has fields separated by `/`; the first is meant where no field is named. Variables `h` (hero),
//! `f` (friend) and `e` (elder) are bound in every story, friend and elder of the other gender than the hero, so that
//! a pronoun always has one reading beside the hero's.
//!
//! Templates are part of the program, so a malformed one is a bug: it panics, and a test expands every template.

use super::lexicon::{self, Pool};
use super::plots::Plot;
use crate::rng::Cursor;

/// Names of fields, with their numbers. People: name/kind/he/him/his/himself. Verbs: base/past/ing. Places: with
/// preposition/without. Troubles and other entries name their own by position.
const FIELDS: &[(&str, usize)] = &[
    ("kind", 1),
    ("he", 2),
    ("him", 3),
    ("his", 4),
    ("himself", 5),
    ("past", 1),
    ("ing", 2),
    ("the", 1),
    ("2", 1),
    ("3", 2),
    ("4", 3),
];

/// Tells one story.
pub struct Teller<'a> {
    random: &'a mut Cursor,
    plot: &'a Plot,
    /// Variables in the order of binding; each is an entry with its fields.
    bound: Vec<(&'a str, String)>,
    /// Entries drawn in this story.
    drawn: Vec<&'static str>,
}

impl<'a> Teller<'a> {
    /// Casts the story: its people, then the plot's own variables.
    pub fn new(random: &'a mut Cursor, plot: &'a Plot) -> Self {
        let mut teller = Self { random, plot, bound: Vec::new(), drawn: Vec::new() };
        let girl_first = teller.random.below(2) == 0;
        let (mine, other) = if girl_first { ("girl", "boy") } else { ("boy", "girl") };
        for (variable, gender, role) in [("h", mine, "hero"), ("f", other, "hero"), ("e", other, "elder")] {
            let pool = lexicon::pool(&format!("{role} {gender}"));
            let entry = teller.draw(pool);
            let pronouns = if gender == "girl" { "she/her/her/herself" } else { "he/him/his/himself" };
            teller.bound.push((variable, format!("{entry}/{pronouns}")));
        }
        for (variable, pool) in plot.bind {
            let value = teller.draw(lexicon::pool(pool));
            // Entries may use alternatives and earlier variables; they are settled once, here.
            let value = teller.expand(value);
            teller.bound.push((variable, value));
        }
        teller
    }

    /// The story: a title line, then one line a paragraph.
    pub fn tell(mut self) -> String {
        let mut text = String::new();
        for template in std::iter::once(&self.plot.title).chain(self.plot.paragraphs) {
            text += &self.expand(template);
            text.push('\n');
        }
        text
    }

    /// Draws an entry. From a large pool it is one that this story has not used, as long as a few tries find one.
    fn draw(&mut self, pool: Pool) -> &'static str {
        const LARGE: usize = 10;
        const TRIES: usize = 8;
        let mut entry = pool[self.random.below(pool.len())];
        for _ in 0..TRIES {
            if pool.len() < LARGE || !self.drawn.contains(&entry) {
                break;
            }
            entry = pool[self.random.below(pool.len())];
        }
        self.drawn.push(entry);
        entry
    }

    /// Expands one template.
    fn expand(&mut self, template: &str) -> String {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            out += &rest[..at];
            let (inside, after) = bracketed(&rest[at..]);
            if rest[at..].starts_with('[') {
                let choices = alternatives(inside);
                let choice = choices[self.random.below(choices.len())];
                out += &self.expand(choice);
            } else {
                out += &self.slot(inside);
            }
            rest = after;
        }
        out + rest
    }

    fn slot(&mut self, slot: &str) -> String {
        let (capital, slot) = slot.strip_prefix('^').map_or((false, slot), |slot| (true, slot));
        let (form, source) = match slot.split_at_checked(2) {
            Some((form @ ("a " | "s "), source)) => (form, source),
            _ => ("", slot),
        };
        let value = match source.strip_prefix('#') {
            Some(pool) => {
                let entry = self.draw(lexicon::pool(pool));
                let entry = entry.split('/').next().unwrap_or(entry);
                self.expand(entry)
            }
            None => self.variable(source),
        };
        let value = match form {
            "a " => format!("{} {value}", article(&value)),
            "s " => plural(&value),
            _ => value,
        };
        if capital { capitalised(&value) } else { value }
    }

    fn variable(&mut self, source: &str) -> String {
        let (name, field) = if let Some(name) = source.strip_suffix('?') {
            (name, if self.random.below(2) == 0 { 0 } else { 2 })
        } else if let Some((name, field)) = source.split_once('.') {
            let known = FIELDS.iter().find(|(known, _)| *known == field);
            (name, known.unwrap_or_else(|| panic!("unknown field in {{{source}}}")).1)
        } else {
            (source, 0)
        };
        let (_, entry) = self
            .bound
            .iter()
            .find(|(bound, _)| *bound == name)
            .unwrap_or_else(|| panic!("{{{source}}} is not bound in \"{}\"", self.plot.title));
        let value = entry.split('/').nth(field);
        value.unwrap_or_else(|| panic!("\"{entry}\" has no field for {{{source}}}")).to_owned()
    }
}

/// Splits `[inside]after` or `{inside}after`.
fn bracketed(text: &str) -> (&str, &str) {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => {
                depth -= 1;
                if depth == 0 {
                    return (&text[1..at], &text[at + 1..]);
                }
            }
            _ => {}
        }
    }
    panic!("a bracket is left open: {text}")
}

/// Splits at the bars that are not inside inner brackets.
fn alternatives(inside: &str) -> Vec<&str> {
    let mut depth = 0usize;
    let mut found = Vec::new();
    let mut from = 0;
    for (at, c) in inside.char_indices() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth -= 1,
            '|' if depth == 0 => {
                found.push(&inside[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    found.push(&inside[from..]);
    found
}

/// `a` or `an`, by how the word sounds.
fn article(phrase: &str) -> &'static str {
    let silent_h = ["hour", "honest"].iter().any(|start| phrase.starts_with(start));
    let like_you_or_one = ["uni", "use", "one"].iter().any(|start| phrase.starts_with(start));
    let vowel = phrase.starts_with(['a', 'e', 'i', 'o', 'u']);
    if silent_h || (vowel && !like_you_or_one) { "an" } else { "a" }
}

/// Plural of a noun phrase: that of its last word.
fn plural(phrase: &str) -> String {
    let (before, word) = phrase.rsplit_once(' ').map_or(("", phrase), |(before, word)| (before, word));
    let irregular = [("mouse", "mice"), ("goose", "geese"), ("leaf", "leaves"), ("loaf", "loaves"), ("fish", "fish")];
    let plural = match irregular.iter().find(|(one, _)| *one == word) {
        Some((_, many)) => (*many).to_owned(),
        None if word.ends_with(['s', 'x', 'z']) || word.ends_with("ch") || word.ends_with("sh") => format!("{word}es"),
        None if word.ends_with("ato") => format!("{word}es"),
        None if word.ends_with('y') && !["ay", "ey", "oy", "uy"].iter().any(|end| word.ends_with(end)) => {
            format!("{}ies", &word[..word.len() - 1])
        }
        None => format!("{word}s"),
    };
    if before.is_empty() { plural } else { format!("{before} {plural}") }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_ascii_uppercase().to_string() + chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::super::plots::PLOTS;
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn articles_and_plurals() {
        for (word, expected) in
            [("apple", "an"), ("kite", "a"), ("hour", "an"), ("one-eyed cat", "a"), ("useful hat", "a")]
        {
            assert_eq!(article(word), expected, "{word}");
        }
        for (one, many) in [
            ("red apple", "red apples"),
            ("berry", "berries"),
            ("box", "boxes"),
            ("peach", "peaches"),
            ("toy", "toys"),
            ("field mouse", "field mice"),
            ("loaf", "loaves"),
            ("potato", "potatoes"),
        ] {
            assert_eq!(plural(one), many);
        }
    }

    /// Every branch of every template and pool entry is expanded once, whatever chance would have chosen.
    #[test]
    fn every_branch_of_every_template_expands() {
        let mut random = Cursor::new(Stream::new(0, "test"));
        let mut branches = 0;
        for plot in PLOTS {
            let mut teller = Teller::new(&mut random, plot);
            for template in std::iter::once(&plot.title).chain(plot.paragraphs) {
                branches += expand_all(&mut teller, template);
            }
            for (_, pool) in plot.bind {
                lexicon::pool(pool).iter().for_each(|entry| drop(teller.expand(entry)));
            }
        }
        assert!(branches > 1500, "{branches} branches");
    }

    fn expand_all(teller: &mut Teller, template: &str) -> usize {
        let mut count = 1;
        let mut rest = template;
        while let Some(at) = rest.find(['[', '{']) {
            let (inside, after) = bracketed(&rest[at..]);
            if rest[at..].starts_with('[') {
                count += alternatives(inside).into_iter().map(|choice| expand_all(teller, choice)).sum::<usize>();
            } else {
                teller.slot(inside);
                if let Some((_, pool)) = inside.split_once('#') {
                    let entries = lexicon::pool(pool).iter();
                    count += entries.map(|entry| expand_all(teller, entry.split('/').next().unwrap())).sum::<usize>();
                }
            }
            rest = after;
        }
        count
    }
}
