//! Which of the two formats a scraper asks for with its `Accept` header.

use super::page::Page;
use super::{openmetrics, text};

/// The formats that `/metrics` speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    OpenMetrics,
    Text,
}

impl Format {
    /// The one with the highest weight; OpenMetrics when both weigh the same,
    /// the text format when neither is named. A header that asks for neither
    /// gets the text format too: a person with a browser wants to read it.
    pub fn accepted(header: &str) -> Self {
        let weight = |format| {
            header
                .split(',')
                .filter_map(range)
                .filter(|(named, _)| *named == format)
                .map(|(_, weight)| weight)
                .fold(0.0, f64::max)
        };
        let open = weight(Self::OpenMetrics);
        if open > 0.0 && open >= weight(Self::Text) {
            Self::OpenMetrics
        } else {
            Self::Text
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => openmetrics::CONTENT_TYPE,
            Self::Text => text::CONTENT_TYPE,
        }
    }

    /// Writes the page in this format.
    ///
    /// # Errors
    /// Only when the OpenMetrics encoder itself refuses.
    pub fn encode(self, page: Page) -> Result<String, std::fmt::Error> {
        match self {
            Self::OpenMetrics => openmetrics::encode(page),
            Self::Text => Ok(text::encode(&page)),
        }
    }
}

/// One media range: the format that it names, if it is one of ours in a
/// version that we speak, and its weight (1 unless `q` says otherwise).
fn range(text: &str) -> Option<(Format, f64)> {
    let mut parts = text.split(';').map(str::trim);
    let media = parts.next()?.to_ascii_lowercase();
    let (mut version, mut weight) = (None, 1.0);
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match key.trim().to_ascii_lowercase().as_str() {
            "version" => version = Some(value),
            "q" => {
                weight = value
                    .parse::<f64>()
                    .ok()
                    .filter(|q| (0.0..=1.0).contains(q))?
            }
            _ => {}
        }
    }
    let format = match (media.as_str(), version) {
        // 0.0.1 was the draft of 1.0.0; the body is the same.
        ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => Format::OpenMetrics,
        ("text/plain", None | Some("0.0.4")) => Format::Text,
        ("text/*" | "*/*", None) => Format::Text,
        _ => return None,
    };
    Some((format, weight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_gets_what_it_prefers() {
        for (header, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                 text/plain;version=0.0.4;q=0.4,*/*;q=0.2",
                Format::OpenMetrics,
            ),
            (
                "text/plain;version=0.0.4;q=0.9, application/openmetrics-text; version=1.0.0; q=0.3",
                Format::Text,
            ),
            (
                "application/openmetrics-text;version=1.0.0;q=0, */*",
                Format::Text,
            ),
            ("application/openmetrics-text; version=2.0.0", Format::Text),
            ("application/openmetrics-text;q=nonsense", Format::Text),
            ("text/html,*/*;q=0.8", Format::Text),
            ("*/*", Format::Text),
            ("", Format::Text),
        ] {
            assert_eq!(Format::accepted(header), expected, "{header}");
        }
    }
}
