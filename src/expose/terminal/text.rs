//! Text from outside made fit for a terminal.
//!
//! Invariants: no control character and no escape sequence comes out of here,
//! nothing that turns the order of what is beside it, and nothing whose width
//! terminals do not agree on; what is cut says so with an ellipsis.

use std::ops::RangeInclusive;

use ratatui::text::Span;

/// What cannot be seen, or turns or joins what is beside it: soft hyphen, marks
/// of direction, joiners, fillers, annotations, tags. Shown by their numbers.
const UNSEEN: [RangeInclusive<char>; 17] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{1d173}'..='\u{1d17a}',
    // Colours of skin: terminals draw them beside what they belong to, or on it.
    '\u{1f3fb}'..='\u{1f3ff}',
    '\u{e0000}'..='\u{e0fff}',
    // Planes for private use, where fonts put what they like.
    '\u{f0000}'..='\u{10ffff}',
];

/// Ways to draw the character before: as text or as a picture, which is of
/// another width.
const VARIATIONS: RangeInclusive<char> = '\u{fe00}'..='\u{fe0f}';

/// Two of these are a flag, of one or two columns or four.
const FLAG_LETTERS: RangeInclusive<char> = '\u{1f1e6}'..='\u{1f1ff}';

/// Marks on one letter; real languages need three. More of them paint over the
/// lines above.
const MARKS: usize = 3;

/// Columns that a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// All of it, on one line.
pub fn safe(text: &str) -> String {
    let mut out = Writer::default();
    for c in text.chars() {
        out.put(c);
    }
    out.text
}

/// At most so many columns of it, with an ellipsis where something is cut.
pub(super) fn fit(text: &str, columns: usize) -> String {
    let mut out = Writer::default();
    // Where the ellipsis would stand.
    let mut last = 0;
    for c in text.chars() {
        out.put(c);
        if out.columns > columns {
            out.text.truncate(last);
            if columns > 0 {
                out.text.push('…');
            }
            return out.text;
        }
        if out.columns < columns {
            last = out.text.len();
        }
    }
    out.text
}

/// Exactly so many columns: cut, or filled up with blanks.
pub(super) fn pad(text: &str, columns: usize) -> String {
    let mut text = fit(text, columns);
    let missing = columns.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// The same with the blanks before it, for figures.
pub(super) fn right(text: &str, columns: usize) -> String {
    let text = fit(text, columns);
    let missing = columns.saturating_sub(width(&text));
    format!("{}{text}", " ".repeat(missing))
}

/// All of it in rows of so many columns, broken between words where one fits.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut rows: Vec<String> = Vec::new();
    let mut row = String::new();
    let mut used = 0;
    for word in safe(text).split(' ').filter(|word| !word.is_empty()) {
        let wide = width(word);
        if used > 0 && used + 1 + wide <= columns {
            row.push(' ');
            row.push_str(word);
            used += 1 + wide;
            continue;
        }
        if used > 0 {
            rows.push(std::mem::take(&mut row));
            used = 0;
        }
        for c in word.chars() {
            let wide = width(c.encode_utf8(&mut [0; 4]));
            if used + wide > columns {
                rows.push(std::mem::take(&mut row));
                used = 0;
            }
            row.push(c);
            used += wide;
        }
    }
    if used > 0 || rows.is_empty() {
        rows.push(row);
    }
    rows
}

/// All of it in rows of exactly so many columns: put together again they are the
/// text, blanks included.
pub(super) fn break_up(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut rows = vec![String::new()];
    let mut used = 0;
    for c in safe(text).chars() {
        let wide = width(c.encode_utf8(&mut [0; 4]));
        if used + wide > columns {
            rows.push(String::new());
            used = 0;
        }
        used += wide;
        if let Some(row) = rows.last_mut() {
            row.push(c);
        }
    }
    rows
}

