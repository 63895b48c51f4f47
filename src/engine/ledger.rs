//! Findings in, incidents out: each opened, updated and resolved once.
//!
//! An incident is what the newest findings say, under the id it was opened
//! with. A change is told when a person would act otherwise because of it
//! (severity, cause, subject, names, actions, or a share that moved by a
//! tenth); figures that merely grow change the record silently.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::incident::{Effect, Event, Finding, Incident, Kind};
use super::reconfigured::abandoned;
use super::words;
use crate::sample::UnixSeconds;

/// Resolved incidents kept for the API.
const RESOLVED_KEPT: usize = 200;
/// Open incidents of one kind and target. Further findings wait until one is
/// resolved: a thousand orphans need one page, not a thousand.
const OPEN_PER_KIND: usize = 100;
/// A share must move this far to be told.
const TOLD_SHARE: f64 = 0.1;

/// All incidents that the engine knows.
#[derive(Debug, Default)]
pub struct Ledger {
    open: BTreeMap<Subject, Open>,
    resolved: VecDeque<Arc<Incident>>,
    totals: BTreeMap<(String, Kind), u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Subject {
    target: String,
    kind: Kind,
    key: String,
}

/// An open incident as it is, and as it was last told.
#[derive(Debug)]
struct Open {
    incident: Arc<Incident>,
    told: Arc<Incident>,
}

impl Ledger {
    /// Takes in all findings of `kinds` about `target` at `t`: what is not
    /// among them any more is resolved.
    pub fn settle(
        &mut self,
        target: &str,
        kinds: &[Kind],
        findings: Vec<Finding>,
        t: UnixSeconds,
    ) -> Vec<Effect> {
        let mut effects = self.resolve_absent(target, kinds, &findings, t);
        for finding in findings {
            let subject = Subject {
                target: target.to_owned(),
                kind: finding.kind,
                key: finding.key.clone(),
            };
            match self.open.get_mut(&subject) {
                Some(open) => {
                    open.incident = Arc::new(renew(&open.incident, finding));
                    if differs(&open.told, &open.incident) {
                        open.told = Arc::clone(&open.incident);
                        effects.push(effect(t, Event::Updated, &open.incident, &subject.key));
                    }
                }
                None => effects.extend(self.open_incident(subject, finding, t)),
            }
        }
        effects
    }

    /// Takes in an incident that was open in an earlier life of the program. It
    /// is no new one, so nothing is counted.
    pub fn reopen(&mut self, key: &str, incident: Incident) {
        let subject = Subject {
            target: incident.target.clone(),
            kind: incident.kind,
            key: key.to_owned(),
        };
        let incident = Arc::new(incident);
        let told = Arc::clone(&incident);
        self.open.insert(subject, Open { incident, told });
    }

    /// Takes in incidents that were resolved in an earlier life of the program,
    /// newest first.
    pub fn recall(&mut self, resolved: impl IntoIterator<Item = Incident>) {
        self.resolved.extend(resolved.into_iter().map(Arc::new));
        self.resolved.truncate(RESOLVED_KEPT);
    }

    fn open_incident(
        &mut self,
        subject: Subject,
        finding: Finding,
        t: UnixSeconds,
    ) -> Option<Effect> {
        let alike = |known: &&Subject| known.target == subject.target && known.kind == subject.kind;
        if self.open.keys().filter(alike).count() >= OPEN_PER_KIND {
            return None;
        }
        let total = (subject.target.clone(), subject.kind);
        *self.totals.entry(total).or_insert(0) += 1;
        let id = self.new_id(&subject, finding.onset_at);
        let incident = Arc::new(record(id, &subject.target, finding, t));
        let opened = effect(t, Event::Opened, &incident, &subject.key);
        let told = Arc::clone(&incident);
        self.open.insert(subject, Open { incident, told });
        Some(opened)
    }

