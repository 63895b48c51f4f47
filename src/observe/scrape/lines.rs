//! A body that comes in pieces, cut into lines.
//!
//! A line within a piece is handed on in place; only one that spans two pieces
//! is copied. Invariant: no more than [`MAX_LINE`] bytes of a line are kept,
//! however long it is.

use super::line::BadLine;

/// Longest line that is read, in bytes. A series with a dozen long labels has
/// some hundreds; a label of megabytes is somebody's mistake.
pub const MAX_LINE: usize = 64 * 1024;

/// The state between two pieces.
#[derive(Debug, Default)]
pub struct Lines {
    /// The beginning of a line whose end has not come yet.
    begun: Vec<u8>,
    /// The line is too long already: the rest of it is skipped.
    skipping: bool,
    /// Lines handed on.
    number: u64,
}

impl Lines {
    /// Takes the next piece, and hands on every line that ends in it with its
    /// number from 1.
    pub fn feed(&mut self, piece: &[u8], mut each: impl FnMut(u64, Result<&str, BadLine>)) {
        let mut rest = piece;
        while let Some(at) = line_break(rest) {
            let (line, behind) = rest.split_at(at);
            rest = &behind[1..];
            self.number += 1;
            if self.skipping || self.begun.len() + line.len() > MAX_LINE {
                each(self.number, Err(BadLine::TooLong));
            } else if self.begun.is_empty() {
                each(self.number, text(line));
            } else {
                self.begun.extend_from_slice(line);
                each(self.number, text(&self.begun));
            }
            self.begun.clear();
            self.skipping = false;
        }
        if self.skipping || self.begun.len() + rest.len() > MAX_LINE {
            self.skipping = true;
            self.begun.clear();
        } else {
            self.begun.extend_from_slice(rest);
        }
    }

    /// The body is over: hands on a last line without a line break.
    pub fn finish(&mut self, mut each: impl FnMut(u64, Result<&str, BadLine>)) {
        if self.skipping {
            self.number += 1;
            each(self.number, Err(BadLine::TooLong));
        } else if !self.begun.is_empty() {
            self.number += 1;
            each(self.number, text(&self.begun));
        }
        self.begun.clear();
        self.skipping = false;
    }

    /// The number of the last line that was handed on.
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Where the first line break is. Words of eight bytes at a time: lines of a
/// page have a hundred bytes, and finding their ends is a part of the cost of
/// reading them that need not be there.
fn line_break(bytes: &[u8]) -> Option<usize> {
    const LOW: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const BREAKS: u64 = u64::from_ne_bytes([b'\n'; 8]);
    let mut words = bytes.chunks_exact(8);
    let mut at = 0;
    for word in &mut words {
        let mut eight = [0; 8];
        eight.copy_from_slice(word);
        // A byte is zero, and so was a line break, where the borrow of the
        // subtraction reaches its high bit (Lamport, 1975).
        let zeros = u64::from_ne_bytes(eight) ^ BREAKS;
        if zeros.wrapping_sub(LOW) & !zeros & HIGH != 0 {
            break;
        }
        at += 8;
    }
    let near = bytes[at..].iter().position(|byte| *byte == b'\n');
    near.map(|near| at + near)
}

fn text(line: &[u8]) -> Result<&str, BadLine> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    std::str::from_utf8(line).map_err(|_| BadLine::Encoding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Told = Vec<(u64, Result<String, BadLine>)>;

    fn cut(pieces: &[&[u8]]) -> Told {
        let mut told = Told::new();
        let mut lines = Lines::default();
        let mut each = |number, line: Result<&str, BadLine>| {
            told.push((number, line.map(str::to_owned)));
        };
        for piece in pieces {
            lines.feed(piece, &mut each);
        }
        lines.finish(&mut each);
        told
    }

    #[test]
    fn lines_over_several_pieces_and_every_line_break() {
        let told = cut(&[b"a 1\r\nb", b"", b" 2", b"\n\n\xff\nlast"]);
        let line = |number, text: &str| (number, Ok(text.to_owned()));
        let expected = vec![
            line(1, "a 1"),
            line(2, "b 2"),
            line(3, ""),
            (4, Err(BadLine::Encoding)),
            line(5, "last"),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_line_without_end_is_not_kept_and_the_next_one_is_read() {
        let piece = vec![b'x'; MAX_LINE / 2 + 1];
        let mut lines = Lines::default();
        let mut told = Told::new();
        for _ in 0..1000 {
            lines.feed(&piece, |_, _| panic!("no line has ended"));
            assert!(lines.begun.len() <= MAX_LINE);
        }
        lines.feed(b"\nb 2\n", |number, line| {
            told.push((number, line.map(str::to_owned)));
        });
        assert_eq!(
            told,
            [(1, Err(BadLine::TooLong)), (2, Ok("b 2".to_owned()))]
        );
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(text in "[ab\n]{0,80}", cuts in prop::collection::vec(0usize..80, 0..5)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(text.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for to in cuts.into_iter().chain([text.len()]) {
                pieces.push(&text.as_bytes()[from..to]);
                from = to;
            }
            let whole: Vec<String> = text.lines().map(str::to_owned).collect();
            let told: Vec<String> = cut(&pieces).into_iter().map(|(_, line)| line.unwrap()).collect();
            prop_assert_eq!(told, whole);
        }
    }
}
