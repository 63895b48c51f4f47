//! Reads one TOML table key by key, and collects what is wrong with it.
//!
//! A key becomes known by being asked for; [`Table::finish`] calls every other
//! one unknown. A value of the wrong kind is reported and read as absent, so
//! that the rest of the file is still looked at.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problems, Show, nearest};

/// Looks up an environment variable.
pub(super) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What every table of a file shares.
pub(super) struct Context<'a> {
    pub(super) problems: &'a Problems,
    pub(super) environment: Environment<'a>,
    /// Keys that were asked for and are not in the file, as `[table] key`.
    pub(super) absent: RefCell<Vec<String>>,
}

/// A table of the file, or the defaults in its place when it is absent.
pub(super) struct Table<'a> {
    /// How the file writes it, for example `[[postgres]]`.
    title: String,
    path: String,
    entries: Option<&'a DeTable<'a>>,
    /// The header, to point at when a key is missing.
    header: Range<usize>,
    known: RefCell<Vec<&'static str>>,
    context: &'a Context<'a>,
}

/// A string of the file.
#[derive(Debug, Clone)]
pub(super) struct Text {
    /// With its environment variables filled in: may be secret.
    pub(super) value: String,
    /// As the file has it, safe to print.
    pub(super) written: String,
    pub(super) span: Range<usize>,
}

impl<'a> Table<'a> {
    pub(super) fn root(entries: &'a DeTable<'a>, context: &'a Context<'a>) -> Self {
        Self {
            title: "the file".to_owned(),
            path: String::new(),
            entries: Some(entries),
            header: 0..0,
            known: RefCell::default(),
            context,
        }
    }

    /// Where the table begins.
    pub(super) fn header(&self) -> Range<usize> {
        self.header.clone()
    }

    pub(super) fn text(&self, key: &'static str) -> Option<Text> {
        let value = self.value(key)?;
        match value.get_ref() {
            DeValue::String(written) => self.expand(written, value.span()),
            other => {
                self.mismatch(key, value.span(), "a string in quotes", other);
                None
            }
        }
    }

    /// Like [`Table::text`], for a key that must be there.
    pub(super) fn required_text(&self, key: &'static str) -> Option<Text> {
        if self.value(key).is_none() {
            self.missing(key);
        }
        self.text(key)
    }

