//! An avalanche in words: what a person on call reads first, the figures behind
//! it, and the statements to run next, gentlest first.

use serde_json::json;

use super::Situation;
use super::because::{Because, Blocker, Shared};
use super::condition::tagged_with;
use crate::engine::correlate::attribution::{Basis, Candidate, Explanation, Verdict};
use crate::engine::correlate::endpoints::Evidence;
use crate::engine::detect::scene::fields;
use crate::engine::words;

/// `main went from 4 to 43 sessions in use or waiting in 12 s; …`
pub fn summary(target: &str, situation: &Situation<'_>) -> String {
    let explanation = situation.explanation;
    let because = match situation.because {
        Because::Endpoint => match explanation.candidates.first() {
            Some(first) => endpoint(first, explanation),
            None => "no single route explains it".to_owned(),
        },
        Because::Application(grown) => format!(
            "{} has {} of the {} extra ones",
            words::name(&grown.application),
            words::count(grown.own),
            words::count(explanation.extra),
        ),
        Because::LockPileup(blocker) => format!(
            "{} of the {} extra ones wait for locks{}",
            words::count(explanation.lock_waits),
            words::count(explanation.extra),
            blocker.as_ref().map_or_else(String::new, |blocker| {
                format!(", behind {}", who(blocker))
            }),
        ),
        Because::ReconnectStorm(storm) => format!(
            "{} sessions were opened anew{} in {} where {} are normal, {}",
            words::count(storm.opened + storm.usual),
            storm
                .application
                .as_deref()
                .map_or_else(String::new, |name| {
                    format!(", most of {},", words::application(&words::name(name)))
                }),
            words::duration(storm.seconds),
            words::mean(storm.usual),
            match situation.signs.demand.is_flat() {
                Some(_) => "and requests did not rise",
                None => "whether for more requests is not known",
            },
        ),
        Because::Leak(leak) => format!(
            "{} sessions more are idle in transaction and stay so, most of {}",
            words::count(leak.now - leak.before),
            words::application(&words::name(&leak.application)),
        ),
        Because::BroadSurge(shared) => format!(
            "requests of all endpoints are {:.1} times as many, no single one explains it",
            shared.common.growth,
        ),
        Because::SlowQueries(shared) => {
            format!("requests of all endpoints {}", slower(shared))
        }
        Because::Unknown => unknown(explanation),
    };
    format!("{target} {}; {because}", situation.climb.sentence())
}

fn endpoint(first: &Candidate, explanation: &Explanation) -> String {
    let of_what = if first.basis == Basis::Tags && explanation.waiting >= 1.0 {
        "of the extra sessions in the database"
    } else {
        "of it"
    };
    format!(
        "{} explains {} {of_what}",
        words::name(&first.attribution.route),
        words::percent(first.attribution.share),
    )
}

fn unknown(explanation: &Explanation) -> String {
    match &explanation.verdict {
        Verdict::Untagged { application, .. } => format!(
            "most of it is {}, whose sessions carry no route tags",
            words::application(&words::name(application)),
        ),
        Verdict::BroadGrowth => "all routes rose together".to_owned(),
        Verdict::SlowerForAll => "all routes got slower together".to_owned(),
        Verdict::OnlyWaiting => "the rise is in the poolers' queues".to_owned(),
        _ => "no single route explains it".to_owned(),
    }
}

/// `take 3.1 times as long`, or what they wait longer.
fn slower(shared: &Shared) -> String {
    if shared.common.slowdown > 1.0 {
        format!("take {:.1} times as long", shared.common.slowdown)
    } else {
        format!("wait {} longer", words::duration(shared.common.wait))
    }
}

/// `session 4711 of nightly (idle in transaction, its transaction 5 min old)`.
fn who(blocker: &Blocker) -> String {
    let name = match (blocker.pid, &blocker.prepared) {
        (Some(pid), _) => format!("session {pid}"),
        (None, Some(gid)) => format!("prepared transaction {}", words::name(gid)),
        (None, None) => "a session that cannot be told".to_owned(),
    };
    let application = blocker.application.as_deref().filter(|a| !a.is_empty());
    let of = application.map_or_else(String::new, |a| format!(" of {}", words::name(a)));
    let age = blocker.transaction_seconds;
    let age = age.map(|age| format!("its transaction {} old", words::duration(age)));
    let facts: Vec<String> = blocker.state.clone().into_iter().chain(age).collect();
    if facts.is_empty() {
        format!("{name}{of}")
    } else {
        format!("{name}{of} ({})", facts.join(", "))
    }
}

