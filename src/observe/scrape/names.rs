//! Which metrics and labels of an application's page tell of its requests.
//!
//! There is no standard that everybody follows, so this is a list of what the
//! clients and frameworks in use write. Dots are read as underscores. A name
//! that speaks of HTTP counts with any prefix
//! (`shop_http_request_duration_seconds`), unless the prefix says that these
//! are requests which the application *makes*; general names such as
//! `request_duration_seconds` count only bare, or every client of a cache would
//! be taken for a server.

use std::borrow::Cow;

use super::line::{Label, Labels};
use crate::observe::traffic::route as vocabulary;

/// Names of the distribution of request durations, the best known first.
const DURATIONS: [(&str, Prefix); 18] = [
    // OpenTelemetry, stable.
    ("http_server_request_duration", Prefix::Any),
    // Micrometer: Spring Boot, Quarkus, Micronaut.
    ("http_server_requests", Prefix::Any),
    // Home-made ones, and the instrumentators of FastAPI, Flask, Express, .NET.
    ("http_request_duration", Prefix::Any),
    // OpenTelemetry before the name became stable.
    ("http_server_duration", Prefix::Any),
    // Rust: actix-web-prom, axum-prometheus, rocket_prometheus.
    ("http_requests_duration", Prefix::Any),
    // Django.
    ("http_requests_latency", Prefix::Any),
    ("http_request_latency", Prefix::Any),
    ("http_response_time", Prefix::Any),
    ("http_server_response_time", Prefix::Any),
    // Rails with yabeda, Starlette, Go.
    ("rails_request_duration", Prefix::None),
    ("starlette_request_duration", Prefix::None),
    ("starlette_requests_processing_time", Prefix::None),
    ("echo_request_duration", Prefix::None),
    ("gin_request_duration", Prefix::None),
    ("requests_duration", Prefix::None),
    ("request_duration", Prefix::None),
    ("request_latency", Prefix::None),
    ("response_time", Prefix::None),
];

/// What may stand before a known name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefix {
    Any,
    None,
}

/// Words in a prefix that turn a request around.
const OUTWARDS: [&str; 6] = [
    "client", "upstream", "outgoing", "outbound", "egress", "backend",
];

/// Units that a name may end in, and the seconds in one.
const UNITS: [(&str, f64); 6] = [
    ("_seconds", 1.0),
    ("_milliseconds", 1e-3),
    ("_millis", 1e-3),
    ("_ms", 1e-3),
    ("_microseconds", 1e-6),
    ("_nanoseconds", 1e-9),
];

/// What django-prometheus hangs behind the unit.
const BY_VIEW: &str = "_by_view_method";

/// Names of a plain counter of requests, and of its twin, a counter of the time
/// that they took; before the unit and `_total`.
const COUNTED: [&str; 2] = ["http_requests", "http_server_requests"];
const TIMED: [&str; 6] = [
    "http_requests_duration",
    "http_request_duration",
    "http_server_requests_duration",
    "http_requests",
    "http_request",
    "http_server_requests",
];

/// Names of gauges of requests that are running. Micrometer's is last.
const IN_FLIGHT: [&str; 8] = [
    "requests_in_flight",
    "in_flight_requests",
    "requests_inflight",
    "active_requests",
    "requests_inprogress",
    "requests_in_progress",
    "http_requests_pending",
    "requests_active_seconds_active_count",
];

/// Labels that name a route, the most telling first. `http_target` and
/// `url_path` are no routes: they carry what the client sent.
const ROUTE_LABELS: [&str; 9] = [
    "http_route",
    "route",
    "path_template",
    "handler",
    "endpoint",
    "uri",
    "path",
    "view",
    "url_rule",
];

/// The pair of labels that Rails and its kin have instead.
const CONTROLLER: &str = "controller";
const ACTION: &str = "action";

/// Labels of the method. All labels but these are summed over.
const METHOD_LABELS: [&str; 5] = [
    "http_request_method",
    "request_method",
    "http_method",
    "method",
    "verb",
];

/// What frameworks write when no route matched.
const UNROUTED: [&str; 8] = [
    "",
    "none",
    "null",
    "unknown",
    "unmatched",
    "not_found",
    "/**",
    "<unmatched>",
];

/// What a series counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Count,
    /// Of durations; the seconds in one unit.
    Sum(Unit),
    /// Cumulative, up to the label `le` in that unit.
    Bucket(Unit),
}

