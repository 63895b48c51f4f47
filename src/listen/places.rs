//! Who has a place at a listener, and who gives it up for another.
//!
//! Places are bounded in all, and for each origin, so that one client cannot
//! take them all. When there is none left, a new connection does not wait behind
//! those that are silent: one without a request gives way to it. Among these
//! goes first who never had a request, then whose origin has most places, then
//! who has been without one for longest. So a flood of silent connections
//! displaces itself, and an honest client, which sends its head at once, is in
//! nobody's way for more than a moment. Who is being answered keeps the place;
//! when all are, the new one is refused.

use std::collections::{BTreeMap, HashMap};
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
    known: bool,
    /// Without a request since.
    since: Instant,
    displaced: CancellationToken,
}

/// A place that was taken; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Places,
    number: u64,
    displaced: CancellationToken,
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
        let holder = Holder {
            origin,
            visits: 0,
            known: false,
            since: Instant::now(),
            displaced: displaced.clone(),
        };
        taken.places.insert(number, holder);
        let place = Place {
            places: self.clone(),
            number,
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
            .filter(|(_, holder)| holder.visits == 0 && among(holder));
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

impl Place {
    /// A request has come.
    pub(super) fn visit(&self) -> Visit {
        if let Some(holder) = self.places.lock().places.get_mut(&self.number) {
            holder.visits += 1;
            holder.known = true;
        }
        Visit {
            places: self.places.clone(),
            number: self.number,
        }
    }

    /// Whether a request ever came.
    pub(super) fn is_known(&self) -> bool {
        let taken = self.places.lock();
        taken.places.get(&self.number).is_some_and(|one| one.known)
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
            holder.since = Instant::now();
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

    /// So that no two things happen at one time.
    fn later() {
        std::thread::sleep(Duration::from_millis(2));
    }

    #[test]
    fn the_silent_give_way_and_who_is_answered_stays() {
        let places = Places::new(3, 3);
        let (working, _) = places.take(origin(1)).unwrap();
        let visit = working.visit();
        later();
        let (idle, _) = places.take(origin(2)).unwrap();
        drop(idle.visit());
        later();
        let (silent, _) = places.take(origin(3)).unwrap();
        let (new, displaced) = places.take(origin(4)).unwrap();
        assert_eq!(displaced, Some(origin(3)));
        assert!(gone(&silent) && !gone(&idle) && !gone(&working));
        drop(silent);
        let busy = new.visit();
        let (third, displaced) = places.take(origin(5)).unwrap();
        assert_eq!(
            displaced,
            Some(origin(2)),
            "the idle one, for want of another"
        );
        let third_busy = third.visit();
        assert_eq!(places.take(origin(6)).unwrap_err(), Refusal::Full);
        drop(visit);
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
        let visits: Vec<_> = crowd.iter().map(Place::visit).collect();
        crowd.push(places.take(origin(1)).unwrap().0);
        let last = crowd[4].visit();
        assert_eq!(places.take(origin(1)).unwrap_err(), Refusal::Address);
        drop((visits, last));
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
