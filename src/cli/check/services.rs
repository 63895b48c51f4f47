//! How the sessions of each target are tied to the configured services: by
//! `application_name`, as it is now.

use std::collections::BTreeMap;

use super::{Finding, Level};
use crate::config::{Config, PostgresConfig};
use crate::engine::correlate::Services;
use crate::engine::correlate::sessions::OWN_APPLICATION;
use crate::observe::postgres::PostgresSource;

/// Names told of in one sentence.
const SHOWN: usize = 8;

/// Characters of a name that are shown.
const NAME: usize = 64;

/// Sessions by application at one target.
pub(super) type Sessions = BTreeMap<String, u64>;

/// One look. `None` when the server does not answer, which is told elsewhere.
pub(super) async fn sessions(config: &PostgresConfig) -> Option<Sessions> {
    let report = PostgresSource::new(config).look().await.ok()?;
    let mut sessions = Sessions::new();
    for group in report.groups {
        let application = group.application.unwrap_or_default();
        if application != OWN_APPLICATION {
            *sessions.entry(application).or_default() += u64::from(group.count);
        }
    }
    Some(sessions)
}

/// A sentence a service and target, and one on who belongs to none.
pub(super) fn findings(config: &Config, targets: &BTreeMap<String, Sessions>) -> Vec<Finding> {
    let known = Services::new(&config.settings.services);
    let mut findings = Vec::new();
    for (target, sessions) in targets {
        let mut claimed: BTreeMap<&str, Sessions> = BTreeMap::new();
        for (application, count) in sessions {
            let service = known.of(target, Some(application));
            let of_service = claimed.entry(service).or_default();
            of_service.insert(application.clone(), *count);
        }
        let services = config.settings.services.iter();
        for service in services.filter(|service| service.targets.contains(target)) {
            let found = claimed.remove(service.name.as_str());
            findings.push(tie(&service.name, &service.applications, target, found));
        }
        let rest: Sessions = claimed.into_values().flatten().collect();
        if !rest.is_empty() && !config.settings.services.is_empty() {
            let what = format!("sessions of no [[service]]: {}", listed(&rest));
            findings.push(Finding::sentence(Level::Note, target, what));
        }
    }
    findings
}

fn tie(service: &str, globs: &[String], target: &str, found: Option<Sessions>) -> Finding {
    let subject = format!("[[service]] {service}");
    if let Some(sessions) = found {
        let what = format!("tied to {target} by its sessions: {}", listed(&sessions));
        return Finding::sentence(Level::Note, &subject, what);
    }
    Finding::new(
        Level::Note,
        &subject,
        &format!(
            "no session at {target} has an application_name like {}",
            globs.join(", ")
        ),
        "its routes are weighed by its requests alone, and other applications' sessions cannot be told from its own",
        "set application_name in its connection string, or mend `applications`",
    )
}

fn listed(sessions: &Sessions) -> String {
    let mut by_count: Vec<_> = sessions.iter().collect();
    by_count.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
    let mut names: Vec<String> = by_count
        .iter()
        .take(SHOWN)
        .map(|(name, count)| {
            let clean: String = name
                .chars()
                .filter(|c| !c.is_control())
                .take(NAME)
                .collect();
            let shown = if clean.is_empty() {
                "(no application_name)"
            } else {
                &clean
            };
            format!("{shown} {count}")
        })
        .collect();
    if by_count.len() > SHOWN {
        names.push(format!("and {} more", by_count.len() - SHOWN));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_is_told_with_its_sessions_and_the_rest_by_name() {
        let text = "[[postgres]]\nname = \"main\"\ndsn = \"host=h user=u\"\n\
                    [[service]]\nname = \"registry\"\napplications = [\"reg*\"]\n\
                    [[service]]\nname = \"shop\"\napplications = [\"shop\"]\n";
        let config = Config::parse(text, "the test", |_| None).unwrap();
        let sessions = [("registry", 12), ("reg-worker", 3), ("cron", 2), ("", 1)]
            .map(|(name, count)| (name.to_owned(), count));
        let targets = BTreeMap::from([("main".to_owned(), Sessions::from(sessions))]);
        let told: Vec<String> = findings(&config, &targets)
            .into_iter()
            .map(|finding| format!("{}: {}", finding.subject, finding.what))
            .collect();
        assert_eq!(
            told,
            [
                "[[service]] registry: tied to main by its sessions: registry 12, reg-worker 3",
                "[[service]] shop: no session at main has an application_name like shop",
                "main: sessions of no [[service]]: cron 2, (no application_name) 1",
            ]
        );
    }
}
