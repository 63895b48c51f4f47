//! Who explains a rise of the sessions in use, by their route tags.
//!
//! A route's own part is its sessions since the onset less what it had before
//! times the growth that the other routes share. It is set against the extra
//! sessions *inside the database*: a client that waits in a pooler has no
//! statement yet and so no route, and handing it out in proportion would make a
//! figure look measured that is guessed. How many wait there is told apart. When
//! a full pool lets the total stay where it was while one route displaces the
//! others, the parts that grew stand for the extra.

use super::confidence::{self, LEAST, confidence};
use super::endpoints::Evidence;
use super::endpoints::flow::Flow;
use super::growth::Growth;
use super::parts::{Part, PartId};
use super::window::{History, Means};
use crate::engine::incident::Attribution;

/// Confidence from which a route is named.
pub const NAMED: f64 = 0.8;

/// Candidates told of.
pub(super) const SHOWN: usize = 5;

/// Shares below this are not worth a line.
pub(super) const LEAST_SHARE: f64 = 0.02;

/// Extra sessions in the database below which there is nothing to explain there.
const LEAST_EXTRA: f64 = 1.0;

/// Above this part of the extra sessions waiting for a lock, the lock is the
/// story, not the routes that queue for it.
const LOCK_PART: f64 = 0.4;

/// Above this part, growth that all routes share is the story.
const SURGE_PART: f64 = 0.35;

/// Above this part, untagged sessions are the story.
const UNTAGGED_PART: f64 = 0.5;

/// A growth counts towards the extra of a full pool when it is at least this
/// part of the largest: noise of many small routes would add up otherwise.
const SIGNIFICANT: f64 = 0.1;

/// Routes whose common growth is worked out without themselves: only the largest
/// risers can bias it.
const LEAVE_OUT: usize = 20;

/// The least variance of a route's sessions, so that one session of a route
/// never seen before is no proof.
const LEAST_VARIANCE: f64 = 0.3;

/// What came of looking.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The first candidate is it.
    Endpoint,
    /// Nothing is known of the time before.
    NoBaseline,
    /// The rise is in the poolers' queues alone.
    OnlyWaiting,
    LockWaits,
    /// The extra sessions are of an application and carry no tags.
    Untagged {
        application: String,
        sessions: f64,
    },
    /// All routes rose together.
    BroadGrowth,
    /// All routes got slower together.
    SlowerForAll,
    /// Several candidates, none far enough ahead.
    NoClearLead,
}

/// A candidate with the figures behind its share.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    pub attribution: Attribution,
    /// Mean sessions before the onset and since; or requests at a time, where
    /// the basis is not the sessions' tags.
    pub before: f64,
    pub now: f64,
    /// What its figures rest on.
    pub basis: Basis,
    /// Its requests before the onset and since, where the application tells.
    pub flow: Option<(Flow, Flow)>,
    /// What its confidence was worked out of.
    pub standing: Standing,
}

/// What a confidence is worked out of, by what the figures rest on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Standing {
    Tags(confidence::Standing),
    Requests(super::endpoints::confidence::Standing),
}

/// What a candidate's figures rest on, strongest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Route tags on the sampled sessions.
    Tags,
    /// What the application tells of its requests.
    Requests(Evidence),
}

/// The account of a rise.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    pub verdict: Verdict,
    /// At most five, best first.
    pub candidates: Vec<Candidate>,
    /// Extra sessions in the database: the rise, or what grew at the expense of
    /// the others when that is more.
    pub extra: f64,
    /// Sessions in the database now less those before; negative when fewer.
    pub rise: f64,
    /// Extra clients waiting in the poolers.
    pub waiting: f64,
    /// Extra sessions waiting for locks.
    pub lock_waits: f64,
    /// Extra sessions without a tag.
    pub untagged: f64,
    /// Factor by which the routes other than the first grew.
    pub growth: f64,
    /// Part of the extra sessions that no candidate explains; `None` when there
    /// are none.
    pub unexplained_share: Option<f64>,
}

