//! Spans to accounts: requests by route from the spans of servers, time in the
//! database by route from the spans of its clients.
//!
//! Invariant: a span counts once, in the second in which it ended.

use std::sync::Arc;

use super::accounts::Accounts;
use super::join::{Join, Joined, Link, Request};
use super::names::Names;
use super::outcome::Outcome;
use super::record::{Reason, Resource, Span, SpanKind, SpanSink};
use super::times::{Window, seconds};
use crate::observe::traffic::account::bucket_of;
use crate::observe::traffic::{Contribution, NO_ROUTE};
use crate::sample::UnixSeconds;

/// Takes the spans of one request into the accounts.
#[derive(Debug)]
pub struct SpanTaker<'r> {
    now: UnixSeconds,
    window: Window,
    names: &'r mut Names,
    accounts: &'r mut Accounts,
    join: &'r mut Join,
    /// The service whose spans come now.
    service: Result<usize, Reason>,
    pub outcome: Outcome,
}

impl<'r> SpanTaker<'r> {
    pub fn new(
        now: UnixSeconds,
        names: &'r mut Names,
        accounts: &'r mut Accounts,
        join: &'r mut Join,
    ) -> Self {
        Self {
            now,
            window: Window::around(now),
            names,
            accounts,
            join,
            service: Err(Reason::NoService),
            outcome: Outcome::default(),
        }
    }

    fn request(&mut self, service: usize, span: &Span<'_>) -> Link {
        let until = seconds(span.end);
        let took = (span.end - span.start) as f64 / 1e9;
        let route = self.names.of(&span.labels);
        match &route {
            Some(route) => self.count(service, route, until, took),
            // Of other protocols nothing is expected.
            None if span.labels.method().is_some() => self.outcome.note(NO_ROUTE, 1),
            None => {}
        }
        Link::Request(Request {
            service,
            route,
            until,
        })
    }

    fn count(&mut self, service: usize, route: &str, until: UnixSeconds, took: f64) {
        if let Some(account) = self.accounts.get(service) {
            account.add(
                self.now,
                &Contribution {
                    route,
                    since: until,
                    until,
                    requests: 1.0,
                    duration_seconds: took,
                    database_seconds: None,
                    durations: &[bucket_of(took)],
                },
            );
        }
    }

    fn joined(&mut self, joined: &Joined) {
        let Request {
            service,
            route: Some(route),
            until,
        } = &joined.request
        else {
            return;
        };
        let (until, route): (f64, &Arc<str>) = (*until, route);
        if let Some(account) = self.accounts.get(*service) {
            account.add(
                self.now,
                &Contribution {
                    route,
                    since: until,
                    until,
                    requests: 0.0,
                    duration_seconds: 0.0,
                    database_seconds: Some(joined.seconds),
                    durations: &[],
                },
            );
        }
    }
}

impl SpanSink for SpanTaker<'_> {
    fn resource(&mut self, resource: &Resource<'_>) {
        let name = resource.service.as_deref().ok_or(Reason::NoService);
        self.service = name.and_then(|name| self.accounts.number(name));
        self.outcome.about(resource.service.as_deref());
    }

    fn span(&mut self, span: &Span<'_>) -> Result<(), Reason> {
        let service = self.service?;
        if span.labels.too_long {
            return Err(Reason::LabelTooLong);
        }
        if !self.window.contains(span.end) || span.start == 0 {
            return Err(Reason::BadTime);
        }
        if span.end < span.start {
            return Err(Reason::BadValue);
        }
        let key = (span.trace, span.id);
        let is_call = span.kind == SpanKind::Client && span.labels.postgresql;
        // An exporter that got no answer in time sends its batch again.
        if self.join.has_counted(key, is_call) {
            self.outcome.accepted += 1;
            return Ok(());
        }
        let joined = match span.kind {
            SpanKind::Client if is_call => {
                let took = (span.end - span.start) as f64 / 1e9;
                self.join.call(self.now, key, span.parent, took)
            }
            SpanKind::Server => {
                let link = self.request(service, span);
                self.join.span(self.now, key, link)
            }
            _ if span.parent == 0 => self.join.span(self.now, key, Link::Root),
            _ => self.join.span(self.now, key, Link::Up(span.parent)),
        };
        if let Some(joined) = joined {
            self.joined(&joined);
        }
        self.outcome.accepted += 1;
        Ok(())
    }

    fn refuse(&mut self, reason: Reason, spans: u64) {
        self.outcome.refuse(reason, spans);
    }
}
