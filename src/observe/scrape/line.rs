//! One line of the Prometheus text format 0.0.4 or of OpenMetrics.
//!
//! Nothing is copied: a sample borrows its line, and its labels are places in
//! it. Both formats are read alike, with the leniency of Prometheus' own
//! parsers (blanks between tokens, a comma before the closing brace, names in
//! quotes). Pure, and linear in the length of the line.

use std::borrow::Cow;

/// What a line says.
#[derive(Debug, Clone, PartialEq)]
pub enum Line<'a> {
    /// Blank, a comment, `HELP` or `UNIT`.
    Nothing,
    /// `# TYPE name kind`.
    Type(Cow<'a, str>, Kind),
    /// `# EOF`, the end of an OpenMetrics page.
    End,
    Sample(Sample<'a>),
}

/// The type of a family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    /// `info`, `stateset`, `gaugehistogram`, `unknown` and `untyped`.
    Other,
}

/// One series and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample<'a> {
    pub name: Cow<'a, str>,
    pub labels: Labels<'a>,
    pub value: f64,
    /// As the page writes it: milliseconds in 0.0.4, seconds in OpenMetrics.
    pub timestamp: Option<f64>,
}

/// The labels of a sample, in the order of the line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Labels<'a> {
    line: &'a str,
    places: &'a [Place],
}

/// One label. The value may still hold escapes, see [`Label::value`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label<'a> {
    pub name: &'a str,
    pub raw: &'a str,
    escaped: bool,
}

/// Why a line was not understood. The word is the label `reason` of
/// `snowpit_rejected_points_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum BadLine {
    #[error("it does not begin with the name of a metric")]
    Name,
    #[error("its labels are not name=\"value\" between braces")]
    Labels,
    #[error("its value is not a number")]
    Value,
    #[error("its time stamp is not a number")]
    Timestamp,
    #[error("its exemplar is not {{labels}} and a value")]
    Exemplar,
    #[error("its TYPE is not a name and a known type")]
    Type,
    #[error("it is not UTF-8")]
    Encoding,
    #[error("it is longer than a line may be")]
    TooLong,
    #[error("it comes after \"# EOF\"")]
    AfterEnd,
    #[error("the page ends without \"# EOF\", so it was cut")]
    NoEnd,
}

impl BadLine {
    /// The label value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Labels => "labels",
            Self::Value => "value",
            Self::Timestamp => "timestamp",
            Self::Exemplar => "exemplar",
            Self::Type => "type",
            Self::Encoding => "encoding",
            Self::TooLong => "line_too_long",
            Self::AfterEnd => "after_end",
            Self::NoEnd => "no_end",
        }
    }
}

/// Where a label is in its line. Lines are bounded far below 4 GiB.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    name: (u32, u32),
    value: (u32, u32),
    escaped: bool,
}

impl<'a> Labels<'a> {
    pub fn iter(&self) -> impl Iterator<Item = Label<'a>> + use<'a> {
        let line = self.line;
        let text = move |(from, to): (u32, u32)| &line[from as usize..to as usize];
        self.places.iter().map(move |place| Label {
            name: text(place.name),
            raw: text(place.value),
            escaped: place.escaped,
        })
    }

    /// The label of that name.
    pub fn get(&self, name: &str) -> Option<Label<'a>> {
        self.iter().find(|label| label.name == name)
    }
}

impl<'a> Label<'a> {
    /// The value with its escapes undone.
    pub fn value(&self) -> Cow<'a, str> {
        if self.escaped {
            Cow::Owned(unescape(self.raw))
        } else {
            Cow::Borrowed(self.raw)
        }
    }
}

/// Reads lines. It is kept between them for the places of the labels only.
#[derive(Debug, Default)]
pub struct Parser {
    places: Vec<Place>,
}

