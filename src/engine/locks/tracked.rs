//! One advisory lock followed from poll to poll.
//!
//! `pg_locks` and `SHOW SERVERS` are not read at one instant, so a verdict that
//! accuses is only given when two pairs of polls running agree, each newer than
//! the one before. `owned` and `prepared` accuse nobody and are given at once.

use super::calls::Takes;
use super::leaver::{Identity, Leaver, Presence};
use super::pooled::{Match, Pooled};
use super::taking::{Appeared, Taking};
use super::view::Verdict;
use crate::sample::{Backend, UnixSeconds};

/// What one pair of polls says.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    Verdict(Verdict, String),
    /// The polls do not fit together, or something must be read first.
    Undecided(String),
}

/// What is known of a lock from all polls so far.
#[derive(Debug, Clone)]
pub struct Tracked {
    /// Not later than this was it taken: a bound, on our own clock.
    pub taken_by: UnixSeconds,
    /// It was already orphaned once; stays until the lock is gone or owned.
    pub declared_at: Option<UnixSeconds>,
    pub confirmed: Option<Verdict>,
    pub reason: String,
    /// The lock was absent from the newest poll.
    pub missing: bool,
    /// It is in the look that is being judged.
    pub shown: bool,
    appeared: Appeared,
    taking: Taking,
    /// Was seen on a server that no client had.
    left: bool,
    /// Who had the server at the two newest looks at its pooler, newest first.
    links: [Option<LinkLook>; 2],
    leaver: Leaver,
    query_start: Option<UnixSeconds>,
    pending: Option<Pending>,
}

/// Who had the server when its pooler was looked at.
#[derive(Debug, Clone)]
struct LinkLook {
    at: UnixSeconds,
    link: Option<Identity>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    verdict: Verdict,
    polls: PollPair,
}

/// The times of the looks that a judgement rests on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollPair {
    pub postgres: UnixSeconds,
    /// `None` when no pooler row takes part.
    pub pooler: Option<UnixSeconds>,
}

/// The holder as this look shows it.
#[derive(Debug, Clone, Copy)]
pub struct Holder<'a> {
    /// When the server was looked at.
    pub at: UnixSeconds,
    pub backend: &'a Backend,
    /// `virtualtransaction` does not end in `/0`.
    pub in_transaction: bool,
    /// What its last statement says of the lock.
    pub takes: Takes,
    /// Add to a time stamp of the server to get our own clock.
    pub clock_offset: f64,
}

/// What the configuration and the state of the poolers allow to conclude of a
/// backend that no polled pooler shows.
#[derive(Debug, Clone, PartialEq)]
pub struct Coverage {
    /// Why an unmatched idle backend may still belong to a pooler; `None` when
    /// every pooler process is seen.
    pub gap: Option<String>,
    /// When the pooler was read that was not read for longest; `None` without
    /// poolers.
    pub read_at: Option<UnixSeconds>,
    /// The holder's address is one that poolers connect from.
    pub pooler_address: bool,
    pub suspect_after: f64,
}

impl Holder<'_> {
    /// Without a transaction, and idle where the state may be seen.
    pub fn is_idle(&self) -> bool {
        !self.in_transaction && self.backend.state.as_deref().is_none_or(|s| s == "idle")
    }

    pub fn own_clock(&self, time: Option<UnixSeconds>) -> Option<UnixSeconds> {
        time.map(|time| time + self.clock_offset)
    }
}

impl Tracked {
    pub fn new(now: UnixSeconds, absent_at: Option<UnixSeconds>) -> Self {
        Self {
            taken_by: now,
            declared_at: None,
            confirmed: None,
            reason: String::new(),
            missing: false,
            shown: false,
            appeared: Appeared {
                absent_at,
                first_seen: now,
            },
            taking: Taking::default(),
            left: false,
            links: [None, None],
            leaver: Leaver::Unseen,
            query_start: None,
            pending: None,
        }
    }

