//! From what a check suspects in one look to what may be told.
//!
//! A check is a pure function of one look: it names entities and says a sentence
//! about each. The [`Watch`] holds what a check has no memory for: an entity is
//! told of after two looks running that agree, because the server and its
//! poolers are not read at one instant, and it is over after two looks running
//! without it. A look that could not have shown an entity changes nothing for
//! it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::engine::incident::{Finding, Incident, Kind, Severity};
use crate::engine::restored;
use crate::sample::UnixSeconds;

/// Looks running without an entity after which it is over.
const LOOKS_GONE: u32 = 2;
/// Entities followed at one time. More of one kind are not told anyway.
const MAX_CASES: usize = 1_000;
/// Findings given, the oldest first. As many as the ledger opens of one kind, so
/// that those it has open are always among them.
const MAX_FINDINGS: usize = 100;

/// What is to become of a suspicion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// Bad enough to be told.
    Opens,
    /// Not bad enough to be told, but not over either.
    Keeps,
    /// The same thing is told as another kind, which says more about it.
    Yields(Kind),
}

/// What a check says of one entity in one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Suspicion {
    /// Tells the entity from others, and from a later one with its pid.
    pub key: String,
    pub stance: Stance,
    pub onset_at: UnixSeconds,
    pub account: Account,
}

/// What a person is told of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    pub severity: Severity,
    pub subject: Map<String, Value>,
    pub summary: String,
    /// One sentence each, with figures.
    pub evidence: Vec<String>,
    /// Exact statements, the gentlest first.
    pub actions: Vec<String>,
}

/// The looks that a suspicion rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Looked {
    /// The look at the server, or at the pooler when only that takes part.
    pub at: UnixSeconds,
    /// The oldest and the newest look at the poolers that take part.
    pub poolers: Option<(UnixSeconds, UnixSeconds)>,
}

impl Looked {
    /// At the server alone.
    pub fn server(at: UnixSeconds) -> Self {
        Self { at, poolers: None }
    }

    /// Whether everything was looked at anew since `first`.
    fn is_newer(self, first: Self) -> bool {
        let poolers = match (self.poolers, first.poolers) {
            (Some((oldest, _)), Some((_, newest))) => oldest > newest,
            _ => true,
        };
        self.at > first.at && poolers
    }
}

/// Follows the entities of one kind.
#[derive(Debug, Clone)]
pub struct Watch {
    kind: Kind,
    /// Seconds that a suspicion must hold before it is told, beside two looks.
    hold: f64,
    /// Seconds that it must be gone before it is over, beside two looks.
    resolve_after: f64,
    cases: BTreeMap<String, Case>,
}

#[derive(Debug, Clone)]
struct Case {
    first: Looked,
    onset_at: UnixSeconds,
    open_since: Option<UnixSeconds>,
    absent: Option<Absent>,
    /// Told in an earlier life of the program already.
    is_restored: bool,
    /// In no look of this life yet.
    is_unseen: bool,
    account: Account,
}

#[derive(Debug, Clone, Copy)]
struct Absent {
    since: UnixSeconds,
    looks: u32,
}

