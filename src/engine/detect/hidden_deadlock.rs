//! A cycle that PostgreSQL's own detector cannot see, because one of its edges
//! is in the application.
//!
//! A migrator holds its advisory lock on a connection of its own, which is idle
//! while another connection of the same process runs `CREATE INDEX
//! CONCURRENTLY`. That waits for every older transaction, and one of them is a
//! second migrator, blocked on the advisory lock: nobody in it can go on. The
//! same happens without a second migrator when the idle connection has a
//! transaction open, since the index build waits for that too.
//!
//! PostgreSQL sees every edge but the last, from the idle session to the
//! statement that its own client waits for. That one rests on evidence: the same
//! address, user and database, the same application, no statement on the idle
//! session since before the wait began. Without it nothing is claimed. Over when
//! the cycle is gone.

use std::collections::BTreeSet;

use serde_json::json;

use super::scene::{Scene, Waiter, all_behind, cancel, fields, terminate};
use super::watch::{Account, Stance, Suspicion};
use crate::engine::incident::Kind;
use crate::engine::locks::RootBlocker;
use crate::engine::locks::pooled::Match;
use crate::engine::words;
use crate::sample::Backend;

/// A process opens its connections at one start: connections opened this close
/// together are likely to be of one, in seconds.
const SAME_START: f64 = 10.0;

/// A cycle, and who is told of by it.
#[derive(Debug)]
pub struct Cycle {
    pub suspicion: Suspicion,
    /// Everybody behind the idle session.
    pub waiters: BTreeSet<i32>,
    pub blocker: i32,
}

/// The cycles of one look.
pub fn check(scene: &Scene<'_>) -> Vec<Cycle> {
    let roots = scene.roots.iter();
    roots.flat_map(|root| cycles_behind(scene, root)).collect()
}

fn cycles_behind<'a>(scene: &Scene<'a>, root: &'a RootBlocker) -> Vec<Cycle> {
    let Some(holder) = root.pid.and_then(|pid| scene.backend(pid)) else {
        return Vec::new();
    };
    let idle = holder
        .state
        .as_deref()
        .is_some_and(|s| s.starts_with("idle"));
    if !idle {
        return Vec::new();
    }
    // A leader's followers wait on purpose; a cycle through them is one still.
    let waiters = all_behind(root);
    let all: BTreeSet<i32> = waiters.iter().map(|waiter| waiter.node.pid).collect();
    let cycles = waiters.iter().filter_map(|waiter| {
        let chain = chain(&waiters, waiter);
        if !closes_in_the_application(scene, holder, &chain) {
            return None;
        }
        let evidence = Evidence::of(scene, holder, waiter)?;
        Some(Cycle {
            suspicion: suspicion(scene, holder, &chain, &evidence),
            waiters: all.clone(),
            blocker: holder.pid,
        })
    });
    cycles.collect()
}

/// From the waiter to the one that waits for the root itself.
fn chain<'a>(waiters: &[Waiter<'a>], last: &Waiter<'a>) -> Vec<Waiter<'a>> {
    let mut chain = vec![*last];
    while let Some(before) = chain.last().and_then(|waiter| waiter.before) {
        let Some(next) = waiters.iter().find(|waiter| waiter.node.pid == before) else {
            break;
        };
        if chain.len() > waiters.len() {
            break;
        }
        chain.push(*next);
    }
    chain
}

/// The shapes that are known: the waiter's own statement waits for an older
/// transaction (or, as a schema change, for a table), and the idle session is
/// the holder of an advisory lock.
fn closes_in_the_application(scene: &Scene<'_>, holder: &Backend, chain: &[Waiter<'_>]) -> bool {
    let (Some(first), Some(last)) = (chain.first(), chain.last()) else {
        return false;
    };
    let wanted = &first.node.waits_for;
    let for_transaction = wanted.locktype == "virtualxid";
    let for_table = wanted.locktype == "relation" && wanted.mode == "AccessExclusiveLock";
    if chain.len() == 1 {
        let mut held = scene.advisory.iter();
        return for_transaction && held.any(|lock| lock.pid == Some(holder.pid));
    }
    (for_transaction || for_table) && last.node.waits_for.locktype == "advisory"
}

/// Why the idle session is taken for one of the waiter's own client.
#[derive(Debug)]
struct Evidence {
    same_application: bool,
    same_start: bool,
    client: String,
    idle_for: f64,
}

impl Evidence {
    /// `None` when it does not suffice.
    fn of(scene: &Scene<'_>, holder: &Backend, waiter: &Waiter<'_>) -> Option<Self> {
        let own = scene.backend(waiter.node.pid)?;
        let client = client_of(scene, own)?;
        if client != client_of(scene, holder)?
            || own.user.is_none()
            || (&own.user, &own.database) != (&holder.user, &holder.database)
        {
            return None;
        }
        // A statement on the idle session since the wait began shows that its
        // client is not stuck.
        let idle_for = scene.age(Some(holder.state_change?))?;
        if idle_for < waiter.node.wait_seconds? {
            return None;
        }
        let named = holder.application.as_deref().is_some_and(|a| !a.is_empty());
        let starts = holder.backend_start.zip(own.backend_start);
        let evidence = Self {
            same_application: named && holder.application == own.application,
            same_start: starts.is_some_and(|(a, b)| (a - b).abs() <= SAME_START),
            client,
            idle_for,
        };
        let differs = holder.application != own.application;
        let weighs = evidence.same_application || evidence.same_start;
        (weighs && !differs).then_some(evidence)
    }