    /// Our clock was set back to `now`: nothing known lies after it.
    pub fn clock_set_back(&mut self, now: UnixSeconds) {
        self.taken_by = self.taken_by.min(now);
        self.appeared.first_seen = self.appeared.first_seen.min(now);
        self.declared_at = self.declared_at.map(|at| at.min(now));
        self.appeared.absent_at = self.appeared.absent_at.filter(|at| *at <= now);
        self.taking = Taking::default();
        self.pending = None;
    }

    /// Whether reading the pooler's clients could change the verdict.
    pub fn needs_clients(&self) -> bool {
        self.left && self.leaver != Leaver::Gone
    }

    /// Judges one pair of looks, and remembers what later ones need.
    pub fn judge(
        &mut self,
        holder: Holder<'_>,
        matched: &Match<'_>,
        coverage: &Coverage,
        now: UnixSeconds,
    ) -> Judgement {
        if holder.is_idle() {
            // An idle backend takes no lock: it was taken before it fell idle.
            let idle_since = holder.own_clock(holder.backend.state_change);
            self.taken_by = idle_since.map_or(self.taken_by, |t| self.taken_by.min(t));
        }
        let anew = self.notice_retaking(holder);
        self.taking
            .notice(holder, holder.takes, self.appeared, anew);
        match matched {
            Match::Found(pooled) => self.judge_pooled(holder, pooled),
            Match::Ambiguous => {
                Judgement::Undecided("more than one pooler row could be this backend's".into())
            }
            Match::None => self.judge_unmatched(holder, coverage, now),
        }
    }

    fn judge_pooled(&mut self, holder: Holder<'_>, pooled: &Pooled<'_>) -> Judgement {
        let owned = |why: &str| Judgement::Verdict(Verdict::Owned, why.to_owned());
        let Some(mode) = pooled.mode() else {
            return Judgement::Undecided("the pool's mode is not known".into());
        };
        if mode == "session" {
            return owned("the pool is in session mode");
        }
        let link = (!pooled.server.link.is_empty()).then(|| Identity::of_link(pooled));
        self.notice_link(pooled.look.at, link.clone());
        self.notice_taker();
        match (link, holder.is_idle()) {
            (Some(link), idle) => self.judge_linked(holder, link, idle),
            (None, false) => {
                Judgement::Undecided("the pooler was read between two transactions".into())
            }
            (None, true) if pooled.look.at < self.appeared.first_seen => {
                Judgement::Undecided("the pooler has not been read since".into())
            }
            (None, true) => self.judge_left(holder, pooled, mode),
        }
    }

    fn judge_linked(&mut self, holder: Holder<'_>, link: Identity, idle: bool) -> Judgement {
        // Where the server tells when a transaction began, that says more than
        // two looks at the pooler: see `notice_taker`.
        let untold = holder.backend.xact_start.is_none();
        let had_it = untold && !idle && self.had_the_server(&link, holder.at);
        if !self.left && had_it && !self.leaver.linked(link.clone(), holder.takes) {
            self.left = true;
        }
        if self.left && !self.leaver.may_be(&link) {
            return Judgement::Verdict(
                Verdict::Carried,
                "was left on this server, which now serves another client".into(),
            );
        }
        let why = "the pooler links the holder to a client";
        Judgement::Verdict(Verdict::Owned, why.into())
    }

    fn notice_link(&mut self, at: UnixSeconds, link: Option<Identity>) {
        if self.links[0].as_ref().is_some_and(|look| look.at == at) {
            return;
        }
        self.links.swap(0, 1);
        self.links[0] = Some(LinkLook { at, link });
    }

    /// Who had the server at a look while the transaction was open that the lock
    /// was first seen in had it when the lock was taken.
    fn notice_taker(&mut self) {
        if self.left {
            return;
        }
        for look in self.links.iter().flatten() {
            let takes = self.taking.open_at(look.at);
            if let Some((takes, link)) = takes.zip(look.link.clone())
                && !self.leaver.linked(link, takes)
            {
                self.left = true;
            }
        }
    }

    /// Whether the client had the server when that was looked at: it had it
    /// both before and after. One look at the pooler tells nothing of another
    /// instant; servers of a busy pool change hands between any two.
    fn had_the_server(&self, client: &Identity, at: UnixSeconds) -> bool {
        let [Some(after), Some(before)] = &self.links else {
            return false;
        };
        let same = |look: &LinkLook| look.link.as_ref().is_some_and(|link| link.same(client));
        before.at <= at && at <= after.at && same(before) && same(after)
    }

