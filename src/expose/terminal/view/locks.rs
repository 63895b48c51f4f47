//! Locks: who waits for whom, and which advisory lock is held by whom.

use super::page::{Page, piece, plain};
use super::parts::{Level, sign};
use crate::expose::terminal::answers::{
    Advisory, AdvisoryTarget, LockObject, LockTarget, Node, Root,
};
use crate::expose::terminal::model::{Model, Subject};
use crate::expose::terminal::text::{fit, safe};
use crate::expose::terminal::words::{age, number, plural};

/// Root blockers laid out.
const ROOTS: usize = 100;
/// Waiters of one root blocker in the list; pointing at it shows all that are
/// told.
const NODES: usize = 12;
/// Advisory locks laid out.
const LOCKS: usize = 500;
/// Deeper waiters are not moved further to the right.
const DEEPEST: usize = 12;

/// What needs somebody first.
const ORDER: [&str; 7] = [
    "orphaned", "stranded", "carried", "suspect", "prepared", "unknown", "owned",
];

fn level(verdict: &str) -> Level {
    match verdict {
        "orphaned" | "stranded" => Level::Critical,
        "carried" | "suspect" | "prepared" => Level::Warning,
        "owned" => Level::Calm,
        _ => Level::Unknown,
    }
}

/// The trees, and the advisory locks.
pub(super) fn pages(model: &Model, now: f64, columns: [usize; 2]) -> [Page; 2] {
    let mut trees = Page::new(columns[0], model.palette);
    let mut advisory = Page::new(columns[1], model.palette);
    blockers(&mut trees, model, now);
    advisories(&mut advisory, model, now);
    [trees, advisory]
}

/// Seconds since the look, which ages go on by.
fn grown(at: f64, fresh: bool, now: f64) -> f64 {
    if fresh { (now - at).max(0.0) } else { 0.0 }
}

/// The root blockers that pass the filter, most waiters first.
fn roots(model: &Model) -> Vec<(&LockTarget, &Root)> {
    let targets = model.locks.data.iter().flat_map(|locks| &locks.targets);
    let mut all: Vec<(&LockTarget, &Root)> = targets
        .flat_map(|target| target.root_blockers.iter().map(move |root| (target, root)))
        .filter(|(target, root)| {
            let pid = root.pid.map(|pid| pid.to_string()).unwrap_or_default();
            let texts = [
                &root.database,
                &root.user,
                &root.application,
                &root.client,
                &root.state,
                &root.query,
                &root.prepared,
            ];
            let mut words = vec![target.name.as_str(), &pid];
            words.extend(texts.into_iter().flatten().map(String::as_str));
            model.passes(&words)
        })
        .collect();
    let wait = |root: &Root| root.longest_wait_seconds.unwrap_or(0.0);
    all.sort_by(|(_, a), (_, b)| {
        let longest = wait(b).total_cmp(&wait(a));
        if model.sort == 0 {
            b.waiters.total_cmp(&a.waiters).then(longest)
        } else {
            longest
        }
    });
    all
}

fn blockers(page: &mut Page, model: &Model, now: f64) {
    let palette = page.palette;
    let all = roots(model);
    page.heading(&format!("Who blocks whom ({})", number(all.len() as f64)));
    if let Some(error) = &model.locks.error {
        page.text(0, error, palette.warning());
    }
    let Some(known) = &model.locks.data else {
        page.line(vec![piece("Asking …", palette.quiet())]);
        return;
    };
    let blind: Vec<&str> = known
        .targets
        .iter()
        .filter(|target| !target.fresh)
        .map(|target| target.name.as_str())
        .collect();
    if !blind.is_empty() {
        let words = format!("Out of sight, as last seen: {}", blind.join(", "));
        page.text_within(0, &words, palette.warning(), 2);
    }
    if all.is_empty() {
        let words = if model.filter.is_empty() {
            "Nobody is in anybody's way."
        } else {
            "No session with these words is in anybody's way."
        };
        page.line(vec![piece(words, palette.quiet())]);
    }
    for (target, root) in all.iter().take(ROOTS) {
        page.entry(subject_of(target, root), |page| {
            tree(page, target, root, now, NODES, 1);
        });
        page.blank();
    }
    if all.len() > ROOTS {
        let words = format!("{} more: filter with /", number((all.len() - ROOTS) as f64));
        page.line(vec![piece(words, palette.quiet())]);
    }
}

fn subject_of(target: &LockTarget, root: &Root) -> Subject {
    let holder = match root.pid {
        Some(pid) => pid.to_string(),
        None => root.prepared.clone().unwrap_or_default(),
    };
    Subject::Root(target.name.clone(), holder)
}

/// The root blocker that was pointed at, if it still is one.
pub(super) fn root<'a>(model: &'a Model, subject: &Subject) -> Option<(&'a LockTarget, &'a Root)> {
    let targets = model.locks.data.iter().flat_map(|locks| &locks.targets);
    targets
        .flat_map(|target| target.root_blockers.iter().map(move |root| (target, root)))
        .find(|(target, root)| subject_of(target, root) == *subject)
}

