//! An application takes sessions and does not give them back: those that are
//! idle, or idle in a transaction, grow steadily while neither requests nor the
//! number of sessions opened anew and closed again do.
//!
//! What is no leak: a pool that grows with its traffic, fills after a deploy, or
//! comes back to where it was. Where it is not known whether requests rose, the
//! growth must be longer and larger. Over when half of what was taken has been
//! given back, or when the number has held for an hour and is the new normal.

use std::collections::BTreeMap;

use serde_json::json;

use super::census::{Census, Held};
use super::demand::{Demand, Spans};
use super::flows::Flows;
use super::holdings::{Growth, Holdings, WINDOWS, Which};
use super::scene::fields;
use super::watch::{Account, Looked, Stance, Suspicion, Watch};
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::settings::ConnectionLeak;
use crate::engine::traffic::Traffic;
use crate::engine::words;
use crate::sample::UnixSeconds;

/// Growth as a part of what there was, by window: the longer it lasts, the less
/// of it can be chance. While an application is replaced by its next version, and
/// both run, it has twice its sessions: the short windows ask for more.
const LEAST_RATIO: [f64; WINDOWS.len()] = [1.2, 1.2, 0.35, 0.25];

/// More requests, or more sessions at work, explain the growth when theirs is
/// more than this part of it.
const EXPLAINED: f64 = 0.4;

/// Sessions closed beyond the usual, as a part of the growth, above which they
/// come and go and are not kept.
const CLOSED: f64 = 0.5;

/// Given back when no more than this part of what was taken is left.
const GIVEN_BACK: f64 = 0.5;

/// Seconds without growth after which the number is normal.
const ACCEPTED: f64 = 3600.0;

/// Seconds that it must be over.
const CALM: f64 = 60.0;

/// What an application has taken.
#[derive(Debug, Clone, Copy)]
struct Taken {
    which: Which,
    onset_at: UnixSeconds,
    before: f64,
    peak: f64,
    peak_at: UnixSeconds,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub t: UnixSeconds,
    pub target: &'a str,
    pub census: &'a Census,
    pub holdings: &'a Holdings,
    pub flows: &'a Flows,
    pub traffic: &'a Traffic,
    /// The kind that tells of the same, if any does.
    pub elsewhere: Option<Kind>,
}

/// Follows the leaks of one target.
#[derive(Debug, Clone)]
pub struct Leaks {
    settings: ConnectionLeak,
    watch: Watch,
    taken: BTreeMap<String, Taken>,
    /// What grows, as of a bucket of the holdings.
    growing: (i64, Vec<(String, Which, Growth)>),
}

impl Leaks {
    pub fn new(settings: &ConnectionLeak) -> Self {
        Self {
            settings: settings.clone(),
            watch: Watch::new(Kind::ConnectionLeak).patient(0.0, CALM),
            taken: BTreeMap::new(),
            growing: (i64::MIN, Vec::new()),
        }
    }

    /// Takes in other thresholds. Who is switched on or off begins anew.
    pub fn reconfigure(&mut self, settings: &ConnectionLeak) {
        if settings.enabled == self.settings.enabled {
            self.settings = settings.clone();
        } else {
            *self = Self::new(settings);
        }
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, at: UnixSeconds, key: &str, incident: &Incident) {
        if !self.settings.enabled {
            return;
        }
        let fact = |name: &str| incident.subject.get(name).and_then(|value| value.as_f64());
        if let (Some(before), Some(peak)) = (fact("sessions_before"), fact("sessions")) {
            let idle_in_transaction = incident.subject.get("state").and_then(|s| s.as_str())
                == Some("idle in transaction");
            let taken = Taken {
                which: if idle_in_transaction {
                    Which::IdleInTransaction
                } else {
                    Which::All
                },
                onset_at: incident.onset_at,
                before,
                peak,
                peak_at: at,
            };
            self.taken.insert(key.to_owned(), taken);
        }
        self.watch.restore(key, incident);
    }

    /// Takes in one look.
    pub fn observe(&mut self, input: &Input<'_>) {
        if !self.settings.enabled {
            return;
        }
        let t = input.t;
        let mut suspicions = Vec::new();
        for (application, taken) in &mut self.taken {
            let held = input.census.applications.get(application);
            let now = taken.which.of(held.unwrap_or(&Held::default()));
            if now > taken.peak {
                (taken.peak, taken.peak_at) = (now, t);
            }
            let is_kept = now > taken.before + GIVEN_BACK * (taken.peak - taken.before);
            let stance = input.elsewhere.map_or(Stance::Keeps, Stance::Yields);
            if is_kept && t - taken.peak_at < ACCEPTED {
                suspicions.push(suspicion(input, application, taken, now, stance));
            }
        }
        self.look_for_growth(input);
        let mut found = Vec::new();
        for (application, which, growth) in &self.growing.1 {
            if self.taken.contains_key(application) {
                continue;
            }
            let taken = Taken {
                which: *which,
                onset_at: growth.from,
                before: growth.before,
                peak: growth.now,
                peak_at: t,
            };
            let stance = input.elsewhere.map_or(Stance::Opens, Stance::Yields);
            suspicions.push(suspicion(input, application, &taken, growth.now, stance));
            found.push((application.clone(), taken));
        }
        self.watch.settle(Looked::server(t), suspicions, |_| true);
        for (application, taken) in found {
            if self.watch.is_open(&application) {
                self.taken.insert(application, taken);
            }
        }
        self.taken
            .retain(|application, _| self.watch.knows(application));
    }

