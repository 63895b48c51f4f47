//! An avalanche in words: what a person on call reads first, the figures behind
//! it, and the statements to run next, gentlest first.

use super::Situation;
use crate::engine::correlate::attribution::{Basis, Candidate, Explanation, Verdict};
use crate::engine::correlate::endpoints::Evidence;
use crate::engine::words;

/// `main went from 4 to 43 sessions in use or waiting in 12 s; …`
pub fn summary(target: &str, situation: &Situation<'_>) -> String {
    let explanation = situation.explanation;
    let because = match (&explanation.verdict, explanation.candidates.first()) {
        (Verdict::Endpoint, Some(first)) => {
            let attribution = &first.attribution;
            let of_what = if first.basis == Basis::Tags && explanation.waiting >= 1.0 {
                "of the extra sessions in the database"
            } else {
                "of it"
            };
            format!(
                "{} explains {} {of_what}",
                words::name(&attribution.route),
                words::percent(attribution.share),
            )
        }
        (Verdict::LockWaits, _) => format!(
            "{} of the extra sessions wait for locks",
            words::count(explanation.lock_waits),
        ),
        (Verdict::Untagged { application, .. }, _) => format!(
            "most of it is {}, whose sessions carry no route tags",
            words::application(&words::name(application)),
        ),
        (Verdict::BroadGrowth, _) => "all routes rose together".to_owned(),
        (Verdict::SlowerForAll, _) => "all routes got slower together".to_owned(),
        (Verdict::OnlyWaiting, _) => "the rise is in the poolers' queues".to_owned(),
        _ => "no single route explains it".to_owned(),
    };
    format!("{target} {}; {because}", situation.climb.sentence())
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
    evidence.extend(explanation.candidates.iter().map(candidate));
    evidence.extend(looked_at(explanation));
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

fn candidate(candidate: &Candidate) -> String {
    match candidate.basis {
        Basis::Tags => tagged(candidate),
        Basis::Requests(evidence) => requested(candidate, evidence),
    }
}

/// What the application tells of its requests.
fn requested(candidate: &Candidate, evidence: Evidence) -> String {
    let attribution = &candidate.attribution;
    let by = match evidence {
        Evidence::DatabaseTime => "time in the database, by its traces",
        Evidence::InFlight => "running requests, by the application's own gauge",
        Evidence::Completed => "requests that have ended",
    };
    format!(
        "{} of {}: {} at a time before the onset, {} since, {} of the extra sessions ({by}){}",
        words::name(&attribution.route),
        words::name(&attribution.service),
        words::plural(candidate.before, "request"),
        words::mean(candidate.now),
        words::percent(attribution.share),
        flow(candidate),
    )
}

/// `; 0.2/s of 10 s each before, 4/s of 10.1 s since`, where both are known.
fn flow(candidate: &Candidate) -> String {
    match candidate.flow {
        Some((before, since)) if since.rate > 0.0 => format!(
            "; {}/s of {} each before, {}/s of {} since",
            words::mean(before.rate),
            words::duration(before.hold),
            words::mean(since.rate),
            words::duration(since.hold),
        ),
        _ => String::new(),
    }
}

fn tagged(candidate: &Candidate) -> String {
    let attribution = &candidate.attribution;
    format!(
        "{} of {}: {} before the onset, {} since, {} of the extra sessions in the database{}",
        words::name(&attribution.route),
        words::name(&attribution.service),
        words::plural(candidate.before, "session"),
        words::mean(candidate.now),
        words::percent(attribution.share),
        flow(candidate),
    )
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

/// Statements to run in psql.
pub fn actions(explanation: &Explanation) -> Vec<String> {
    match (&explanation.verdict, explanation.candidates.first()) {
        (Verdict::Endpoint, Some(first)) if first.basis == Basis::Tags => {
            let condition = tagged_with(&first.attribution.route);
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
        (Verdict::LockWaits, _) => vec![
            "SELECT pid, pg_blocking_pids(pid) AS blocked_by, wait_event, \
             now() - query_start AS waiting, left(query, 80) AS query FROM pg_stat_activity \
             WHERE wait_event_type = 'Lock' ORDER BY query_start LIMIT 50;"
                .to_owned(),
        ],
        (Verdict::OnlyWaiting, _) => {
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

/// Characters of a route that go into a condition.
const ROUTE_LIMIT: usize = 120;

/// The SQL condition for statements whose comment carries the route. Emitters
/// that know no route give controller and action, which are shown as
/// `controller#action`.
fn tagged_with(route: &str) -> String {
    // Not any tag, and no literal of the statement, that happens to be equal.
    let whole = matches("[*, ]route='", route, "'");
    match route.split_once('#') {
        None => whole,
        Some((controller, action)) => format!(
            "({whole} OR {} AND {})",
            matches("[*, ]controller(='|:'?)", controller, "[', *]"),
            matches("[*, ]action(='|:'?)", action, "[', *]"),
        ),
    }
}

/// The condition that a value stands between a prefix and an end (regular
/// expressions), plain or percent-encoded: emitters differ in what they encode,
/// and some double `%`. A regular expression, because a `LIKE` pattern cannot say
/// "this or that". A value that is cut has no end.
fn matches(prefix: &str, value: &str, end: &str) -> String {
    let mut pattern = String::from(prefix);
    let mut characters = value.chars();
    for character in characters.by_ref().take(ROUTE_LIMIT) {
        push_pattern(&mut pattern, character);
    }
    if characters.next().is_none() {
        pattern.push_str(end);
    }
    format!("query ~ {}", words::sql_literal(&pattern))
}

fn push_pattern(pattern: &mut String, character: char) {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '~' => pattern.push(character),
        '.' => pattern.push_str("[.]"),
        '\'' => pattern.push_str(r"(\\?'|%+27)"),
        ' ' => pattern.push_str("( |[+]|%+20)"),
        control if control.is_control() => pattern.push('.'),
        other => {
            pattern.push('(');
            if other.is_ascii() && other != '/' && other != '%' {
                pattern.push('\\');
            }
            pattern.push(other);
            pattern.push('|');
            let mut bytes = [0; 4];
            for byte in other.encode_utf8(&mut bytes).bytes() {
                pattern.push_str("%+");
                push_hex(pattern, byte >> 4);
                push_hex(pattern, byte & 15);
            }
            pattern.push(')');
        }
    }
}

/// A hexadecimal digit in either case.
fn push_hex(pattern: &mut String, digit: u8) {
    match digit {
        0..=9 => pattern.push(char::from(b'0' + digit)),
        _ => {
            let lower = char::from(b'a' + digit - 10);
            pattern.extend(['[', lower.to_ascii_uppercase(), lower, ']']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_route_stays_readable() {
        assert_eq!(tagged_with("users"), "query ~ '[*, ]route=''users'''");
    }

    #[test]
    fn a_controller_and_its_action_are_looked_for_apart() {
        assert_eq!(
            tagged_with("users#show"),
            "(query ~ '[*, ]route=''users(\\#|%+23)show''' \
             OR query ~ '[*, ]controller(=''|:''?)users['', *]' \
             AND query ~ '[*, ]action(=''|:''?)show['', *]')"
        );
    }

    #[test]
    fn reserved_characters_match_plain_and_encoded() {
        assert_eq!(
            tagged_with("GET /{id}"),
            "query ~ '[*, ]route=''GET( |[+]|%+20)(/|%+2[Ff])(\\{|%+7[Bb])id(\\}|%+7[Dd])'''"
        );
    }

    #[test]
    fn a_quote_cannot_end_the_literal() {
        let condition = tagged_with("a'; DROP TABLE x; --");
        let inner = condition
            .strip_prefix("query ~ '")
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap();
        assert!(!inner.replace("''", "").contains('\''), "{condition}");
    }

    #[test]
    fn a_long_route_is_cut_and_left_open() {
        let condition = tagged_with(&"x".repeat(500));
        assert_eq!(condition.len(), "query ~ '[*, ]route=''".len() + 120 + 1);
    }
}
