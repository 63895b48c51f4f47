//! One look at a server and the poolers in front of it, as the checks on lock
//! waits see it: the root blockers with the trees behind them, the sessions by
//! pid, and the words for both.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::engine::incident::Kind;
use crate::engine::locks::advisory::Looks;
use crate::engine::locks::context::Context;
use crate::engine::locks::{AdvisoryLock, RootBlocker, WaitNode};
use crate::engine::settings::Detect;
use crate::engine::words;
use crate::sample::{Backend, PostgresReport, UnixSeconds};

/// Characters of a statement in a sentence.
const STATEMENT_LIMIT: usize = 160;

/// What all checks look at.
#[derive(Debug)]
pub struct Scene<'a> {
    pub target: &'a str,
    pub looks: &'a Looks<'a>,
    pub report: &'a PostgresReport,
    pub detect: &'a Detect,
    /// The server's clock, for ages.
    pub clock: UnixSeconds,
    pub roots: &'a [RootBlocker],
    pub advisory: &'a [AdvisoryLock],
    /// Built when it is first asked for: most looks show no wait.
    context: OnceCell<Context<'a>>,
    backends: HashMap<i32, &'a Backend>,
    roots_by_pid: HashMap<i32, &'a RootBlocker>,
    /// Keys of advisory locks that are held for long on purpose.
    allowed: BTreeSet<&'a str>,
}

/// A waiter in the tree of a root blocker.
#[derive(Debug, Clone, Copy)]
pub struct Waiter<'a> {
    pub node: &'a WaitNode,
    /// Whom it waits for: the pid of another waiter, `None` for the root.
    pub before: Option<i32>,
    /// 1 for those that wait for the root itself.
    pub level: u32,
}

/// What is already told in this look, by a kind that says more about it.
#[derive(Debug, Default)]
pub struct Told {
    waiters: BTreeMap<i32, Kind>,
    blockers: BTreeMap<i32, Kind>,
}

impl Told {
    pub fn waiter(&mut self, pid: i32, kind: Kind) {
        self.waiters.entry(pid).or_insert(kind);
    }

    pub fn blocker(&mut self, pid: i32, kind: Kind) {
        self.blockers.entry(pid).or_insert(kind);
    }

    /// Which kind tells of this waiter.
    pub fn of_waiter(&self, pid: i32) -> Option<Kind> {
        self.waiters.get(&pid).copied()
    }

    /// Which kind names this session as the one in the way.
    pub fn of_blocker(&self, pid: i32) -> Option<Kind> {
        self.blockers.get(&pid).copied()
    }
}

impl<'a> Scene<'a> {
    pub fn new(
        target: &'a str,
        looks: &'a Looks<'a>,
        roots: &'a [RootBlocker],
        advisory: &'a [AdvisoryLock],
    ) -> Self {
        let report = looks.report;
        let clock = report.server.as_ref().and_then(|server| server.clock);
        Self {
            target,
            looks,
            report,
            detect: &looks.settings.detect,
            clock: clock.unwrap_or(looks.at),
            roots,
            advisory,
            context: OnceCell::new(),
            backends: report.backends.iter().map(|b| (b.pid, b)).collect(),
            roots_by_pid: roots
                .iter()
                .filter_map(|root| Some((root.pid?, root)))
                .collect(),
            allowed: advisory
                .iter()
                .filter(|lock| lock.allowed)
                .map(|lock| lock.key.as_str())
                .collect(),
        }
    }