/// What the cause adds to the subject.
pub fn subject(because: &Because) -> serde_json::Map<String, serde_json::Value> {
    let facts = match because {
        Because::Application(grown) => json!({ "application": words::name(&grown.application) }),
        Because::ReconnectStorm(storm) => {
            json!({ "application": storm.application.as_deref().map(words::name) })
        }
        Because::Leak(leak) => json!({ "application": words::name(&leak.application) }),
        Because::LockPileup(Some(blocker)) => json!({
            "blocker_pid": blocker.pid,
            "blocker_prepared": blocker.prepared,
            "blocker_application": blocker.application,
            "blocker_transaction_seconds": blocker.transaction_seconds.map(f64::round),
            "blocker_waiters": blocker.waiters,
        }),
        _ => json!({}),
    };
    fields(facts)
}

/// One sentence each.
pub fn evidence(situation: &Situation<'_>) -> Vec<String> {
    let explanation = situation.explanation;
    let mut evidence = vec![format!(
        "{} in use or waiting now, where {} are normal and {} are the top of the band",
        words::plural(situation.now, "session"),
        words::mean(situation.band.expected),
        words::count(situation.band.upper),
    )];
    evidence.push(format!(
        "on average since the onset: {} {} in the database and {} more waiting in the poolers",
        words::plural(explanation.rise.abs(), "session"),
        if explanation.rise < 0.0 {
            "fewer"
        } else {
            "more"
        },
        words::plural(explanation.waiting, "client"),
    ));
    // Shares are of these, so they must be told where they are not the rise.
    if !explanation.candidates.is_empty() && explanation.extra >= explanation.rise + 1.0 {
        evidence.push(format!(
            "the extra sessions in the database are {}: what grew took places of what shrank",
            words::mean(explanation.extra),
        ));
    }
    let candidates = explanation.candidates.iter();
    evidence.extend(candidates.map(|of| candidate(of, explanation)));
    evidence.extend(reasons(situation));
    evidence.extend(looked_at(explanation));
    evidence.extend(habits(situation));
    evidence.extend(situation.answers.sentence());
    if let Some(seconds) = situation.restarted {
        evidence.push(format!(
            "the server was restarted {} before the onset; its baseline from before still holds",
            words::duration(seconds),
        ));
    }
    if situation.alarm.accepted {
        evidence.push(
            "the level has held for an hour: it is the new normal, and the incident is resolved"
                .to_owned(),
        );
    } else if situation.alarm.calm {
        evidence.push("back under the band; resolved when it stays there".to_owned());
    }
    evidence
}

/// `GET /x of registry: 3.1 → 41 requests/s, 0.8 → 12 s; 412 of the 455 extra
/// sessions in the database (2 → 414, by their tags); …`
fn candidate(candidate: &Candidate, explanation: &Explanation) -> String {
    let attribution = &candidate.attribution;
    let (of_what, by) = match candidate.basis {
        Basis::Tags => ("extra sessions in the database", "sessions, by their tags"),
        Basis::Requests(Evidence::DatabaseTime) => (
            "extra sessions",
            "requests in the database at a time, by its traces",
        ),
        Basis::Requests(Evidence::InFlight) => (
            "extra sessions",
            "running requests, by the application's own gauge",
        ),
        Basis::Requests(Evidence::Completed) => (
            "extra sessions",
            "requests at a time, by those that have ended",
        ),
    };
    // The whole that the share is of.
    let whole = if attribution.share > 0.0 {
        attribution.connections / attribution.share
    } else {
        explanation.extra
    };
    format!(
        "{} of {}: {}{} of the {} {of_what} ({} → {} {by}){}",
        words::name(&attribution.route),
        words::name(&attribution.service),
        flow(candidate),
        words::mean(attribution.connections),
        words::mean(whole),
        words::mean(candidate.before),
        words::mean(candidate.now),
        parts(candidate),
    )
}