/// A part and what it grew by, more than the others.
struct Riser<'a> {
    part: &'a Part,
    before: f64,
    now: f64,
    growth: f64,
    own: f64,
}

/// Explains the rise from `before` to `now`.
pub fn explain(history: &History, before: &Means, now: &Means) -> Explanation {
    explain_within(history, before, now, f64::INFINITY)
}

/// The same when it is known that all grew together by `most` and no more: few
/// routes with sessions can rise together and still not be all.
pub fn explain_within(history: &History, before: &Means, now: &Means, most: f64) -> Explanation {
    let routes = risers(history, before, now, most.max(1.0));
    let growth = routes.first().map_or(1.0, |first| first.growth);
    let untagged = untagged(history, before, now, growth);
    let rise = now.in_use - before.in_use;
    let extra = extra(&routes, &untagged, rise);
    let lock_waits = (now.lock_waits - before.lock_waits).max(0.0);
    let mut explanation = Explanation {
        verdict: Verdict::NoBaseline,
        candidates: Vec::new(),
        extra,
        rise,
        waiting: (now.pooler_waits - before.pooler_waits).max(0.0),
        lock_waits,
        untagged: untagged.iter().map(|riser| riser.own.max(0.0)).sum(),
        growth,
        unexplained_share: None,
    };
    if before.ticks == 0.0 {
        return explanation;
    }
    if extra < LEAST_EXTRA {
        explanation.verdict = Verdict::OnlyWaiting;
        return explanation;
    }
    let surge = surge(&routes, growth, extra);
    explanation.candidates = candidates(&routes, &untagged, &explanation, surge);
    explanation.verdict = verdict(&explanation, untagged.first(), surge);
    if explanation.verdict != Verdict::Endpoint {
        for candidate in &mut explanation.candidates {
            let confidence = &mut candidate.attribution.confidence;
            *confidence = confidence.min(NAMED - LEAST);
        }
    }
    let shares = explanation.candidates.iter().map(|c| c.attribution.share);
    explanation.unexplained_share = Some((1.0 - shares.sum::<f64>()).clamp(0.0, 1.0));
    explanation
}

/// The routes by their own part, largest first.
fn risers<'a>(history: &'a History, before: &Means, now: &Means, most: f64) -> Vec<Riser<'a>> {
    let mut ids: Vec<PartId> = before
        .parts
        .keys()
        .chain(now.parts.keys())
        .copied()
        .collect();
    ids.retain(|&id| matches!(history.name(id), Some(Part::Route { .. })));
    ids.sort_unstable();
    ids.dedup();
    let rise = |&id: &PartId| now.of(id) - before.of(id);
    ids.sort_by(|a, b| rise(b).total_cmp(&rise(a)));
    let common = Growth::of(&ids, before, now);
    let of_all = common.without(PartId::MAX);
    let mut risers: Vec<Riser<'a>> = ids
        .iter()
        .enumerate()
        .filter_map(|(rank, &id)| {
            let growth = if rank < LEAVE_OUT {
                common.without(id)
            } else {
                of_all
            };
            Some(Riser::new(
                history.name(id)?,
                before.of(id),
                now.of(id),
                growth.min(most),
            ))
        })
        .collect();
    risers.sort_by(|a, b| b.own.total_cmp(&a.own));
    risers
}

/// The applications with untagged sessions by their own part, largest first.
fn untagged<'a>(history: &'a History, before: &Means, now: &Means, growth: f64) -> Vec<Riser<'a>> {
    let mut risers: Vec<Riser<'a>> = now
        .parts
        .iter()
        .filter_map(|(&id, &sessions)| match history.name(id)? {
            part @ Part::Untagged { .. } => Some(Riser::new(part, before.of(id), sessions, growth)),
            Part::Route { .. } => None,
        })
        .collect();
    risers.sort_by(|a, b| b.own.total_cmp(&a.own).then_with(|| a.part.cmp(b.part)));
    risers
}