    fn resolve_absent(
        &mut self,
        target: &str,
        kinds: &[Kind],
        findings: &[Finding],
        t: UnixSeconds,
    ) -> Vec<Effect> {
        let absent: Vec<_> = self
            .open
            .keys()
            .filter(|subject| subject.target == target && kinds.contains(&subject.kind))
            .filter(|subject| {
                let same = |f: &Finding| f.kind == subject.kind && f.key == subject.key;
                !findings.iter().any(same)
            })
            .cloned()
            .collect();
        let mut effects = Vec::new();
        for subject in absent {
            let Some(open) = self.open.remove(&subject) else {
                continue;
            };
            let mut incident = Incident::clone(&open.incident);
            // A clock that was set back ends nothing before it began.
            incident.resolved_at = Some(t.max(incident.opened_at));
            let incident = Arc::new(incident);
            effects.push(effect(t, Event::Resolved, &incident, &subject.key));
            self.resolved.push_front(incident);
            self.resolved.truncate(RESOLVED_KEPT);
        }
        effects
    }

    /// Ends all that is open of a target which is not watched any more, at `t`,
    /// with a sentence that says so. What was counted of it is forgotten.
    pub fn abandon(&mut self, target: &str, t: UnixSeconds) -> Vec<Effect> {
        self.totals.retain(|(name, _), _| name != target);
        let open = std::mem::take(&mut self.open);
        let (gone, open) = open.into_iter().partition(|(s, _)| s.target == target);
        self.open = open;
        let gone: BTreeMap<Subject, Open> = gone;
        let ends = gone.into_iter().map(|(subject, open)| {
            let incident = Arc::new(abandoned(Incident::clone(&open.incident), t));
            let end = effect(t, Event::Resolved, &incident, &subject.key);
            self.resolved.push_front(incident);
            end
        });
        let effects = ends.collect();
        self.resolved.truncate(RESOLVED_KEPT);
        effects
    }

    fn new_id(&self, subject: &Subject, onset_at: UnixSeconds) -> String {
        let base = format!(
            "{}-{}-{}",
            subject.target,
            subject.kind.as_str(),
            words::utc(onset_at, "%Y%m%dT%H%M%SZ")
        );
        let open = self.open.values().map(|open| &open.incident);
        let known = open.chain(&self.resolved);
        let taken: Vec<&str> = known.map(|incident| incident.id.as_str()).collect();
        let mut id = base.clone();
        let mut n = 2;
        while taken.contains(&id.as_str()) {
            id = format!("{base}-{n}");
            n += 1;
        }
        id
    }

    /// Whether an incident of this kind is open.
    pub fn is_open(&self, target: &str, kind: Kind) -> bool {
        self.open
            .keys()
            .any(|subject| subject.target == target && subject.kind == kind)
    }

    /// The targets with an open incident of this kind, in order of name.
    pub fn targets_with(&self, kind: Kind) -> BTreeSet<String> {
        let open = self.open.keys().filter(|subject| subject.kind == kind);
        open.map(|subject| subject.target.clone()).collect()
    }

    /// Open incidents, oldest first.
    pub fn open(&self) -> Vec<Arc<Incident>> {
        let mut open: Vec<_> = self
            .open
            .values()
            .map(|open| Arc::clone(&open.incident))
            .collect();
        open.sort_by(|a, b| a.opened_at.total_cmp(&b.opened_at).then(a.id.cmp(&b.id)));
        open
    }

    /// Resolved incidents, newest first.
    pub fn resolved(&self) -> Vec<Arc<Incident>> {
        self.resolved.iter().cloned().collect()
    }

