//! The series of one look at a PostgreSQL server.

use super::fold::Fold;
use super::{OTHER, UNKNOWN, names, to_hundredths, to_thousandths};
use crate::engine::correlate::Mix;
use crate::engine::correlate::parts::Part;
use crate::engine::locks::{LockView, Verdict};
use crate::engine::series::store::{Row, Store};
use crate::engine::snapshot::TargetView;
use crate::sample::{Backend, Group, LockCount, PostgresReport, Server, UnixSeconds};

/// As many of each as the page shows.
const MAX_GROUPS: usize = 100;
const MAX_WAITS: usize = 50;
const MAX_ROUTES: usize = 100;
const MAX_LOCK_COUNTS: usize = 200;
const MAX_DATABASES: usize = 100;

/// Applications whose untagged sessions are told apart.
const MAX_UNTAGGED: usize = 100;

/// The source of a target's rows.
pub fn source(target: &str) -> String {
    format!("postgres/{target}")
}

/// Takes in the newest look at a target. `mix` is absent when the look does not
/// tell of sessions in use.
pub fn feed(store: &mut Store, target: &str, t: UnixSeconds, view: &TargetView, mix: Option<&Mix>) {
    let Some(mut row) = store.row(&source(target), t) else {
        return;
    };
    let up = [("source", "postgres"), ("name", target)];
    row.put("snowpit_source_up", &up, f64::from(u8::from(view.fresh)));
    if !view.fresh {
        return;
    }
    let mut row = Target { row, target };
    row.server(view.report.server.as_ref());
    row.groups(&view.report.groups);
    row.waits(&view.report.groups);
    row.transactions(&view.report, t);
    row.locks(&view.locks);
    row.lock_counts(&view.report.lock_counts);
    if let Some(mix) = mix {
        row.mix(mix);
    }
    let opened = view.report.sessions_opened_total.map(|total| total as f64);
    row.one("snowpit_sessions_opened_total", opened);
    let band = view.band;
    row.one(
        "snowpit_connections_expected",
        band.map(|band| to_hundredths(band.expected)),
    );
    row.one(
        "snowpit_connections_upper",
        band.map(|band| to_hundredths(band.upper)),
    );
}

/// A row of one target.
struct Target<'a> {
    row: Row<'a>,
    target: &'a str,
}