/// `3.1 → 41 requests/s, 0.8 → 12 s; `, where both are known.
fn flow(candidate: &Candidate) -> String {
    match candidate.flow {
        Some((before, since)) if since.rate > 0.0 => format!(
            "{} → {} requests/s, {} → {} s; ",
            words::mean(before.rate),
            words::mean(since.rate),
            seconds(before.hold),
            seconds(since.hold),
        ),
        _ => String::new(),
    }
}

/// Two digits, also of milliseconds.
fn seconds(value: f64) -> String {
    match value {
        value if value < 0.1 => format!("{value:.3}"),
        value if value < 9.95 => format!("{value:.1}"),
        value => words::count(value),
    }
}

/// `; 300 by more requests, 112 by longer ones`, where requests tell.
fn parts(candidate: &Candidate) -> String {
    let attribution = &candidate.attribution;
    match (attribution.rate_part, attribution.hold_part) {
        (Some(rate), Some(hold)) => format!(
            "; {} by more requests, {} by longer ones",
            words::mean(rate.max(0.0)),
            words::mean(hold.max(0.0)),
        ),
        _ => String::new(),
    }
}

/// What the cause rests on, where it is no endpoint.
fn reasons(situation: &Situation<'_>) -> Vec<String> {
    match situation.because {
        Because::Application(grown) => vec![format!(
            "{}: {} → {} in use, and nothing is known of its routes",
            words::name(&grown.application),
            words::mean(grown.before),
            words::plural(grown.now, "session"),
        )],
        Because::LockPileup(Some(blocker)) => vec![format!(
            "{} of the waiters stand behind {}",
            words::count(f64::from(blocker.waiters)),
            who(blocker),
        )],
        Because::LockPileup(None) => vec![
            "who holds the lock is not known: the lock table was not read, or shows no waiter"
                .to_owned(),
        ],
        Because::ReconnectStorm(storm) => vec![format!(
            "{} sessions were opened around the onset beyond the usual {}, where {} stood before; \
             no more than half of them are at work",
            words::count(storm.opened),
            words::mean(storm.usual),
            words::count(storm.standing),
        )],
        Because::Leak(leak) => vec![format!(
            "sessions idle in transaction: {} → {}, and none came back",
            words::mean(leak.before),
            words::mean(leak.now),
        )],
        Because::BroadSurge(shared) | Because::SlowQueries(shared) => vec![all(shared)],
        Because::Endpoint | Because::Unknown => Vec::new(),
    }
}

/// What else is out of its band, and whether the applications asked for more:
/// each cause that is not told was looked for there.
fn habits(situation: &Situation<'_>) -> Vec<String> {
    let signs = situation.signs;
    let departures = signs.departures.iter();
    let mut sentences: Vec<String> = departures
        .map(|departure| departure.sentence(situation.t))
        .collect();
    if *situation.because != Because::Endpoint {
        sentences.push(signs.demand.sentence());
        if let Some((before, now)) = signs.query_time {
            sentences.push(format!(
                "mean query time at the poolers: {} → {} ms",
                words::mean(before * 1e3),
                words::mean(now * 1e3),
            ));
        }
    }
    sentences
}

fn all(shared: &Shared) -> String {
    let common = &shared.common;
    match &shared.parts {
        Some(parts) => format!(
            "of the rise, {} is more requests for all endpoints (× {:.1}) and {} is slower ones \
             (they {})",
            words::percent(parts.surge.max(0.0)),
            common.growth,
            words::percent(parts.slow.max(0.0)),
            slower(shared),
        ),
        None => format!(
            "the sessions of all routes rose together, by their tags; transactions at the poolers \
             rose by a factor of {:.1}",
            common.growth,
        ),
    }
}

