//! Sessions in use by service and route tag, as they are now.

use std::collections::HashMap;

use super::services::Services;
use super::sessions::in_use;
use crate::engine::snapshot::RouteSessions;
use crate::sample::PostgresReport;

/// Routes shown, the same number as the metric has series.
pub const SHOWN: usize = 100;

/// The routes with most sessions in use, most first, at most [`SHOWN`].
/// Untagged sessions are not among them.
pub fn sessions_by_route(
    report: &PostgresReport,
    target: &str,
    services: &Services,
) -> Vec<RouteSessions> {
    let mut counts: HashMap<(&str, &str), u64> = HashMap::new();
    for group in in_use(report) {
        if let Some(route) = group.route.as_deref() {
            let service = services.of(target, group.application.as_deref());
            *counts.entry((service, route)).or_default() += u64::from(group.count);
        }
    }
    let mut sorted: Vec<_> = counts.into_iter().collect();
    sorted.sort_unstable_by(|(a, n), (b, m)| m.cmp(n).then(a.cmp(b)));
    sorted.truncate(SHOWN);
    sorted
        .into_iter()
        .map(|((service, route), sessions)| RouteSessions {
            service: service.to_owned(),
            route: route.to_owned(),
            sessions: sessions as f64,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Group;

    fn group(route: Option<&str>, state: &str, count: u32) -> Group {
        Group {
            application: Some("registry".to_owned()),
            state: Some(state.to_owned()),
            route: route.map(str::to_owned),
            count,
            ..Group::default()
        }
    }

    #[test]
    fn groups_of_one_route_are_added_up_and_sorted() {
        let report = PostgresReport {
            groups: vec![
                group(Some("/a"), "active", 2),
                group(Some("/b"), "active", 4),
                group(Some("/a"), "idle in transaction", 3),
                group(Some("/c"), "idle", 9),
                group(None, "active", 9),
            ],
            ..PostgresReport::default()
        };
        let routes = sessions_by_route(&report, "main", &Services::default());
        let seen: Vec<_> = routes
            .iter()
            .map(|route| (route.service.as_str(), route.route.as_str(), route.sessions))
            .collect();
        assert_eq!(seen, [("registry", "/a", 5.0), ("registry", "/b", 4.0)]);
    }

    #[test]
    fn the_list_is_bounded() {
        let report = PostgresReport {
            groups: (0..5000)
                .map(|i| group(Some(&format!("/{i}")), "active", 1))
                .collect(),
            ..PostgresReport::default()
        };
        let routes = sessions_by_route(&report, "main", &Services::default());
        assert_eq!(routes.len(), SHOWN);
    }
}