impl Target<'_> {
    /// A series with no label but the target.
    fn one(&mut self, name: &str, value: Option<f64>) {
        self.row.put_some(name, &[("target", self.target)], value);
    }

    fn server(&mut self, server: Option<&Server>) {
        let Some(server) = server else {
            return;
        };
        let flag = |on: bool| f64::from(u8::from(on));
        self.one(
            "snowpit_connections_limit",
            server.max_connections.map(f64::from),
        );
        self.one(
            "snowpit_connections_reserved",
            server.reserved_connections.map(f64::from),
        );
        self.one("snowpit_in_recovery", server.in_recovery.map(flag));
        self.one(names::STARTED_AT, server.started_at.map(to_thousandths));
    }

    fn groups(&mut self, groups: &[Group]) {
        let mut fold = Fold::new();
        for group in groups {
            let names = [
                &group.database,
                &group.user,
                &group.application,
                &group.state,
            ];
            fold.add(
                names.map(|name| label(name.as_deref())),
                f64::from(group.count),
            );
        }
        let (top, rest) = fold.largest(MAX_GROUPS);
        let mut others = Fold::new();
        for (key @ [database, user, application, state], count) in top {
            // What the poller itself has summed up goes with the rest.
            if key[..3].iter().all(|name| *name == OTHER) {
                others.add(state, count);
            } else {
                self.group(database, user, application, state, count);
            }
        }
        for ([_, _, _, state], count) in rest {
            others.add(state, count);
        }
        for (state, count) in others.largest(usize::MAX).0 {
            self.group(OTHER, OTHER, OTHER, state, count);
        }
    }

    fn group(&mut self, database: &str, user: &str, application: &str, state: &str, count: f64) {
        let labels = [
            ("target", self.target),
            ("database", database),
            ("user", user),
            ("application", application),
            ("state", state),
        ];
        self.row.put("snowpit_connections", &labels, count);
    }

    fn waits(&mut self, groups: &[Group]) {
        let mut fold = Fold::new();
        for group in groups
            .iter()
            .filter(|group| group.wait_event_type.is_some())
        {
            let names = [&group.wait_event_type, &group.wait_event];
            fold.add(
                names.map(|name| label(name.as_deref())),
                f64::from(group.count),
            );
        }
        let (mut top, rest) = fold.largest(MAX_WAITS);
        if !rest.is_empty() {
            top.push(([OTHER, OTHER], rest.iter().map(|(_, count)| count).sum()));
        }
        for ([kind, event], count) in top {
            let labels = [
                ("target", self.target),
                ("wait_event_type", kind),
                ("wait_event", event),
            ];
            self.row.put("snowpit_waiting_backends", &labels, count);
        }
    }

    fn transactions(&mut self, report: &PostgresReport, t: UnixSeconds) {
        // Ages are differences on the server's own clock, where it was read.
        let clock = report.server.as_ref().and_then(|server| server.clock);
        let at = clock.unwrap_or(t);
        let age = |backend: &Backend| backend.xact_start.map(|start| (at - start).max(0.0));
        let mut oldest: Vec<(&str, f64)> = report
            .backends
            .iter()
            .filter_map(|backend| Some((label(backend.state.as_deref()), age(backend)?)))
            .collect();
        oldest.sort_by(|(a, x), (b, y)| a.cmp(b).then(y.total_cmp(x)));
        oldest.dedup_by_key(|(state, _)| *state);
        for (state, age) in oldest {
            let labels = [("target", self.target), ("state", state)];
            let age = to_thousandths(age);
            self.row
                .put("snowpit_oldest_transaction_seconds", &labels, age);
        }
    }

    fn locks(&mut self, locks: &LockView) {
        for wait in &locks.waits {
            let labels = [
                ("target", self.target),
                ("locktype", wait.locktype.as_str()),
            ];
            self.row
                .put("snowpit_lock_waiters", &labels, f64::from(wait.waiters));
            let longest = wait.longest_wait_seconds.map(to_thousandths);
            self.row
                .put_some("snowpit_lock_longest_wait_seconds", &labels, longest);
        }
        let roots = locks.root_blockers.len() as f64;
        self.one("snowpit_lock_root_blockers", Some(roots));
        self.one(
            "snowpit_lock_chain_depth",
            Some(f64::from(locks.chain_depth)),
        );
        let mut verdicts: Fold<(&str, Verdict)> = Fold::new();
        for lock in &locks.advisory_locks {
            verdicts.add((&lock.database, lock.verdict), 1.0);
        }
        for ((database, verdict), count) in verdicts.largest(MAX_DATABASES).0 {
            let labels = [
                ("target", self.target),
                ("database", database),
                ("verdict", verdict.as_str()),
            ];
            self.row.put("snowpit_advisory_locks", &labels, count);
        }
    }

    fn lock_counts(&mut self, counts: &[LockCount]) {
        for count in counts.iter().take(MAX_LOCK_COUNTS) {
            let labels = [
                ("target", self.target),
                ("locktype", count.locktype.as_str()),
                ("mode", count.mode.as_str()),
                ("granted", if count.granted { "true" } else { "false" }),
            ];
            self.row
                .put("snowpit_locks", &labels, f64::from(count.count));
        }
    }

    fn mix(&mut self, mix: &Mix) {
        self.one(names::IN_USE, Some(mix.in_use));
        self.one(names::CLIENTS_WAITING, Some(mix.pooler_waits));
        self.one(names::LOCK_WAITS, Some(mix.lock_waits));
        let mut routes = Fold::new();
        let mut untagged = Fold::new();
        for (part, sessions) in &mix.parts {
            match part {
                Part::Route { service, route } => routes.add((service, route), *sessions),
                Part::Untagged {
                    service,
                    application,
                } => untagged.add((service, application), *sessions),
            }
        }
        for ((service, route), sessions) in routes.largest(MAX_ROUTES).0 {
            let labels = [
                ("target", self.target),
                ("service", service.as_str()),
                ("route", route.as_str()),
            ];
            self.row.put(names::ROUTE, &labels, sessions);
        }
        for ((service, application), sessions) in untagged.largest(MAX_UNTAGGED).0 {
            let labels = [
                ("target", self.target),
                ("service", service.as_str()),
                ("application", application.as_str()),
            ];
            self.row.put(names::UNTAGGED, &labels, sessions);
        }
    }
}

fn label(name: Option<&str>) -> &str {
    name.unwrap_or(UNKNOWN)
}
