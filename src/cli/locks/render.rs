//! The locks of one target as text: the tree of who waits for whom, then the
//! table of advisory locks.
//!
//! Invariants: nothing that a server says reaches the terminal with control
//! characters in it; no line is wider than the terminal, except a command,
//! which must be copied whole.

use std::fmt::Write;
use std::time::Duration;

use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};

use crate::engine::locks::{AdvisoryLock, LockObject, LockView, RootBlocker, Verdict, WaitNode};

/// Levels of waiters shown below a root blocker; deeper ones are counted.
const MAX_DEPTH: usize = 12;

/// Waiters shown below one session; the others are counted.
const MAX_WIDTH: usize = 20;

/// Characters of a statement shown where the width is not limited.
const MAX_STATEMENT: usize = 400;

/// Narrowest terminal that lines are fitted to.
const MIN_COLUMNS: usize = 40;

/// Writes the view of one target. `columns` is the width of the terminal;
/// `None` when there is no terminal and nothing needs to fit.
pub fn target(view: &LockView, columns: Option<usize>) -> String {
    let mut page = Page {
        text: String::new(),
        columns: columns.map(|columns| columns.max(MIN_COLUMNS)),
    };
    page.line("", &format!("Target {}", clean(&view.name)));
    page.line("", "");
    if view.root_blockers.is_empty() {
        page.line("", &without_roots(view));
    }
    if view.truncated {
        let cut =
            "There are more locks than can be read: root blockers and waiters may be missing.";
        page.paragraph("", cut);
    }
    for root in &view.root_blockers {
        page.root(root);
    }
    page.line("", "");
    page.advisory(&view.advisory_locks);
    page.text
}

/// Who waits where nobody is seen in the way: a cycle has no root, and a blocker
/// may have gone, or be cut off.
fn without_roots(view: &LockView) -> String {
    let waiters: u32 = view.waits.iter().map(|wait| wait.waiters).sum();
    match waiters {
        0 if view.truncated => "Nobody was seen to wait for a lock.".to_owned(),
        0 => "Nobody waits for a lock.".to_owned(),
        _ => format!("Waiting for locks: {waiters}. Who is in their way was not seen."),
    }
}

struct Page {
    text: String,
    columns: Option<usize>,
}

impl Page {
    /// One line behind its indent, cut to the width.
    fn line(&mut self, indent: &str, text: &str) {
        let room = self.columns.map_or(usize::MAX, |columns| {
            columns.saturating_sub(indent.chars().count())
        });
        // A String takes everything.
        let _ = writeln!(self.text, "{indent}{}", cut(text, room).trim_end());
    }

    /// Whole words over as many lines as it takes, the later ones indented.
    fn paragraph(&mut self, indent: &str, text: &str) {
        let room = self.columns.unwrap_or(usize::MAX) - 3;
        let mut line = indent.to_owned();
        for word in text.split_whitespace() {
            let used = line.chars().count();
            if used > indent.len() && used + 1 + word.chars().count() > room {
                self.line("", &line);
                line = "   ".to_owned();
            }
            if !line.ends_with(' ') && !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        self.line("", &line);
    }

    /// A command is never cut, and its spaces are its own.
    fn command(&mut self, indent: &str, command: &str) {
        let command = command.replace(|char: char| char.is_control(), " ");
        let _ = writeln!(self.text, "{indent}{command}");
    }

    fn root(&mut self, root: &RootBlocker) {
        self.paragraph("", &root_title(root));
        self.paragraph("   ", &root_state(root));
        self.statement("   ", root.query.as_deref());
        for held in &root.holds {
            self.line("   ", &format!("holds {}", object(held)));
        }
        if !root.action.is_empty() {
            self.command("   free with: ", &root.action);
        }
        self.waiters("   ", &root.tree, 1);
    }

    fn waiters(&mut self, indent: &str, nodes: &[WaitNode], depth: usize) {
        let hidden = if depth > MAX_DEPTH {
            count(nodes)
        } else {
            nodes
                .iter()
                .skip(MAX_WIDTH)
                .map(|node| 1 + count(&node.tree))
                .sum()
        };
        let shown = if depth > MAX_DEPTH { 0 } else { MAX_WIDTH };
        let last = nodes.len().min(shown).saturating_sub(1);
        for (index, node) in nodes.iter().take(shown).enumerate() {
            let ends = index == last && hidden == 0;
            let (branch, below) = if ends {
                ("└─ ", "   ")
            } else {
                ("├─ ", "│  ")
            };
            self.line(&format!("{indent}{branch}"), &waiter_title(node));
            let below = format!("{indent}{below}");
            self.statement(&below, node.query.as_deref());
            self.waiters(&below, &node.tree, depth + 1);
        }
        if hidden > 0 {
            self.line(&format!("{indent}└─ "), &format!("… and {hidden} more"));
        }
    }

    fn statement(&mut self, indent: &str, query: Option<&str>) {
        if let Some(query) = query.map(clean).filter(|query| !query.is_empty()) {
            self.line(indent, &cut(&query, MAX_STATEMENT));
        }
    }

    fn advisory(&mut self, locks: &[AdvisoryLock]) {
        if locks.is_empty() {
            self.line("", "No advisory lock is held.");
            return;
        }
        self.line("", "Advisory locks");
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["DATABASE", "KEY", "VERDICT", "AGE", "WAITING", "NAME"]);
        if let Some(columns) = self.columns {
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
        }
        for lock in locks {
            table.add_row(row(lock));
        }
        // Only names may be broken over two lines.
        for column in table.column_iter_mut().take(5) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        for line in table.lines() {
            let _ = writeln!(self.text, "{}", line.trim_end());
        }
        for lock in locks.iter().filter(|lock| lock.verdict != Verdict::Owned) {
            self.paragraph("", &holder(lock));
            self.paragraph("   ", &clean(&lock.reason));
            if !lock.action.is_empty() {
                self.command("   free with: ", &lock.action);
            }
        }
    }
}

