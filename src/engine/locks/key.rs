//! The key of an advisory lock, as the application wrote it and as `pg_locks`
//! shows it.
//!
//! `objsubid` 1 is one bigint cut in two halves, `classid` the upper and
//! `objid` the lower; 2 is two int4 keys. Both columns are unsigned oids, so
//! negative keys must be read back as signed. Other values of `objsubid` belong
//! to extensions (Citus uses 4 to 6 for itself).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::sample::Lock;

/// The key of an advisory lock. Written as one number or a list of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LockKey {
    /// `pg_advisory_lock(bigint)`
    Big(i64),
    /// `pg_advisory_lock(int, int)`
    Pair(i32, i32),
}

impl LockKey {
    /// Reads the key of an advisory row of `pg_locks`; `None` for other lock
    /// types and for keys that an extension made.
    pub fn of(lock: &Lock) -> Option<Self> {
        if lock.locktype != "advisory" {
            return None;
        }
        let (classid, objid) = (lock.classid?, lock.objid?);
        match lock.objsubid? {
            1 => Some(Self::Big(
                ((u64::from(classid) << 32) | u64::from(objid)).cast_signed(),
            )),
            2 => Some(Self::Pair(classid.cast_signed(), objid.cast_signed())),
            _ => None,
        }
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Big(key) => write!(f, "{key}"),
            Self::Pair(first, second) => write!(f, "{first},{second}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(classid: u32, objid: u32, objsubid: i32) -> Lock {
        Lock {
            locktype: "advisory".into(),
            classid: Some(classid),
            objid: Some(objid),
            objsubid: Some(objsubid),
            ..Lock::default()
        }
    }

    #[test]
    fn keys_are_read_back_as_written() {
        let key = |c, o, s| LockKey::of(&row(c, o, s)).map(|key| key.to_string());
        assert_eq!(
            key(9877, 2_850_441_650, 1).as_deref(),
            Some("42424242424242")
        );
        assert_eq!(key(4_294_967_295, 4_294_967_291, 1).as_deref(), Some("-5"));
        assert_eq!(key(1, 4_294_967_289, 2).as_deref(), Some("1,-7"));
        assert_eq!(key(1, 2, 4), None, "a Citus lock is no user's key");
    }
}
