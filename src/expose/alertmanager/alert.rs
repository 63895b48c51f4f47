//! An incident as an alert: labels that stay, annotations that tell all.
//!
//! Invariant: whatever a statement, an application or a route is called, an
//! alert has at most some tens of kilobytes, and its record stays valid JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::engine::incident::{Incident, Kind, Severity};
use crate::sample::UnixSeconds;

/// How long Alertmanager holds an open alert for firing that it hears nothing
/// more of. A restart is over by then; a host that is gone is noticed.
pub const EXPIRES_AFTER: Duration = Duration::from_secs(180);

/// Longest single annotation, in characters.
const TEXT_CHARS: usize = 2_000;

/// Longest record, in bytes of JSON. Receivers cut or refuse far longer ones.
const RECORD_BYTES: usize = 16 * 1024;

/// Longest string inside a record that had to be cut, in characters.
const CUT_CHARS: usize = 300;

/// Sentences and commands kept in a record that had to be cut.
const CUT_LINES: usize = 8;

/// Ids of other incidents of the same alert that are listed.
const OTHERS: usize = 10;

/// Where links lead.
#[derive(Debug, Clone)]
pub struct Link(Option<String>);

impl Link {
    pub fn new(external_url: Option<String>) -> Self {
        Self(external_url)
    }

    fn incident(&self, id: &str) -> Option<String> {
        let path = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        let base = self.0.as_ref()?;
        Some(format!("{base}/api/v1/incidents/{path}"))
    }

    fn runbook(&self, name: &str) -> String {
        match &self.0 {
            Some(base) => format!("{base}/runbooks/{name}"),
            None => format!("docs/runbooks/{name}.md"),
        }
    }
}

/// `PostableAlert` of the API.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Alert {
    pub labels: BTreeMap<&'static str, String>,
    pub annotations: BTreeMap<&'static str, String>,
    pub starts_at: String,
    pub ends_at: String,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    pub generator_url: Option<String>,
}

impl Alert {
    /// At `wall`, unix time.
    pub fn new(
        target: &str,
        kind: Kind,
        incident: &Incident,
        others: &[String],
        ended_at: Option<UnixSeconds>,
        link: &Link,
        wall: UnixSeconds,
    ) -> Self {
        // One that lies in the future would not be firing yet.
        let starts_at = incident.opened_at.min(wall);
        let ends_at = match ended_at {
            // An end before the beginning is refused.
            Some(at) => at.min(wall).max(starts_at),
            None => wall + EXPIRES_AFTER.as_secs_f64(),
        };
        Self {
            labels: labels(target, kind),
            annotations: annotations(incident, others, link),
            starts_at: rfc3339(starts_at),
            ends_at: rfc3339(ends_at),
            generator_url: link.incident(&incident.id),
        }
    }
}

/// The same as those of the rules: the severity is that of the kind, so that an
/// incident which grows graver stays the same alert.
fn labels(target: &str, kind: Kind) -> BTreeMap<&'static str, String> {
    let severity = match kind.severity() {
        Severity::Critical => "page",
        Severity::Warning => "ticket",
    };
    BTreeMap::from([
        ("alertname", alert_name(kind)),
        ("target", target.to_owned()),
        ("kind", kind.as_str().to_owned()),
        ("severity", severity.to_owned()),
    ])
}

/// `SnowpitLockPileup` of `lock_pileup`.
pub fn alert_name(kind: Kind) -> String {
    let mut name = String::from("Snowpit");
    for word in kind.as_str().split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}

fn annotations(
    incident: &Incident,
    others: &[String],
    link: &Link,
) -> BTreeMap<&'static str, String> {
    let mut annotations = BTreeMap::from([
        ("summary", cut(&incident.summary, TEXT_CHARS)),
        (
            "description",
            cut(&incident.evidence.join("\n"), TEXT_CHARS),
        ),
        ("runbook", incident.runbook.clone()),
        ("runbook_url", link.runbook(&incident.runbook)),
        ("incident", record(incident)),
    ]);
    if !incident.actions.is_empty() {
        let actions = cut(&incident.actions.join("\n"), TEXT_CHARS);
        annotations.insert("actions", actions);
    }
    if !others.is_empty() {
        let listed: Vec<&str> = others.iter().take(OTHERS).map(String::as_str).collect();
        let text = format!("{} more of this kind: {}", others.len(), listed.join(", "));
        annotations.insert("others", text);
    }
    annotations
}

/// The whole record, or as much of it as there is room for.
fn record(incident: &Incident) -> String {
    let whole = serde_json::to_string(incident).unwrap_or_default();
    if whole.len() <= RECORD_BYTES {
        return whole;
    }
    let mut less = incident.clone();
    less.summary = cut(&less.summary, CUT_CHARS);
    for lines in [&mut less.evidence, &mut less.actions] {
        let left = lines.len().saturating_sub(CUT_LINES);
        lines.truncate(CUT_LINES);
        lines
            .iter_mut()
            .for_each(|line| *line = cut(line, CUT_CHARS));
        if left > 0 {
            lines.push(format!("{left} more in /api/v1/incidents/{}", incident.id));
        }
    }
    for candidate in &mut less.attribution {
        candidate.service = cut(&candidate.service, CUT_CHARS);
        candidate.route = cut(&candidate.route, CUT_CHARS);
    }
    let kept = serde_json::to_string(&less).unwrap_or_default();
    if kept.len() <= RECORD_BYTES {
        return kept;
    }
    // The subject is what can still be long.
    less.subject.clear();
    serde_json::to_string(&less).unwrap_or_default()
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// To the millisecond; the epoch for what is no time of this calendar.
fn rfc3339(t: UnixSeconds) -> String {
    // A float beyond the range saturates, and jiff refuses it.
    let time = Timestamp::from_millisecond((t * 1000.0) as i64).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}

#[cfg(test)]
mod tests;