    pub(super) fn texts(&self, key: &'static str) -> Option<Vec<Text>> {
        let value = self.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            let expected = "an array of strings, such as [\"a\", \"b\"]";
            self.mismatch(key, value.span(), expected, value.get_ref());
            return None;
        };
        let mut texts = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(written) => texts.extend(self.expand(written, item.span())),
                other => self.mismatch(key, item.span(), "only strings in this array", other),
            }
        }
        Some(texts)
    }

    /// A string, or an array of them, for a key that must be there.
    pub(super) fn one_or_more(&self, key: &'static str) -> Vec<Text> {
        match self.value(key).map(Spanned::get_ref) {
            Some(DeValue::Array(_)) => self.texts(key).unwrap_or_default(),
            _ => self.required_text(key).into_iter().collect(),
        }
    }

    /// Like [`Table::texts`], for a key that must be there.
    pub(super) fn required_texts(&self, key: &'static str) -> Vec<Text> {
        if self.value(key).is_none() {
            self.missing(key);
        }
        self.texts(key).unwrap_or_default()
    }

    /// `{ name = "…", … }`: each name, where it stands, and its string.
    pub(super) fn named_texts(&self, key: &'static str) -> Vec<(String, Range<usize>, Text)> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        // Such strings are secrets, and so may be what stands in their place.
        let refuse = |span| {
            let message = format!("\"{key}\" must be a table of strings: {{ name = \"…\" }}");
            self.context.problems.at(span, Show::Nothing, message);
        };
        let DeValue::Table(entries) = value.get_ref() else {
            refuse(value.span());
            return Vec::new();
        };
        let mut texts = Vec::new();
        for (name, value) in entries.iter() {
            match value.get_ref() {
                DeValue::String(written) => {
                    let text = self.expand(written, value.span());
                    texts.extend(text.map(|text| (name.get_ref().to_string(), name.span(), text)));
                }
                _ => refuse(value.span()),
            }
        }
        texts
    }

    pub(super) fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else {
            return default;
        };
        match value.get_ref() {
            DeValue::Boolean(flag) => *flag,
            other => {
                self.mismatch(key, value.span(), "true or false", other);
                default
            }
        }
    }

    pub(super) fn number(
        &self,
        key: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(value) = self.value(key) else {
            return default;
        };
        let number = match value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().unwrap_or(f64::NAN),
            DeValue::Integer(_) => integer(value.get_ref()).map_or(f64::NAN, |n| n as f64),
            other => {
                self.mismatch(key, value.span(), "a number", other);
                return default;
            }
        };
        if range.contains(&number) {
            return number;
        }
        self.report(
            value.span(),
            format!(
                "\"{key}\" must be from {} to {}",
                range.start(),
                range.end()
            ),
        );
        default
    }

    pub(super) fn duration(
        &self,
        key: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(value) = self.value(key) else {
            return default;
        };
        let expected = "a duration in quotes, such as \"500ms\", \"1s\" or \"5m\"";
        if !matches!(value.get_ref(), DeValue::String(_)) {
            self.mismatch(key, value.span(), expected, value.get_ref());
            return default;
        }
        let Some(text) = self.text(key) else {
            return default;
        };
        match humantime::parse_duration(&text.value) {
            Ok(duration) if range.contains(&duration) => duration,
            Ok(_) => {
                let shortest = humantime::format_duration(*range.start());
                let longest = humantime::format_duration(*range.end());
                self.report(
                    text.span,
                    format!("\"{key}\" must be from {shortest} to {longest}"),
                );
                default
            }
            Err(_) => {
                self.report(text.span, format!("\"{key}\" must be {expected}"));
                default
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &self,
        key: &'static str,
        default: T,
        choices: &[(&str, T)],
    ) -> T {
        let Some(text) = self.text(key) else {
            return default;
        };
        if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text.value) {
            return *chosen;
        }
        let words: Vec<String> = choices.iter().map(|(w, _)| format!("\"{w}\"")).collect();
        self.report(
            text.span,
            format!("\"{key}\" must be one of {}", words.join(", ")),
        );
        default
    }

    /// An integer, or a pair of them: the two ways to write a lock key.
    pub(super) fn integers(&self, key: &'static str) -> Option<(Vec<i64>, Range<usize>)> {
        let Some(value) = self.value(key) else {
            self.missing(key);
            return None;
        };
        let numbers = match value.get_ref() {
            DeValue::Array(items) => items.iter().map(|item| integer(item.get_ref())).collect(),
            single => integer(single).map(|number| vec![number]),
        };
        if numbers.is_none() {
            self.report(
                value.span(),
                format!("\"{key}\" must be a 64-bit integer, or two 32-bit ones such as [1, 7]"),
            );
        }
        Some((numbers?, value.span()))
    }

    /// `[key]`, when the file has it.
    pub(super) fn optional_child(&self, key: &'static str) -> Option<Table<'a>> {
        let child = self.child(key);
        child.entries.is_some().then_some(child)
    }

    /// `[key]`: always there, empty when the file has none.
    pub(super) fn child(&self, key: &'static str) -> Table<'a> {
        let path = self.path_of(key);
        let mut child = Table {
            title: format!("[{path}]"),
            path,
            entries: None,
            header: self.header(),
            known: RefCell::default(),
            context: self.context,
        };
        let Some(value) = self.value(key) else {
            return child;
        };
        match value.get_ref() {
            DeValue::Table(entries) => {
                child.entries = Some(entries);
                child.header = value.span();
            }
            other => {
                let expected = format!("a table, written [{}]", child.path);
                self.mismatch(key, value.span(), &expected, other);
            }
        }
        child
    }

    /// `[[key]]`, each of them.
    pub(super) fn children(&self, key: &'static str) -> Vec<Table<'a>> {
        let Some(value) = self.value(key) else {
            return Vec::new();
        };
        let path = self.path_of(key);
        let DeValue::Array(items) = value.get_ref() else {
            let expected = format!("a list of tables, each written [[{path}]] with two brackets");
            self.mismatch(key, value.span(), &expected, value.get_ref());
            return Vec::new();
        };
        let mut children = Vec::new();
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(entries) => children.push(Table {
                    title: format!("[[{path}]]"),
                    path: path.clone(),
                    entries: Some(entries),
                    header: item.span(),
                    known: RefCell::default(),
                    context: self.context,
                }),
                other => self.mismatch(key, item.span(), &format!("a table [[{path}]]"), other),
            }
        }
        children
    }

    /// Keys of the public configuration that this version cannot honour yet.
    pub(super) fn unsupported(&self, keys: &[&'static str]) {
        let Some(entries) = self.entries else { return };
        for (key, value) in entries.iter() {
            let name: &str = key.get_ref();
            let Some(key_name) = keys.iter().find(|known| **known == name) else {
                continue;
            };
            self.known.borrow_mut().push(key_name);
            let what = match value.get_ref() {
                DeValue::Array(_) => format!("[[{}]]", self.path_of(name)),
                DeValue::Table(_) if self.path.is_empty() => format!("[{name}]"),
                _ => format!("\"{name}\" in {}", self.title),
            };
            self.context.problems.at(
                key.span(),
                Show::Key,
                format!("{what} is not supported by this version; remove it"),
            );
        }
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self) {
        let Some(entries) = self.entries else { return };
        let known = self.known.borrow();
        for (key, value) in entries.iter() {
            let name: &str = key.get_ref();
            if known.contains(&name) {
                continue;
            }
            let what = match value.get_ref() {
                DeValue::Table(_) => "table",
                DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()) => {
                    "table"
                }
                _ => "key",
            };
            let hint = nearest(name, known.iter().copied());
            let printed: String = name.chars().filter(|c| !c.is_control()).take(60).collect();
            self.context.problems.at(
                key.span(),
                Show::Key,
                format!("unknown {what} \"{printed}\" in {}{hint}", self.title),
            );
        }
    }

    /// A problem with a value of this table.
    pub(super) fn report(&self, span: Range<usize>, message: impl Into<String>) {
        self.context.problems.at(span, Show::Span, message);
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        let value = self.entries.and_then(|entries| entries.get(key));
        if value.is_none() {
            let asked = format!("{} {key}", self.title);
            self.context.absent.borrow_mut().push(asked);
        }
        value
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn missing(&self, key: &str) {
        let message = format!("\"{key}\" is missing in {}", self.title);
        self.report(self.header(), message);
    }

    fn mismatch(&self, key: &str, span: Range<usize>, expected: &str, found: &DeValue<'_>) {
        let found = match found {
            DeValue::Integer(_) => "an integer",
            DeValue::Array(_) => "an array",
            DeValue::Boolean(_) => "a boolean",
            DeValue::String(_) => "a string",
            DeValue::Float(_) => "a float",
            DeValue::Datetime(_) => "a date",
            DeValue::Table(_) => "a table",
        };
        // What stands in a string's place may still be a secret.
        let show = if found == "a table" || found == "an array" {
            Show::Nothing
        } else {
            Show::Span
        };
        self.context.problems.at(
            span,
            show,
            format!("\"{key}\" must be {expected}, not {found}"),
        );
    }

    fn expand(&self, written: &str, span: Range<usize>) -> Option<Text> {
        match expand(written, self.context.environment) {
            Ok(value) => Some(Text {
                value,
                written: written.to_owned(),
                span,
            }),
            Err(message) => {
                self.context.problems.at(span, Show::Nothing, message);
                None
            }
        }
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// Fills in `${NAME}`; `$${` is a literal `${`.
fn expand(written: &str, environment: Environment<'_>) -> Result<String, String> {
    let mut value = String::with_capacity(written.len());
    let mut rest = written;
    while let Some(at) = rest.find("${") {
        let (before, variable) = rest.split_at(at);
        if let Some(escaped) = before.strip_suffix('$') {
            value.push_str(escaped);
            value.push_str("${");
            rest = &variable[2..];
            continue;
        }
        value.push_str(before);
        let Some((name, after)) = variable[2..].split_once('}') else {
            return Err("\"${\" has no closing \"}\"; write \"$${\" for a literal one".to_owned());
        };
        let sane = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !sane {
            return Err(
                "\"${…}\" must name an environment variable; write \"$${\" for a literal one"
                    .to_owned(),
            );
        }
        match environment(name) {
            Some(filled) => value.push_str(&filled),
            None => return Err(format!("the environment variable {name} is not set")),
        }
        rest = after;
    }
    value.push_str(rest);
    Ok(value)
}
