//! What flows through a target, from counters: sessions opened, transactions and
//! query time of its poolers; and how many sessions there are.
//!
//! Invariants: a counter that was reset, a restart, a missed look and a clock
//! that was set make a gap and never an amount; time is what is written on the
//! samples; the size is fixed.

use std::collections::BTreeMap;

use crate::engine::traffic::Level;
use crate::engine::traffic::quantity::Quantity;
use crate::sample::{PoolStats, UnixSeconds};

/// Looks farther apart than this, in seconds, make a gap.
const LONGEST: f64 = 300.0;

/// Counters of poolers followed, one a pooler and database.
const MAX_COUNTERS: usize = 1_000;

/// Part of a span that must be covered before a rate of it is told.
const COVERED: f64 = 0.5;

/// Unix time of the year 5138: beyond it no bucket has a number.
const LAST_TIME: f64 = 1e11;

/// Above this a difference of a counter is damage.
const ABSURD: f64 = 1e12;

/// SHOW commands count microseconds.
const MICROSECONDS: f64 = 1e6;

/// A total that only grows, until it is reset.
#[derive(Debug, Clone, Default)]
pub struct Counter {
    last: Option<(UnixSeconds, f64)>,
}

impl Counter {
    /// What came since the last reading, and since when. `None` for the first
    /// reading, after a reset and after a gap.
    pub fn push(&mut self, t: UnixSeconds, total: f64) -> Option<(UnixSeconds, f64)> {
        let last = self.last.replace((t, total));
        let (from, before) = last?;
        let came = total - before;
        let is_sound = t > from && t - from <= LONGEST && (0.0..ABSURD).contains(&came);
        is_sound.then_some((from, came))
    }
}

/// An amount over the last hour, and the time that is known of.
#[derive(Debug, Clone, Default)]
pub struct Amount {
    amount: Quantity,
    told: Quantity,
    until: UnixSeconds,
}

impl Amount {
    /// Several counters may tell of the same time.
    fn add(&mut self, from: UnixSeconds, to: UnixSeconds, amount: f64) {
        self.amount.add(from, to, amount);
        let anew = if self.until > to {
            from
        } else {
            from.max(self.until)
        };
        if to > self.until {
            self.told.add(anew, to, to - anew);
            self.until = to;
        }
    }

    /// The amount of a span.
    pub fn sum(&self, from: UnixSeconds, to: UnixSeconds) -> f64 {
        self.amount.sum(from, to)
    }

    /// A second; `None` where less than half of the span is known.
    pub fn rate(&self, from: UnixSeconds, to: UnixSeconds) -> Option<f64> {
        let told = self.told.sum(from, to);
        (told > 0.0 && told >= COVERED * (to - from)).then(|| self.amount.sum(from, to) / told)
    }
}

/// The flows of one target.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    pub opened: Amount,
    /// Transactions and queries that ended at the poolers, and the seconds that
    /// the queries took.
    pub transactions: Amount,
    pub queries: Amount,
    pub query_seconds: Amount,
    /// All client backends.
    pub backends: Level,
    pub idle_in_transaction: Level,
    sessions: Counter,
    /// By pooler and database.
    pooled: BTreeMap<(String, String), [Counter; 3]>,
}

impl Flows {
    /// Takes in the total of sessions opened. What came a second; `None` while
    /// that is not known.
    pub fn sessions(&mut self, t: UnixSeconds, total: f64) -> Option<f64> {
        if !is_time(t) {
            return None;
        }
        let (from, came) = self.sessions.push(t, total)?;
        self.opened.add(from, t, came);
        Some(came / (t - from))
    }

    /// The server was started again: totals may have been lost.
    pub fn restarted(&mut self) {
        self.sessions = Counter::default();
    }

    /// Takes in how many sessions there are.
    pub fn levels(&mut self, t: UnixSeconds, backends: f64, idle_in_transaction: f64) {
        if is_time(t) {
            self.backends.push(t, backends);
            self.idle_in_transaction.push(t, idle_in_transaction);
        }
    }

