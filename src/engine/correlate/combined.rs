//! All evidence together: the sessions' own tags, and what the applications tell
//! of their requests.
//!
//! Strongest first: route tags on the sampled sessions; time in the database by
//! traces; gauges of running requests; counts and durations of requests that
//! ended. A stronger kind replaces the weaker for the routes that it covers. In a
//! service whose sessions carry tags, a route that shows on none of them is
//! hardly the one: its part counts for no more than is left untagged.
//!
//! Invariants: what the tags name stays named; what they have explained
//! otherwise (locks, growth of all, nothing known of before) nobody is accused
//! of; extra sessions of another service speak against every route of this one.

use super::attribution::{
    self, Basis, Candidate, Explanation, LEAST_SHARE, NAMED, SHOWN, Verdict, explain_within,
};
use super::confidence::LEAST;
use super::endpoints::confidence::{Standing, confidence};
use super::endpoints::{Weighed, Weighing};
use super::parts::Part;
use super::window::{History, Means};
use crate::engine::incident::Attribution;
use crate::engine::traffic::RouteKey;

/// What a route without tags in a tagged service counts for at least: a comment
/// can be cut off.
const UNTAGGED_AT_LEAST: f64 = 0.15;

/// Above this part of the rise, what all share is the story.
const SHARED_PART: f64 = 0.35;

/// Requests that have ended tell of a common growth a little late: tags may show
/// so much more of it.
const GROWTH_SLACK: f64 = 1.25;

/// The service of sessions that give no application name.
const NAMELESS: &str = "unknown";

/// Adds what the applications tell to what the tags say.
pub fn combine(
    tags: Explanation,
    history: &History,
    before: &Means,
    now: &Means,
    weighing: &Weighing<'_>,
) -> Explanation {
    let mut explanation = within_traffic(tags, history, before, now, weighing);
    tell_flows(&mut explanation, weighing);
    let settled = matches!(
        explanation.verdict,
        Verdict::Endpoint | Verdict::NoBaseline | Verdict::LockWaits | Verdict::BroadGrowth
    );
    if settled || weighing.endpoints.is_empty() {
        return explanation;
    }
    let sessions = Sessions::of(history, before, now);
    let untagged = explanation.untagged + explanation.waiting;
    let mut claims = claims(&explanation, weighing, &sessions, untagged);
    claims.sort_by(|a, b| b.score.total_cmp(&a.score));
    // All parts that are told may not be more than all there is.
    let told: f64 = claims.iter().take(SHOWN).map(|claim| claim.own).sum();
    let whole = weighing.rise.max(explanation.extra).max(told).max(1.0);
    let candidates = rank(&claims, &explanation, weighing, &sessions, whole);
    if candidates.is_empty() {
        return explanation;
    }
    let named = candidates
        .first()
        .is_some_and(|first| first.attribution.confidence >= NAMED);
    explanation.candidates = candidates;
    if named {
        explanation.verdict = Verdict::Endpoint;
    } else if weighing.surge >= SHARED_PART && weighing.surge >= 0.6 * weighing.slow {
        explanation.verdict = Verdict::BroadGrowth;
    } else if weighing.slow >= SHARED_PART {
        explanation.verdict = Verdict::SlowerForAll;
    } else if explanation.verdict == Verdict::OnlyWaiting {
        explanation.verdict = Verdict::NoClearLead;
    }
    let shares = explanation.candidates.iter().map(|c| c.attribution.share);
    explanation.unexplained_share = Some((1.0 - shares.sum::<f64>()).clamp(0.0, 1.0));
    explanation
}

/// The growth that tagged routes seem to share is of those few that have
/// sessions; the requests of all endpoints say whether it is everybody's.
fn within_traffic(
    tags: Explanation,
    history: &History,
    before: &Means,
    now: &Means,
    weighing: &Weighing<'_>,
) -> Explanation {
    let in_doubt = matches!(tags.verdict, Verdict::BroadGrowth | Verdict::NoClearLead);
    match weighing.shared_growth() {
        Some(growth) if in_doubt && tags.growth > GROWTH_SLACK * growth => {
            explain_within(history, before, now, GROWTH_SLACK * growth)
        }
        _ => tags,
    }
}

