//! The connection limit comes near.
//!
//! Used slots over the slots that ordinary roles can have (`max_connections`
//! less the reserved ones). The ratio must hold for some seconds to open the
//! incident, and to close it at a lower one. A login refused with SQLSTATE 53300
//! needs no such patience: the slots are gone. While polls fail otherwise the
//! last judgement stands, because nobody can say that it is over.

use std::collections::{BTreeMap, VecDeque};

use serde_json::json;

use crate::engine::incident::{Finding, Incident, Kind, Severity};
use crate::engine::settings::{ConnectionHeadroom, Settings};
use crate::engine::stats::robust;
use crate::engine::words;
use crate::sample::{FailureReason, PgbouncerReport, PostgresReport, UnixSeconds};

/// The forecast looks at the growth of this many seconds.
const SLOPE_WINDOW: f64 = 60.0;

/// Seconds of growth without which there is no forecast.
const SLOPE_LEAST: f64 = 5.0;

/// A forecast further away than this is no news, seconds.
const FORECAST_HORIZON: f64 = 3600.0;

/// Points that are paired for the slope.
const SLOPE_PAIRED: usize = 60;

/// Points kept for the slope: polls more frequent than every 0.25 s push out
/// the oldest.
const SLOPE_POINTS: usize = 240;

/// Applications named as holders.
const HOLDERS: usize = 5;

/// Poolers that are quoted while the server itself lets nobody in.
const POOLERS: usize = 20;

/// Seconds after which what a pooler said is no news.
const POOLER_STALE: f64 = 15.0;

/// What one pooler tells of the server behind it.
#[derive(Debug, Clone)]
struct Behind {
    at: UnixSeconds,
    pooler: String,
    servers: u32,
    active: u32,
    waiting: u32,
}

impl Behind {
    fn of(at: UnixSeconds, report: &PgbouncerReport) -> Self {
        let sum = |counts: fn(&crate::sample::Pool) -> [u32; 4]| {
            let all = report.pools.iter().flat_map(counts);
            all.fold(0, u32::saturating_add)
        };
        Self {
            at,
            pooler: report.pooler.clone(),
            servers: sum(|pool| [pool.sv_active, pool.sv_idle, pool.sv_used, pool.sv_tested]),
            active: sum(|pool| [pool.sv_active, 0, 0, 0]),
            waiting: sum(|pool| [pool.cl_waiting, 0, 0, 0]),
        }
    }

    fn sentence(&self) -> String {
        format!(
            "{} has {} there, {} in use, and {} in its queue",
            words::name(&self.pooler),
            words::plural(f64::from(self.servers), "session"),
            words::count(f64::from(self.active)),
            words::plural(f64::from(self.waiting), "client"),
        )
    }
}

/// Slots in use at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Slots {
    used: f64,
    max_connections: u32,
    reserved: u32,
}

impl Slots {
    /// `None` when the report does not tell, or leaves no slot to anybody.
    fn of(report: &PostgresReport) -> Option<Self> {
        let server = report.server.as_ref()?;
        let slots = Self {
            used: report
                .groups
                .iter()
                .map(|group| f64::from(group.count))
                .sum(),
            max_connections: server.max_connections?,
            reserved: server.reserved_connections.unwrap_or(0),
        };
        (slots.available() > 0.0).then_some(slots)
    }

    fn available(&self) -> f64 {
        f64::from(self.max_connections.saturating_sub(self.reserved))
    }

    fn ratio(&self) -> f64 {
        self.used / self.available()
    }
}

/// Watches the slots of one target.
#[derive(Debug, Clone)]
pub struct Headroom {
    target: String,
    settings: ConnectionHeadroom,
    last_t: UnixSeconds,
    slots: Option<Slots>,
    /// Who had the slots at the last good poll, most first.
    holders: Vec<(String, u64)>,
    recent: VecDeque<(UnixSeconds, f64)>,
    /// Since when the ratio has been over (closed) or under (open) its mark.
    crossed_since: Option<UnixSeconds>,
    /// Since when the incident lasts.
    open_since: Option<UnixSeconds>,
    /// It is one of an earlier life of the program, and nothing is known of it
    /// yet in this one.
    restored: bool,
    /// Logins refused in a row.
    refused: u32,
    /// It refused us for want of a slot, and has given no answer since.
    was_full: bool,
    /// What the poolers tell of the server.
    behind: Vec<Behind>,
}

impl Headroom {
    pub fn new(target: &str, settings: &Settings) -> Self {
        Self {
            target: target.to_owned(),
            settings: settings.detect.connection_headroom.clone(),
            last_t: f64::NEG_INFINITY,
            slots: None,
            holders: Vec::new(),
            recent: VecDeque::new(),
            crossed_since: None,
            open_since: None,
            restored: false,
            refused: 0,
            was_full: false,
            behind: Vec::new(),
        }
    }

