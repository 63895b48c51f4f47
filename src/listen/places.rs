//! Who has a place at a listener, and who gives it up for another.
//!
//! Places are bounded in all, and for each origin, so that one client cannot
//! take them all. When there is none left, a new connection does not wait behind
//! those that are silent: one without a request gives way to it. Among these
//! goes first from whom nothing was let in, then whose origin has most places,
//! then who has been without a request for longest. So a flood of silent
//! connections displaces itself, and an honest client, which sends its head at
//! once, is in nobody's way for more than a moment. Who is being answered keeps
//! the place, and whoever was let in keeps it until the answer was handed to the
//! kernel; when all are at that, the new one is refused.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Origin, Refusal};

/// The places of one listener. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// In all.
    limit: usize,
    /// Of one origin.
    each: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    /// By number, which is the order in which they came.
    places: BTreeMap<u64, Holder>,
    next: u64,
}

#[derive(Debug)]
struct Holder {
    origin: Origin,
    /// Requests that are being answered.
    visits: usize,
    /// Had a request.
    asked: bool,
    /// Had one that was let in. It costs nothing to be turned away, so that
    /// earns no rank.
    known: bool,
    /// An answer is made and not all of it sent.
    unsent: Arc<AtomicBool>,
    /// Without a request since; who was never let in, since it came.
    since: Instant,
    displaced: CancellationToken,
}

/// A place that was taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    unsent: Arc<AtomicBool>,
    displaced: CancellationToken,
}

/// A connection, for those who decide whether a request of it is let in.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    places: Places,
    number: u64,
}

/// A request that is being answered; over when dropped.
#[derive(Debug)]
pub(super) struct Visit {
    places: Places,
    number: u64,
}

impl Places {
    pub(super) fn new(limit: usize, each: usize) -> Self {
        Self {
            limit,
            each,
            taken: Arc::default(),
        }
    }

    /// A place for a connection from there, and the origin of the one that gave
    /// way to it.
    ///
    /// # Errors
    /// Whether all places, or all of this origin, are at work.
    pub(super) fn take(&self, origin: Origin) -> Result<(Place, Option<Origin>), Refusal> {
        let mut taken = self.lock();
        let own = |holder: &Holder| holder.origin == origin;
        let mut gone = None;
        if taken.places.values().filter(|one| own(one)).count() >= self.each {
            gone = Some(taken.displace(own).ok_or(Refusal::Address)?);
        } else if taken.places.len() >= self.limit {
            gone = Some(taken.displace(|_| true).ok_or(Refusal::Full)?);
        }
        let number = taken.next;
        taken.next += 1;
        let displaced = CancellationToken::new();
        let unsent = Arc::<AtomicBool>::default();
        let holder = Holder {
            origin,
            visits: 0,
            asked: false,
            known: false,
            unsent: Arc::clone(&unsent),
            since: Instant::now(),
            displaced: displaced.clone(),
        };
        taken.places.insert(number, holder);
        let place = Place {
            places: self.clone(),
            number,
            unsent,
            displaced,
        };
        Ok((place, gone))
    }

    /// Makes one silent connection go, where there is one; says whose it was.
    pub(super) fn make_room(&self) -> Option<Origin> {
        self.lock().displace(|_| true)
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        // Nothing is done under the lock that can panic.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn displace(&mut self, among: impl Fn(&Holder) -> bool) -> Option<Origin> {
        let mut crowds: HashMap<Origin, usize> = HashMap::new();
        for holder in self.places.values() {
            *crowds.entry(holder.origin).or_default() += 1;
        }
        let silent = self
            .places
            .iter()
            .filter(|(_, holder)| !holder.is_answered() && among(holder));
        let (number, _) = silent.min_by_key(|(_, holder)| {
            let crowd = crowds.get(&holder.origin).copied().unwrap_or(0);
            (holder.known, std::cmp::Reverse(crowd), holder.since)
        })?;
        let number = *number;
        let holder = self.places.remove(&number)?;
        holder.displaced.cancel();
        Some(holder.origin)
    }
}

impl Holder {
    /// Who was not let in could stretch a short answer as long as it likes.
    fn is_answered(&self) -> bool {
        self.visits > 0 || self.known && self.unsent.load(Ordering::Acquire)
    }
}

impl Guest {
    /// A request was let in.
    pub(super) fn is_let_in(&self) {
        if let Some(holder) = self.places.lock().places.get_mut(&self.number) {
            holder.known = true;
        }
    }
}

impl Place {
    /// A request has come.
    pub(super) fn visit(&self) -> Visit {
        if let Some(holder) = self.places.lock().places.get_mut(&self.number) {
            holder.visits += 1;
            holder.asked = true;
        }
        Visit {
            places: self.places.clone(),
            number: self.number,
        }
    }

    /// To be told when a request of it is let in.
    pub(super) fn guest(&self) -> Guest {
        Guest {
            places: self.places.clone(),
            number: self.number,
        }
    }