fn row(lock: &AdvisoryLock) -> [String; 6] {
    let names: Vec<String> = lock.names.iter().map(|name| clean(name)).collect();
    let verdict = if lock.allowed {
        format!("{} (allowed)", lock.verdict.as_str())
    } else {
        lock.verdict.as_str().to_owned()
    };
    let waiting = match (lock.waiters, lock.spinners) {
        (0, 0) => "-".to_owned(),
        (waiters, 0) => waiters.to_string(),
        (waiters, spinners) => format!("{waiters} + {spinners} spinning"),
    };
    [
        clean(&lock.database),
        clean(&lock.key),
        verdict,
        seconds(lock.age_seconds),
        waiting,
        names.join(", "),
    ]
}

/// Which lock, and on whom it is.
fn holder(lock: &AdvisoryLock) -> String {
    let mut text = format!("{} of {}", clean(&lock.key), clean(&lock.database));
    let _ = match (&lock.prepared, lock.pid) {
        (Some(gid), _) => write!(text, ", prepared transaction {}", clean(gid)),
        (None, Some(pid)) => write!(text, ", pid {pid}"),
        (None, None) => Ok(()),
    };
    if let Some(pooler) = &lock.pooler {
        let _ = write!(text, " of {}", clean(pooler));
    }
    if let Some(application) = lock
        .last_application
        .as_deref()
        .filter(|name| !name.is_empty())
    {
        let _ = write!(text, ", last used by {}", clean(application));
    }
    text
}

/// Who blocks.
fn root_title(root: &RootBlocker) -> String {
    let mut title = match (&root.prepared, root.pid) {
        (Some(gid), _) => format!("prepared transaction {}", clean(gid)),
        (None, Some(pid)) => format!("pid {pid}"),
        (None, None) => "a session".to_owned(),
    };
    for (word, value) in [
        ("", &root.application),
        ("user ", &root.user),
        ("database ", &root.database),
        ("from ", &root.client),
    ] {
        if let Some(value) = value
            .as_deref()
            .map(clean)
            .filter(|value| !value.is_empty())
        {
            let _ = write!(title, ", {word}{value}");
        }
    }
    title
}

/// Whom it blocks, and for how long it has done what it does.
fn root_state(root: &RootBlocker) -> String {
    let mut text = format!("blocks {}", root.waiters);
    if root.direct_waiters != root.waiters {
        let _ = write!(text, " ({} directly)", root.direct_waiters);
    }
    if let Some(longest) = root.longest_wait_seconds {
        let _ = write!(text, ", longest {}", seconds(longest));
    }
    if let Some(state) = &root.state {
        let _ = write!(text, "; {}", clean(state));
        if let Some(age) = root.state_seconds {
            let _ = write!(text, " for {}", seconds(age));
        }
    }
    if let Some(age) = root.transaction_seconds {
        let _ = write!(text, ", transaction {}", seconds(age));
    }
    text
}

fn waiter_title(node: &WaitNode) -> String {
    let mut title = format!("pid {} waits", node.pid);
    if let Some(wait) = node.wait_seconds {
        let _ = write!(title, " {}", seconds(wait));
    }
    let _ = write!(title, " for {}", object(&node.waits_for));
    if let Some(application) = node.application.as_deref().filter(|name| !name.is_empty()) {
        let _ = write!(title, "; {}", clean(application));
    }
    title
}

fn object(lock: &LockObject) -> String {
    format!(
        "{} on {} {}",
        clean(&lock.mode),
        clean(&lock.locktype),
        clean(&lock.object)
    )
}

fn count(nodes: &[WaitNode]) -> usize {
    nodes.iter().map(|node| 1 + count(&node.tree)).sum()
}