/// A unit of time, as an index of [`UNITS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Unit(usize);

impl Unit {
    const SECONDS: Self = Self(0);
    const MILLISECONDS: Self = Self(1);

    /// Seconds in one.
    pub fn seconds(self) -> f64 {
        UNITS[self.0].1
    }
}

/// What a metric tells, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// A part of the requests that `family` tells of.
    Requests {
        family: String,
        part: Part,
    },
    /// Requests that run now.
    InFlight,
    /// When the process began.
    ProcessStart,
    Nothing,
}

/// How much a family is to be preferred to others of the page; lower is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank(usize);

/// What the metric `name` tells. `configured` is the one family that counts,
/// where the configuration names it.
pub fn role(name: &str, configured: Option<&str>) -> Role {
    let name = plain(name);
    if name == "process_start_time_seconds" {
        return Role::ProcessStart;
    }
    if IN_FLIGHT
        .iter()
        .any(|known| prefix(&name, known).is_some_and(inwards))
    {
        return Role::InFlight;
    }
    let of_distribution = distribution(&name).filter(|(family, _)| {
        configured.map_or(rank(family).is_some(), |own| is_family(family, own))
    });
    let found = of_distribution.or_else(|| configured.is_none().then(|| twin(&name)).flatten());
    found.map_or(Role::Nothing, |(family, part)| Role::Requests {
        family: family.to_owned(),
        part,
    })
}

/// The preference of a family that was found by itself; the configured one is
/// the only one there is.
pub fn preference(family: &str) -> Rank {
    // Twins come last: they are what is left when there is no distribution.
    Rank(rank(family).map_or(usize::MAX, |rank| rank.0))
}

/// Whether a name looks as if it told of requests or durations: what to show to
/// somebody whose page has nothing that is known.
pub fn is_candidate(name: &str) -> bool {
    let name = plain(name);
    let words = [
        "request", "http", "duration", "latency", "response", "route",
    ];
    distribution(&name).is_some() && words.iter().any(|word| name.contains(word))
}

/// The name of a family, from that of one of its series.
pub fn family_of(name: &str) -> String {
    let plain = plain(name);
    let family = distribution(&plain).map(|(family, _)| family);
    family.unwrap_or(&plain).to_owned()
}

/// A family by any of the ways to write it: with the suffix of a part or not.
fn is_family(family: &str, written: &str) -> bool {
    let written = plain(written);
    let bare = distribution(&written).map_or(&*written, |(family, _)| family);
    family == bare
}

/// `a.b` as `a_b`.
fn plain(name: &str) -> Cow<'_, str> {
    if name.contains('.') {
        Cow::Owned(name.replace('.', "_"))
    } else {
        Cow::Borrowed(name)
    }
}

/// What stands before `known` at the end of `name`: nothing, or a prefix with
/// its underscore.
fn prefix<'n>(name: &'n str, known: &str) -> Option<&'n str> {
    name.strip_suffix(known)
        .filter(|prefix| prefix.is_empty() || prefix.ends_with('_'))
}

fn inwards(prefix: &str) -> bool {
    !prefix.split('_').any(|word| OUTWARDS.contains(&word))
}

/// The family and the part of it that the name of a series says.
fn distribution(name: &str) -> Option<(&str, Part)> {
    if let Some(family) = name.strip_suffix("_count") {
        return Some((family, Part::Count));
    }
    let (family, part): (_, fn(Unit) -> Part) = match name.strip_suffix("_sum") {
        Some(family) => (family, Part::Sum),
        None => (name.strip_suffix("_bucket")?, Part::Bucket),
    };
    let unit = unit_of(family).map_or(Unit::SECONDS, |(_, unit)| unit);
    Some((family, part(unit)))
}

/// The name without its unit, and the unit.
fn unit_of(family: &str) -> Option<(&str, Unit)> {
    let family = family.strip_suffix(BY_VIEW).unwrap_or(family);
    let named = UNITS
        .iter()
        .enumerate()
        .find_map(|(index, (unit, _))| Some((family.strip_suffix(unit)?, Unit(index))));
    named.or(match family {
        // OpenTelemetry leaves the unit away where names are not translated.
        "http_server_request_duration" => Some((family, Unit::SECONDS)),
        "http_server_duration" => Some((family, Unit::MILLISECONDS)),
        _ => None,
    })
}

