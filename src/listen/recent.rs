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
    pub(super) fn has(&self, mark: &Mark) -> bool {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = known.get(mark);
        at.is_some_and(|at| at.elapsed() < BELIEVED_FOR)
    }

    pub(super) fn add(&self, mark: Mark) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX && !known.contains_key(&mark) {
            known.retain(|_, at| at.elapsed() < BELIEVED_FOR);
            let oldest = known.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.map(|(mark, _)| *mark);
            if let Some(oldest) = oldest.filter(|_| known.len() >= MAX) {
                known.remove(&oldest);
            }
        }
        known.insert(mark, Instant::now());
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

    #[tokio::test(start_paused = true)]
    async fn they_are_few_and_forgotten() {
        let recent = Recent::default();
        for number in 0..MAX + 10 {
            recent.add(mark(number));
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert_eq!(recent.0.lock().unwrap().len(), MAX);
        assert!(!recent.has(&mark(9)) && recent.has(&mark(10)));
        tokio::time::advance(BELIEVED_FOR).await;
        assert!(!recent.has(&mark(MAX)));
    }
}
