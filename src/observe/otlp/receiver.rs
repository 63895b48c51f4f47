//! Everything that OTLP leaves behind from request to request, and the one way
//! in: a body goes in, an [`Outcome`] comes out, reports come out at each flush.
//!
//! Pure: no socket, no task, no clock; time is a parameter.

use std::hash::RandomState;

use super::accounts::Accounts;
use super::join::Join;
use super::names::Names;
use super::outcome::Outcome;
use super::points::{Memory, PointTaker};
use super::record::Reason;
use super::spans::SpanTaker;
use super::{json, protobuf};
use crate::observe::traffic::Tally;
use crate::sample::{TrafficReport, TrafficVia, UnixSeconds};

/// What a body tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Metrics,
    Traces,
}

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Protobuf,
    Json,
}

/// A body that cannot be read at all; nothing of it was taken in.
#[derive(Debug, thiserror::Error)]
#[error("{0}; nothing of it was taken in")]
pub struct BadBody(String);

/// The state of the receiver.
#[derive(Debug)]
pub struct Receiver {
    hasher: RandomState,
    names: Names,
    requests: Accounts,
    points: Accounts,
    join: Join,
    memory: Memory,
}

impl Receiver {
    /// `services` are the names of the services in the configuration.
    pub fn new(services: &[String]) -> Self {
        Self {
            hasher: RandomState::new(),
            names: Names::default(),
            requests: Accounts::new(TrafficVia::OtlpSpans, services),
            points: Accounts::new(TrafficVia::OtlpMetrics, services),
            join: Join::default(),
            memory: Memory::default(),
        }
    }

    /// Other services are configured from now on.
    pub fn configure(&mut self, services: &[String]) {
        self.requests.configure(services);
        self.points.configure(services);
    }

    /// Takes in one body.
    ///
    /// # Errors
    /// When it is not whole or not in that encoding.
    pub fn take(
        &mut self,
        now: UnixSeconds,
        signal: Signal,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Outcome, BadBody> {
        match signal {
            Signal::Traces => self.traces(now, encoding, body),
            Signal::Metrics => self.metrics(now, encoding, body),
        }
    }

    fn traces(
        &mut self,
        now: UnixSeconds,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Outcome, BadBody> {
        let accounts = &mut self.requests;
        let mut taker = SpanTaker::new(now, &mut self.names, accounts, &mut self.join);
        match encoding {
            Encoding::Protobuf => {
                protobuf::traces(body, &self.hasher, &mut taker).map_err(BadBody::new)?;
            }
            Encoding::Json => json::traces(body, &self.hasher, &mut taker).map_err(BadBody::new)?,
        }
        let mut outcome = taker.outcome;
        outcome.noted.merge(&self.requests.take_refused());
        Ok(outcome)
    }

    fn metrics(
        &mut self,
        now: UnixSeconds,
        encoding: Encoding,
        body: &[u8],
    ) -> Result<Outcome, BadBody> {
        let accounts = &mut self.points;
        let mut taker = PointTaker::new(now, &mut self.names, accounts, &mut self.memory);
        match encoding {
            Encoding::Protobuf => {
                protobuf::metrics(body, &self.hasher, &mut taker).map_err(BadBody::new)?;
            }
            Encoding::Json => {
                json::metrics(body, &self.hasher, &mut taker).map_err(BadBody::new)?;
            }
        }
        let mut outcome = taker.outcome;
        outcome.noted.merge(&self.points.take_refused());
        Ok(outcome)
    }

    /// The reports since the last flush, and what was given up meanwhile. Meant
    /// to be called once a second.
    pub fn flush(&mut self, now: UnixSeconds) -> (Vec<TrafficReport>, Tally) {
        self.join.expire(now);
        let mut reports = self.requests.flush(now);
        reports.extend(self.points.flush(now));
        let mut given_up = Tally::default();
        let unjoined = Reason::UnjoinedDatabaseSpan.as_str();
        given_up.add(unjoined, self.join.take_unjoined());
        (reports, given_up)
    }
}

impl BadBody {
    pub(super) fn new(error: impl std::error::Error) -> Self {
        Self(error.to_string())
    }
}

#[cfg(test)]
mod tests;