fn rank(family: &str) -> Option<Rank> {
    let (name, _) = unit_of(family)?;
    let ranks = DURATIONS.iter().enumerate();
    let found = ranks.filter_map(|(index, (known, allowed))| {
        let prefix = prefix(name, known)?;
        match allowed {
            _ if prefix.is_empty() => Some(Rank(2 * index)),
            Prefix::Any if inwards(prefix) => Some(Rank(2 * index + 1)),
            _ => None,
        }
    });
    found.min()
}

/// Two counters in place of a distribution: the family is what stands before
/// them, and `http_requests`.
fn twin(name: &str) -> Option<(&str, Part)> {
    let counter = name.strip_suffix("_total")?;
    let family = |name: &'_ str, known: &[&str]| {
        known
            .iter()
            .filter_map(|known| prefix(name, known))
            .find(|prefix| inwards(prefix))
            .map(str::len)
    };
    if let Some(end) = family(counter, &COUNTED) {
        return Some((&name[..end + "http".len()], Part::Count));
    }
    let (timed, unit) = unit_of(counter)?;
    let end = family(timed, &TIMED)?;
    Some((&name[..end + "http".len()], Part::Sum(unit)))
}

/// The route of a series and the labels that it was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<'a> {
    /// The name that all sources share; `None` when the labels say that no
    /// route matched.
    pub name: Option<String>,
    /// The names of those labels, the method's last.
    pub labels: Vec<&'a str>,
}