    /// The pooled servers, and what is known of poolers' addresses.
    pub fn context(&self) -> &Context<'a> {
        self.context.get_or_init(|| Context::of(self.looks))
    }

    /// Whether the look could have shown every wait: no lock was cut off, and
    /// every root blocker was drawn with its waiters. Other rows may be missing.
    pub fn shows_all_waits(&self) -> bool {
        let mut roots = self.roots.iter();
        !self.report.locks_truncated && roots.all(|root| root.waiters == 0 || !root.tree.is_empty())
    }

    /// The root blocker with this pid.
    pub fn root(&self, pid: i32) -> Option<&'a RootBlocker> {
        self.roots_by_pid.get(&pid).copied()
    }

    pub fn backend(&self, pid: i32) -> Option<&'a Backend> {
        self.backends.get(&pid).copied()
    }

    /// Tells a session from a later one with the same pid, where its start may
    /// be seen.
    pub fn identity(&self, pid: i32) -> String {
        let start = self.backend(pid).and_then(|b| b.backend_start);
        identity(pid, start.unwrap_or(0.0).to_bits())
    }

    /// The identity of a root blocker, session or prepared transaction.
    pub fn root_identity(&self, root: &RootBlocker) -> String {
        match (root.pid, &root.prepared) {
            (Some(pid), _) => self.identity(pid),
            (None, Some(gid)) => format!("prepared/{gid}"),
            (None, None) => "unknown".to_owned(),
        }
    }

    /// Seconds since a time stamp of the server.
    pub fn age(&self, since: Option<UnixSeconds>) -> Option<f64> {
        since.map(|since| (self.clock - since).max(0.0))
    }

    /// The moment `age` seconds before this look, on our own clock.
    pub fn onset(&self, age: f64) -> UnixSeconds {
        let onset = self.looks.at - age;
        if onset.is_finite() {
            onset
        } else {
            self.looks.at
        }
    }

    /// Everybody in the tree behind a root, nearest first. A wait for a lock
    /// that is held for long on purpose is none; those behind it are.
    pub fn behind(&self, root: &'a RootBlocker) -> Vec<Waiter<'a>> {
        let mut waiters = all_behind(root);
        waiters.retain(|waiter| !self.is_allowed(waiter.node));
        waiters
    }

    /// Whether some wait may be one on purpose.
    pub fn allows_any(&self) -> bool {
        !self.allowed.is_empty()
    }

    fn is_allowed(&self, node: &WaitNode) -> bool {
        node.waits_for.locktype == "advisory"
            && self.allowed.contains(node.waits_for.object.as_str())
    }

    /// `backend 4711 (registry, idle in transaction for 5 min)`
    pub fn who(&self, pid: i32) -> String {
        let Some(backend) = self.backend(pid) else {
            return format!("backend {pid}");
        };
        let mut known = Vec::new();
        if let Some(application) = backend.application.as_deref().filter(|a| !a.is_empty()) {
            known.push(words::name(application));
        }
        if let Some(state) = &backend.state {
            let age = self.age(backend.state_change);
            let age = age.map_or_else(String::new, |age| format!(" for {}", words::duration(age)));
            known.push(format!("{}{age}", words::name(state)));
        }
        if known.is_empty() {
            format!("backend {pid}")
        } else {
            format!("backend {pid} ({})", known.join(", "))
        }
    }

    /// A root blocker in a few words.
    pub fn who_blocks(&self, root: &RootBlocker) -> String {
        match (root.pid, &root.prepared) {
            (Some(pid), _) => self.who(pid),
            (None, gid) => format!(
                "prepared transaction {}",
                words::sql_literal(&words::name(gid.as_deref().unwrap_or_default()))
            ),
        }
    }

    /// Where a session comes from and what it ran last, as evidence.
    pub fn profile(&self, pid: i32) -> Option<String> {
        let backend = self.backend(pid)?;
        let part = |name: &str, value: &Option<String>| {
            let value = value.as_deref().filter(|value| !value.is_empty())?;
            Some(format!("{name} {}", words::name(value)))
        };
        let transaction = self.age(backend.xact_start);
        let parts = [
            part("user", &backend.user),
            part("database", &backend.database),
            part("client", &backend.client),
            transaction.map(|age| format!("in a transaction for {}", words::duration(age))),
            statement(backend.query.as_deref()).map(|text| format!("last statement: {text}")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("backend {pid}: {}", parts.join(", ")))
    }
}

/// See [`Scene::identity`]; `start` as bits.
pub fn identity(pid: i32, start: u64) -> String {
    format!("{pid}/{start:x}")
}

/// Everybody in the tree behind a root, nearest first, whatever they wait for.
pub fn all_behind(root: &RootBlocker) -> Vec<Waiter<'_>> {
    let mut open: Vec<Waiter<'_>> = below(&root.tree, None, 1).collect();
    let mut next = 0;
    while let Some(Waiter { node, level, .. }) = open.get(next).copied() {
        open.extend(below(&node.tree, Some(node.pid), level + 1));
        next += 1;
    }
    open
}

fn below(tree: &[WaitNode], before: Option<i32>, level: u32) -> impl Iterator<Item = Waiter<'_>> {
    tree.iter().map(move |node| Waiter {
        node,
        before,
        level,
    })
}

/// The longest wait among waiters, in seconds; 0 when none is known.
pub fn longest<'a>(waiters: impl IntoIterator<Item = &'a Waiter<'a>>) -> f64 {
    let waits = waiters.into_iter().filter_map(|w| w.node.wait_seconds);
    waits.fold(0.0, f64::max)
}

/// The pids of everybody behind a node.
pub fn pids_behind(node: &WaitNode) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    let mut open: Vec<&WaitNode> = node.tree.iter().collect();
    while let Some(next) = open.pop() {
        pids.insert(next.pid);
        open.extend(&next.tree);
    }
    pids
}

/// A redacted statement, cut to fit a sentence.
pub fn statement(query: Option<&str>) -> Option<String> {
    let query = query?.trim();
    if query.is_empty() || query == "<insufficient privilege>" {
        return None;
    }
    let mut text: String = query
        .chars()
        .filter(|c| !c.is_control())
        .take(STATEMENT_LIMIT)
        .collect();
    if query.chars().count() > STATEMENT_LIMIT {
        text.push('…');
    }
    Some(text)
}

/// The server cancels it by itself when somebody waits for its lock, unless it
/// is one against wraparound.
pub fn is_autovacuum(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.starts_with("autovacuum:"))
}

/// The statements that end what a session does, the gentlest first.
pub fn end_session(pid: i32, state: Option<&str>) -> Vec<String> {
    let mut actions = Vec::new();
    if state == Some("active") {
        actions.push(cancel(pid));
    }
    actions.push(terminate(pid));
    actions
}

pub fn cancel(pid: i32) -> String {
    format!("SELECT pg_cancel_backend({pid});")
}

pub fn terminate(pid: i32) -> String {
    format!("SELECT pg_terminate_backend({pid});")
}

/// A JSON object from `json!({…})`.
pub fn fields(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
    match value {
        serde_json::Value::Object(map) => map,
        _ => serde_json::Map::new(),
    }
}
