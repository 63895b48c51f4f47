//! Who can have caused a rise: a tagged route, or an application whose sessions
//! carry no tag. Names are kept once, as small numbers, and only so many.

use crate::engine::tables::Table;
use crate::sample::UnixSeconds;

/// Somebody who has sessions in use.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Route {
        service: String,
        route: String,
    },
    /// Sessions without a route tag.
    Untagged {
        service: String,
        application: String,
    },
}

impl Part {
    pub fn service(&self) -> &str {
        match self {
            Self::Route { service, .. } | Self::Untagged { service, .. } => service,
        }
    }
}

/// Stands for a [`Part`]. Never reused, so that what was counted for a forgotten
/// part is not counted for another.
pub type PartId = u32;

/// Parts remembered of one target.
pub const LIMIT: usize = 1000;

/// Part of the names forgotten at a time when the register is full.
const FORGET: usize = LIMIT / 10;

/// The names, bounded: those seen least recently are forgotten first.
#[derive(Debug, Clone, Default)]
pub struct Register {
    ids: Table<Part, (PartId, UnixSeconds)>,
    names: Table<PartId, Part>,
    next: PartId,
}

impl Register {
    /// The number of a part that is seen at `t`; `None` when it is new and
    /// everybody known was seen at `t` as well.
    pub fn id(&mut self, part: Part, t: UnixSeconds) -> Option<PartId> {
        if let Some((id, seen)) = self.ids.get_mut(&part) {
            *seen = t;
            return Some(*id);
        }
        if self.ids.len() >= LIMIT {
            self.forget_oldest(t);
        }
        if self.ids.len() >= LIMIT {
            return None;
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.names.insert(id, part.clone());
        self.ids.insert(part, (id, t));
        Some(id)
    }

    pub fn knows(&self, part: &Part) -> bool {
        self.ids.contains_key(part)
    }

    /// `None` when it has been forgotten.
    pub fn name(&self, id: PartId) -> Option<&Part> {
        self.names.get(&id)
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    fn forget_oldest(&mut self, now: UnixSeconds) {
        let mut seen: Vec<(UnixSeconds, PartId)> = self
            .ids
            .values()
            .filter(|&&(_, t)| t != now)
            .map(|&(id, t)| (t, id))
            .collect();
        seen.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for &(_, id) in seen.iter().take(FORGET) {
            if let Some(part) = self.names.remove(&id) {
                self.ids.remove(&part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(i: usize) -> Part {
        Part::Route {
            service: "app".to_owned(),
            route: format!("/{i}"),
        }
    }

    #[test]
    fn a_part_keeps_its_number() {
        let mut register = Register::default();
        let first = register.id(route(1), 0.0).unwrap();
        let second = register.id(route(2), 0.0).unwrap();
        assert_ne!(first, second);
        assert_eq!(register.id(route(1), 5.0), Some(first));
        assert_eq!(register.name(first), Some(&route(1)));
    }

    #[test]
    fn the_least_recently_seen_are_forgotten() {
        let mut register = Register::default();
        let faithful = register.id(route(0), 0.0);
        for i in 1..5000 {
            let t = i as f64;
            register.id(route(i), t);
            assert_eq!(register.id(route(0), t), faithful);
            assert!(register.len() <= LIMIT);
        }
        assert_eq!(register.names.len(), register.ids.len());
        assert!(register.name(1).is_none());
    }
}