/// One root blocker and those behind it; statements in so many lines each.
pub(super) fn tree(
    page: &mut Page,
    target: &LockTarget,
    root: &Root,
    now: f64,
    nodes: usize,
    statement: usize,
) {
    let palette = page.palette;
    let grown = grown(target.at, target.fresh, now);
    let plus = |seconds: Option<f64>| age(seconds.map(|seconds| seconds + grown));
    let holder = match (root.pid, &root.prepared) {
        (Some(pid), _) => format!("pid {pid}"),
        (None, prepared) => {
            let name = fit(prepared.as_deref().unwrap_or_default(), 60);
            format!("prepared transaction {name}")
        }
    };
    page.line_and(
        vec![
            piece(holder, palette.strong()),
            plain(" "),
            piece(who(root), palette.quiet()),
        ],
        vec![
            piece(plural(root.waiters, "waiter"), palette.critical()),
            piece(
                format!(", longest {}", plus(root.longest_wait_seconds)),
                palette.strong(),
            ),
        ],
    );
    let mut state = Vec::new();
    if let Some(word) = &root.state {
        state.push(format!("{} for {}", safe(word), plus(root.state_seconds)));
    }
    if root.transaction_seconds.is_some() {
        state.push(format!("transaction {}", plus(root.transaction_seconds)));
    }
    state.push(format!(
        "{} directly behind it",
        number(root.direct_waiters)
    ));
    state.push(format!("server {}", fit(&target.name, 40)));
    page.text_within(2, &state.join(" · "), palette.quiet(), 2);
    if let Some(query) = &root.query {
        page.text_within(2, query, ratatui::style::Style::new(), statement);
    }
    let holds: Vec<String> = root.holds.iter().take(4).map(object).collect();
    if !holds.is_empty() {
        let more = match root.holds.len().saturating_sub(4) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let words = format!("holds {}{more}", holds.join(", "));
        page.text_within(2, &words, palette.quiet(), 1 + statement);
    }
    if !root.action.is_empty() {
        page.command(2, &root.action, 6);
    }
    for one in root.nodes.iter().take(nodes) {
        node(page, one, grown, statement);
    }
    let hidden = root.nodes.len().saturating_sub(nodes) as f64 + root.nodes_left_out;
    if hidden > 0.0 {
        let words = format!("    … and {} more wait", number(hidden));
        page.line(vec![piece(words, palette.quiet())]);
    }
}

fn node(page: &mut Page, one: &Node, grown: f64, statement: usize) {
    let palette = page.palette;
    let indent = 2 + 2 * one.depth.min(DEEPEST);
    let waits = age(one.wait_seconds.map(|seconds| seconds + grown));
    let mut words = format!(
        " {} {}",
        if one.queued {
            "in the queue for"
        } else {
            "for"
        },
        object(&one.waits_for)
    );
    if one.order_assumed {
        words.push_str(", order not certain");
    }
    if let Some(application) = one.application.as_ref().filter(|name| !name.is_empty()) {
        words.push_str(&format!("; {}", safe(application)));
    }
    page.line(vec![
        plain(format!("{}└ ", " ".repeat(indent))),
        piece(format!("pid {} ", one.pid), palette.strong()),
        piece(format!("waits {waits}"), palette.warning()),
        piece(words, palette.quiet()),
    ]);
    if statement > 1
        && let Some(query) = &one.query
    {
        page.text_within(indent + 2, query, ratatui::style::Style::new(), statement);
    }
}

fn object(held: &LockObject) -> String {
    let what = if held.object.is_empty() {
        &held.locktype
    } else {
        &held.object
    };
    safe(&format!("{} on {what}", held.mode))
}

/// Whose session it is.
fn who(root: &Root) -> String {
    let place = [&root.database, &root.user].into_iter().flatten();
    let place: Vec<&str> = place.map(String::as_str).collect();
    let mut words = vec![place.join("/")];
    words.extend(root.application.clone());
    words.extend(root.client.clone());
    words.retain(|word| !word.is_empty());
    safe(&words.join(" "))
}

/// The advisory locks that pass the filter, what needs somebody first.
fn held(model: &Model) -> Vec<(&AdvisoryTarget, &Advisory)> {
    let targets = model.advisory.data.iter().flat_map(|locks| &locks.targets);
    let mut all: Vec<(&AdvisoryTarget, &Advisory)> = targets
        .flat_map(|target| target.advisory_locks.iter().map(move |lock| (target, lock)))
        .filter(|(target, lock)| {
            let names = lock.names.join(" ");
            let mut words = vec![
                target.name.as_str(),
                &lock.database,
                &lock.key,
                &names,
                &lock.verdict,
                &lock.reason,
            ];
            words.extend(lock.last_application.as_deref());
            words.extend(lock.pooler.as_deref());
            model.passes(&words)
        })
        .collect();
    let rank = |lock: &Advisory| ORDER.iter().position(|verdict| *verdict == lock.verdict);
    let crowd = |lock: &Advisory| lock.waiters + lock.spinners;
    all.sort_by(|(_, a), (_, b)| {
        let oldest = b.age_seconds.total_cmp(&a.age_seconds);
        if model.sort == 0 {
            let trouble = rank(a)
                .unwrap_or(ORDER.len())
                .cmp(&rank(b).unwrap_or(ORDER.len()));
            trouble.then(crowd(b).total_cmp(&crowd(a))).then(oldest)
        } else {
            oldest
        }
    });
    all
}

