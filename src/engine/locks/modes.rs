//! The modes of heavyweight locks, and which of them are in each other's way.

/// The modes of heavyweight locks, weakest first, and what each conflicts with
/// (PostgreSQL documentation, table 13.2).
const CONFLICTS: [(&str, u16); 8] = [
    ("AccessShareLock", 0b1000_0000),
    ("RowShareLock", 0b1100_0000),
    ("RowExclusiveLock", 0b1111_0000),
    ("ShareUpdateExclusiveLock", 0b1111_1000),
    ("ShareLock", 0b1110_1100),
    ("ShareRowExclusiveLock", 0b1111_1100),
    ("ExclusiveLock", 0b1111_1110),
    ("AccessExclusiveLock", 0b1111_1111),
];

/// How many modes there are.
pub const MODES: usize = CONFLICTS.len();

/// Whether a request in one mode has to wait for another mode.
pub fn conflicts(request: &str, other: &str) -> bool {
    match (position(request), position(other)) {
        (Some(request), Some(other)) => CONFLICTS[request].1 & (1 << other) != 0,
        // SIReadLock and modes of extensions never block anybody.
        _ => false,
    }
}

/// A set of modes, a bit each, by their [`position`].
pub type ModeSet = u16;

/// The modes that a request in the mode at this position has to wait for.
pub fn conflict_set(position: usize) -> ModeSet {
    CONFLICTS.get(position).map_or(0, |(_, set)| *set)
}

/// The place of a mode among all of them; `None` for one that blocks nobody.
pub fn position(mode: &str) -> Option<usize> {
    CONFLICTS.iter().position(|(name, _)| *name == mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_locks_do_not_conflict_with_each_other() {
        assert!(!conflicts("ShareLock", "ShareLock"));
        assert!(conflicts("ShareLock", "RowExclusiveLock"));
        assert!(!conflicts("AccessShareLock", "ExclusiveLock"));
        assert!(!conflicts("ExclusiveLock", "SIReadLock"));
        for (i, (a, _)) in CONFLICTS.iter().enumerate() {
            for (b, _) in &CONFLICTS[i..] {
                assert_eq!(conflicts(a, b), conflicts(b, a), "{a} and {b}");
            }
        }
    }
}