impl Parser {
    /// Reads one line, without its line break.
    ///
    /// # Errors
    /// When the line is neither blank, a comment nor a sample.
    pub fn read<'a>(&'a mut self, line: &'a str) -> Result<Line<'a>, BadLine> {
        self.places.clear();
        let mut cursor = Cursor { line, at: 0 };
        cursor.blanks();
        match cursor.peek() {
            None => return Ok(Line::Nothing),
            Some(b'#') => return comment(line[cursor.at + 1..].trim()),
            Some(_) => {}
        }
        let mut name = cursor.name().map(Cow::Borrowed);
        cursor.blanks();
        if cursor.peek() == Some(b'{') {
            cursor.labels(&mut self.places, &mut name)?;
        }
        let name = name.ok_or(BadLine::Name)?;
        let value = number(cursor.token()).ok_or(BadLine::Value)?;
        let timestamp = match cursor.token_before_exemplar() {
            "" => None,
            token => Some(number(token).ok_or(BadLine::Timestamp)?),
        };
        cursor.exemplar(&mut self.places)?;
        let labels = Labels {
            line,
            places: &self.places,
        };
        Ok(Line::Sample(Sample {
            name,
            labels,
            value,
            timestamp,
        }))
    }
}

/// A place in a line, between two characters.
struct Cursor<'a> {
    line: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
    }

    fn from(&self, start: usize) -> &'a str {
        &self.line[start..self.at]
    }

    /// A bare name; `None` when there is none here.
    fn name(&mut self) -> Option<&'a str> {
        let start = self.at;
        if self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let rest = &self.line.as_bytes()[start..];
        self.at += rest
            .iter()
            .position(|byte| !IN_NAME[usize::from(*byte)])
            .unwrap_or(rest.len());
        (self.at > start).then(|| self.from(start))
    }

    /// The text up to the closing quote, and whether there are escapes in it.
    /// The opening quote was taken.
    fn quoted(&mut self) -> Option<(usize, usize, bool)> {
        let bytes = self.line.as_bytes();
        let start = self.at;
        let mut escaped = false;
        loop {
            let rest = bytes.get(self.at..)?;
            self.at += rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
            self.at += 1;
            if bytes[self.at - 1] == b'"' {
                return Some((start, self.at - 1, escaped));
            }
            // What is escaped is one byte, or stays as it is.
            escaped = true;
            self.at = (self.at + 1).min(bytes.len());
        }
    }

    /// `{…}`. A lone text in quotes is the name of the metric.
    fn labels(
        &mut self,
        places: &mut Vec<Place>,
        metric: &mut Option<Cow<'a, str>>,
    ) -> Result<(), BadLine> {
        self.at += 1;
        loop {
            self.blanks();
            if self.take(b'}') {
                return Ok(());
            }
            let (start, end, escaped) = if self.take(b'"') {
                self.quoted().ok_or(BadLine::Labels)?
            } else {
                let name = self.name().ok_or(BadLine::Labels)?;
                (self.at - name.len(), self.at, false)
            };
            self.blanks();
            if self.take(b'=') {
                self.blanks();
                if !self.take(b'"') {
                    return Err(BadLine::Labels);
                }
                let value = self.quoted().ok_or(BadLine::Labels)?;
                places.push(Place {
                    name: place(start, end),
                    value: place(value.0, value.1),
                    escaped: value.2,
                });
            } else if metric.is_none() && places.is_empty() && start < end {
                let name = &self.line[start..end];
                let quoted = self.line.as_bytes()[start - 1] == b'"';
                if !quoted {
                    return Err(BadLine::Labels);
                }
                *metric = Some(if escaped {
                    Cow::Owned(unescape(name))
                } else {
                    Cow::Borrowed(name)
                });
            } else {
                return Err(BadLine::Labels);
            }
            self.blanks();
            if !self.take(b',') && self.peek() != Some(b'}') {
                return Err(BadLine::Labels);
            }
        }
    }

    /// What stands up to the next blank; empty at the end.
    fn token(&mut self) -> &'a str {
        self.blanks();
        let start = self.at;
        let rest = &self.line.as_bytes()[start..];
        self.at += rest
            .iter()
            .position(|byte| matches!(byte, b' ' | b'\t'))
            .unwrap_or(rest.len());
        self.from(start)
    }

    fn token_before_exemplar(&mut self) -> &'a str {
        self.blanks();
        match self.peek() {
            None | Some(b'#') => "",
            Some(_) => self.token(),
        }
    }

    /// `# {labels} value [timestamp]`, or nothing. It is checked and left out.
    fn exemplar(&mut self, places: &mut Vec<Place>) -> Result<(), BadLine> {
        self.blanks();
        if self.peek().is_none() {
            return Ok(());
        }
        if !self.take(b'#') {
            // A fourth word is no exemplar: the time stamp had a blank in it.
            return Err(BadLine::Timestamp);
        }
        self.blanks();
        if self.peek() != Some(b'{') {
            return Err(BadLine::Exemplar);
        }
        let known = places.len();
        let mut taken = Some(Cow::Borrowed(""));
        let labels = self.labels(places, &mut taken);
        places.truncate(known);
        labels.map_err(|_| BadLine::Exemplar)?;
        let good = number(self.token()).is_some();
        let stamp = self.token();
        if good && (stamp.is_empty() || number(stamp).is_some()) && self.token().is_empty() {
            Ok(())
        } else {
            Err(BadLine::Exemplar)
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a line is at most some 100 KiB"
)]
fn place(start: usize, end: usize) -> (u32, u32) {
    (start as u32, end as u32)
}

