//! Guessing is slowed: after a wrong password or token its origin has to wait
//! before the next is looked at, longer each time.
//!
//! Nobody is kept waiting in here; who comes too early is told when to come
//! again. Other origins are not affected. Behind a proxy all clients are one
//! origin: those who were let in lately go on unless guesses come in masses.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Origin;

/// After the first wrong one; doubled with each that follows.
const FIRST: Duration = Duration::from_millis(250);

/// The longest. A person who has found the right password waits no longer, and
/// who guesses has some six thousand tries a day.
const LONGEST: Duration = Duration::from_secs(15);

/// Without a wrong one for so long, an origin begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// Requests that may come too early in one waiting time before those of the
/// origin that were let in lately have to wait too. Otherwise who shares their
/// address could try as many as it can send, for one of theirs to be answered.
const EARLY: u32 = 50;

/// Origins that are remembered; beyond it the one goes that was wrong longest
/// ago.
const MAX: usize = 4096;

/// Every origin that was wrong lately.
#[derive(Debug, Default)]
pub(super) struct Brakes(HashMap<Origin, Brake>);

#[derive(Debug)]
struct Brake {
    wrong: u32,
    at: Instant,
    until: Instant,
    early: u32,
}

/// What an origin may do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Leave {
    /// Try.
    Try,
    /// Show what was right lately, or wait so long.
    Known(Duration),
    /// Wait so long.
    Wait(Duration),
}

impl Brakes {
    pub(super) fn leave(&self, origin: Origin, now: Instant) -> Leave {
        let brake = self.0.get(&origin).filter(|brake| now < brake.until);
        match brake {
            None => Leave::Try,
            Some(brake) if brake.early < EARLY => Leave::Known(brake.until - now),
            Some(brake) => Leave::Wait(brake.until - now),
        }
    }

    /// It came before its time.
    pub(super) fn early(&mut self, origin: Origin) {
        if let Some(brake) = self.0.get_mut(&origin) {
            brake.early = brake.early.saturating_add(1);
        }
    }

    /// It was wrong.
    pub(super) fn wrong(&mut self, origin: Origin, now: Instant) {
        if self.0.len() >= MAX && !self.0.contains_key(&origin) {
            let oldest = self.0.iter().min_by_key(|(_, brake)| brake.at);
            if let Some(oldest) = oldest.map(|(origin, _)| *origin) {
                self.0.remove(&oldest);
            }
        }
        let brake = self.0.entry(origin).or_insert(Brake {
            wrong: 0,
            at: now,
            until: now,
            early: 0,
        });
        if now - brake.at >= FORGOTTEN_AFTER {
            brake.wrong = 0;
        }
        let doubled = FIRST.saturating_mul(1 << brake.wrong.min(16));
        brake.wrong = brake.wrong.saturating_add(1);
        brake.at = now;
        brake.until = now + doubled.min(LONGEST);
        brake.early = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(number: u32) -> Origin {
        Origin::of(std::net::Ipv4Addr::from(number).into())
    }

    #[test]
    fn each_guess_takes_longer_up_to_a_limit_and_only_there() {
        let mut brakes = Brakes::default();
        let mut now = Instant::now();
        let end = now + Duration::from_secs(3600);
        let mut guesses = 0;
        while now < end {
            match brakes.leave(origin(1), now) {
                Leave::Try => {
                    guesses += 1;
                    brakes.wrong(origin(1), now);
                }
                Leave::Known(wait) | Leave::Wait(wait) => now += wait,
            }
        }
        assert!((240..=250).contains(&guesses), "{guesses} an hour");
        assert_eq!(brakes.leave(origin(2), now), Leave::Try);
        now += FORGOTTEN_AFTER;
        brakes.wrong(origin(1), now);
        let leave = brakes.leave(origin(1), now);
        assert_eq!(leave, Leave::Known(FIRST), "it began anew");
    }

    #[test]
    fn masses_of_guesses_shut_out_their_own_origin_until_its_time() {
        let mut brakes = Brakes::default();
        let now = Instant::now();
        brakes.wrong(origin(1), now);
        for _ in 0..EARLY {
            assert_eq!(brakes.leave(origin(1), now), Leave::Known(FIRST));
            brakes.early(origin(1));
        }
        assert_eq!(brakes.leave(origin(1), now), Leave::Wait(FIRST));
        assert_eq!(brakes.leave(origin(1), now + FIRST), Leave::Try);
    }

    #[test]
    fn few_are_remembered() {
        let mut brakes = Brakes::default();
        let mut now = Instant::now();
        for number in 0..MAX as u32 + 5 {
            now += Duration::from_micros(1);
            brakes.wrong(origin(number), now);
        }
        assert_eq!(brakes.0.len(), MAX);
        assert_eq!(brakes.leave(origin(4), now), Leave::Try);
        assert_ne!(brakes.leave(origin(5), now), Leave::Try);
    }
}