/// Puts rates and durations to the candidates that the tags have.
fn tell_flows(explanation: &mut Explanation, weighing: &Weighing<'_>) {
    for candidate in &mut explanation.candidates {
        let attribution = &mut candidate.attribution;
        let key = RouteKey::of(&attribution.route);
        let found = weighing.endpoints.iter().find(|endpoint| {
            let row = &endpoint.observed;
            row.service == attribution.service && row.track.key.meets(&key)
        });
        if let Some(endpoint) = found {
            attribution.rate_change = endpoint.rate_change();
            attribution.hold_change = endpoint.hold_change();
            attribution.rate_part = Some(endpoint.rate_part);
            attribution.hold_part = Some(endpoint.hold_part);
            candidate.flow = Some((endpoint.normal, endpoint.since));
        }
    }
}

/// Who the extra sessions in the database belong to.
struct Sessions {
    /// (service, extra sessions), those that grew.
    extra: Vec<(String, f64)>,
    /// The tagged routes, and the services that have any.
    tagged: Vec<(String, RouteKey)>,
    /// Services that sessions are known of.
    seen: Vec<String>,
    lock_waits: f64,
}

impl Sessions {
    fn of(history: &History, before: &Means, now: &Means) -> Self {
        let mut found = Self {
            extra: Vec::new(),
            tagged: Vec::new(),
            seen: Vec::new(),
            lock_waits: (now.lock_waits - before.lock_waits).max(0.0),
        };
        let mut ids: Vec<_> = before.parts.keys().chain(now.parts.keys()).collect();
        ids.sort_unstable();
        ids.dedup();
        for &id in ids {
            let Some(part) = history.name(id) else {
                continue;
            };
            if let Part::Route { service, route } = part {
                found.tagged.push((service.clone(), RouteKey::of(route)));
            }
            let service = part.service();
            let rise = now.of(id) - before.of(id);
            match found.extra.iter_mut().find(|(name, _)| name == service) {
                Some((_, extra)) => *extra += rise,
                None => found.extra.push((service.to_owned(), rise)),
            }
            if !found.seen.iter().any(|name| name == service) {
                found.seen.push(service.to_owned());
            }
        }
        found
    }

    fn is_tagged(&self, service: &str) -> bool {
        self.tagged.iter().any(|(name, _)| name == service)
    }

    fn covers(&self, service: &str, key: &RouteKey) -> bool {
        let mut tagged = self.tagged.iter();
        tagged.any(|(name, tag)| name == service && tag.meets(key))
    }

    /// Extra sessions of anybody but this service. Nameless sessions are
    /// somebody else's as long as the service gives its name.
    fn of_others(&self, service: &str) -> f64 {
        let has_name = self.seen.iter().any(|name| name == service);
        let others = self
            .extra
            .iter()
            .filter(|(name, _)| name != service && (has_name || name != NAMELESS));
        others.map(|(_, extra)| extra.max(0.0)).sum()
    }
}

/// Somebody who may be it.
struct Claim<'a> {
    who: Who<'a>,
    service: &'a str,
    /// Sessions.
    own: f64,
    score: f64,
}

enum Who<'a> {
    Tagged(&'a Candidate),
    Endpoint(&'a Weighed<'a>),
}

fn claims<'a>(
    explanation: &'a Explanation,
    weighing: &'a Weighing<'a>,
    sessions: &Sessions,
    untagged: f64,
) -> Vec<Claim<'a>> {
    let rise = weighing.rise.max(1.0);
    let tagged = explanation.candidates.iter().map(|candidate| {
        let own = candidate.attribution.connections;
        Claim {
            who: Who::Tagged(candidate),
            service: &candidate.attribution.service,
            own,
            score: (own / rise).clamp(0.0, 1.0),
        }
    });
    let endpoints = weighing.endpoints.iter().filter_map(|endpoint| {
        let row = &endpoint.observed;
        if sessions.covers(row.service, &row.track.key) {
            return None;
        }
        let weight = if sessions.is_tagged(row.service) {
            (UNTAGGED_AT_LEAST + untagged / rise).min(1.0)
        } else {
            1.0
        };
        Some(Claim {
            who: Who::Endpoint(endpoint),
            service: row.service,
            own: endpoint.own * weight,
            score: endpoint.score * weight,
        })
    });
    tagged.chain(endpoints).collect()
}

