//! Who is connected to a target and what they do.

use std::collections::BTreeMap;

use super::page::{Page, clip, largest};
use super::{OTHER, UNKNOWN, table};
use crate::engine::snapshot::TargetView;
use crate::sample::{Backend, Group, UnixSeconds};

/// Groups of connections shown one by one; a few hundred series a target are
/// affordable, and an avalanche is made of few groups.
const MAX_GROUPS: usize = 100;

/// PostgreSQL has over 200 wait events; more than 50 at once say nothing.
const MAX_WAITS: usize = 50;

/// Routes shown one by one, as many as the contract allows.
const MAX_ROUTES: usize = 100;

/// Everything that comes from the target's last poll.
pub(super) fn put(page: &mut Page, target: &str, view: &TargetView) {
    let report = &view.report;
    put_groups(page, target, &report.groups);
    put_waits(page, target, &report.groups);
    // Ages are differences on the server's own clock, where it was read.
    let clock = report.server.as_ref().and_then(|server| server.clock);
    put_transactions(page, target, &report.backends, clock.unwrap_or(view.at));
    put_routes(page, target, view);

    if let Some(server) = &report.server {
        let limit = server.max_connections.map(f64::from);
        let reserved = server.reserved_connections.map(f64::from);
        let recovery = server
            .in_recovery
            .map(|standby| f64::from(u8::from(standby)));
        page.put_some(&table::CONNECTIONS_LIMIT, [target], limit);
        page.put_some(&table::CONNECTIONS_RESERVED, [target], reserved);
        page.put_some(&table::IN_RECOVERY, [target], recovery);
    }
    if let Some(band) = view.band {
        page.put(&table::CONNECTIONS_EXPECTED, [target], band.expected);
        page.put(&table::CONNECTIONS_UPPER, [target], band.upper);
    }
    let opened = report.sessions_opened_total.map(|total| total as f64);
    page.put_some(&table::SESSIONS_OPENED, [target], opened);
    let cut = view.truncated_comments_total as f64;
    page.put(&table::TRUNCATED_COMMENTS, [target], cut);
}

fn put_groups(page: &mut Page, target: &str, groups: &[Group]) {
    let mut counts = BTreeMap::new();
    for group in groups {
        let key = [
            label(&group.database),
            label(&group.user),
            label(&group.application),
            label(&group.state),
        ];
        *counts.entry(key).or_insert(0.0) += f64::from(group.count);
    }
    let (top, rest) = largest(counts, MAX_GROUPS);
    // What the poller itself has summed up goes with the rest, not beside it.
    let (summed, top): (Vec<_>, Vec<_>) = top
        .into_iter()
        .partition(|(key, _)| key[..3].iter().all(|label| label == OTHER));
    for ([database, user, application, state], count) in &top {
        let labels = [target, database, user, application, state];
        page.put(&table::CONNECTIONS, labels, *count);
    }
    // The state is kept, so that a sum by state stays right.
    let mut others = BTreeMap::new();
    for ([_, _, _, state], count) in rest.into_iter().chain(summed) {
        *others.entry(state).or_insert(0.0) += count;
    }
    for (state, count) in &others {
        let labels = [target, OTHER, OTHER, OTHER, state];
        page.put(&table::CONNECTIONS, labels, *count);
    }
}

fn put_waits(page: &mut Page, target: &str, groups: &[Group]) {
    let mut counts = BTreeMap::new();
    for group in groups
        .iter()
        .filter(|group| group.wait_event_type.is_some())
    {
        let key = [label(&group.wait_event_type), label(&group.wait_event)];
        *counts.entry(key).or_insert(0.0) += f64::from(group.count);
    }
    let (top, rest) = largest(counts, MAX_WAITS);
    for ([kind, event], count) in &top {
        page.put(&table::WAITING_BACKENDS, [target, kind, event], *count);
    }
    if !rest.is_empty() {
        let count = rest.iter().map(|(_, count)| count).sum();
        page.put(&table::WAITING_BACKENDS, [target, OTHER, OTHER], count);
    }
}

fn put_transactions(page: &mut Page, target: &str, backends: &[Backend], at: UnixSeconds) {
    for backend in backends {
        if let Some(start) = backend.xact_start {
            let labels = [target, backend.state.as_deref().unwrap_or(UNKNOWN)];
            // Points alike keep the larger value, which is the oldest. A
            // transaction can begin after the clock was read.
            page.put(&table::OLDEST_TRANSACTION, labels, (at - start).max(0.0));
        }
    }
}

fn put_routes(page: &mut Page, target: &str, view: &TargetView) {
    let mut sessions = BTreeMap::new();
    for route in &view.routes {
        let key = [clip(&route.service), clip(&route.route)];
        *sessions.entry(key).or_insert(0.0) += route.sessions;
    }
    let (top, rest) = largest(sessions, MAX_ROUTES);
    for ([service, route], sessions) in &top {
        page.put(
            &table::ROUTE_CONNECTIONS,
            [target, service, route],
            *sessions,
        );
    }
    if !rest.is_empty() {
        let sessions = rest.iter().map(|(_, sessions)| sessions).sum();
        page.put(&table::ROUTE_CONNECTIONS, [target, OTHER, OTHER], sessions);
    }
}

fn label(value: &Option<String>) -> String {
    clip(value.as_deref().unwrap_or(UNKNOWN))
}
