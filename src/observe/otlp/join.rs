//! Which request a call of the database belongs to.
//!
//! A span of a database call names its parent only; that may be the span of the
//! request, or one between them, and it may come in the same batch, in a later
//! one (a parent ends after its children) or, after a retry, before. So every
//! span leaves a link to its parent for a while, and a call whose way up is not
//! complete waits.
//!
//! Invariants: a call counts for a request only when every link between them
//! was seen, never by trace alone; of calls inside each other the outermost
//! counts; both tables are bounded, the oldest entry goes first, and a call
//! that could not be joined is counted.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::sample::UnixSeconds;

/// Spans remembered. At a thousand requests a second of five spans each it is
/// the last thirteen seconds; exporters send every five.
const LINKS: usize = 65_536;

/// Parents waited for.
const WAITING: usize = 16_384;

/// How long a span is remembered and a parent waited for, in seconds: the
/// longest usual request, and an exporter's interval.
const HOLD: f64 = 60.0;

/// Links followed upwards. Honest traces have a handful between a request and
/// its database call.
const DEPTH: usize = 64;

/// A span anywhere.
pub type SpanKey = (u128, u64);

/// A request, as far as its database calls must know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The caller's number for the service.
    pub service: usize,
    /// The name of its route; `None` where it has none.
    pub route: Option<Arc<str>>,
    /// When it ended.
    pub until: UnixSeconds,
}

/// What lies above a span.
#[derive(Debug, Clone, PartialEq)]
pub enum Link {
    Request(Request),
    /// Something in between, with its parent.
    Up(u64),
    /// A database call, which has its own time counted.
    Database,
    /// The first of its trace, and no request: a job.
    Root,
}

/// Database time on its way to a request.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Calls {
    pub seconds: f64,
    pub spans: u64,
}

/// Calls that have found their request.
#[derive(Debug, Clone, PartialEq)]
pub struct Joined {
    pub request: Request,
    pub seconds: f64,
}

/// Links and waiting calls.
#[derive(Debug, Default)]
pub struct Join {
    links: HashMap<SpanKey, Link>,
    /// In the order in which they came.
    remembered: VecDeque<(UnixSeconds, SpanKey)>,
    waiting: HashMap<SpanKey, Calls>,
    waited_for: VecDeque<(UnixSeconds, SpanKey)>,
    unjoined: u64,
}

/// Where a way up ends.
enum End<'a> {
    Request(&'a Request),
    /// The way is not complete: this span has not come yet.
    Missing(SpanKey),
    /// At something that is no request.
    Elsewhere,
}

impl Join {
    /// A database call under `parent`. Gives it back when its request is known.
    pub fn call(
        &mut self,
        now: UnixSeconds,
        (trace, id): SpanKey,
        parent: u64,
        seconds: f64,
    ) -> Option<Joined> {
        // Calls inside this one are part of it.
        self.waiting.remove(&(trace, id));
        self.remember(now, (trace, id), Link::Database);
        if parent == 0 {
            return None;
        }
        self.settle(now, (trace, parent), Calls { seconds, spans: 1 })
    }

    /// Whether that span has come before, as a call of the database or as a
    /// request. A client and a server may share an id, so the kind matters.
    pub fn has_counted(&self, key: SpanKey, is_call: bool) -> bool {
        match self.links.get(&key) {
            Some(Link::Database) => is_call,
            Some(Link::Request(_)) => !is_call,
            _ => false,
        }
    }

    /// Any other span. Gives back the calls that waited for it, when their
    /// request is known now.
    pub fn span(&mut self, now: UnixSeconds, key: SpanKey, link: Link) -> Option<Joined> {
        self.remember(now, key, link);
        let calls = self.waiting.remove(&key)?;
        self.settle(now, key, calls)
    }

    /// Forgets what is too old.
    pub fn expire(&mut self, now: UnixSeconds) {
        while self
            .remembered
            .front()
            .is_some_and(|(at, _)| now - at > HOLD)
        {
            self.forget();
        }
        while self
            .waited_for
            .front()
            .is_some_and(|(at, _)| now - at > HOLD)
        {
            self.give_up();
        }
    }

    /// Calls since the last call of this function whose request never came.
    pub fn take_unjoined(&mut self) -> u64 {
        std::mem::take(&mut self.unjoined)
    }

    /// Finds the request above `from`, or lets the calls wait.
    fn settle(&mut self, now: UnixSeconds, from: SpanKey, calls: Calls) -> Option<Joined> {
        match self.end(from) {
            End::Request(request) => Some(Joined {
                request: request.clone(),
                seconds: calls.seconds,
            }),
            End::Elsewhere => None,
            End::Missing(key) => {
                if let Some(others) = self.waiting.get_mut(&key) {
                    others.seconds += calls.seconds;
                    others.spans += calls.spans;
                    return None;
                }
                if self.waited_for.len() >= WAITING {
                    self.give_up();
                }
                self.waiting.insert(key, calls);
                self.waited_for.push_back((now, key));
                None
            }
        }
    }

