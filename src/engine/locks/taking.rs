//! When a lock was taken, and when its taker was last heard of: what the looks
//! at its backend tell of that.
//!
//! A pooler does not say who had a server last, but it says when each client
//! made its last request. So the taker is looked for among those whose last
//! request fits one of the [`Window`]s worked out here:
//!
//! * the statement that took the lock, where a look still saw it and nobody has
//!   a transaction open. It is exact when it names the key. Where the key is a
//!   parameter it may be about another lock, and the windows below count too;
//! * the end of the transaction that the lock was first seen in: between the
//!   last look that saw it and the first that did not;
//! * the time between the two looks in which the lock appeared.

use super::calls::Takes;
use super::tracked::Holder;
use crate::sample::UnixSeconds;

/// Looks are known by when they began; what they read is read a little later,
/// and the server's clock is known to as much. A transaction that was open for
/// this long around a look was open at the look.
pub const READING: f64 = 0.15;

/// What is known of the taking of one lock.
#[derive(Debug, Clone, Default)]
pub struct Taking {
    statement: Option<Statement>,
    transaction: Option<Transaction>,
    /// The newest look taken in.
    noticed_at: Option<UnixSeconds>,
}

#[derive(Debug, Clone)]
struct Statement {
    began: UnixSeconds,
    ended: UnixSeconds,
    /// The backend's application name, read together with the statement:
    /// PgBouncer sets it to that of the client it serves. SHOW SERVERS has it
    /// too, but is read later, when another client may have been served.
    application: Option<String>,
    takes: Takes,
}

/// The transaction that was open when the lock was first seen.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    /// On the server's clock, as it was told: its identity.
    id: UnixSeconds,
    /// On our own clock.
    began: UnixSeconds,
    seen_at: UnixSeconds,
    /// The first look without it.
    over_at: Option<UnixSeconds>,
    takes: Takes,
}

/// A client that is the taker and has been quiet since made its last request in
/// one of these, on our own clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window<'a> {
    pub from: UnixSeconds,
    pub to: UnixSeconds,
    /// The name that the taker gave, where that is known.
    pub application: Option<&'a str>,
    /// This is the time of a statement that takes locks.
    pub exact: bool,
}

/// The poll before the lock was seen, and the one that showed it first.
#[derive(Debug, Clone, Copy)]
pub struct Appeared {
    /// `None` when the lock was there before we were.
    pub absent_at: Option<UnixSeconds>,
    pub first_seen: UnixSeconds,
}

impl Taking {
    /// Takes in a look at the backend. With `anew` the lock may have been taken
    /// again since it was first seen.
    pub fn notice(&mut self, holder: Holder<'_>, takes: Takes, appeared: Appeared, anew: bool) {
        if self.noticed_at == Some(holder.at) {
            return;
        }
        let first = self.noticed_at.replace(holder.at).is_none();
        self.notice_transaction(holder, takes, appeared, first);
        if holder.is_idle() {
            self.notice_statement(holder, takes, appeared, anew);
        }
    }

    fn notice_transaction(
        &mut self,
        holder: Holder<'_>,
        takes: Takes,
        appeared: Appeared,
        first: bool,
    ) {
        let id = holder.backend.xact_start;
        if let Some(known) = &mut self.transaction {
            if id == Some(known.id) && known.over_at.is_none() {
                known.seen_at = holder.at;
                known.takes = known.takes.max(takes);
            } else {
                known.over_at.get_or_insert(holder.at);
            }
        } else if let (true, Some(id)) = (first, id) {
            let began = id + holder.clock_offset;
            let spans = |absent: UnixSeconds| began + READING <= absent;
            let spans = appeared.absent_at.is_some_and(spans);
            self.transaction = Some(Transaction {
                id,
                began,
                seen_at: holder.at,
                over_at: None,
                takes: if spans { Takes::Surely } else { takes },
            });
        }
    }

    fn notice_statement(
        &mut self,
        holder: Holder<'_>,
        takes: Takes,
        appeared: Appeared,
        anew: bool,
    ) {
        let began = holder.own_clock(holder.backend.query_start);
        let ended = holder.own_clock(holder.backend.state_change);
        let Some((began, ended)) = began.zip(ended) else {
            return;
        };
        // A statement of an unknown key that ran at another time took another.
        let in_time = began <= appeared.first_seen + READING
            && appeared
                .absent_at
                .is_none_or(|absent| ended + READING >= absent);
        let known = self
            .statement
            .as_ref()
            .map_or(Takes::No, |known| known.takes);
        let better = takes == Takes::Surely || (takes > known && in_time) || anew;
        if takes != Takes::No && better {
            self.statement = Some(Statement {
                began,
                ended,
                application: holder.backend.application.clone(),
                takes,
            });
        }
    }

    /// What the transaction that was seen with the lock says of it, and whether
    /// it was open when a pooler was looked at: who had the server then had it
    /// for all of the transaction.
    pub fn open_at(&self, look: UnixSeconds) -> Option<Takes> {
        let transaction = self.transaction?;
        let from = transaction.began + READING;
        let to = transaction.seen_at - READING;
        (from <= look && look <= to).then_some(transaction.takes)
    }

    /// Where to look for the taker's last request.
    pub fn windows(&self, holder: Holder<'_>, appeared: Appeared) -> Vec<Window<'_>> {
        let weak = |from, to| Window {
            from,
            to,
            application: None,
            exact: false,
        };
        let mut windows = Vec::new();
        let mut surely = false;
        if let Some(statement) = &self.statement {
            surely = statement.takes == Takes::Surely;
            // The extended protocol ends with a message of the client.
            for at in [statement.began, statement.ended] {
                windows.push(Window {
                    application: statement.application.as_deref(),
                    exact: true,
                    ..weak(at, at)
                });
            }
        }
        if surely {
            return windows;
        }
        if let Some(known) = self.transaction {
            let over_at = known.over_at.unwrap_or(known.seen_at);
            windows.push(weak(known.seen_at, over_at));
            surely = known.takes == Takes::Surely;
        }
        let statement = holder
            .own_clock(holder.backend.query_start)
            .zip(holder.own_clock(holder.backend.state_change));
        match appeared.absent_at {
            Some(_) if surely => {}
            Some(absent) => windows.push(weak(absent, appeared.first_seen)),
            // The lock was there before we were: the last statement must do.
            None => windows.extend(statement.map(|(from, to)| weak(from, to))),
        }
        windows
    }
}