/// The route that the labels of a series name. `configured` are the labels that
/// make it, where the configuration names them. `None` when there are no such
/// labels.
pub fn route<'a>(labels: &Labels<'a>, configured: &[String]) -> Option<Route<'a>> {
    let get = |name: &str| labels.iter().find(|label| plain(label.name) == name);
    let single = |label: Option<Label<'a>>| label.map(|label| (label, None));
    let (first, second) = match configured {
        [] => single(ROUTE_LABELS.iter().find_map(|name| get(name)))
            .or_else(|| Some((get(CONTROLLER)?, get(ACTION))))?,
        [one] => (get(&plain(one))?, None),
        [one, two, ..] => (get(&plain(one))?, Some(get(&plain(two))?)),
    };
    let pair = second.is_some() || first.name == CONTROLLER;
    // Who names an endpoint by controller and action leaves the method away.
    let method = METHOD_LABELS
        .iter()
        .find_map(|name| get(name))
        .filter(|label| !pair && *label != first);
    let value = first.value();
    let unrouted = UNROUTED.iter().any(|word| value.eq_ignore_ascii_case(word));
    let name = if unrouted {
        None
    } else if pair {
        let action = second.map_or(Cow::Borrowed(""), |label| label.value());
        vocabulary::action_name(&value, &action)
    } else {
        let method = method.as_ref().map(Label::value);
        vocabulary::name(method.as_deref(), &value)
    };
    let labels = [Some(first), second, method];
    Some(Route {
        name,
        labels: labels.iter().flatten().map(|label| label.name).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::line::{Line, Parser};
    use super::*;

    fn requests(family: &str, part: Part) -> Role {
        Role::Requests {
            family: family.to_owned(),
            part,
        }
    }

    #[test]
    fn the_usual_names_are_known() {
        let seconds = Unit::SECONDS;
        let cases = [
            (
                "http_server_request_duration_seconds_bucket",
                requests(
                    "http_server_request_duration_seconds",
                    Part::Bucket(seconds),
                ),
            ),
            (
                "http.server.request.duration_count",
                requests("http_server_request_duration", Part::Count),
            ),
            (
                "http_server_duration_milliseconds_sum",
                requests(
                    "http_server_duration_milliseconds",
                    Part::Sum(Unit::MILLISECONDS),
                ),
            ),
            (
                "http_server_requests_seconds_sum",
                requests("http_server_requests_seconds", Part::Sum(seconds)),
            ),
            (
                "shop_http_request_duration_ms_count",
                requests("shop_http_request_duration_ms", Part::Count),
            ),
            (
                "django_http_requests_latency_seconds_by_view_method_sum",
                requests(
                    "django_http_requests_latency_seconds_by_view_method",
                    Part::Sum(seconds),
                ),
            ),
            (
                "axum_http_requests_duration_seconds_count",
                requests("axum_http_requests_duration_seconds", Part::Count),
            ),
            (
                "request_duration_seconds_sum",
                requests("request_duration_seconds", Part::Sum(seconds)),
            ),
            ("http_requests_total", requests("http", Part::Count)),
            ("a_http_requests_total", requests("a_http", Part::Count)),
            (
                "a_http_request_duration_seconds_total",
                requests("a_http", Part::Sum(seconds)),
            ),
            ("http_requests_in_flight", Role::InFlight),
            ("http_server_active_requests", Role::InFlight),
            (
                "http_server_requests_active_seconds_active_count",
                Role::InFlight,
            ),
            ("process_start_time_seconds", Role::ProcessStart),
        ];
        for (name, expected) in cases {
            assert_eq!(role(name, None), expected, "{name}");
        }
    }

    #[test]
    fn what_the_application_asks_of_others_is_not_its_traffic() {
        for name in [
            "http_client_request_duration_seconds_sum",
            "redis_request_duration_seconds_count",
            "envoy_upstream_http_requests_total",
            "http_client_active_requests",
            "http_request_duration_seconds_max",
            "http_request_duration_seconds_created",
            "http_request_duration_sum",
            "http_request_size_bytes_sum",
        ] {
            assert_eq!(role(name, None), Role::Nothing, "{name}");
        }
        assert!(is_candidate("redis_request_duration_seconds_count"));
        assert!(!is_candidate("go_gc_duration_seconds_quantile"));
    }

    #[test]
    fn a_configured_family_is_the_only_one() {
        for own in ["my_latency", "my.latency", "my_latency_count"] {
            let count = role("my_latency_count", Some(own));
            assert_eq!(count, requests("my_latency", Part::Count), "{own}");
            let other = role("http_request_duration_seconds_count", Some(own));
            assert_eq!(other, Role::Nothing, "{own}");
        }
        let busy = role("http_requests_in_flight", Some("my_latency"));
        assert_eq!(busy, Role::InFlight);
    }

    #[test]
    fn the_best_known_name_is_preferred() {
        let best = [
            "http_server_request_duration_seconds",
            "http_server_requests_seconds",
            "http_request_duration_seconds",
            "a_http_request_duration_seconds",
            "request_duration_seconds",
            "http",
        ];
        assert!(best.is_sorted_by(|a, b| preference(a) < preference(b)));
    }

    #[test]
    fn routes_are_read_from_the_labels_that_frameworks_write() {
        let cases = [
            (
                r#"m{method="get",route="/a",path="/a/1"} 1"#,
                Some((Some("GET /a"), vec!["route", "method"])),
            ),
            (
                r#"m{uri="UNKNOWN",method="GET"} 1"#,
                Some((None, vec!["uri", "method"])),
            ),
            (
                r#"m{path="/users/4711"} 1"#,
                Some((Some("/users/{id}"), vec!["path"])),
            ),
            (
                r#"m{controller="packages",action="show",method="GET"} 1"#,
                Some((Some("packages#show"), vec!["controller", "action"])),
            ),
            (
                r#"m{"http.route"="/a","http.request.method"="PUT"} 1"#,
                Some((Some("PUT /a"), vec!["http.route", "http.request.method"])),
            ),
            (r#"m{http_target="/a/1",status="200"} 1"#, None),
            (
                "m{controller=\"\u{1}\"} 1",
                Some((None, vec!["controller"])),
            ),
            ("m{path=\"\u{1}\"} 1", Some((None, vec!["path"]))),
        ];
        for (text, expected) in cases {
            let mut parser = Parser::default();
            let Ok(Line::Sample(sample)) = parser.read(text) else {
                panic!("{text} is a sample");
            };
            let found = route(&sample.labels, &[]);
            let found = found
                .as_ref()
                .map(|route| (route.name.as_deref(), route.labels.clone()));
            assert_eq!(found, expected, "{text}");
        }
        let mut parser = Parser::default();
        let Ok(Line::Sample(sample)) = parser.read(r#"m{op="list",svc="shop",path="/x"} 1"#) else {
            panic!("it is a sample");
        };
        let own = ["svc".to_owned(), "op".to_owned()];
        let found = route(&sample.labels, &own).and_then(|route| route.name);
        assert_eq!(found.as_deref(), Some("shop#list"));
        assert_eq!(route(&sample.labels, &["none".to_owned()]), None);
    }
}