impl<'a> Riser<'a> {
    fn new(part: &'a Part, before: f64, now: f64, growth: f64) -> Self {
        Self {
            part,
            before,
            now,
            growth,
            own: now - before * growth,
        }
    }
}

fn extra(routes: &[Riser<'_>], untagged: &[Riser<'_>], rise: f64) -> f64 {
    let owns = || routes.iter().chain(untagged).map(|riser| riser.own);
    let largest = owns().fold(0.0, f64::max);
    let grown: f64 = owns()
        .filter(|&own| own > 0.0 && own >= SIGNIFICANT * largest)
        .sum();
    // Nor may the shares that are told add up to more than all.
    let told: f64 = routes.iter().take(SHOWN).map(|r| r.own.max(0.0)).sum();
    rise.max(grown).max(told)
}

/// Part of the extra that is the growth which all share.
fn surge(routes: &[Riser<'_>], growth: f64, extra: f64) -> f64 {
    let before: f64 = routes.iter().map(|riser| riser.before).sum();
    ((growth - 1.0) * before / extra).clamp(0.0, 1.0)
}

fn candidates(
    routes: &[Riser<'_>],
    untagged: &[Riser<'_>],
    so_far: &Explanation,
    surge: f64,
) -> Vec<Candidate> {
    let mut left = 1.0;
    let mut candidates = Vec::new();
    for (rank, riser) in routes.iter().enumerate().take(SHOWN) {
        let share = (riser.own / so_far.extra).clamp(0.0, 1.0);
        let Part::Route { service, route } = riser.part else {
            continue;
        };
        if share < LEAST_SHARE {
            break;
        }
        let rival = rival(routes, untagged, rank, service);
        let standing = confidence::Standing {
            share,
            margin: (riser.own - rival) / riser.own.max(rival),
            z: riser.own / (riser.before * riser.growth).max(LEAST_VARIANCE).sqrt(),
            untagged: so_far.untagged / so_far.extra,
            surge,
            lock_waits: so_far.lock_waits / so_far.extra,
        };
        // Only one can be the first cause: the others share what is left.
        let confidence = confidence(&standing).min(f64::max(left, LEAST));
        left -= confidence;
        candidates.push(Candidate {
            attribution: Attribution {
                service: service.clone(),
                route: route.clone(),
                share,
                connections: riser.own,
                rate_change: None,
                hold_change: None,
                rate_part: None,
                hold_part: None,
                confidence,
            },
            before: riser.before,
            now: riser.now,
            basis: Basis::Tags,
            flow: None,
            standing: Standing::Tags(standing),
        });
    }
    candidates
}

/// The largest part of anybody else. Untagged sessions of the same service are
/// no rival: they are most likely the same route, its comment cut off.
fn rival(routes: &[Riser<'_>], untagged: &[Riser<'_>], rank: usize, service: &str) -> f64 {
    let other_route = routes
        .iter()
        .enumerate()
        .find(|&(other, _)| other != rank)
        .map(|(_, riser)| riser);
    let other_service = untagged
        .iter()
        .find(|riser| riser.part.service() != service);
    [other_route, other_service]
        .into_iter()
        .flatten()
        .map(|riser| riser.own)
        .fold(0.0, f64::max)
}

fn verdict(explanation: &Explanation, untagged: Option<&Riser<'_>>, surge: f64) -> Verdict {
    let extra = explanation.extra;
    if explanation.lock_waits > LOCK_PART * extra {
        return Verdict::LockWaits;
    }
    let first = explanation.candidates.first();
    if first.is_some_and(|first| first.attribution.confidence >= NAMED) {
        return Verdict::Endpoint;
    }
    if let Some(riser) = untagged
        && riser.own > UNTAGGED_PART * extra
        && let Part::Untagged { application, .. } = riser.part
    {
        return Verdict::Untagged {
            application: application.clone(),
            sessions: riser.own,
        };
    }
    if surge >= SURGE_PART {
        return Verdict::BroadGrowth;
    }
    Verdict::NoClearLead
}

#[cfg(test)]
mod tests;
