//! Names of routes, worked out once for each label that comes.
//!
//! Bounded: when the table is full it starts anew, which costs time and loses
//! nothing.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::record::Labels;
use crate::observe::traffic::route;

/// Labels remembered: every route of the largest services known, by method.
const LIMIT: usize = 8_192;

/// Remembered names.
#[derive(Debug, Default)]
pub struct Names {
    hasher: RandomState,
    known: HashMap<u64, Name>,
}

#[derive(Debug)]
struct Name {
    method: Option<Box<str>>,
    label: Box<str>,
    name: Option<Arc<str>>,
}

impl Names {
    /// "METHOD /template"; `None` where there is no route, or nothing can be
    /// read in it.
    pub fn of(&mut self, labels: &Labels<'_>) -> Option<Arc<str>> {
        let label = labels.route.as_deref()?;
        let method = labels.method();
        let hash = self.hasher.hash_one((method, label));
        if let Some(known) = self.known.get(&hash)
            && *known.label == *label
            && known.method.as_deref() == method
        {
            return known.name.clone();
        }
        if self.known.len() >= LIMIT {
            self.known.clear();
        }
        let name: Option<Arc<str>> = route::name(method, label).map(Arc::from);
        let entry = Name {
            method: method.map(Box::from),
            label: label.into(),
            name: name.clone(),
        };
        self.known.insert(hash, entry);
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_same_each_time_and_the_table_is_bounded() {
        let mut names = Names::default();
        let labels = |route: &str| Labels {
            route: Some(route.to_owned().into()),
            method: Some("GET".into()),
            ..Labels::default()
        };
        for _ in 0..2 {
            let name = names.of(&labels("/users/{id}"));
            assert_eq!(name.as_deref(), Some("GET /users/{id}"));
            assert_eq!(names.of(&Labels::default()), None);
        }
        for n in 0..3 * LIMIT {
            names.of(&labels(&format!("/a{n}b")));
        }
        assert!(names.known.len() <= LIMIT);
    }
}