/// Which bytes a bare name has. A table: names are half of a page.
const IN_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] =
            (byte as u8).is_ascii_alphanumeric() || byte == b'_' as usize || byte == b':' as usize;
        byte += 1;
    }
    table
};

/// What stands behind `#`, trimmed.
fn comment(text: &str) -> Result<Line<'_>, BadLine> {
    if text == "EOF" {
        return Ok(Line::End);
    }
    let Some(rest) = text.strip_prefix("TYPE") else {
        return Ok(Line::Nothing);
    };
    if !rest.starts_with([' ', '\t']) {
        return Ok(Line::Nothing);
    }
    let mut cursor = Cursor { line: rest, at: 0 };
    cursor.blanks();
    let name = if cursor.take(b'"') {
        let (start, end, escaped) = cursor.quoted().ok_or(BadLine::Type)?;
        let name = &rest[start..end];
        if escaped {
            Cow::Owned(unescape(name))
        } else {
            Cow::Borrowed(name)
        }
    } else {
        Cow::Borrowed(cursor.name().ok_or(BadLine::Type)?)
    };
    let kind = match cursor.token() {
        "counter" => Kind::Counter,
        "gauge" => Kind::Gauge,
        "histogram" => Kind::Histogram,
        "summary" => Kind::Summary,
        "untyped" | "unknown" | "info" | "stateset" | "gaugehistogram" => Kind::Other,
        _ => return Err(BadLine::Type),
    };
    if cursor.token().is_empty() {
        Ok(Line::Type(name, kind))
    } else {
        Err(BadLine::Type)
    }
}

/// Integers of this many digits are exact, and read without the library.
const PLAIN_DIGITS: usize = 15;

/// A value as Go writes it: `1`, `1.5e-3`, `NaN`, `+Inf`.
pub fn number(token: &str) -> Option<f64> {
    let bytes = token.as_bytes();
    if (1..=PLAIN_DIGITS).contains(&bytes.len()) {
        let mut plain = 0u64;
        let mut digits = true;
        for byte in bytes {
            let digit = byte.wrapping_sub(b'0');
            digits &= digit < 10;
            plain = plain.wrapping_mul(10).wrapping_add(u64::from(digit));
        }
        if digits {
            #[expect(clippy::cast_precision_loss, reason = "below 10^15")]
            return Some(plain as f64);
        }
    }
    token.parse().ok()
}

