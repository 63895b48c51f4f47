//! What became of one request: how much was taken in, and what was refused for
//! which reason. The answer to the sender and our own counters are made of the
//! same figures.

use super::record::Reason;
use crate::observe::traffic::Tally;

/// Longest name of a service in the log, in bytes.
const ABOUT_LIMIT: usize = 100;

/// The figures of one request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// Spans or points that were right, also those that say nothing of a route.
    pub accepted: u64,
    /// Spans or points refused; told to the sender.
    pub refused: Tally,
    /// What could not be made use of though the sender did nothing wrong;
    /// counted only.
    pub noted: Tally,
    /// The service whose points came last.
    pub about: String,
}

impl Outcome {
    pub fn refuse(&mut self, reason: Reason, count: u64) {
        self.refused.add(reason.as_str(), count);
    }

    pub fn note(&mut self, reason: &'static str, count: u64) {
        self.noted.add(reason, count);
    }

    pub fn about(&mut self, service: Option<&str>) {
        let service = service.unwrap_or_default();
        let end = service.floor_char_boundary(ABOUT_LIMIT);
        self.about.clear();
        self.about.push_str(&service[..end]);
    }

    /// The sentence for the sender; empty when nothing was refused.
    pub fn message(&self) -> String {
        if self.refused.is_empty() {
            return String::new();
        }
        let parts = self.refused.iter();
        let parts: Vec<String> = parts.map(|(reason, n)| format!("{n} {reason}")).collect();
        format!("refused: {}", parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_has_every_reason_with_its_count() {
        let mut outcome = Outcome::default();
        assert_eq!(outcome.message(), "");
        outcome.refuse(Reason::BadTime, 2);
        outcome.refuse(Reason::Malformed, 1);
        outcome.refuse(Reason::BadTime, 1);
        outcome.note("no_route", 5);
        assert_eq!(outcome.message(), "refused: 3 bad_time, 1 malformed");
        assert_eq!(outcome.refused.total(), 4);
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let mut outcome = Outcome::default();
        outcome.about(Some(&"ä".repeat(80)));
        assert_eq!(outcome.about.chars().count(), 50);
    }
}
