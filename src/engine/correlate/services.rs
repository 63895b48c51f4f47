//! From `application_name` to the service that a person knows.

use std::collections::HashMap;

use globset::{Glob, GlobMatcher};

use crate::engine::settings::Service;

/// The service of a session that gives no application name.
const NAMELESS: &str = "unknown";

/// The configured services of every target, their globs compiled.
#[derive(Debug, Clone, Default)]
pub struct Services {
    /// By target: what an application's name must match, and whose it is then,
    /// in the order of the file.
    targets: HashMap<String, Vec<(Pattern, String)>>,
}

/// A glob. Each look asks for hundreds of sessions, and nearly every glob is a
/// name or the beginning of one: those need no automaton.
#[derive(Debug, Clone)]
enum Pattern {
    Name(String),
    Beginning(String),
    Glob(Box<GlobMatcher>),
}

impl Services {
    /// Compiles the globs. One that is no glob never matches: the configuration
    /// has refused it before.
    pub fn new(services: &[Service]) -> Self {
        Self::of_targets(services, |_| true)
    }

    /// Those of one target only.
    pub fn at(target: &str, services: &[Service]) -> Self {
        Self::of_targets(services, |name| name == target)
    }

    fn of_targets(services: &[Service], wanted: impl Fn(&str) -> bool) -> Self {
        let mut targets: HashMap<String, Vec<(Pattern, String)>> = HashMap::new();
        for service in services {
            for target in service.targets.iter().filter(|target| wanted(target)) {
                let of_target = targets.entry(target.clone()).or_default();
                let patterns = service.applications.iter().filter_map(|p| Pattern::of(p));
                of_target.extend(patterns.map(|pattern| (pattern, service.name.clone())));
            }
        }
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
        let mut patterns = self.targets.get(target).into_iter().flatten();
        let found = patterns.find(|(pattern, _)| pattern.takes(name));
        found.map_or(name, |(_, service)| service)
    }
}

impl Pattern {
    fn of(text: &str) -> Option<Self> {
        let special = |text: &str| text.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let glob = Glob::new(text).ok()?;
        Some(if !special(text) {
            Self::Name(text.to_owned())
        } else if let Some(beginning) = text.strip_suffix('*').filter(|rest| !special(rest)) {
            Self::Beginning(beginning.to_owned())
        } else {
            Self::Glob(Box::new(glob.compile_matcher()))
        })
    }

    fn takes(&self, name: &str) -> bool {
        match self {
            Self::Name(known) => known == name,
            Self::Beginning(known) => name.starts_with(known.as_str()),
            Self::Glob(glob) => glob.is_match(name),
        }
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
    fn a_glob_in_short_is_the_same_glob() {
        for (glob, name) in [
            ("registry", "registry"),
            ("registry", "registry-1"),
            ("registry*", "registry"),
            ("registry*", "registry/a b"),
            ("registry*", "reg"),
            ("*", "x"),
            ("/srv/*", "/srv/a/b"),
            ("a.b*", "axb"),
        ] {
            let expected = Glob::new(glob).unwrap().compile_matcher().is_match(name);
            let pattern = Pattern::of(glob).unwrap();
            assert!(!matches!(pattern, Pattern::Glob(_)), "{glob}");
            assert_eq!(pattern.takes(name), expected, "{glob} {name}");
        }
        assert!(matches!(Pattern::of("reg-?*"), Some(Pattern::Glob(_))));
        assert!(matches!(Pattern::of("a[*]*"), Some(Pattern::Glob(_))));
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
