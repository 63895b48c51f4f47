//! How many clients made the tries that were seen.
//!
//! A direct session is a spinner; where some pooler may not be polled, it takes
//! another application or address to be another spinner. Behind a pooler a statement does not say whose
//! it was, but each client's last request does, to a second: two tries that no
//! client can have made both are two spinners at least, and all clients that can
//! have made one are the most there can be.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::sightings::{Caller, Pool, Sighting};

/// The clients that spin on one lock.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Crowd {
    /// There are this many at least.
    pub least: u32,
    /// And at most, where the poolers tell; never less than `least`.
    pub most: u32,
    /// Tries seen in the last seconds.
    pub tries: usize,
    /// The most by application and address, most first.
    pub by_origin: Vec<(Origin, u32)>,
    /// By `pg_stat_statements`, where that can be read.
    pub calls_per_second: Option<f64>,
}

/// Where spinners come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    pub application: String,
    /// `client_addr`; behind a pooler that of the pooler.
    pub client: String,
}

/// Counts the clients behind `sightings`. `complete`: every pooler is polled.
pub fn count(sightings: &[Sighting], complete: bool) -> Crowd {
    let mut least = 0;
    let mut by_origin: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    let mut groups: BTreeMap<((&str, &str), Group<'_>), Vec<&Sighting>> = BTreeMap::new();
    for sighting in sightings {
        let origin = (sighting.application.as_str(), sighting.client.as_str());
        let group = match &sighting.caller {
            Caller::Untold(_) => Group::Untold,
            Caller::Direct => Group::Direct,
            Caller::Pooled { pool, .. } => Group::Pool(pool),
        };
        groups.entry((origin, group)).or_default().push(sighting);
    }
    for ((origin, group), sightings) in groups {
        let sessions: BTreeSet<_> = sightings.iter().map(|s| s.session()).collect();
        let sessions = sessions.len();
        let (few, many) = match group {
            // Counted when it is told whose it was; there is one at least.
            Group::Untold => (0, 0),
            Group::Direct if complete => (sessions, sessions),
            Group::Direct => (1, sessions),
            Group::Pool(_) => behind_pooler(&sightings),
        };
        least += number(few);
        *by_origin.entry(origin).or_insert(0) += number(many);
    }
    let most = by_origin.values().sum::<u32>().max(least);
    let most = most.max(u32::from(!sightings.is_empty()));
    let by_origin = by_origin.into_iter().filter(|(_, n)| *n > 0);
    let mut by_origin: Vec<_> = by_origin
        .map(|((application, client), n)| {
            let (application, client) = (application.to_owned(), client.to_owned());
            (
                Origin {
                    application,
                    client,
                },
                n,
            )
        })
        .collect();
    by_origin.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    Crowd {
        least,
        most,
        tries: sightings.len(),
        by_origin,
        calls_per_second: None,
    }
}

/// Where the statements of an origin came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group<'a> {
    Untold,
    Direct,
    Pool(&'a Pool),
}

/// Clients of one application in one pool: at least, and at most.
fn behind_pooler(group: &[&Sighting]) -> (usize, usize) {
    let mut sets: Vec<&[u64]> = group
        .iter()
        .filter_map(|sighting| match &sighting.caller {
            Caller::Pooled { clients, .. } => clients.as_deref(),
            Caller::Untold(_) | Caller::Direct => None,
        })
        .filter(|set| !set.is_empty())
        .collect();
    sets.sort_by_key(|set| set.len());
    // Small sets first: each that shares nothing with those before is another.
    let mut counted: HashSet<u64> = HashSet::new();
    let mut apart = 0;
    for set in &sets {
        if !set.iter().any(|client| counted.contains(client)) {
            counted.extend(set.iter());
            apart += 1;
        }
    }
    let mut all = counted;
    all.extend(sets.iter().copied().flatten());
    let few = apart.max(1);
    (few, all.len().max(few))
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
