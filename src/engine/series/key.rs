//! What a series is called: a name and sorted labels, written as in a Prometheus
//! query, `snowpit_connections{state="active",target="main"}`.
//!
//! The text is the identity: the same labels in any order give the same text,
//! and reading it back gives the same labels.

/// Longest label value, in characters. The longest is a route, which the edge
/// cuts to 200: no two of them must become one here.
pub const LABEL_CHARS: usize = 256;

/// Labels of one series. The widest metric has six; nothing that is read from a
/// file may make us build longer lists.
pub const LABEL_LIMIT: usize = 16;

/// Longest text of a key, in bytes: every label at its longest, in characters of
/// four bytes, escaped, does not come near it in practice.
pub const TEXT_LIMIT: usize = 8 * 1024;

/// The name and labels of one series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    text: Box<str>,
}

impl Key {
    /// The key of a name and labels in any order.
    pub fn new(name: &str, labels: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        write(&mut text, name, labels);
        Self { text: text.into() }
    }

    /// Takes a text that [`write()`] has made. `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > TEXT_LIMIT {
            return None;
        }
        let (name, labels) = split(text)?;
        let labels: Vec<(&str, &str)> = labels
            .iter()
            .map(|(label, value)| (*label, value.as_str()))
            .collect();
        let key = Self::new(name, &labels);
        (*key.text == *text).then_some(key)
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The metric's name.
    pub fn name(&self) -> &str {
        let end = self.text.find('{').unwrap_or(self.text.len());
        &self.text[..end]
    }

    /// Label names and unescaped values, by name.
    pub fn labels(&self) -> Vec<(&str, String)> {
        split(&self.text).map_or_else(Vec::new, |(_, labels)| labels)
    }

    /// The value of one label.
    pub fn label(&self, name: &str) -> Option<String> {
        let mut labels = self.labels().into_iter();
        labels.find_map(|(label, value)| (label == name).then_some(value))
    }
}

/// Appends the canonical text of a key: labels by name, values cut to
/// [`LABEL_CHARS`]. Of more labels than [`LABEL_LIMIT`] the first count.
pub fn write(text: &mut String, name: &str, labels: &[(&str, &str)]) {
    text.push_str(name);
    let mut sorted: [(&str, &str); LABEL_LIMIT] = [("", ""); LABEL_LIMIT];
    let count = labels.len().min(LABEL_LIMIT);
    sorted[..count].copy_from_slice(&labels[..count]);
    sorted[..count].sort_unstable();
    text.push('{');
    for (index, (label, value)) in sorted[..count].iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(label);
        text.push_str("=\"");
        write_value(text, value);
        text.push('"');
    }
    text.push('}');
}

fn write_value(text: &mut String, value: &str) {
    // Nearly all values are short and plain, and a look writes hundreds.
    let plain = |byte: u8| !matches!(byte, b'\\' | b'"' | b'\n');
    if value.len() <= LABEL_CHARS && value.bytes().all(plain) {
        return text.push_str(value);
    }
    for c in value.chars().take(LABEL_CHARS) {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// A name and its labels, taken apart.
type Parts<'a> = (&'a str, Vec<(&'a str, String)>);

fn split(text: &str) -> Option<Parts<'_>> {
    let (name, mut rest) = text.split_once('{')?;
    if !is_name(name) {
        return None;
    }
    let mut labels = Vec::new();
    while rest != "}" {
        let (label, quoted) = rest.split_once("=\"")?;
        if !is_name(label) || labels.len() == LABEL_LIMIT {
            return None;
        }
        let (value, after) = unquote(quoted)?;
        labels.push((label, value));
        rest = match after.strip_prefix(',') {
            Some(after) => after,
            None if after == "}" => after,
            None => return None,
        };
    }
    Some((name, labels))
}

/// The value up to the closing quote, and what follows that quote.
pub(super) fn unquote(quoted: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, '"') => return Some((value, &quoted[at + 1..])),
            (true, 'n') => {
                value.push('\n');
                escaped = false;
            }
            (_, c) => {
                value.push(c);
                escaped = false;
            }
        }
    }
    None
}

/// A metric's or label's name as Prometheus allows it.
pub(super) fn is_name(name: &str) -> bool {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_' || c == ':';
    name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_order_of_labels_does_not_matter() {
        let key = Key::new("up", &[("b", "2"), ("a", "1")]);
        assert_eq!(key.as_str(), r#"up{a="1",b="2"}"#);
        assert_eq!(key, Key::new("up", &[("a", "1"), ("b", "2")]));
        assert_eq!(key.name(), "up");
        assert_eq!(key.label("b").as_deref(), Some("2"));
        assert_eq!(key.label("c"), None);
        assert_eq!(Key::new("up", &[]).as_str(), "up{}");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for text in [
            "",
            "up",
            "up{",
            "{}",
            "up{a}",
            "up{a=\"1}",
            "up{a=\"1\"",
            "up{b=\"1\",a=\"2\"}",
            "up{a=\"1\"}x",
            "up{1=\"1\"}",
            "up{a=\"1\",}",
        ] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn long_values_are_cut() {
        let key = Key::new("up", &[("route", &"é".repeat(1000))]);
        assert_eq!(key.label("route"), Some("é".repeat(LABEL_CHARS)));
    }

    proptest! {
        #[test]
        fn a_key_reads_back(values in proptest::collection::vec(".{0,40}", 0..6)) {
            let names = ["a", "b", "c", "d", "e", "f"];
            let labels: Vec<(&str, &str)> =
                names.iter().copied().zip(values.iter().map(String::as_str)).collect();
            let key = Key::new("snowpit_x", &labels);
            prop_assert_eq!(Key::parse(key.as_str()), Some(key.clone()));
            let back: Vec<(&str, String)> = key.labels();
            prop_assert_eq!(back.len(), values.len());
            for ((_, value), (_, written)) in back.iter().zip(&labels) {
                prop_assert_eq!(value.as_str(), *written);
            }
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,200}") {
            if let Some(key) = Key::parse(&text) {
                prop_assert_eq!(key.as_str(), text);
            }
        }
    }
}
