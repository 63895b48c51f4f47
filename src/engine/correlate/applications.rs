//! Which application the extra sessions belong to, where no route says it.
//!
//! An application counts as *another* one when nothing is known of its routes:
//! neither tags on its sessions nor traffic of its service. A rise of one whose
//! routes are known is a question of those routes. Nor is the application that
//! had most sessions before any news when it has most of them now; and sessions
//! without a name are nobody's.

use std::collections::{BTreeMap, BTreeSet};

use super::parts::Part;
use super::window::{History, Means};

/// Part of the sessions before the onset above which an application is the
/// database's main one.
const MAIN_PART: f64 = 0.5;

/// An application that had more of the sessions than the others.
#[derive(Debug, Clone, PartialEq)]
pub struct Grown {
    pub application: String,
    /// Mean sessions in use before the onset and since.
    pub before: f64,
    pub now: f64,
    /// What it has more than it would had it only grown as all did.
    pub own: f64,
}

/// The application with the largest own rise, of those whose routes nobody
/// tells. `reporting` are the services that tell of their routes, `growth` the
/// factor by which all grew.
pub fn another(
    history: &History,
    before: &Means,
    now: &Means,
    reporting: &BTreeSet<String>,
    growth: f64,
) -> Option<Grown> {
    let mut tagged: BTreeSet<&str> = BTreeSet::new();
    let mut found: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut ids: Vec<_> = before.parts.keys().chain(now.parts.keys()).collect();
    ids.sort_unstable();
    ids.dedup();
    let untagged = ids.iter().filter_map(|&&id| match history.name(id)? {
        Part::Route { service, .. } => {
            tagged.insert(service);
            None
        }
        Part::Untagged {
            service,
            application,
        } => Some((id, service.as_str(), application.as_str())),
    });
    let untagged: Vec<_> = untagged.collect();
    for (id, service, application) in untagged {
        let is_known = tagged.contains(service) || reporting.contains(service);
        if !is_known && !application.is_empty() {
            let sessions = found.entry(application).or_default();
            sessions.0 += before.of(id);
            sessions.1 += now.of(id);
        }
    }
    let grown = found.into_iter().map(|(application, (before, now))| Grown {
        application: application.to_owned(),
        before,
        now,
        own: now - before * growth.max(1.0),
    });
    grown
        .filter(|grown| grown.before <= MAIN_PART * before.in_use)
        .max_by(|a, b| a.own.total_cmp(&b.own))
        .filter(|grown| grown.own > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::correlate::Mix;

    fn part(service: &str, route: Option<&str>) -> Part {
        match route {
            Some(route) => Part::Route {
                service: service.to_owned(),
                route: route.to_owned(),
            },
            None => Part::Untagged {
                service: service.to_owned(),
                application: service.to_owned(),
            },
        }
    }

    /// Two hundred seconds before an onset, ten since.
    fn told(
        before: &[(&str, Option<&str>, f64)],
        now: &[(&str, Option<&str>, f64)],
        reporting: &[&str],
    ) -> Option<String> {
        let mut history = History::default();
        for t in 0..210 {
            let parts = if t < 200 { before } else { now };
            let mix = Mix {
                in_use: parts.iter().map(|(.., n)| n).sum(),
                parts: parts.iter().map(|&(s, r, n)| (part(s, r), n)).collect(),
                ..Mix::default()
            };
            history.record(f64::from(t), mix);
        }
        let (before, now) = (history.before(199.0), history.since(199.0).means());
        let reporting = reporting.iter().map(|&name| name.to_owned()).collect();
        another(&history, &before, &now, &reporting, 1.0).map(|grown| grown.application)
    }

    #[test]
    fn a_batch_job_is_told_and_the_main_application_is_not() {
        let quiet: &[_] = &[("registry", None, 10.0)];
        let batch: &[_] = &[("registry", None, 12.0), ("nightly", None, 30.0)];
        assert_eq!(told(quiet, batch, &[]).as_deref(), Some("nightly"));
        let busy: &[_] = &[("registry", None, 60.0)];
        assert_eq!(told(quiet, busy, &[]), None);
    }

    #[test]
    fn one_whose_routes_are_known_is_a_question_of_its_routes() {
        let quiet: &[_] = &[("web", None, 10.0), ("registry", None, 2.0)];
        let busy: &[_] = &[("web", None, 10.0), ("registry", None, 60.0)];
        assert_eq!(told(quiet, busy, &[]).as_deref(), Some("registry"));
        assert_eq!(told(quiet, busy, &["registry"]), None);
        let tagged: &[_] = &[
            ("web", None, 10.0),
            ("registry", None, 60.0),
            ("registry", Some("/a"), 3.0),
        ];
        assert_eq!(told(quiet, tagged, &[]), None);
    }

    #[test]
    fn nobody_is_told_without_a_name_or_a_rise() {
        let quiet: &[_] = &[("web", None, 10.0)];
        assert_eq!(
            told(quiet, &[("web", None, 10.0), ("", None, 60.0)], &[]),
            None
        );
        assert_eq!(told(quiet, quiet, &[]), None);
    }
}