    /// Takes in the totals of a pooler.
    pub fn pooler(&mut self, t: UnixSeconds, pooler: &str, stats: &[PoolStats]) {
        if !is_time(t) {
            return;
        }
        for row in stats {
            let name = (pooler.to_owned(), row.database.clone());
            if !self.pooled.contains_key(&name) && self.pooled.len() >= MAX_COUNTERS {
                continue;
            }
            let counters = self.pooled.entry(name).or_default();
            let [transactions, queries, seconds] = counters;
            let came = (
                transactions.push(t, row.total_xact_count as f64),
                queries.push(t, row.total_query_count as f64),
                seconds.push(t, row.total_query_time as f64 / MICROSECONDS),
            );
            // A reset of one is a reset of all.
            if let (Some((from, transactions)), Some((_, queries)), Some((_, seconds))) = came {
                self.transactions.add(from, t, transactions);
                self.queries.add(from, t, queries);
                self.query_seconds.add(from, t, seconds);
            }
        }
    }

    /// Mean seconds of a query over a span, and how many there were; `None`
    /// where nothing is known of it.
    pub fn query_time(&self, from: UnixSeconds, to: UnixSeconds) -> Option<(f64, f64)> {
        self.queries.rate(from, to)?;
        let queries = self.queries.sum(from, to);
        (queries >= 1.0).then(|| (self.query_seconds.sum(from, to) / queries, queries))
    }
}

fn is_time(t: UnixSeconds) -> bool {
    (0.0..LAST_TIME).contains(&t)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_and_a_gap_are_no_amount() {
        let mut flows = Flows::default();
        assert_eq!(flows.sessions(1_000.0, 500.0), None);
        assert_eq!(flows.sessions(1_001.0, 503.0), Some(3.0));
        assert_eq!(flows.sessions(1_002.0, 2.0), None, "reset");
        assert_eq!(flows.sessions(1_003.0, 4.0), Some(2.0));
        assert_eq!(flows.sessions(1_003.0, 9.0), None, "twice");
        assert_eq!(flows.sessions(2_000.0, 900.0), None, "a gap");
        assert_eq!(flows.sessions(f64::NAN, 1.0), None);
        flows.restarted();
        assert_eq!(flows.sessions(2_001.0, 5_000.0), None);
        assert_eq!(flows.opened.sum(0.0, 3_000.0), 5.0);
    }

    #[test]
    fn a_rate_is_of_the_time_that_is_known() {
        let mut flows = Flows::default();
        for t in 0..100 {
            flows.sessions(1_000.0 + f64::from(t), f64::from(t) * 2.0);
        }
        let rate = flows.opened.rate(1_050.0, 1_090.0);
        assert!((rate.unwrap() - 2.0).abs() < 0.01, "{rate:?}");
        assert_eq!(flows.opened.rate(1_090.0, 1_200.0), None);
        assert_eq!(Flows::default().opened.rate(0.0, 1.0), None);
    }

    #[test]
    fn two_poolers_add_up_and_their_time_does_not() {
        let mut flows = Flows::default();
        for t in 0..60 {
            for pooler in ["a", "b"] {
                let stats = PoolStats {
                    database: "app".to_owned(),
                    total_xact_count: t * 5,
                    total_query_count: t * 10,
                    total_query_time: t * 20_000,
                    ..PoolStats::default()
                };
                flows.pooler(1_000.0 + t as f64, pooler, &[stats]);
            }
        }
        let rate = flows.transactions.rate(1_010.0, 1_050.0).unwrap();
        assert!((rate - 10.0).abs() < 0.1, "{rate}");
        let (mean, queries) = flows.query_time(1_010.0, 1_050.0).unwrap();
        assert!((mean - 0.002).abs() < 1e-5, "{mean}");
        assert!((queries - 800.0).abs() < 5.0, "{queries}");
    }
}