fn rank(
    claims: &[Claim<'_>],
    explanation: &Explanation,
    weighing: &Weighing<'_>,
    sessions: &Sessions,
    whole: f64,
) -> Vec<Candidate> {
    let mut left = 1.0;
    let mut candidates = Vec::new();
    for (place, claim) in claims.iter().enumerate().take(SHOWN) {
        let share = (claim.own / whole).clamp(0.0, 1.0);
        if share < LEAST_SHARE {
            continue;
        }
        let mut candidate = match claim.who {
            Who::Tagged(candidate) => candidate.clone(),
            Who::Endpoint(endpoint) => {
                let rival = rival(claims, place);
                let margin = (claim.score - rival) / claim.score.max(rival).max(1e-9);
                let standing = stand(endpoint, claim, margin, explanation, weighing, sessions);
                let sure = sure(endpoint, &standing, weighing);
                told(endpoint, standing, sure)
            }
        };
        let attribution = &mut candidate.attribution;
        attribution.share = share;
        attribution.connections = claim.own;
        // Only one can be the first cause: the others share what is left. And
        // only the first can be named.
        let most = if place == 0 {
            left
        } else {
            f64::min(left, NAMED - LEAST)
        };
        attribution.confidence = attribution.confidence.min(f64::max(most, LEAST));
        left -= attribution.confidence;
        candidates.push(candidate);
    }
    candidates
}

fn rival(claims: &[Claim<'_>], place: usize) -> f64 {
    let others = claims.iter().enumerate();
    others
        .filter(|&(other, _)| other != place)
        .map(|(_, claim)| claim.score)
        .fold(0.0, f64::max)
}

fn stand(
    endpoint: &Weighed<'_>,
    claim: &Claim<'_>,
    margin: f64,
    explanation: &Explanation,
    weighing: &Weighing<'_>,
    sessions: &Sessions,
) -> Standing {
    let in_database = explanation.extra.max(1.0);
    Standing {
        score: claim.score,
        share: claim.own / weighing.rise.max(1.0),
        margin,
        novelty: endpoint.novelty,
        z: endpoint.z,
        surge: weighing.surge,
        slow: weighing.slow,
        lock_waits: sessions.lock_waits / in_database,
        others: sessions.of_others(claim.service) / in_database,
        blind: weighing.blind > usize::from(endpoint.observed.is_blind()),
        direct: endpoint.observed.running.is_some(),
    }
}

fn sure(endpoint: &Weighed<'_>, standing: &Standing, weighing: &Weighing<'_>) -> f64 {
    let sure = confidence(standing);
    // The one that cannot have shown yet may be it.
    let itself = usize::from(endpoint.observed.is_blind());
    let unseen = endpoint.observed.running.is_none() && weighing.blind > itself;
    if unseen {
        sure.min(NAMED - LEAST)
    } else {
        sure
    }
}

fn told(endpoint: &Weighed<'_>, standing: Standing, confidence: f64) -> Candidate {
    let row = &endpoint.observed;
    Candidate {
        attribution: Attribution {
            service: row.service.to_owned(),
            route: row.track.name.to_string(),
            share: 0.0,
            connections: 0.0,
            rate_change: endpoint.rate_change(),
            hold_change: endpoint.hold_change(),
            rate_part: Some(endpoint.rate_part),
            hold_part: Some(endpoint.hold_part),
            confidence,
        },
        before: endpoint.before,
        now: endpoint.now,
        basis: Basis::Requests(endpoint.evidence()),
        flow: Some((endpoint.normal, endpoint.since)),
        standing: attribution::Standing::Requests(standing),
    }
}