    /// Takes in what a pooler tells of its sessions at the server.
    pub fn pooler(&mut self, t: UnixSeconds, report: &PgbouncerReport) {
        self.behind.retain(|behind| {
            behind.pooler != report.pooler && (t - behind.at).abs() <= POOLER_STALE
        });
        if self.behind.len() < POOLERS && !report.pools.is_empty() {
            self.behind.push(Behind::of(t, report));
        }
    }

    /// Takes in other thresholds. Who is switched on or off begins anew.
    pub fn reconfigure(&mut self, settings: &Settings) {
        let new = &settings.detect.connection_headroom;
        if new.enabled == self.settings.enabled {
            self.settings = new.clone();
        } else {
            *self = Self::new(&self.target, settings);
        }
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, incident: &Incident) {
        self.open_since = Some(incident.onset_at);
        self.restored = true;
    }

    /// Takes in one report, good or failed. A finding as long as the incident
    /// lasts.
    pub fn observe(&mut self, t: UnixSeconds, report: &PostgresReport) -> Option<Finding> {
        if !self.settings.enabled {
            return None;
        }
        if t.is_finite() && t > self.last_t {
            self.last_t = t;
            match report.error {
                None => self.count(t, report),
                Some(FailureReason::TooManyConnections) => {
                    self.refused = self.refused.saturating_add(1);
                    self.was_full = false;
                    self.open_since.get_or_insert(t);
                    self.crossed_since = None;
                }
                // It may have crashed since: what is full now is not known.
                Some(FailureReason::Refused | FailureReason::Timeout) if self.refused > 0 => {
                    self.refused = 0;
                    self.was_full = true;
                }
                Some(_) => {}
            }
        }
        self.restored &= self.slots.is_none() && self.refused == 0;
        self.open_since
            .filter(|_| !self.restored)
            .map(|onset| self.finding(onset))
    }

    fn count(&mut self, t: UnixSeconds, report: &PostgresReport) {
        self.refused = 0;
        self.was_full = false;
        let Some(slots) = Slots::of(report) else {
            // Without a limit there is only this to go by: we got in.
            if self.slots.is_none() {
                self.mark(t, self.open_since.is_some());
            }
            return;
        };
        self.slots = Some(slots);
        self.holders = holders(report);
        self.recent.push_back((t, slots.used));
        while let Some(&(oldest, _)) = self.recent.front() {
            if t - oldest <= SLOPE_WINDOW && self.recent.len() <= SLOPE_POINTS {
                break;
            }
            self.recent.pop_front();
        }
        let ratio = slots.ratio();
        let crossed = if self.open_since.is_some() {
            ratio < self.settings.resolve_ratio
        } else {
            ratio >= self.settings.open_ratio
        };
        self.mark(t, crossed);
    }

    /// Opens or closes once the mark has been crossed for long enough.
    fn mark(&mut self, t: UnixSeconds, crossed: bool) {
        if !crossed {
            self.crossed_since = None;
            return;
        }
        let since = *self.crossed_since.get_or_insert(t);
        if t - since >= self.settings.hold {
            self.crossed_since = None;
            self.open_since = match self.open_since {
                Some(_) => None,
                None => Some(since),
            };
        }
    }

    /// Sessions a second over the last minute: the median of the slopes between
    /// any two points (Theil and Sen), which a burst or a missed look does not
    /// bend.
    fn slope(&self) -> Option<f64> {
        let (&(first, _), &(last, _)) = (self.recent.front()?, self.recent.back()?);
        if last - first < SLOPE_LEAST {
            return None;
        }
        let step = self.recent.len().div_ceil(SLOPE_PAIRED).max(1);
        let points: Vec<(f64, f64)> = self.recent.iter().step_by(step).copied().collect();
        let mut slopes = Vec::with_capacity(points.len() * points.len() / 2);
        for (place, &(t, used)) in points.iter().enumerate() {
            let later = points.iter().skip(place + 1);
            slopes.extend(later.map(|&(other, after)| (after - used) / (other - t)));
        }
        slopes.retain(|slope| slope.is_finite());
        robust::median(&mut slopes)
    }

    /// Sessions a second, and the seconds until the last slot is gone; `None`
    /// when that is not in sight.
    fn exhaustion(&self) -> Option<(f64, f64)> {
        let sees = self.refused == 0 && !self.was_full;
        let slots = self.slots.as_ref().filter(|_| sees)?;
        let slope = self.slope()?;
        let left = (slots.available() - slots.used).max(0.0);
        let seconds = left / slope;
        (slope > 0.0 && left > 0.0 && seconds <= FORECAST_HORIZON).then_some((slope, seconds))
    }