/// `\\`, `\"` and `\n`; another backslash stands for itself.
fn unescape(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escaped = rest.as_bytes().get(at + 1);
        let plain = match escaped {
            Some(b'n') => '\n',
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            _ => {
                text.push('\\');
                rest = &rest[at + 1..];
                continue;
            }
        };
        text.push(plain);
        rest = &rest[at + 2..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs = Vec<(String, String)>;
    type Read = (String, Pairs, f64, Option<f64>);
    type Case = (
        &'static str,
        &'static str,
        &'static [(&'static str, &'static str)],
        f64,
        Option<f64>,
    );

    fn read(line: &str) -> Result<Read, BadLine> {
        let mut parser = Parser::default();
        match parser.read(line)? {
            Line::Sample(sample) => Ok((
                sample.name.into_owned(),
                sample
                    .labels
                    .iter()
                    .map(|label| (label.name.to_owned(), label.value().into_owned()))
                    .collect(),
                sample.value,
                sample.timestamp,
            )),
            other => panic!("{line} is {other:?}"),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> Pairs {
        let owned = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        pairs.iter().map(owned).collect()
    }

    #[test]
    fn samples_of_both_formats_are_read() {
        let cases: [Case; 12] = [
            ("up 1", "up", &[], 1.0, None),
            ("up{} 1", "up", &[], 1.0, None),
            (
                " a:b \t{ x = \"1\" , } 2.5e-3\t-7",
                "a:b",
                &[("x", "1")],
                0.0025,
                Some(-7.0),
            ),
            (
                r#"a{x="q\"b\\c\nd"} 3"#,
                "a",
                &[("x", "q\"b\\c\nd")],
                3.0,
                None,
            ),
            (r#"a{x="\d{1}"} 3"#, "a", &[("x", r"\d{1}")], 3.0, None),
            (
                r#"a{x="}{,="} 3 1604902320000"#,
                "a",
                &[("x", "}{,=")],
                3.0,
                Some(1.604_902_32e12),
            ),
            (
                r#"a_bucket{le="+Inf"} 3 # {trace_id="x#}"} 0.5 1.6e9"#,
                "a_bucket",
                &[("le", "+Inf")],
                3.0,
                None,
            ),
            (
                r#"a_bucket{le="1"} 3 1.5 # {} 0.5"#,
                "a_bucket",
                &[("le", "1")],
                3.0,
                Some(1.5),
            ),
            (
                r#"{"http.server.duration_sum","http.route"="/é"} +Inf"#,
                "http.server.duration_sum",
                &[("http.route", "/é")],
                f64::INFINITY,
                None,
            ),
            (r#"{"a\"b"} -Inf"#, "a\"b", &[], f64::NEG_INFINITY, None),
            (r#"a{"x y"="1",z="2"} 0x"#, "", &[], 0.0, None),
            (
                "a 12345678901234567890",
                "a",
                &[],
                12_345_678_901_234_567_890.0,
                None,
            ),
        ];
        for (line, name, labels, value, timestamp) in cases {
            if name.is_empty() {
                assert_eq!(read(line), Err(BadLine::Value), "{line}");
                continue;
            }
            let expected = (name.to_owned(), pairs(labels), value, timestamp);
            assert_eq!(read(line), Ok(expected), "{line}");
        }
        assert!(read("a NaN").unwrap().2.is_nan());
    }

    #[test]
    fn a_line_that_is_none_says_why() {
        let cases = [
            ("<html>", BadLine::Name),
            ("1a 2", BadLine::Name),
            ("{} 1", BadLine::Name),
            ("{x=\"1\"} 1", BadLine::Name),
            ("é 1", BadLine::Name),
            ("a", BadLine::Value),
            ("a one", BadLine::Value),
            ("a-b 1", BadLine::Value),
            ("a 1 2 3", BadLine::Timestamp),
            ("a 1 now", BadLine::Timestamp),
            ("a{x} 1", BadLine::Labels),
            ("{x} 1", BadLine::Labels),
            ("a{x=1} 1", BadLine::Labels),
            ("a{x=\"1} 1", BadLine::Labels),
            ("a{x=\"1\\", BadLine::Labels),
            ("a{x=\"1\"", BadLine::Labels),
            ("a{x=\"1\" y=\"2\"} 1", BadLine::Labels),
            ("a{\"b\"} 1", BadLine::Labels),
            ("a 1 # 0.5", BadLine::Exemplar),
            ("a 1 # {x=\"1\"}", BadLine::Exemplar),
            ("a 1 # {x=\"1\"} 1 2 3", BadLine::Exemplar),
            ("a 1 # {x=\"1\\", BadLine::Exemplar),
            ("# TYPE a thing", BadLine::Type),
            ("# TYPE a", BadLine::Type),
            ("# TYPE \"a", BadLine::Type),
        ];
        for (line, reason) in cases {
            assert_eq!(Parser::default().read(line), Err(reason), "{line}");
        }
    }

    #[test]
    fn comments_are_told_from_types_and_the_end() {
        let mut parser = Parser::default();
        for nothing in [
            "",
            " \t",
            "#",
            "# HELP a b",
            "# TYPES a b",
            "#EOFF",
            "# UNIT a seconds",
        ] {
            assert_eq!(parser.read(nothing), Ok(Line::Nothing), "{nothing}");
        }
        assert_eq!(parser.read("# EOF"), Ok(Line::End));
        let kind = Line::Type(Cow::Borrowed("a.b"), Kind::Histogram);
        assert_eq!(parser.read("#  TYPE \"a.b\"\thistogram "), Ok(kind));
    }
}
