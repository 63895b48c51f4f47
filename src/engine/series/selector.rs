//! Which series are meant: `snowpit_connections{target="main",state!="idle"}`,
//! as in a Prometheus query, with `=` and `!=`.

use super::key::{Key, LABEL_LIMIT, is_name, unquote};

/// Longest selector that is read, in bytes.
const TEXT_LIMIT: usize = 4096;

/// Why a selector was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("the selector is longer than {TEXT_LIMIT} bytes")]
    TooLong,
    #[error(
        "the selector must begin with the name of a metric, such as snowpit_connections{{target=\"main\"}}"
    )]
    Name,
    #[error("regular expressions are not read here; use = or != with a whole value")]
    Pattern,
    #[error("after the name write {{label=\"value\", …}} with = or != and quoted values")]
    Labels,
}

/// A name and conditions on labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    name: String,
    matchers: Vec<Matcher>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Matcher {
    label: String,
    value: String,
    equal: bool,
}

impl Selector {
    /// Every series of a metric.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            matchers: Vec::new(),
        }
    }

    /// Only those with this label.
    #[must_use]
    pub fn with(mut self, label: &str, value: &str) -> Self {
        self.matchers.push(Matcher {
            label: label.to_owned(),
            value: value.to_owned(),
            equal: true,
        });
        self
    }

    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        if text.len() > TEXT_LIMIT {
            return Err(SelectorError::TooLong);
        }
        let text = text.trim();
        let (name, labels) = text.split_once('{').unwrap_or((text, "}"));
        let name = name.trim_end();
        if !is_name(name) {
            return Err(SelectorError::Name);
        }
        Ok(Self {
            name: name.to_owned(),
            matchers: matchers(labels)?,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn takes(&self, key: &Key) -> bool {
        if key.name() != self.name {
            return false;
        }
        if self.matchers.is_empty() {
            return true;
        }
        let labels = key.labels();
        self.matchers.iter().all(|matcher| {
            let value = labels.iter().find(|(label, _)| *label == matcher.label);
            // A label that is not there is the same as an empty one.
            let value = value.map_or("", |(_, value)| value.as_str());
            (value == matcher.value) == matcher.equal
        })
    }
}

fn matchers(labels: &str) -> Result<Vec<Matcher>, SelectorError> {
    let mut matchers = Vec::new();
    let mut rest = labels.trim_start();
    while rest != "}" {
        let (label, after) = rest.split_once('=').ok_or(SelectorError::Labels)?;
        let (label, equal) = match label.trim_end().strip_suffix('!') {
            Some(label) => (label.trim_end(), false),
            None => (label.trim_end(), true),
        };
        let after = after.trim_start();
        if after.starts_with('~') || label.ends_with(['~', '!']) || label.contains("!~") {
            return Err(SelectorError::Pattern);
        }
        let quoted = after.strip_prefix('"').ok_or(SelectorError::Labels)?;
        let (value, after) = unquote(quoted).ok_or(SelectorError::Labels)?;
        if !is_name(label) || matchers.len() == LABEL_LIMIT {
            return Err(SelectorError::Labels);
        }
        matchers.push(Matcher {
            label: label.to_owned(),
            value,
            equal,
        });
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(after) => after.trim_start(),
            None if after == "}" => after,
            None => return Err(SelectorError::Labels),
        };
    }
    Ok(matchers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("up", &[("target", "main"), ("state", "a \"b\"")])
    }

    #[test]
    fn conditions_are_met_together() {
        for (text, expected) in [
            ("up", true),
            ("up{}", true),
            (" up { target = \"main\" , } ", true),
            (r#"up{target="main",state="a \"b\""}"#, true),
            (r#"up{target!="main"}"#, false),
            (r#"up{target!="other"}"#, true),
            (r#"up{nothing=""}"#, true),
            (r#"up{nothing!=""}"#, false),
            ("down", false),
        ] {
            let selector = Selector::parse(text).unwrap();
            assert_eq!(selector.takes(&key()), expected, "{text}");
        }
        assert!(Selector::named("up").with("target", "main").takes(&key()));
    }

    #[test]
    fn what_is_no_selector_is_refused_with_a_reason() {
        for (text, error) in [
            ("", SelectorError::Name),
            ("{a=\"b\"}", SelectorError::Name),
            ("up{a=~\"b\"}", SelectorError::Pattern),
            ("up{a!~\"b=\"}", SelectorError::Pattern),
            ("up{a=b}", SelectorError::Labels),
            ("up{a=\"b\"", SelectorError::Labels),
            ("up{", SelectorError::Labels),
            ("up{a=\"b\"}}", SelectorError::Labels),
        ] {
            assert_eq!(Selector::parse(text), Err(error), "{text}");
        }
        let long = format!("up{{a=\"{}\"}}", "x".repeat(TEXT_LIMIT));
        assert_eq!(Selector::parse(&long), Err(SelectorError::TooLong));
    }
}