    /// Incidents ever opened.
    pub fn totals(&self) -> &BTreeMap<(String, Kind), u64> {
        &self.totals
    }
}

fn record(id: String, target: &str, finding: Finding, t: UnixSeconds) -> Incident {
    Incident {
        id,
        target: target.to_owned(),
        kind: finding.kind,
        severity: finding.severity,
        cause: finding.cause,
        onset_at: finding.onset_at.min(t),
        opened_at: t,
        resolved_at: None,
        subject: finding.subject,
        summary: finding.summary,
        attribution: finding.attribution,
        unexplained_share: finding.unexplained_share,
        evidence: finding.evidence,
        actions: finding.actions,
        runbook: finding.kind.as_str().to_owned(),
    }
}

/// The open record with what the newest finding says. Id and times stay.
fn renew(incident: &Incident, finding: Finding) -> Incident {
    let mut renewed = record(
        incident.id.clone(),
        &incident.target,
        finding,
        incident.opened_at,
    );
    renewed.onset_at = incident.onset_at;
    renewed
}

fn differs(old: &Incident, new: &Incident) -> bool {
    let names = |incident: &Incident| -> Vec<(String, String)> {
        let first = incident.attribution.iter().take(2);
        first
            .map(|a| (a.service.clone(), a.route.clone()))
            .collect()
    };
    let share = |incident: &Incident| incident.attribution.first().map_or(0.0, |a| a.share);
    old.severity != new.severity
        || old.cause != new.cause
        || old.subject.get("verdict") != new.subject.get("verdict")
        || (new.cause.is_some() && old.subject.get("application") != new.subject.get("application"))
        || old.actions != new.actions
        || names(old).first() != names(new).first()
        || (share(old) - share(new)).abs() >= TOLD_SHARE
}

fn effect(t: UnixSeconds, event: Event, incident: &Arc<Incident>, key: &str) -> Effect {
    Effect {
        t,
        event,
        incident: Incident::clone(incident),
        key: key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::incident::{Attribution, Cause};

    const KIND: Kind = Kind::ConnectionAvalanche;

    fn finding(key: &str, share: f64) -> Finding {
        Finding {
            kind: KIND,
            key: key.into(),
            severity: KIND.severity(),
            cause: Some(Cause::Endpoint),
            onset_at: 1_604_902_323.5,
            subject: serde_json::Map::new(),
            summary: String::new(),
            attribution: vec![Attribution {
                service: "registry".into(),
                route: "GET /a".into(),
                share,
                connections: 1.0,
                rate_change: None,
                hold_change: None,
                rate_part: None,
                hold_part: None,
                confidence: 0.9,
            }],
            unexplained_share: None,
            evidence: Vec::new(),
            actions: Vec::new(),
        }
    }

    fn events(effects: &[Effect]) -> Vec<Event> {
        effects.iter().map(|effect| effect.event).collect()
    }

    #[test]
    fn an_incident_is_opened_updated_and_resolved_once() {
        let mut ledger = Ledger::default();
        let t = 1_604_902_326.0;
        let settle =
            |ledger: &mut Ledger, findings, dt| ledger.settle("main", &[KIND], findings, t + dt);
        let opened = settle(&mut ledger, vec![finding("", 0.5)], 0.0);
        assert_eq!(events(&opened), [Event::Opened]);
        assert_eq!(
            opened[0].incident.id,
            "main-connection_avalanche-20201109T061203Z"
        );
        assert!(settle(&mut ledger, vec![finding("", 0.55)], 1.0).is_empty());
        let updated = settle(&mut ledger, vec![finding("", 0.9)], 2.0);
        assert_eq!(events(&updated), [Event::Updated]);
        assert_eq!(updated[0].incident.opened_at, t);
        assert!(ledger.is_open("main", KIND));
        let resolved = settle(&mut ledger, Vec::new(), 3.0);
        assert_eq!(events(&resolved), [Event::Resolved]);
        assert_eq!(resolved[0].incident.resolved_at, Some(t + 3.0));
        assert!(settle(&mut ledger, Vec::new(), 4.0).is_empty());
        assert_eq!(ledger.totals()[&("main".into(), KIND)], 1);
    }

    #[test]
    fn two_incidents_of_one_second_have_two_ids() {
        let mut ledger = Ledger::default();
        let both = vec![finding("a", 0.5), finding("b", 0.5)];
        let effects = ledger.settle("main", &[KIND], both, 1_604_902_326.0);
        assert_ne!(effects[0].incident.id, effects[1].incident.id);
    }

    #[test]
    fn kinds_that_were_not_looked_at_stay_open() {
        let mut ledger = Ledger::default();
        ledger.settle("main", &[KIND], vec![finding("", 0.5)], 10.0);
        let other = [Kind::OrphanedAdvisoryLock];
        assert!(ledger.settle("main", &other, Vec::new(), 11.0).is_empty());
        assert!(ledger.settle("spare", &[KIND], Vec::new(), 11.0).is_empty());
        assert!(ledger.is_open("main", KIND));
    }
}
