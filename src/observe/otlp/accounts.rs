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

/// Longest name of a service, in bytes; it becomes a label value.
const NAME_LIMIT: usize = 200;

/// Accounts by service; a service's number is for the process's life.
#[derive(Debug)]
pub struct Accounts {
    via: TrafficVia,
    configured: Vec<String>,
    numbers: HashMap<String, usize>,
    accounts: Vec<Account>,
    strangers: usize,
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
            } else if let Some(account) = self.accounts.get_mut(*number) {
                account.make_room(DEFAULT_LIMIT);
            }
        }
    }

    /// The number of a service.
    ///
    /// # Errors
    /// When the name cannot be one, or there are too many.
    pub fn number(&mut self, service: &str) -> Result<usize, Reason> {
        if let Some(number) = self.numbers.get(service) {
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
        let number = self.accounts.len();
        self.accounts.push(Account::new(service, self.via, limit));
        self.numbers.insert(service.to_owned(), number);
        Ok(number)
    }

    pub fn get(&mut self, number: usize) -> Option<&mut Account> {
        self.accounts.get_mut(number)
    }

    /// What the accounts refused by themselves since the last call.
    pub fn take_refused(&mut self) -> Tally {
        let mut refused = Tally::default();
        for account in &mut self.accounts {
            refused.merge(&account.take_refused());
        }
        refused
    }

    /// Everything since the last flush.
    pub fn flush(&mut self, now: UnixSeconds) -> Vec<TrafficReport> {
        let reports = self.accounts.iter_mut().map(|account| account.flush(now));
        reports.flatten().collect()
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
}
