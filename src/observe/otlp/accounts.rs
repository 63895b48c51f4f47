//! The accounts of all services that are heard of, one for each way.
//!
//! Bounded: services that the configuration names have the usual room for
//! routes; others are few and have little, so that a stranger costs little.

use std::collections::HashMap;

use super::record::Reason;
use crate::observe::traffic::account::DEFAULT_LIMIT;
use crate::observe::traffic::{Account, Tally};
use crate::sample::{TrafficReport, TrafficVia, UnixSeconds};

/// Services heard of that the configuration does not name.
const STRANGERS: usize = 16;

/// Routes of each of them.
const STRANGE_ROUTES: usize = 500;

/// Seconds of silence after which a service that is not configured is forgotten.
/// By then nothing of it is left: what waits for a request waits a minute, and a
/// gauge that is not set again ends within five.
const FORGOTTEN: f64 = 600.0;

/// Longest name of a service, in bytes; it becomes a label value.
const NAME_LIMIT: usize = 200;

/// Accounts by service; a service has its number until it is forgotten.
#[derive(Debug)]
pub struct Accounts {
    via: TrafficVia,
    configured: Vec<String>,
    numbers: HashMap<String, usize>,
    /// By number; `None` is free.
    accounts: Vec<Option<Heard>>,
    strangers: usize,
}

#[derive(Debug)]
struct Heard {
    account: Account,
    /// Since the last flush.
    news: bool,
    /// The last flush that had news.
    at: UnixSeconds,
}

impl Accounts {
    /// `configured` are the names of the services in the configuration.
    pub fn new(via: TrafficVia, configured: &[String]) -> Self {
        Self {
            via,
            configured: configured.to_vec(),
            numbers: HashMap::new(),
            accounts: Vec::new(),
            strangers: 0,
        }
    }

    /// Others are configured from now on. One that was a stranger gets the usual
    /// room; one that becomes a stranger keeps what it has, and counts as one.
    pub fn configure(&mut self, configured: &[String]) {
        self.configured = configured.to_vec();
        self.strangers = 0;
        for (name, number) in &self.numbers {
            if !configured.contains(name) {
                self.strangers += 1;
            } else if let Some(Some(heard)) = self.accounts.get_mut(*number) {
                heard.account.make_room(DEFAULT_LIMIT);
            }
        }
    }

    /// The number of a service.
    ///
    /// # Errors
    /// When the name cannot be one, or there are too many.
    pub fn number(&mut self, service: &str) -> Result<usize, Reason> {
        if let Some(number) = self.numbers.get(service) {
            if let Some(Some(heard)) = self.accounts.get_mut(*number) {
                heard.news = true;
            }
            return Ok(*number);
        }
        if service.trim().is_empty() {
            return Err(Reason::NoService);
        }
        if service.len() > NAME_LIMIT {
            return Err(Reason::LabelTooLong);
        }
        let limit = if self.configured.iter().any(|name| name == service) {
            DEFAULT_LIMIT
        } else if self.strangers < STRANGERS {
            self.strangers += 1;
            STRANGE_ROUTES
        } else {
            return Err(Reason::TooManyServices);
        };
        let heard = Some(Heard {
            account: Account::new(service, self.via, limit),
            news: true,
            at: f64::NEG_INFINITY,
        });
        let free = self.accounts.iter().position(Option::is_none);
        let number = free.unwrap_or(self.accounts.len());
        match self.accounts.get_mut(number) {
            Some(place) => *place = heard,
            None => self.accounts.push(heard),
        }
        self.numbers.insert(service.to_owned(), number);
        Ok(number)
    }

    pub fn get(&mut self, number: usize) -> Option<&mut Account> {
        let heard = self.accounts.get_mut(number)?.as_mut();
        heard.map(|heard| &mut heard.account)
    }

    /// What the accounts refused by themselves since the last call.
    pub fn take_refused(&mut self) -> Tally {
        let mut refused = Tally::default();
        for heard in self.accounts.iter_mut().flatten() {
            refused.merge(&heard.account.take_refused());
        }
        refused
    }

    /// Everything since the last flush. Strangers that have been silent for long
    /// are forgotten.
    pub fn flush(&mut self, now: UnixSeconds) -> Vec<TrafficReport> {
        let mut reports = Vec::new();
        for heard in self.accounts.iter_mut().flatten() {
            reports.extend(heard.account.flush(now));
            if std::mem::take(&mut heard.news) {
                heard.at = now;
            }
        }
        self.forget(now);
        reports
    }

    fn forget(&mut self, now: UnixSeconds) {
        let Self {
            configured,
            numbers,
            accounts,
            strangers,
            ..
        } = self;
        numbers.retain(|name, number| {
            let Some(place) = accounts.get_mut(*number) else {
                return false;
            };
            let silent = place
                .as_ref()
                .is_none_or(|heard| now - heard.at > FORGOTTEN);
            if !silent || configured.contains(name) {
                return true;
            }
            *place = None;
            *strangers = strangers.saturating_sub(1);
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_few_and_the_configured_always_come_in() {
        let configured = ["registry".to_owned()];
        let mut accounts = Accounts::new(TrafficVia::OtlpSpans, &configured);
        for n in 0..STRANGERS {
            assert_eq!(accounts.number(&format!("s{n}")), Ok(n));
        }
        assert_eq!(accounts.number("one more"), Err(Reason::TooManyServices));
        assert_eq!(accounts.number("registry"), Ok(STRANGERS));
        assert_eq!(accounts.number("s3"), Ok(3));
        let both = ["registry".to_owned(), "s3".to_owned(), "late".to_owned()];
        accounts.configure(&both);
        assert_eq!(accounts.number("late"), Ok(STRANGERS + 1));
        assert_eq!(accounts.number("one more"), Ok(STRANGERS + 2), "s3 is none");
        assert_eq!(accounts.number("another"), Err(Reason::TooManyServices));
        assert_eq!(accounts.number(" "), Err(Reason::NoService));
        assert_eq!(accounts.number(&"x".repeat(201)), Err(Reason::LabelTooLong));
    }

    #[test]
    fn services_that_were_renamed_away_give_their_places_to_others() {
        let mut accounts = Accounts::new(TrafficVia::OtlpMetrics, &[]);
        let mut now = 1e9;
        for round in 0..STRANGERS * 3 {
            let name = format!("shop-{round}");
            accounts.configure(&[name.clone(), "quiet".to_owned()]);
            let number = accounts.number(&name).unwrap();
            assert!(number <= 3, "numbers are used again: {number}");
            let quiet = accounts.number("quiet").unwrap();
            accounts.flush(now);
            now += FORGOTTEN + 1.0;
            accounts.number(&name).unwrap();
            accounts.flush(now);
            // Silent, and in the configuration.
            assert_eq!(accounts.get(quiet).unwrap().service(), "quiet");
            assert_eq!(accounts.get(number).unwrap().service(), name);
        }
        let strangers = (0..STRANGERS - 1).map(|n| accounts.number(&format!("s{n}")).is_ok());
        assert!(strangers.collect::<Vec<_>>().iter().all(|known| *known));
    }
}