    /// Anew for each bucket: there are many windows to look at.
    fn look_for_growth(&mut self, input: &Input<'_>) {
        let newest = input.holdings.newest();
        if self.growing.0 != newest {
            let applications = input.holdings.applications();
            let growing = applications.filter_map(|application| {
                let (which, growth) = self.grown(input, application)?;
                Some((application.clone(), which, growth))
            });
            self.growing = (newest, growing.collect());
        }
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.watch.findings()
    }

    fn grown(&self, input: &Input<'_>, application: &str) -> Option<(Which, Growth)> {
        let windows = 0..WINDOWS.len();
        [Which::IdleInTransaction, Which::All]
            .into_iter()
            .flat_map(|which| windows.clone().map(move |window| (which, window)))
            .find_map(|(which, window)| {
                let growth = input.holdings.growth(application, which, window)?;
                self.is_leak(input, which, window, &growth)
                    .then_some((which, growth))
            })
    }

    fn is_leak(&self, input: &Input<'_>, which: Which, window: usize, growth: &Growth) -> bool {
        let sessions = growth.sessions();
        let ratio = growth.ratio();
        // No deploy leaves transactions open.
        let window = match which {
            Which::All => window,
            Which::IdleInTransaction => window.max(1),
        };
        let least = LEAST_RATIO.get(window).copied().unwrap_or(1.0);
        let working = (growth.working_now + 1.0) / (growth.working_before + 1.0) - 1.0;
        if sessions < self.settings.min_sessions || ratio < least || working > EXPLAINED * ratio {
            return false;
        }
        // Back to where it was before is a pool that fills again; in the longest
        // window nothing earlier is known.
        let is_new = match growth.most_before {
            Some(most) => growth.now > most + self.settings.min_sessions / 2.0,
            None => window + 1 == WINDOWS.len(),
        };
        let demand = demand(input, growth);
        let is_unasked = match demand.is_flat() {
            Some(flat) => flat && demand.growth().unwrap_or(1.0) - 1.0 <= EXPLAINED * ratio,
            None => window > 0 && sessions >= 2.0 * self.settings.min_sessions && ratio >= 0.5,
        };
        is_new && is_unasked && (which == Which::IdleInTransaction || are_kept(input, growth))
    }
}

fn demand(input: &Input<'_>, growth: &Growth) -> Demand {
    let length = growth.to - growth.from;
    let spans = Spans {
        before: (growth.from - length.min(600.0), growth.from + 0.1 * length),
        now: (growth.to - 0.25 * length, growth.to),
    };
    Demand::of(input.traffic, input.target, input.flows, &spans)
}

/// The sessions stay: not many more were closed than usual.
fn are_kept(input: &Input<'_>, growth: &Growth) -> bool {
    let length = growth.to - growth.from;
    let usual = input.flows.opened.rate(growth.from - length, growth.from);
    let during = input.flows.opened.rate(growth.from, growth.to);
    match (usual, during) {
        (Some(usual), Some(during)) => {
            let closed = (during - usual) * length - growth.sessions();
            closed <= CLOSED * growth.sessions()
        }
        _ => true,
    }
}

fn suspicion(
    input: &Input<'_>,
    application: &str,
    taken: &Taken,
    now: f64,
    stance: Stance,
) -> Suspicion {
    Suspicion {
        key: application.to_owned(),
        stance,
        onset_at: taken.onset_at,
        account: account(input, application, taken, now),
    }
}

fn account(input: &Input<'_>, application: &str, taken: &Taken, now: f64) -> Account {
    let name = words::name(application);
    let shown = words::application(&name);
    let (state, what) = match taken.which {
        Which::All => ("idle", "sessions"),
        Which::IdleInTransaction => ("idle in transaction", "sessions idle in transaction"),
    };
    let seconds = (input.t - taken.onset_at).max(1.0);
    let (before, now_words) = (words::mean(taken.before), words::mean(now));
    let per_minute = (taken.peak - taken.before) / seconds * 60.0;
    let growth = Growth {
        from: taken.onset_at,
        to: input.t,
        before: taken.before,
        now,
        working_before: 0.0,
        working_now: 0.0,
        most_before: None,
    };
    let literal = words::sql_literal(&name);
    Account {
        severity: Kind::ConnectionLeak.severity(),
        subject: fields(json!({
            "application": name,
            "state": state,
            "sessions_before": taken.before.round(),
            "sessions": now.round(),
        })),
        summary: format!(
            "{}: {shown} went from {before} to {now_words} {what} in {} and gives none back",
            input.target,
            words::duration(seconds),
        ),
        evidence: vec![
            format!(
                "{shown}: {before} → {now_words} {what}, {} a minute, steadily for {}",
                words::mean(per_minute),
                words::duration(taken.peak_at - taken.onset_at),
            ),
            demand(input, &growth).sentence(),
        ],
        actions: vec![
            format!(
                "SELECT pid, usename, client_addr, backend_start, state_change, left(query, 80) AS last_query \
                 FROM pg_stat_activity WHERE application_name = {literal} AND state LIKE '{state}%' \
                 ORDER BY state_change LIMIT 50;  -- what they did last"
            ),
            format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = {literal} \
                 AND state LIKE '{state}%' AND state_change < now() - interval '5 minutes';"
            ),
        ],
    }
}

#[cfg(test)]
mod tests;