    fn judge_left(&mut self, holder: Holder<'_>, pooled: &Pooled<'_>, mode: &str) -> Judgement {
        self.left = true;
        let windows = || self.taking.windows(holder, self.appeared);
        match self.leaver.presence(pooled, windows) {
            Presence::Connected => Judgement::Verdict(
                Verdict::Stranded,
                format!(
                    "no client has this server ({mode} pooling), but the one that took the lock is still connected"
                ),
            ),
            Presence::Gone => Judgement::Verdict(
                Verdict::Orphaned,
                format!(
                    "no client has this server ({mode} pooling), and the one that took the lock is gone"
                ),
            ),
            Presence::Undecided => {
                Judgement::Undecided("the pooler's clients have not been read yet".into())
            }
        }
    }

    fn judge_unmatched(
        &self,
        holder: Holder<'_>,
        coverage: &Coverage,
        now: UnixSeconds,
    ) -> Judgement {
        let verdict = |verdict, why: &str| Judgement::Verdict(verdict, why.to_owned());
        if !holder.is_idle() {
            return verdict(Verdict::Owned, "the holder is in a transaction");
        }
        if coverage.pooler_address && now - self.taken_by >= coverage.suspect_after {
            return verdict(
                Verdict::Suspect,
                "idle, from a pooler's address, and no polled pooler shows this backend",
            );
        }
        if coverage
            .read_at
            .is_some_and(|at| at < self.appeared.first_seen)
        {
            return Judgement::Undecided("the poolers have not been read since".into());
        }
        match &coverage.gap {
            Some(gap) => Judgement::Verdict(Verdict::Unknown, gap.clone()),
            None if coverage.pooler_address => verdict(
                Verdict::Unknown,
                "from a pooler's address, but no polled pooler shows this backend",
            ),
            None => verdict(Verdict::Owned, "a direct session"),
        }
    }

    /// A statement that takes this lock ran on the server since the last look:
    /// it may have been released and taken again, by somebody who is still
    /// there. That clears nobody who was suspected before.
    fn notice_retaking(&mut self, holder: Holder<'_>) -> bool {
        let moved = self.query_start.is_some() && self.query_start != holder.backend.query_start;
        let anew = self.leaver == Leaver::Gone && moved && holder.takes > Takes::No;
        if anew {
            self.leaver = Leaver::Unseen;
        }
        self.query_start = holder.backend.query_start;
        anew
    }

    /// Takes in a judgement and says what may be told.
    pub fn settle(&mut self, judgement: Judgement, polls: PollPair) {
        let (verdict, reason) = match judgement {
            Judgement::Verdict(verdict, reason) => (verdict, reason),
            Judgement::Undecided(reason) => {
                if self.confirmed.is_none() {
                    self.reason = reason;
                }
                return;
            }
        };
        let harmless = matches!(verdict, Verdict::Owned | Verdict::Prepared);
        if self.confirmed == Some(verdict) || (self.confirmed.is_none() && harmless) {
            self.confirm(verdict, reason);
            return;
        }
        match self.pending {
            Some(pending) if pending.verdict == verdict => {
                if polls.differs_from(pending.polls) {
                    self.confirm(verdict, reason);
                }
            }
            _ => self.pending = Some(Pending { verdict, polls }),
        }
        if self.confirmed.is_none() {
            self.reason = "a verdict needs two polls running".into();
        }
    }

    fn confirm(&mut self, verdict: Verdict, reason: String) {
        self.confirmed = Some(verdict);
        self.reason = reason;
        self.pending = None;
    }

    /// The verdict to show.
    pub fn verdict(&self) -> Verdict {
        self.confirmed.unwrap_or(Verdict::Unknown)
    }
}

impl PollPair {
    fn differs_from(self, other: Self) -> bool {
        let pooler = match (self.pooler, other.pooler) {
            (Some(own), Some(other)) => own != other,
            _ => true,
        };
        self.postgres != other.postgres && pooler
    }
}
