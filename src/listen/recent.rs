//! Credentials that were right lately, so that a scraper which comes every few
//! seconds does not cost a core its milliseconds each time, and is not kept out
//! by those who guess beside it.
//!
//! Only keyed hashes are kept. They live as long as the credentials that they
//! were held against, which never change: what was right stays right for as
//! long as it is used.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A keyed hash.
pub(super) type Mark = [u8; 32];

/// How long they are known without being used: who asks once a day has to have
/// his password checked again, anybody more often not.
const UNUSED_FOR: Duration = Duration::from_secs(24 * 3600);

/// More than any crowd of scrapers and people; beyond it goes who was not here
/// for longest.
const MAX: usize = 1024;

/// When each was used last.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<Mark, Instant>>);

impl Recent {
    pub(super) fn has(&self, mark: &Mark, now: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.get(mark);
        at.is_some_and(|at| now - *at < UNUSED_FOR)
    }

    /// They were right, or were used again.
    pub(super) fn add(&self, marks: &[Mark], now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mark in marks {
            if known.len() >= MAX && !known.contains_key(mark) {
                let oldest = known.iter().min_by_key(|(_, at)| **at);
                if let Some(oldest) = oldest.map(|(mark, _)| *mark) {
                    known.remove(&oldest);
                }
            }
            known.insert(*mark, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: usize) -> Mark {
        let mut mark = Mark::default();
        mark[..8].copy_from_slice(&number.to_le_bytes());
        mark
    }

    #[test]
    fn they_are_few_and_forgotten_when_unused() {
        let recent = Recent::default();
        let mut now = Instant::now();
        for number in 0..MAX + 10 {
            recent.add(&[mark(number)], now);
            now += Duration::from_micros(1);
        }
        assert_eq!(recent.0.lock().unwrap().len(), MAX);
        assert!(!recent.has(&mark(9), now) && recent.has(&mark(10), now));
        recent.add(&[mark(10)], now);
        now += Duration::from_micros(1);
        recent.add(&[mark(MAX + 10)], now);
        assert!(recent.has(&mark(10), now), "it was used");
        assert!(!recent.has(&mark(11), now));
        now += UNUSED_FOR;
        assert!(!recent.has(&mark(MAX), now));
    }
}
