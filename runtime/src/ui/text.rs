//! Bytes of a model as text on a terminal.
//!
//! A byte-level model writes any bytes: halves of UTF-8 sequences while it streams, bytes that are no UTF-8, and control characters, with which a
//! terminal can be told to move its cursor or to change its title. Invariants: what is shown is valid UTF-8 whose only control characters are
//! line feeds and tabs; an incomplete sequence is held back until its last byte; everything else that cannot be shown is U+FFFD.

/// Shown for what cannot be.
const REPLACEMENT: char = '\u{fffd}';

/// Text that arrives byte by byte.
#[derive(Debug, Default)]
pub struct Utf8Stream {
    /// A beginning of one sequence: at most three bytes.
    held: Vec<u8>,
}

impl Utf8Stream {
    /// What can be shown now that `byte` has come.
    pub fn push(&mut self, byte: u8) -> String {
        self.held.push(byte);
        let mut shown = String::new();
        loop {
            match std::str::from_utf8(&self.held) {
                Ok(text) => {
                    shown.extend(text.chars().map(printable));
                    self.held.clear();
                    return shown;
                }
                Err(error) => {
                    let valid = String::from_utf8_lossy(&self.held[..error.valid_up_to()]).into_owned();
                    shown.extend(valid.chars().map(printable));
                    let Some(bad) = error.error_len() else {
                        self.held.drain(..error.valid_up_to());
                        return shown;
                    };
                    shown.push(REPLACEMENT);
                    self.held.drain(..error.valid_up_to() + bad);
                }
            }
        }
    }

    /// What is shown of a sequence that the text ends within.
    pub fn finish(self) -> String {
        if self.held.is_empty() { String::new() } else { REPLACEMENT.to_string() }
    }
}

fn printable(c: char) -> char {
    if c.is_control() && c != '\n' && c != '\t' { REPLACEMENT } else { c }
}

/// A whole text as it is shown.
pub fn shown(text: &[u8]) -> String {
    let mut stream = Utf8Stream::default();
    let mut shown: String = text.iter().map(|byte| stream.push(*byte)).collect();
    shown += &stream.finish();
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_shown_when_they_are_whole() {
        let mut stream = Utf8Stream::default();
        let pieces: Vec<String> = "aé€🦊".bytes().map(|byte| stream.push(byte)).collect();
        assert_eq!(pieces, ["a", "", "é", "", "", "€", "", "", "", "🦊"]);
        assert_eq!(stream.finish(), "");
    }

    #[test]
    fn what_is_no_utf8_is_replaced_as_the_standard_library_does() {
        let texts: [&[u8]; 6] =
            [b"a\xffb", b"\xe2\x82x", b"\xf0\x9f\xa6", b"\xc3\xc3\xa9", b"\x80\x80", b"\xed\xa0\x80 \xf4\x90\x80\x80"];
        for text in texts {
            assert_eq!(shown(text), String::from_utf8_lossy(text), "{text:x?}");
        }
        // Every pair of bytes.
        for (a, b) in (0x80..=0xffu8).flat_map(|a| (0x20..=0x7eu8).chain(0xa0..=0xff).map(move |b| (a, b))) {
            let expected: String = String::from_utf8_lossy(&[a, b]).chars().map(printable).collect();
            assert_eq!(shown(&[a, b]), expected, "{a:x} {b:x}");
        }
    }

    #[test]
    fn a_terminal_gets_no_orders() {
        assert_eq!(shown(b"a\x1b[2Jb\x07\r\n\tc\x7f"), "a\u{fffd}[2Jb\u{fffd}\u{fffd}\n\tc\u{fffd}");
        // The one-character forms of ESC [ and the like.
        assert_eq!(shown("\u{9b}1m".as_bytes()), "\u{fffd}1m");
    }
}