    fn confidence(&self) -> &'static str {
        if self.same_application && self.same_start {
            "very likely"
        } else {
            "likely"
        }
    }

    fn sentence(&self, holder: i32, waiter: i32) -> String {
        let mut same = vec![format!("both come from {}", self.client)];
        same.push("with one user and one database".to_owned());
        if self.same_application {
            same.push("one application_name".to_owned());
        }
        if self.same_start {
            same.push(format!(
                "and were opened within {}",
                words::duration(SAME_START)
            ));
        }
        format!(
            "{} that backends {holder} and {waiter} are one client's: {}; backend {holder} has run nothing for {}, \
             since before the wait began",
            self.confidence(),
            same.join(", "),
            words::duration(self.idle_for),
        )
    }
}

/// Where a session's client is. Behind a pooler the address is the pooler's and
/// says nothing: there the linked client counts, where clients were read.
fn client_of(scene: &Scene<'_>, backend: &Backend) -> Option<String> {
    match scene.context().servers.find(backend) {
        Match::Found(pooled) => {
            let client = pooled.linked_client()?;
            Some(format!(
                "{} through {}",
                client.addr, pooled.look.report.pooler
            ))
        }
        Match::Ambiguous => None,
        Match::None if scene.context().coverage(backend).pooler_address => None,
        Match::None => Some(match &backend.client {
            Some(client) => client.clone(),
            // Over a unix socket, when the session may be seen at all.
            None if backend.client_port == Some(-1) => "the server's own machine".to_owned(),
            None => return None,
        }),
    }
}

fn suspicion(
    scene: &Scene<'_>,
    holder: &Backend,
    chain: &[Waiter<'_>],
    evidence: &Evidence,
) -> Suspicion {
    let waiter = chain[0].node;
    let seconds = waiter.wait_seconds.unwrap_or(0.0);
    let stance = if seconds >= scene.detect.hidden_deadlock.after {
        Stance::Opens
    } else {
        Stance::Keeps
    };
    let pids: Vec<i32> = chain.iter().map(|waiter| waiter.node.pid).collect();
    let mut sentences: Vec<String> = chain.iter().map(|waiter| edge(scene, waiter)).collect();
    sentences.push(format!(
        "{} holds what is waited for and is idle",
        scene.who(holder.pid)
    ));
    sentences.push(evidence.sentence(holder.pid, waiter.pid));
    sentences.extend(scene.profile(holder.pid));
    sentences.extend(scene.profile(waiter.pid));
    Suspicion {
        key: format!(
            "{}-{}",
            scene.identity(holder.pid),
            scene.identity(waiter.pid)
        ),
        stance,
        onset_at: scene.onset(seconds),
        account: Account {
            severity: Kind::HiddenDeadlock.severity(),
            subject: fields(json!({
                "database": holder.database,
                "user": holder.user,
                "application": holder.application,
                "client": evidence.client,
                "holder": holder.pid,
                "waiters": pids,
                "confidence": evidence.confidence(),
                "seconds": (seconds * 10.0).round() / 10.0,
            })),
            summary: format!(
                "a deadlock on {} that the server cannot see: backend {} waits for a lock of backend {}, which is idle and \
                 {} waits for it in its own client, for {} so far",
                scene.target,
                waiter.pid,
                holder.pid,
                evidence.confidence(),
                words::duration(seconds),
            ),
            evidence: sentences,
            actions: actions(holder.pid, &pids),
        },
    }
}

fn edge(scene: &Scene<'_>, waiter: &Waiter<'_>) -> String {
    let wanted = &waiter.node.waits_for;
    let what = match wanted.locktype.as_str() {
        "virtualxid" => "for its transaction to end".to_owned(),
        "advisory" => format!("for advisory lock {}", wanted.object),
        _ => format!("for {} on {}", wanted.mode, words::name(&wanted.object)),
    };
    let whose = waiter.before.map_or_else(
        || "the idle session".to_owned(),
        |pid| format!("backend {pid}"),
    );
    format!("{} waits for {whose}, {what}", scene.who(waiter.node.pid))
}

/// The one in the middle loses least: it waits for its turn and can try again.
fn actions(holder: i32, chain: &[i32]) -> Vec<String> {
    let (waiter, between) = (chain.first(), chain.get(1..).unwrap_or_default());
    let mut actions: Vec<String> = between.iter().rev().map(|pid| cancel(*pid)).collect();
    actions.extend(waiter.map(|pid| cancel(*pid)));
    actions.push(terminate(holder));
    actions
}