    fn finding(&self, onset_at: UnixSeconds) -> Finding {
        let full = self.refused > 0 || self.was_full;
        let gone = full || self.slots.is_some_and(|slots| slots.ratio() >= 1.0);
        let mut subject = serde_json::Map::new();
        if let Some(slots) = &self.slots {
            subject.insert("used".to_owned(), json!(slots.used));
            subject.insert("limit".to_owned(), json!(slots.available()));
            subject.insert("max_connections".to_owned(), json!(slots.max_connections));
            subject.insert("reserved_connections".to_owned(), json!(slots.reserved));
            let ratio = (slots.ratio() * 1000.0).round() / 1000.0;
            subject.insert("ratio".to_owned(), json!(ratio));
        }
        if let Some((slope, seconds)) = self.exhaustion() {
            let rounded = |value: f64| (value * 10.0).round() / 10.0;
            subject.insert("growth_per_second".to_owned(), json!(rounded(slope)));
            subject.insert("exhausted_in_seconds".to_owned(), json!(rounded(seconds)));
            subject.insert(
                "forecast_horizon_seconds".to_owned(),
                json!(FORECAST_HORIZON),
            );
        }
        Finding {
            kind: Kind::ConnectionHeadroom,
            key: String::new(),
            severity: if gone {
                Severity::Critical
            } else {
                Kind::ConnectionHeadroom.severity()
            },
            cause: None,
            onset_at,
            subject,
            summary: self.summary(),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: self.evidence(),
            actions: self.actions(),
        }
    }

    fn summary(&self) -> String {
        let target = &self.target;
        if self.was_full {
            let slots = self.slots.as_ref().map_or_else(
                || "all its slots".to_owned(),
                |slots| format!("all {} slots", words::count(slots.available())),
            );
            return format!("{target} was full when last seen: {slots} were taken");
        }
        match (&self.slots, self.refused > 0) {
            (Some(slots), true) => format!(
                "{target} refuses connections: all {} slots are taken",
                words::count(slots.available()),
            ),
            (None, true) => format!("{target} refuses connections: all its slots are taken"),
            (Some(slots), false) => format!(
                "{target} has {} of {} connection slots in use ({}){}",
                words::count(slots.used),
                words::count(slots.available()),
                words::percent(slots.ratio()),
                self.exhaustion().map_or_else(String::new, |(_, seconds)| {
                    format!("; full in {} at this growth", words::duration(seconds))
                }),
            ),
            (None, false) => format!("{target} is short of connection slots"),
        }
    }

    fn evidence(&self) -> Vec<String> {
        let mut evidence = Vec::new();
        if self.refused > 0 {
            evidence.push(format!(
                "the server refused our own login with SQLSTATE 53300 (too many connections), {} in a row",
                words::plural(f64::from(self.refused), "time"),
            ));
            let fresh = |behind: &&Behind| (self.last_t - behind.at).abs() <= POOLER_STALE;
            evidence.extend(self.behind.iter().filter(fresh).map(Behind::sentence));
        }
        if self.was_full {
            evidence.push(
                "it refused our login with SQLSTATE 53300 (too many connections), and has not answered since"
                    .to_owned(),
            );
        }
        let Some(slots) = &self.slots else {
            return evidence;
        };
        let when = if self.refused > 0 || self.was_full {
            "at the last good poll "
        } else {
            ""
        };
        evidence.push(format!(
            "{when}{} of {} slots were in use: max_connections is {}, of which {} are reserved",
            words::count(slots.used),
            words::count(slots.available()),
            words::count(f64::from(slots.max_connections)),
            words::count(f64::from(slots.reserved)),
        ));
        if self.refused == 0 {
            evidence.extend(self.forecast());
        }
        if !self.holders.is_empty() {
            let list: Vec<String> = self
                .holders
                .iter()
                .map(|(application, count)| {
                    let name = words::application(application);
                    format!("{name} {}", words::count(*count as f64))
                })
                .collect();
            evidence.push(format!("most slots are held by {}", list.join(", ")));
        }
        evidence
    }

    fn forecast(&self) -> Option<String> {
        let (slope, seconds) = self.exhaustion()?;
        Some(format!(
            "at the growth of the last minute ({slope:.1} a second) the last slot is gone in {}",
            words::duration(seconds),
        ))
    }

    fn actions(&self) -> Vec<String> {
        let mut actions = vec![
            "SELECT application_name, usename, client_addr, state, count(*) \
             FROM pg_stat_activity WHERE backend_type = 'client backend' \
             GROUP BY 1, 2, 3, 4 ORDER BY 5 DESC LIMIT 20;"
                .to_owned(),
        ];
        if let Some((application, _)) = self.holders.first() {
            actions.push(format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE application_name = {} AND state = 'idle' \
                 AND state_change < now() - interval '5 minutes';  \
                 -- only sessions idle for five minutes",
                words::sql_literal(application),
            ));
        }
        actions
    }
}

/// Applications by slots held, most first. Nameless sessions have the empty
/// name.
fn holders(report: &PostgresReport) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for group in &report.groups {
        let application = group.application.as_deref().unwrap_or("");
        *counts.entry(application).or_default() += u64::from(group.count);
    }
    let mut sorted: Vec<(&str, u64)> = counts.into_iter().collect();
    sorted.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    sorted.truncate(HOLDERS);
    sorted
        .into_iter()
        .map(|(application, count)| (words::name(application), count))
        .collect()
}

#[cfg(test)]
mod tests;