/// Why nobody is named, and what else was seen.
fn looked_at(explanation: &Explanation) -> Vec<String> {
    let mut sentences = Vec::new();
    match &explanation.verdict {
        Verdict::Endpoint | Verdict::LockWaits => {}
        Verdict::NoBaseline => sentences.push(
            "no route is named: nothing is known of the sessions before the onset".to_owned(),
        ),
        Verdict::OnlyWaiting => sentences.push(
            "no route is named: the sessions in the database did not change, and a client that \
             waits in a pooler has no statement yet"
                .to_owned(),
        ),
        Verdict::Untagged {
            application,
            sessions,
        } => sentences.push(format!(
            "no route is named: {} of the extra sessions are of {} and carry no route tag",
            words::count(*sessions),
            words::application(&words::name(application)),
        )),
        Verdict::BroadGrowth => sentences.push(
            "no route is named: the routes rose together, which is more traffic for all or a \
             slower database"
                .to_owned(),
        ),
        Verdict::SlowerForAll => sentences
            .push("no route is named: the requests of all routes got slower together".to_owned()),
        Verdict::NoClearLead => {
            sentences.push("no route is named: none is far enough ahead of the others".to_owned())
        }
    }
    if explanation.growth > 1.0 {
        sentences.push(format!(
            "the routes grew by a factor of {:.1} together",
            explanation.growth,
        ));
    }
    if explanation.lock_waits >= 1.0 {
        sentences.push(format!(
            "{} more wait for locks than before the onset",
            words::plural(explanation.lock_waits, "session"),
        ));
    }
    let told = matches!(explanation.verdict, Verdict::Untagged { .. });
    if explanation.untagged >= 1.0 && !told {
        sentences.push(format!(
            "{} of the extra sessions carry no route tag",
            words::count(explanation.untagged),
        ));
    }
    sentences
}

/// Statements to run in psql, and commands of a pooler's console.
pub fn actions(situation: &Situation<'_>) -> Vec<String> {
    let explanation = situation.explanation;
    match (situation.because, explanation.candidates.first()) {
        (Because::Endpoint, Some(first)) if first.basis == Basis::Tags => {
            of_condition(&tagged_with(&first.attribution.route))
        }
        (Because::Application(grown), _) => {
            let name = words::sql_literal(&words::name(&grown.application));
            of_condition(&format!("application_name = {name}"))
        }
        (Because::Leak(leak), _) => {
            let name = words::sql_literal(&words::name(&leak.application));
            of_condition(&format!(
                "application_name = {name} AND state LIKE 'idle in transaction%'"
            ))
            .into_iter()
            .map(|statement| statement.replace(" AND state = 'active'", ""))
            .map(|statement| statement.replace("pg_cancel_backend", "pg_terminate_backend"))
            .collect()
        }
        (Because::LockPileup(blocker), _) => {
            let waiters = "SELECT pid, pg_blocking_pids(pid) AS blocked_by, wait_event, \
                 now() - query_start AS waiting, left(query, 80) AS query FROM pg_stat_activity \
                 WHERE wait_event_type = 'Lock' ORDER BY query_start LIMIT 50;";
            let free = blocker.iter().map(|blocker| blocker.action.clone());
            let free = free.filter(|action| !action.is_empty());
            std::iter::once(waiters.to_owned()).chain(free).collect()
        }
        (Because::Unknown, _) if explanation.verdict == Verdict::OnlyWaiting => {
            vec!["SHOW POOLS;  on the console of each pooler".to_owned()]
        }
        _ => vec![
            "SELECT application_name, usename, client_addr, state, wait_event_type, wait_event, \
             count(*), left(min(query), 80) AS example FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND state <> 'idle' \
             GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 7 DESC LIMIT 20;"
                .to_owned(),
        ],
    }
}

/// A look at the sessions of a condition, and the cancelling of what they run.
fn of_condition(condition: &str) -> Vec<String> {
    vec![
        format!(
            "SELECT pid, usename, client_addr, state, now() - query_start AS running, \
             left(query, 80) AS query FROM pg_stat_activity WHERE {condition} \
             AND state <> 'idle' AND pid <> pg_backend_pid() \
             ORDER BY query_start LIMIT 50;"
        ),
        format!(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE {condition} \
             AND state = 'active' AND pid <> pg_backend_pid();"
        ),
    ]
}