/// The first rows of it; the last ends with an ellipsis when there are more.
pub(super) fn wrap_within(text: &str, columns: usize, rows: usize) -> Vec<String> {
    // What cannot be shown need not be laid out: a statement may be very long.
    let most = columns.saturating_mul(rows + 1).saturating_mul(2);
    let long = text
        .char_indices()
        .nth(most)
        .map_or(text.len(), |(at, _)| at);
    let mut all = wrap(&text[..long], columns);
    if all.len() > rows || long < text.len() {
        all.truncate(rows);
        if let Some(last) = all.last_mut() {
            let cut = fit(&format!("{last} …"), columns.max(2));
            *last = cut;
        }
    }
    all
}

/// A text as it grows, and its columns.
#[derive(Default)]
struct Writer {
    text: String,
    columns: usize,
    /// Marks on the last letter.
    marks: usize,
}

impl Writer {
    fn put(&mut self, c: char) {
        match c {
            '\n' | '\t' | '\r' => self.plain(' '),
            c if VARIATIONS.contains(&c) => {}
            c if FLAG_LETTERS.contains(&c) => {
                let letter = u32::from(c) - u32::from(*FLAG_LETTERS.start());
                self.plain(char::from_u32(u32::from('A') + letter).unwrap_or('?'));
            }
            c if c.is_control() || UNSEEN.iter().any(|range| range.contains(&c)) => {
                for each in format!("‹{:04X}›", u32::from(c)).chars() {
                    self.plain(each);
                }
            }
            c => self.plain(c),
        }
    }

    fn plain(&mut self, c: char) {
        let wide = if c.is_ascii() {
            1
        } else {
            width(c.encode_utf8(&mut [0; 4]))
        };
        if wide == 0 {
            self.marks += 1;
            // Without a letter it would sit on what is before the text.
            if self.marks > MARKS || self.text.is_empty() {
                return;
            }
        } else {
            self.marks = 0;
        }
        self.text.push(c);
        self.columns += wide;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_but_text() {
        assert_eq!(safe("a\x1b[31mb\x07\u{9b}2J"), "a‹001B›[31mb‹0007›‹009B›2J");
        assert_eq!(safe("one\ntwo\tthree\r\n"), "one two three  ");
        assert_eq!(safe("\u{202e}evil\u{200d}"), "‹202E›evil‹200D›");
        assert_eq!(
            safe("❤\u{fe0f} \u{1f1e9}\u{1f1ea} 👋\u{1f3fd}"),
            "❤ DE 👋‹1F3FD›"
        );
        assert_eq!(safe("שלום 東京"), "שלום 東京");
        let loud = format!("Z{}!", "\u{336}".repeat(1000));
        assert_eq!(safe(&loud), format!("Z{}!", "\u{336}".repeat(MARKS)));
        assert_eq!(safe("\u{336}x"), "x");
    }

    #[test]
    fn columns_are_those_of_a_terminal() {
        assert_eq!(fit("abcdef", 6), "abcdef");
        assert_eq!(fit("abcdefg", 6), "abcde…");
        // Wide characters never leave half of themselves.
        assert_eq!(fit("東京都庁", 6), "東京…");
        assert_eq!(fit("東京都", 6), "東京都");
        assert_eq!(fit("東京都", 1), "…");
        assert_eq!(fit("x", 0), "");
        assert_eq!(pad("東", 4), "東  ");
        assert_eq!(right("12", 4), "  12");
        assert_eq!(width(&fit(&"🙂".repeat(9000), 80)), 79);
    }

    #[test]
    fn a_command_loses_nothing_where_it_is_broken() {
        let command = "SELECT 'GET(  |[+])',  1;";
        for columns in 2..30 {
            let rows = break_up(command, columns);
            assert_eq!(rows.concat(), command);
            assert!(rows.iter().all(|row| width(row) <= columns));
        }
    }

    #[test]
    fn long_text_goes_on_below() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefghij", 4), ["abcd", "efgh", "ij"]);
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(
            wrap_within("one two three four", 7, 2),
            ["one two", "three …"]
        );
        let long = wrap_within(&"x".repeat(10_000), 10, 3);
        assert_eq!(long.len(), 3);
        assert!(long[2].ends_with('…'), "{long:?}");
        assert!(
            wrap_within(&"語".repeat(1000), 9, 2)
                .iter()
                .all(|row| width(row) <= 9)
        );
    }
}