impl Watch {
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            hold: 0.0,
            resolve_after: 0.0,
            cases: BTreeMap::new(),
        }
    }

    /// With patience in seconds, for entities that are told by duration.
    pub fn patient(self, hold: f64, resolve_after: f64) -> Self {
        Self {
            hold,
            resolve_after,
            ..self
        }
    }

    /// Other patience from now on, for what is followed already too.
    pub fn retune(&mut self, hold: f64, resolve_after: f64) {
        (self.hold, self.resolve_after) = (hold, resolve_after);
    }

    /// Follows some entities no more: no look will show or miss them.
    pub fn forget(&mut self, gone: impl Fn(&str) -> bool) {
        self.cases.retain(|key, _| !gone(key));
    }

    /// Goes on with an incident of an earlier life of the program as if it had
    /// been told all the while. Until a look shows it again it is given more
    /// time: a check may miss for some looks what it has to learn anew.
    pub fn restore(&mut self, key: &str, incident: &Incident) {
        if self.cases.len() >= MAX_CASES {
            return;
        }
        let case = Case {
            first: Looked::server(incident.opened_at),
            onset_at: incident.onset_at,
            open_since: Some(incident.opened_at),
            absent: None,
            is_restored: true,
            is_unseen: true,
            account: Account {
                severity: incident.severity,
                subject: incident.subject.clone(),
                summary: incident.summary.clone(),
                evidence: incident.evidence.clone(),
                actions: incident.actions.clone(),
            },
        };
        self.cases.insert(key.to_owned(), case);
    }

    /// Takes in what a check suspects in one look. `shown` says whether the look
    /// could have shown the entity with this key.
    pub fn settle(
        &mut self,
        looked: Looked,
        suspicions: Vec<Suspicion>,
        shown: impl Fn(&str) -> bool,
    ) {
        let mut absent: BTreeSet<String> = self.cases.keys().cloned().collect();
        for suspicion in suspicions {
            absent.remove(&suspicion.key);
            self.take_in(looked, suspicion);
        }
        for key in absent.into_iter().filter(|key| shown(key)) {
            self.miss(looked, &key);
        }
    }

    fn take_in(&mut self, looked: Looked, suspicion: Suspicion) {
        let Suspicion {
            key,
            stance,
            onset_at,
            account,
        } = suspicion;
        let Some(case) = self.cases.get_mut(&key) else {
            if stance == Stance::Opens && self.cases.len() < MAX_CASES {
                let case = Case {
                    first: looked,
                    onset_at,
                    open_since: None,
                    absent: None,
                    is_restored: false,
                    is_unseen: false,
                    account,
                };
                self.cases.insert(key, case);
            }
            return;
        };
        // A clock that was set back begins the wait anew.
        if looked.at < case.first.at {
            case.first = looked;
        }
        case.account = account;
        case.is_unseen = false;
        match stance {
            Stance::Opens if case.open_since.is_none() => {
                let held = looked.at - case.first.at >= self.hold;
                if held && looked.is_newer(case.first) {
                    case.open_since = Some(looked.at);
                }
            }
            Stance::Opens | Stance::Keeps if case.open_since.is_some() => case.absent = None,
            Stance::Opens | Stance::Keeps => {
                self.cases.remove(&key);
            }
            Stance::Yields(kind) => {
                case.account.evidence.push(format!(
                    "told as {} from now on, which says more about it",
                    kind.as_str()
                ));
                self.miss(looked, &key);
            }
        }
    }

    fn miss(&mut self, looked: Looked, key: &str) {
        let Some(case) = self.cases.get_mut(key) else {
            return;
        };
        let absent = case.absent.get_or_insert(Absent {
            since: looked.at,
            looks: 0,
        });
        absent.looks += 1;
        absent.since = absent.since.min(looked.at);
        let (looks, seconds) = if case.is_unseen {
            (restored::LOOKS, self.resolve_after.max(restored::GRACE))
        } else {
            (LOOKS_GONE, self.resolve_after)
        };
        let long = looked.at - absent.since >= seconds;
        if case.open_since.is_none() || (absent.looks >= looks && long) {
            self.cases.remove(key);
        }
    }

    /// Whether the entity is being told of.
    pub fn is_open(&self, key: &str) -> bool {
        let case = self.cases.get(key);
        case.is_some_and(|case| case.open_since.is_some())
    }

    /// Whether anything is being told.
    pub fn tells(&self) -> bool {
        self.cases.values().any(|case| case.open_since.is_some())
    }

    /// What is being told of an entity since an earlier life of the program.
    pub fn restored(&self, key: &str) -> Option<&Account> {
        let case = self.cases.get(key).filter(|case| case.is_restored);
        case.map(|case| &case.account)
    }

    /// Whether the entity is being told of, or may soon be.
    pub fn knows(&self, key: &str) -> bool {
        self.cases.contains_key(key)
    }

    /// Everything that is being told, the oldest first.
    pub fn findings(&self) -> Vec<Finding> {
        let open = self.cases.iter().filter_map(|(key, case)| {
            let since = case.open_since?;
            Some((since, key, case))
        });
        let mut open: Vec<_> = open.collect();
        open.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        open.truncate(MAX_FINDINGS);
        let findings = open.into_iter().map(|(_, key, case)| Finding {
            kind: self.kind,
            key: key.clone(),
            severity: case.account.severity,
            cause: None,
            onset_at: case.onset_at,
            subject: case.account.subject.clone(),
            summary: case.account.summary.clone(),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: case.account.evidence.clone(),
            actions: case.account.actions.clone(),
        });
        findings.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn suspicion(key: &str, stance: Stance) -> Suspicion {
        Suspicion {
            key: key.into(),
            stance,
            onset_at: 1.0,
            account: Account {
                severity: Severity::Warning,
                subject: Map::new(),
                summary: String::new(),
                evidence: Vec::new(),
                actions: Vec::new(),
            },
        }
    }

    /// The time of a look, what is suspected, and whether it could show it.
    type Look<'a> = (f64, &'a [(&'a str, Stance)], bool);

    /// Which keys are told after each of the looks.
    fn told(watch: &mut Watch, looks: &[Look<'_>]) -> Vec<String> {
        let mut told = Vec::new();
        for (at, seen, shown) in looks {
            let seen = seen.iter().map(|(key, stance)| suspicion(key, *stance));
            watch.settle(Looked::server(*at), seen.collect(), |_| *shown);
            let keys: Vec<_> = watch.findings().into_iter().map(|f| f.key).collect();
            told.push(keys.join(","));
        }
        told
    }

    const OPENS: &[(&str, Stance)] = &[("a", Stance::Opens)];
    const KEEPS: &[(&str, Stance)] = &[("a", Stance::Keeps)];
    const NOTHING: &[(&str, Stance)] = &[];

    #[test]
    fn two_looks_running_open_and_two_close() {
        let mut watch = Watch::new(Kind::LockPileup);
        let looks = [
            (1.0, OPENS, true),
            (2.0, NOTHING, true),
            (3.0, OPENS, true),
            (4.0, OPENS, true),
            (5.0, KEEPS, true),
            (6.0, NOTHING, true),
            (7.0, KEEPS, true),
            (8.0, NOTHING, true),
            (9.0, NOTHING, true),
        ];
        let expected = ["", "", "", "a", "a", "a", "a", "a", ""];
        assert_eq!(told(&mut watch, &looks), expected);
    }

    #[test]
    fn one_look_taken_twice_is_one_look() {
        let mut watch = Watch::new(Kind::LockPileup);
        assert_eq!(
            told(&mut watch, &[(1.0, OPENS, true), (1.0, OPENS, true)]),
            ["", ""]
        );
    }

    #[test]
    fn a_look_that_cannot_show_it_changes_nothing() {
        let mut watch = Watch::new(Kind::LockPileup);
        let looks = [
            (1.0, OPENS, true),
            (2.0, NOTHING, false),
            (3.0, OPENS, true),
            (4.0, NOTHING, false),
            (5.0, NOTHING, false),
            (6.0, NOTHING, false),
            (7.0, NOTHING, true),
            (8.0, NOTHING, true),
        ];
        let expected = ["", "", "a", "a", "a", "a", "a", ""];
        assert_eq!(told(&mut watch, &looks), expected);
    }

    #[test]
    fn what_merely_keeps_never_opens() {
        let mut watch = Watch::new(Kind::LockPileup);
        let looks = [
            (1.0, OPENS, true),
            (2.0, KEEPS, true),
            (3.0, OPENS, true),
            (4.0, KEEPS, true),
        ];
        assert_eq!(told(&mut watch, &looks), ["", "", "", ""]);
    }

    #[test]
    fn patience_is_in_seconds() {
        let mut watch = Watch::new(Kind::PoolSaturation).patient(5.0, 30.0);
        let mut looks: Vec<_> = (0..7).map(|n| (f64::from(n), OPENS, true)).collect();
        looks.extend((7..40).map(|n| (f64::from(n), NOTHING, true)));
        let told = told(&mut watch, &looks);
        assert_eq!(told.iter().position(|keys| keys == "a"), Some(5));
        assert_eq!(told.iter().rposition(|keys| keys == "a"), Some(36));
    }

    #[test]
    fn a_pooler_that_was_not_read_anew_confirms_nothing() {
        let mut watch = Watch::new(Kind::GhostWaiter);
        let mut look = |at, poolers| {
            let looked = Looked {
                at,
                poolers: Some(poolers),
            };
            watch.settle(looked, vec![suspicion("a", Stance::Opens)], |_| true);
            watch.is_open("a")
        };
        assert!(!look(1.0, (0.5, 0.9)));
        assert!(!look(2.0, (0.8, 1.9)));
        assert!(look(3.0, (2.5, 2.9)));
    }

    #[test]
    fn what_is_told_as_another_kind_says_so_and_ends() {
        let mut watch = Watch::new(Kind::LockPileup);
        let yields: &[_] = &[("a", Stance::Yields(Kind::MigrationBlocked))];
        let looks = [
            (1.0, OPENS, true),
            (2.0, OPENS, true),
            (3.0, yields, true),
            (4.0, yields, true),
            (5.0, yields, true),
        ];
        assert_eq!(told(&mut watch, &looks[..3]), ["", "a", "a"]);
        let last = watch.findings().remove(0);
        assert!(last.evidence[0].contains("migration_blocked"));
        assert_eq!(told(&mut watch, &looks[3..]), ["", ""]);
    }
}
