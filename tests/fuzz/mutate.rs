//! Inputs from seeds: a few random changes, those that parsers of texts and of binary files dislike.

/// SplitMix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// The numbers of input `number` of a target.
    pub fn new(target: &str, number: u64) -> Random {
        let name =
            target.bytes().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Random(name ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`; 0 where `n` is 0.
    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }

    fn of<'t, T: ?Sized>(&mut self, list: &[&'t T]) -> &'t T {
        list[self.below(list.len())]
    }
}

/// Most bytes of an input.
const LONGEST: usize = 1 << 16;

/// Numbers at the edges of what is representable or sensible.
const NUMBERS: [&str; 30] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "26",
    "27",
    "255",
    "256",
    "1000",
    "65536",
    "1048576",
    "1048577",
    "2147483647",
    "2147483648",
    "4294967294",
    "4294967295",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "1e999",
    "-0",
    "0.5",
    "nan",
    "inf",
    "1e-400",
    "00",
];

/// What nests.
const BRACKETS: [&str; 8] = ["[", "{", "(", "[[", "{\"a\":", "[{", "\"", "scope a {\n"];

/// Makes inputs from seeds.
pub struct Mutator<'s> {
    seeds: &'s [Vec<u8>],
    /// Words of all seeds, in their order of appearance.
    words: Vec<&'s [u8]>,
}

impl<'s> Mutator<'s> {
    pub fn new(seeds: &'s [Vec<u8>]) -> Mutator<'s> {
        let mut words: Vec<&[u8]> = seeds.iter().flat_map(|seed| spans(seed, is_word)).collect();
        words.retain(|word| word.len() <= 40);
        words.sort();
        words.dedup();
        Mutator { seeds, words }
    }

    /// One to six changes of a seed, more often few.
    pub fn input(&self, random: &mut Random) -> Vec<u8> {
        let mut input = self.seeds[random.below(self.seeds.len())].clone();
        let most = 1 + random.below(6);
        for _ in 0..=random.below(most) {
            self.change(&mut input, random);
            input.truncate(LONGEST);
        }
        input
    }

    fn change(&self, input: &mut Vec<u8>, random: &mut Random) {
        let at = random.below(input.len());
        let longest = 1 << random.below(12);
        let end = at + random.below((input.len() - at).min(longest) + 1);
        match random.below(14) {
            0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
            1 if !input.is_empty() => {
                input[at] = *random.of(&[&0, &1, &0x7f, &0x80, &0xff, &b'"', &b'\n', &b'-', &0x1b])
            }
            2 => drop(input.drain(at..end)),
            3 => {
                let copy = input[at..end].to_vec();
                let to = random.below(input.len() + 1);
                input.splice(to..to, copy);
            }
            4 => input.truncate(at),
            5 => {
                let other = &self.seeds[random.below(self.seeds.len())];
                input.truncate(at);
                input.extend(&other[random.below(other.len())..]);
            }
            6 | 7 => {
                let number = *random.of(&NUMBERS.each_ref());
                replace(input, random, |b| b.is_ascii_digit(), number.as_bytes());
            }
            8 | 9 if !self.words.is_empty() => {
                let word = self.words[random.below(self.words.len())];
                replace(input, random, is_word, word);
            }
            10 => lines(input, random),
            // Little-endian integers, as binary headers hold.
            11 => {
                let number: u64 = random.of(&NUMBERS.each_ref()).parse().unwrap_or(u64::MAX >> random.below(64));
                let width = 1 << random.below(4);
                for (to, from) in input[at..].iter_mut().zip(&number.to_le_bytes()[..width]) {
                    *to = *from;
                }
            }
            12 => {
                let most = 1 << random.below(13);
                let deep = random.of(&BRACKETS.each_ref()).repeat(1 + random.below(most));
                input.splice(at..at, deep.bytes());
            }
            _ => {
                let punctuation =
                    [",", "=", ":", "%", "@", "[", "]", "{", "}", "\n", " ", ";", "-", ".", "\\", "é", "*", "|"];
                input.splice(at..at, random.of(&punctuation).bytes());
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Runs of bytes of a kind.
fn spans(bytes: &[u8], kind: impl Fn(u8) -> bool) -> impl Iterator<Item = &[u8]> {
    bytes.split(move |b| !kind(*b)).filter(|run| !run.is_empty())
}

/// Puts `new` in the place of a run of bytes of a kind, the first at or after a random place.
fn replace(input: &mut Vec<u8>, random: &mut Random, kind: impl Fn(u8) -> bool, new: &[u8]) {
    let from = random.below(input.len());
    let Some(start) = input[from..].iter().position(|b| kind(*b)).map(|at| from + at) else { return };
    let end = input[start..].iter().position(|b| !kind(*b)).map_or(input.len(), |at| start + at);
    input.splice(start..end, new.iter().copied());
}

/// Deletes, doubles or swaps lines.
fn lines(input: &mut Vec<u8>, random: &mut Random) {
    let mut lines: Vec<&[u8]> = input.split_inclusive(|b| *b == b'\n').collect();
    if lines.is_empty() {
        return;
    }
    let (a, b) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(3) {
        0 => drop(lines.remove(a)),
        1 => lines.insert(b, lines[a]),
        _ => lines.swap(a, b),
    }
    *input = lines.concat();
}