    /// Whether a request ever came.
    pub(super) fn is_asked(&self) -> bool {
        let taken = self.places.lock();
        taken.places.get(&self.number).is_some_and(|one| one.asked)
    }

    /// To be cleared when all that was to be sent is sent.
    pub(super) fn unsent(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.unsent)
    }

    /// Ends when the place was given to another.
    pub(super) async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().places.remove(&self.number);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if let Some(holder) = self.places.lock().places.get_mut(&self.number) {
            holder.visits -= 1;
            holder.unsent.store(true, Ordering::Release);
            if holder.known {
                holder.since = Instant::now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn origin(last: u8) -> Origin {
        Origin::of([192, 0, 2, last].into())
    }

    fn gone(place: &Place) -> bool {
        place.displaced.is_cancelled()
    }

    /// A request that is let in.
    fn visit(place: &Place) -> Visit {
        place.guest().is_let_in();
        place.visit()
    }

    /// Its answer is sent as well.
    fn answer(place: &Place) {
        drop(visit(place));
        place.unsent().store(false, Ordering::Release);
    }

    /// So that no two things happen at one time.
    fn later() {
        std::thread::sleep(Duration::from_millis(2));
    }

    #[test]
    fn the_silent_give_way_and_who_is_answered_stays() {
        let places = Places::new(3, 3);
        let (working, _) = places.take(origin(1)).unwrap();
        let at_work = visit(&working);
        later();
        let (idle, _) = places.take(origin(2)).unwrap();
        answer(&idle);
        later();
        let (silent, _) = places.take(origin(3)).unwrap();
        let (new, displaced) = places.take(origin(4)).unwrap();
        assert_eq!(displaced, Some(origin(3)));
        assert!(gone(&silent) && !gone(&idle) && !gone(&working));
        drop(silent);
        let busy = visit(&new);
        let (third, displaced) = places.take(origin(5)).unwrap();
        assert_eq!(
            displaced,
            Some(origin(2)),
            "the idle one, for want of another"
        );
        let third_busy = visit(&third);
        assert_eq!(places.take(origin(6)).unwrap_err(), Refusal::Full);
        drop(at_work);
        assert_eq!(places.take(origin(6)).unwrap_err(), Refusal::Full);
        working.unsent().store(false, Ordering::Release);
        let (_last, displaced) = places.take(origin(6)).unwrap();
        assert_eq!(displaced, Some(origin(1)));
        drop((busy, third_busy));
    }

    #[test]
    fn one_client_never_takes_all_and_a_crowd_goes_first() {
        let places = Places::new(6, 4);
        let mut crowd = Vec::new();
        for _ in 0..4 {
            crowd.push(places.take(origin(1)).unwrap().0);
            later();
        }
        let (fifth, displaced) = places.take(origin(1)).unwrap();
        assert_eq!(displaced, Some(origin(1)));
        assert!(gone(&crowd[0]), "its own oldest");
        crowd.remove(0);
        crowd.push(fifth);
        let (alone, none) = places.take(origin(2)).unwrap();
        assert_eq!(none, None);
        let (other, none) = places.take(origin(3)).unwrap();
        assert_eq!(none, None);
        // Full: who has many gives way, though others are as silent.
        let (_new, displaced) = places.take(origin(4)).unwrap();
        assert_eq!(displaced, Some(origin(1)));
        assert!(!gone(&alone) && !gone(&other) && gone(&crowd[0]));
        let visits: Vec<_> = crowd.iter().map(visit).collect();
        crowd.push(places.take(origin(1)).unwrap().0);
        let last = visit(&crowd[4]);
        assert_eq!(places.take(origin(1)).unwrap_err(), Refusal::Address);
        drop((visits, last));
    }

    #[test]
    fn who_was_only_turned_away_ranks_with_the_silent() {
        let places = Places::new(3, 3);
        let (let_in, _) = places.take(origin(1)).unwrap();
        answer(&let_in);
        later();
        let (turned_away, _) = places.take(origin(2)).unwrap();
        later();
        let (newcomer, _) = places.take(origin(3)).unwrap();
        later();
        // It asks again and again, and lets nobody have its answers.
        drop(turned_away.visit());
        assert!(turned_away.is_asked() && !newcomer.is_asked());
        let (_new, displaced) = places.take(origin(4)).unwrap();
        assert_eq!(displaced, Some(origin(2)));
        assert!(gone(&turned_away) && !gone(&newcomer) && !gone(&let_in));
    }

    #[test]
    fn a_place_that_was_left_is_free() {
        let places = Places::new(1, 1);
        for _ in 0..3 {
            let (place, displaced) = places.take(origin(1)).unwrap();
            assert_eq!(displaced, None);
            let visit = place.visit();
            assert_eq!(places.take(origin(2)).unwrap_err(), Refusal::Full);
            assert_eq!(places.make_room(), None);
            drop(place);
            // An answer that is still being sent to nobody.
            drop(visit);
        }
        let (place, _) = places.take(origin(1)).unwrap();
        assert_eq!(places.make_room(), Some(origin(1)));
        assert!(gone(&place));
    }
}
