use super::*;
use crate::engine::correlate::{Mix, Services};
use crate::sample::{Group, PostgresReport};

/// One group of sessions: application, route, waiting for a lock, count.
type Row<'a> = (&'a str, Option<&'a str>, bool, u32);

fn report(rows: &[Row<'_>]) -> PostgresReport {
    PostgresReport {
        groups: rows
            .iter()
            .map(|&(application, route, waits, count)| Group {
                application: Some(application.to_owned()),
                state: Some("active".to_owned()),
                wait_event_type: waits.then(|| "Lock".to_owned()),
                route: route.map(str::to_owned),
                count,
                ..Group::default()
            })
            .collect(),
        ..PostgresReport::default()
    }
}

/// Five minutes of one mix, then ten seconds of another.
fn explained(before: &[Row<'_>], since: &[Row<'_>]) -> Explanation {
    let mut history = History::default();
    let (first, second) = (report(before), report(since));
    for t in 0..310 {
        let now = if t < 300 { &first } else { &second };
        history.record(f64::from(t), Mix::of(now, 0, "main", &Services::default()));
    }
    let since = history.since(299.0).means();
    explain(&history, &history.before(299.0), &since)
}

const QUIET: [Row<'static>; 4] = [
    ("app", Some("/a"), false, 4),
    ("app", Some("/b"), false, 2),
    ("app", Some("/c"), false, 1),
    ("app", Some("/d"), false, 1),
];

fn with(row: Row<'static>) -> Vec<Row<'static>> {
    QUIET.into_iter().chain([row]).collect()
}

#[test]
fn the_share_is_own_sessions_over_extra_sessions() {
    let since = with(("app", Some("/x"), false, 30));
    let explanation = explained(&QUIET, &since);
    assert_eq!(explanation.verdict, Verdict::Endpoint);
    assert!((explanation.extra - 30.0).abs() < 1e-9);
    let first = &explanation.candidates[0];
    assert_eq!(first.attribution.route, "/x");
    assert!((first.attribution.share - 1.0).abs() < 1e-9);
    assert!((first.attribution.connections - 30.0).abs() < 1e-9);
    assert_eq!(first.attribution.rate_change, None);
    assert_eq!(explanation.unexplained_share, Some(0.0));
}

#[test]
fn common_growth_is_taken_off_the_culprit_too() {
    // Everybody doubled, and one route did ten times as much besides.
    let since: Vec<Row<'_>> = [("/a", 8), ("/b", 4), ("/c", 2), ("/d", 20)]
        .map(|(route, count)| ("app", Some(route), false, count))
        .to_vec();
    let explanation = explained(&QUIET, &since);
    assert!((explanation.growth - 2.0).abs() < 1e-9);
    let first = &explanation.candidates[0];
    assert_eq!(first.attribution.route, "/d");
    assert!((first.attribution.connections - 18.0).abs() < 1e-9);
}

#[test]
fn a_route_gone_quiet_explains_nothing_but_hides_nothing() {
    let since: Vec<Row<'_>> = vec![("app", Some("/x"), false, 8)];
    let explanation = explained(&QUIET, &since);
    // The total stood still; the displaced sessions are the extra.
    assert!((explanation.extra - 8.0).abs() < 1e-9);
    assert_eq!(explanation.candidates.len(), 1);
    assert_eq!(explanation.candidates[0].attribution.route, "/x");
}

#[test]
fn untagged_sessions_stay_unexplained() {
    let since = with(("cron", None, false, 30));
    let explanation = explained(&QUIET, &since);
    assert_eq!(
        explanation.verdict,
        Verdict::Untagged {
            application: "cron".to_owned(),
            sessions: 30.0
        }
    );
    assert_eq!(explanation.unexplained_share, Some(1.0));
    assert!(explanation.candidates.is_empty());
}

#[test]
fn a_strong_rival_without_tags_keeps_a_route_from_being_named() {
    let mut since = with(("app", Some("/x"), false, 18));
    since.push(("cron", None, false, 14));
    let explanation = explained(&QUIET, &since);
    assert_ne!(explanation.verdict, Verdict::Endpoint);
    assert!(explanation.candidates[0].attribution.confidence < NAMED);
}

#[test]
fn forty_percent_in_lock_waits_are_a_lock_story() {
    let mut since = with(("app", Some("/x"), false, 17));
    since.push(("app", Some("/x"), true, 13));
    let explanation = explained(&QUIET, &since);
    assert_eq!(explanation.verdict, Verdict::LockWaits);
    assert!(explanation.candidates[0].attribution.confidence < NAMED);
    let mut fewer = with(("app", Some("/x"), false, 25));
    fewer.push(("app", Some("/x"), true, 5));
    assert_eq!(explained(&QUIET, &fewer).verdict, Verdict::Endpoint);
}

#[test]
fn nothing_before_and_nothing_extra_are_said_so() {
    let history = History::default();
    let nothing = explain(&history, &Means::default(), &Means::default());
    assert_eq!(nothing.verdict, Verdict::NoBaseline);
    assert_eq!(explained(&QUIET, &QUIET).verdict, Verdict::OnlyWaiting);
    assert_eq!(explained(&QUIET, &[]).verdict, Verdict::OnlyWaiting);
}

#[test]
fn at_most_five_candidates_whose_confidences_add_up_to_one_at_most() {
    let names: Vec<String> = (0..20).map(|i| format!("/new/{i}")).collect();
    let mut since = QUIET.to_vec();
    since.extend(
        names
            .iter()
            .map(|name| ("app", Some(name.as_str()), false, 3)),
    );
    let explanation = explained(&QUIET, &since);
    assert_eq!(explanation.candidates.len(), 5);
    let sum: f64 = explanation
        .candidates
        .iter()
        .map(|c| c.attribution.confidence)
        .sum();
    assert!(sum <= 1.0 + 5.0 * LEAST, "{sum}");
    assert_eq!(explanation.verdict, Verdict::NoClearLead);
}

#[test]
fn thousands_of_routes_are_explained() {
    let names: Vec<String> = (0..3000).map(|i| format!("/r/{i}")).collect();
    let before: Vec<Row<'_>> = names
        .iter()
        .map(|name| ("app", Some(name.as_str()), false, 1))
        .collect();
    let mut since = before.clone();
    since.push(("app", Some("/x"), false, 900));
    let mut history = History::default();
    let (first, second) = (report(&before), report(&since));
    for t in 0..40 {
        let now = if t < 30 { &first } else { &second };
        history.record(f64::from(t), Mix::of(now, 0, "main", &Services::default()));
    }
    let means = history.since(29.0).means();
    let explanation = explain(&history, &history.before(29.0), &means);
    assert_eq!(explanation.candidates[0].attribution.route, "/x");
}

#[test]
fn more_routes_at_once_than_are_remembered_do_not_hide_the_largest() {
    let names: Vec<String> = (0..3000).map(|i| format!("/r/{i}")).collect();
    let tail = names
        .iter()
        .map(|name| ("app", Some(name.as_str()), false, 1));
    let before: Vec<Row<'_>> = QUIET.into_iter().chain(tail.clone()).collect();
    let mut since = before.clone();
    // The poller gives the largest groups first.
    since.insert(0, ("app", Some("/x"), false, 900));
    let explanation = explained(&before, &since);
    assert_eq!(explanation.verdict, Verdict::Endpoint, "{explanation:#?}");
    assert_eq!(explanation.candidates[0].attribution.route, "/x");
    // Those of the normal mix that are large enough keep their numbers.
    since[1].3 = 60;
    let explanation = explained(&before, &since);
    let second = &explanation.candidates[1];
    assert_eq!(second.attribution.route, "/a");
    assert!((second.before - 4.0).abs() < 1e-9, "{second:?}");
}

#[test]
fn two_routes_that_rise_alike_are_not_accused() {
    let before = [
        ("app", Some("/a"), false, 20),
        ("app", Some("/b"), false, 2),
    ];
    let since = [
        ("app", Some("/a"), false, 100),
        ("app", Some("/b"), false, 10),
    ];
    let explanation = explained(&before, &since);
    assert_ne!(explanation.verdict, Verdict::Endpoint, "{explanation:#?}");
}

#[test]
fn shares_add_up_to_one_at_most() {
    let before = [
        ("app", Some("/a"), false, 60),
        ("app", Some("/b"), false, 10),
        ("app", Some("/c"), false, 10),
        ("app", Some("/d"), false, 10),
        ("app", Some("/e"), false, 10),
    ];
    let since = [
        ("app", Some("/x"), false, 100),
        ("app", Some("/b"), false, 19),
        ("app", Some("/c"), false, 19),
        ("app", Some("/d"), false, 19),
        ("app", Some("/e"), false, 10),
    ];
    let explanation = explained(&before, &since);
    let shares = explanation.candidates.iter().map(|c| c.attribution.share);
    let sum = shares.sum::<f64>() + explanation.unexplained_share.unwrap();
    assert!((sum - 1.0).abs() < 1e-9, "{sum} {explanation:#?}");
}