    fn end(&self, from: SpanKey) -> End<'_> {
        let (trace, mut id) = from;
        for _ in 0..DEPTH {
            match self.links.get(&(trace, id)) {
                Some(Link::Request(request)) => return End::Request(request),
                Some(Link::Up(parent)) => id = *parent,
                Some(Link::Database | Link::Root) => return End::Elsewhere,
                None => return End::Missing((trace, id)),
            }
        }
        End::Elsewhere
    }

    fn remember(&mut self, now: UnixSeconds, key: SpanKey, link: Link) {
        if self.remembered.len() >= LINKS {
            self.forget();
        }
        // A span that comes again, after a retry, keeps its first place.
        if self.links.insert(key, link).is_none() {
            self.remembered.push_back((now, key));
        }
    }

    fn forget(&mut self) {
        if let Some((_, key)) = self.remembered.pop_front() {
            self.links.remove(&key);
        }
    }

    fn give_up(&mut self) {
        if let Some((_, key)) = self.waited_for.pop_front()
            && let Some(calls) = self.waiting.remove(&key)
        {
            self.unjoined += calls.spans;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(route: &str) -> Link {
        Link::Request(Request {
            service: 0,
            route: Some(route.into()),
            until: 10.0,
        })
    }

    fn told(joined: Option<Joined>) -> Option<(String, f64)> {
        joined.map(|j| (j.request.route.unwrap().to_string(), j.seconds))
    }

    #[test]
    fn a_call_is_joined_whichever_comes_first() {
        let mut join = Join::default();
        assert_eq!(join.call(1.0, (7, 2), 1, 0.5), None);
        assert_eq!(join.call(1.0, (7, 3), 1, 0.25), None);
        let joined = told(join.span(2.0, (7, 1), request("GET /a")));
        assert_eq!(joined, Some(("GET /a".to_owned(), 0.75)));
        let late = told(join.call(3.0, (7, 4), 1, 0.125));
        assert_eq!(late, Some(("GET /a".to_owned(), 0.125)));
        // Another trace with the same span ids is another matter.
        assert_eq!(join.call(3.0, (8, 4), 1, 0.125), None);
    }

    #[test]
    fn spans_in_between_are_climbed_in_any_order() {
        let mut join = Join::default();
        assert_eq!(join.call(1.0, (7, 4), 3, 1.0), None);
        assert_eq!(join.span(1.0, (7, 2), Link::Up(1)), None);
        assert_eq!(join.span(1.0, (7, 3), Link::Up(2)), None);
        let joined = told(join.span(2.0, (7, 1), request("GET /a")));
        assert_eq!(joined, Some(("GET /a".to_owned(), 1.0)));
    }

    #[test]
    fn of_calls_inside_each_other_the_outermost_counts() {
        let mut join = Join::default();
        // The inner one first, as exporters send it.
        assert_eq!(join.call(1.0, (7, 3), 2, 0.4), None);
        assert_eq!(join.call(1.0, (7, 2), 1, 0.5), None);
        let joined = told(join.span(2.0, (7, 1), request("GET /a")));
        assert_eq!(joined, Some(("GET /a".to_owned(), 0.5)));
        assert_eq!(join.call(3.0, (7, 5), 2, 0.4), None, "the outer one first");
        join.expire(1000.0);
        assert_eq!(join.take_unjoined(), 0);
    }

    #[test]
    fn a_job_is_no_request_and_no_loss() {
        let mut join = Join::default();
        assert_eq!(join.call(1.0, (7, 2), 1, 0.5), None);
        assert_eq!(join.span(1.0, (7, 1), Link::Root), None);
        assert_eq!(join.call(1.0, (8, 2), 0, 0.5), None);
        join.expire(1000.0);
        assert_eq!(join.take_unjoined(), 0);
    }

    #[test]
    fn what_nobody_comes_for_is_given_up_and_counted() {
        let mut join = Join::default();
        assert_eq!(join.call(1.0, (7, 2), 1, 0.5), None);
        join.expire(1.0 + HOLD);
        assert_eq!(join.take_unjoined(), 0);
        join.expire(1.1 + HOLD);
        assert_eq!(join.take_unjoined(), 1);
        let late = join.span(2.0 + HOLD, (7, 1), request("GET /a"));
        assert_eq!(late, None);
    }

    #[test]
    fn a_flood_is_bounded() {
        let mut join = Join::default();
        for n in 0..200_000_u64 {
            join.call(1.0, (1, 2 * n + 1), 2 * n + 2, 1.0);
        }
        assert_eq!(join.links.len(), LINKS);
        assert_eq!(join.remembered.len(), LINKS);
        assert_eq!(join.waiting.len(), WAITING);
        assert_eq!(join.take_unjoined(), 200_000 - WAITING as u64);
    }

    #[test]
    fn a_ring_of_parents_ends() {
        let mut join = Join::default();
        join.span(1.0, (7, 1), Link::Up(2));
        join.span(1.0, (7, 2), Link::Up(1));
        assert_eq!(join.call(1.0, (7, 3), 1, 1.0), None);
    }
}