/// One line without control characters: names and statements come from
/// whoever connects, and a terminal obeys escape sequences.
fn clean(text: &str) -> String {
    let printable = text.replace(|char: char| char.is_control(), " ");
    printable.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn cut(text: &str, room: usize) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let kept: String = text.chars().take(room.saturating_sub(1)).collect();
    format!("{kept}…")
}

/// `4.2s` while short, `5m 10s` afterwards.
fn seconds(seconds: f64) -> String {
    let seconds = seconds.clamp(0.0, 1e9);
    if seconds < 10.0 {
        format!("{seconds:.1}s")
    } else {
        humantime::format_duration(Duration::from_secs(seconds as u64)).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::locks::{PoolIdentity, WaitsByType};

    fn node(pid: i32, tree: Vec<WaitNode>) -> WaitNode {
        WaitNode {
            pid,
            waits_for: LockObject {
                locktype: "transactionid".into(),
                mode: "ShareLock".into(),
                object: "771".into(),
            },
            wait_seconds: Some(309.8),
            application: Some("registry".into()),
            state: Some("active".into()),
            query: Some("update packages\n   set name = ?".into()),
            queued: false,
            order_assumed: false,
            tree,
        }
    }

    fn view() -> LockView {
        LockView {
            name: "main".into(),
            root_blockers: vec![RootBlocker {
                pid: Some(4711),
                database: Some("app".into()),
                user: Some("app".into()),
                application: Some("registry\u{1b}[31m".into()),
                client: Some("10.0.0.7".into()),
                state: Some("idle in transaction".into()),
                transaction_seconds: Some(312.4),
                state_seconds: Some(310.1),
                query: Some("update packages set name = ?".into()),
                holds: vec![LockObject {
                    locktype: "relation".into(),
                    mode: "AccessExclusiveLock".into(),
                    object: "public.packages".into(),
                }],
                waiters: 3,
                direct_waiters: 2,
                longest_wait_seconds: Some(309.8),
                action: "SELECT pg_terminate_backend(4711);".into(),
                tree: vec![node(4712, vec![node(4713, vec![])]), node(4714, vec![])],
                ..RootBlocker::default()
            }],
            advisory_locks: vec![AdvisoryLock {
                database: "app".into(),
                key: "42424242424242".into(),
                names: vec!["mcp-context-forge bootstrap".into()],
                allowed: false,
                mode: "ExclusiveLock".into(),
                pid: Some(4715),
                prepared: None,
                verdict: Verdict::Orphaned,
                reason: "the client that took it has disconnected".into(),
                age_seconds: 61.0,
                waiters: 2,
                spinners: 22,
                pooler: Some("pooler-1".into()),
                pool: Some(PoolIdentity {
                    database: "app".into(),
                    user: "app".into(),
                    pool_mode: "transaction".into(),
                }),
                last_application: Some("gateway".into()),
                action: "RECONNECT app;  on the console of pooler-1".into(),
            }],
            ..LockView::default()
        }
    }

    #[test]
    fn the_tree_and_the_table_fit_eighty_columns() {
        let text = target(&view(), Some(80));
        insta::assert_snapshot!(text);
        let wide = text.lines().filter(|line| line.chars().count() > 80);
        assert_eq!(wide.filter(|line| !line.contains(" with: ")).count(), 0);
    }

    #[test]
    fn without_a_terminal_nothing_is_cut() {
        let text = target(&view(), None);
        assert!(text.contains("from 10.0.0.7"));
        assert!(!text.contains('…'));
        assert!(
            !text.contains('\u{1b}'),
            "an escape sequence reached the terminal"
        );
    }

    #[test]
    fn a_quiet_target_says_so() {
        let text = target(&LockView::default(), Some(80));
        assert!(text.contains("Nobody waits for a lock."));
        assert!(text.contains("No advisory lock is held."));
    }

    #[test]
    fn what_was_not_seen_is_not_denied() {
        let waiting = LockView {
            truncated: true,
            waits: vec![WaitsByType {
                waiters: 3,
                ..WaitsByType::default()
            }],
            ..LockView::default()
        };
        let text = target(&waiting, Some(80));
        assert!(text.contains("Waiting for locks: 3."), "{text}");
        assert!(text.contains("more locks than can be read"), "{text}");
        assert!(!text.contains("Nobody"), "{text}");
    }

    #[test]
    fn a_crowd_is_counted_not_listed() {
        let mut view = view();
        let mut chain = node(1, vec![]);
        for pid in 2..100 {
            chain = node(pid, vec![chain]);
        }
        let mut tree = vec![chain];
        tree.extend((100..1000).map(|pid| node(pid, vec![])));
        view.root_blockers[0].tree = tree;
        let text = target(&view, Some(100));
        assert!(text.contains("… and 881 more"), "{text}");
        assert!(text.contains("… and 87 more"), "{text}");
        assert!(text.lines().count() < 100);
    }
}
