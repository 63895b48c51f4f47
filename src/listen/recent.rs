//! Credentials that were right a moment ago, so that a scraper which comes every
//! few seconds does not cost a core its milliseconds each time.
//!
//! Only keyed hashes are kept, of the credentials with where they came from: who
//! guesses elsewhere learns nothing from them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// A keyed hash.
pub(super) type Mark = [u8; 32];

/// How long they are believed. A password is then checked again.
const BELIEVED_FOR: Duration = Duration::from_secs(300);

/// More than any crowd of scrapers and people; beyond it the oldest goes.
const MAX: usize = 1024;

/// They live as long as the credentials that they were held against.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<HashMap<Mark, Instant>>);

impl Recent {
    pub(super) fn has(&self, mark: &Mark, now: Instant) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.get(mark);
        at.is_some_and(|at| now - *at < BELIEVED_FOR)
    }

    pub(super) fn add(&self, mark: Mark, now: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX && !known.contains_key(&mark) {
            known.retain(|_, at| now - *at < BELIEVED_FOR);
            let oldest = known.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.map(|(mark, _)| *mark);
            if let Some(oldest) = oldest.filter(|_| known.len() >= MAX) {
                known.remove(&oldest);
            }
        }
        known.insert(mark, now);
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
    fn they_are_few_and_forgotten() {
        let recent = Recent::default();
        let mut now = Instant::now();
        for number in 0..MAX + 10 {
            recent.add(mark(number), now);
            now += Duration::from_micros(1);
        }
        assert_eq!(recent.0.lock().unwrap().len(), MAX);
        assert!(!recent.has(&mark(9), now) && recent.has(&mark(10), now));
        now += BELIEVED_FOR;
        assert!(!recent.has(&mark(MAX), now));
    }
}
