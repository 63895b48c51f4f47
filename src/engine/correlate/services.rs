//! From `application_name` to the service that a person knows.

use std::collections::HashMap;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::engine::settings::Service;

/// The service of a session that gives no application name.
const NAMELESS: &str = "unknown";

/// The configured services of every target, their globs compiled.
#[derive(Debug, Clone, Default)]
pub struct Services {
    targets: HashMap<String, TargetServices>,
}

#[derive(Debug, Clone, Default)]
struct TargetServices {
    globs: GlobSet,
    /// The service name of each glob, in the order of the file.
    names: Vec<String>,
}

impl Services {
    /// Compiles the globs. One that is no glob is taken literally never to
    /// match: the configuration has refused it before.
    pub fn new(services: &[Service]) -> Self {
        let mut patterns: HashMap<String, Vec<(Glob, String)>> = HashMap::new();
        for service in services {
            for target in &service.targets {
                let of_target = patterns.entry(target.clone()).or_default();
                for pattern in &service.applications {
                    if let Ok(glob) = Glob::new(pattern) {
                        of_target.push((glob, service.name.clone()));
                    }
                }
            }
        }
        let targets = patterns
            .into_iter()
            .map(|(target, globs)| (target, TargetServices::compile(globs)))
            .collect();
        Self { targets }
    }

    /// The service that an application of a target belongs to. The first glob
    /// of the file that matches wins; an application that no service claims
    /// stands for itself.
    pub fn of<'a>(&'a self, target: &str, application: Option<&'a str>) -> &'a str {
        let application = application.filter(|name| !name.is_empty());
        let Some(name) = application else {
            return NAMELESS;
        };
        self.targets
            .get(target)
            .and_then(|services| services.of(name))
            .unwrap_or(name)
    }
}

impl TargetServices {
    fn compile(patterns: Vec<(Glob, String)>) -> Self {
        let mut builder = GlobSetBuilder::new();
        let mut names = Vec::with_capacity(patterns.len());
        for (glob, name) in patterns {
            builder.add(glob);
            names.push(name);
        }
        match builder.build() {
            Ok(globs) => Self { globs, names },
            Err(_) => Self::default(),
        }
    }

    fn of(&self, application: &str) -> Option<&str> {
        let first = self.globs.matches(application).into_iter().min()?;
        self.names.get(first).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, applications: &[&str]) -> Service {
        Service {
            name: name.to_owned(),
            targets: vec!["main".to_owned()],
            applications: applications.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    #[test]
    fn the_first_matching_glob_wins() {
        let services = Services::new(&[
            service("registry", &["registry*", "reg-?"]),
            service("rest", &["*"]),
        ]);
        let of = |name| services.of("main", Some(name));
        assert_eq!(of("registry-worker/7"), "registry");
        assert_eq!(of("reg-1"), "registry");
        assert_eq!(of("billing"), "rest");
    }

    #[test]
    fn an_unclaimed_application_stands_for_itself() {
        let services = Services::new(&[service("registry", &["registry*"])]);
        assert_eq!(services.of("main", Some("cron")), "cron");
        assert_eq!(services.of("other", Some("registry")), "registry");
        assert_eq!(services.of("main", Some("")), "unknown");
        assert_eq!(services.of("main", None), "unknown");
    }

    #[test]
    fn a_broken_glob_matches_nothing() {
        let services = Services::new(&[service("registry", &["[", "registry"])]);
        assert_eq!(services.of("main", Some("registry")), "registry");
        assert_eq!(services.of("main", Some("[")), "[");
    }
}