fn advisories(page: &mut Page, model: &Model, now: f64) {
    let palette = page.palette;
    let all = held(model);
    page.heading(&format!("Advisory locks ({})", number(all.len() as f64)));
    if let Some(error) = &model.advisory.error {
        page.text(0, error, palette.warning());
    }
    if model.advisory.data.is_none() {
        page.line(vec![piece("Asking …", palette.quiet())]);
        return;
    }
    let lost = all
        .iter()
        .filter(|(_, lock)| level(&lock.verdict) == Level::Critical);
    let lost = lost.count();
    if lost > 0 {
        let words = format!(
            "{} held by nobody who could give it back.",
            plural(lost as f64, "lock")
        );
        page.line(vec![piece(words, palette.critical())]);
    }
    if all.is_empty() {
        let words = if model.filter.is_empty() {
            "No advisory lock is held."
        } else {
            "No advisory lock has these words."
        };
        page.line(vec![piece(words, palette.quiet())]);
    }
    for (target, lock) in all.iter().take(LOCKS) {
        page.entry(key_of(target, lock), |page| {
            advisory(page, target, lock, now)
        });
    }
    if all.len() > LOCKS {
        let words = format!("{} more: filter with /", number((all.len() - LOCKS) as f64));
        page.line(vec![piece(words, palette.quiet())]);
    }
}

fn key_of(target: &AdvisoryTarget, lock: &Advisory) -> Subject {
    let holder = match lock.pid {
        Some(pid) => pid.to_string(),
        None => lock.prepared.clone().unwrap_or_default(),
    };
    let key = format!("{} {} {holder} {}", lock.database, lock.key, lock.mode);
    Subject::Advisory(target.name.clone(), key)
}

/// The advisory lock that was pointed at, if it is still held.
pub(super) fn lock<'a>(
    model: &'a Model,
    subject: &Subject,
) -> Option<(&'a AdvisoryTarget, &'a Advisory)> {
    let targets = model.advisory.data.iter().flat_map(|locks| &locks.targets);
    targets
        .flat_map(|target| target.advisory_locks.iter().map(move |lock| (target, lock)))
        .find(|(target, lock)| key_of(target, lock) == *subject)
}

/// One advisory lock: its verdict, whose it is, and what frees it.
pub(super) fn advisory(page: &mut Page, target: &AdvisoryTarget, lock: &Advisory, now: f64) {
    let palette = page.palette;
    let grown = grown(target.at, target.fresh, now);
    let mut crowd = Vec::new();
    if lock.waiters > 0.0 {
        crowd.push(format!("{} wait, ", number(lock.waiters)));
    }
    if lock.spinners > 0.0 {
        crowd.push(format!("{} try, ", number(lock.spinners)));
    }
    page.line_and(
        vec![
            sign(level(&lock.verdict), &lock.verdict, palette),
            plain("  "),
            piece(fit(&lock.key, 40), palette.strong()),
            plain(" "),
            piece(safe(&lock.names.join(", ")), palette.name()),
        ],
        vec![
            piece(crowd.concat(), palette.warning()),
            plain(age(lock.age_seconds + grown)),
        ],
    );
    if lock.verdict == "owned" && lock.waiters + lock.spinners == 0.0 {
        page.line(vec![piece(
            format!("  {}", holder(target, lock)),
            palette.quiet(),
        )]);
        return;
    }
    page.text_within(2, &holder(target, lock), palette.quiet(), 2);
    page.text_within(2, &lock.reason, ratatui::style::Style::new(), 3);
    if !lock.action.is_empty() {
        page.command(2, &lock.action, 6);
    } else if lock.allowed {
        page.line(vec![piece(
            "  allowed by the configuration",
            palette.quiet(),
        )]);
    }
}

fn holder(target: &AdvisoryTarget, lock: &Advisory) -> String {
    let mut words = vec![match lock.pid {
        Some(pid) => format!("pid {pid}"),
        None => lock.prepared.clone().unwrap_or_default(),
    }];
    words.push(format!("database {}", lock.database));
    words.push(format!("server {}", target.name));
    if let Some(application) = &lock.last_application {
        words.push(format!("last used by {application}"));
    }
    if let Some(pooler) = &lock.pooler {
        let pool = lock.pool.as_ref();
        let pool =
            pool.map(|pool| format!(", pool {}/{}, {}", pool.database, pool.user, pool.pool_mode));
        words.push(format!("{pooler}{}", pool.unwrap_or_default()));
    }
    safe(&words.join(" · "))
}
