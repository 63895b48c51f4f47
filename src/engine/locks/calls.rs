//! Whether a backend's last statement is one that takes a certain advisory lock.

use crate::sample::{Backend, Lock, LockCall};

use super::key::LockKey;

/// What a statement says of a lock that outlives its transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// It takes none, or others only.
    #[default]
    No,
    /// It takes one whose key is not in the text.
    Possibly,
    /// It names this very lock.
    Surely,
}

/// What the last statement of `backend` says of `lock`.
pub fn takes(backend: &Backend, lock: &Lock) -> Takes {
    if backend.lock_calls.is_empty() {
        // A capture may have come without the calls.
        let told = backend.query.as_deref().is_some_and(speaks_of_locks);
        return if told { Takes::Possibly } else { Takes::No };
    }
    let key = LockKey::of(lock).map(|key| key.to_string());
    let shared = lock.mode == "ShareLock";
    let calls = backend.lock_calls.iter().filter(|call| !call.transaction);
    let of_call = |call: &LockCall| match &call.key {
        Some(named) if key.as_ref() == Some(named) && call.shared == shared => Takes::Surely,
        Some(_) => Takes::No,
        None => Takes::Possibly,
    };
    calls.map(of_call).max().unwrap_or_default()
}

fn speaks_of_locks(query: &str) -> bool {
    let mut words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.any(|word| {
        ["pg_advisory_lock", "pg_try_advisory_lock"]
            .iter()
            .filter_map(|call| word.get(..call.len()).zip(Some(call)))
            .any(|(start, call)| start.eq_ignore_ascii_case(call))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(key: Option<&str>) -> LockCall {
        LockCall {
            key: key.map(str::to_owned),
            ..LockCall::default()
        }
    }

    fn told(calls: Vec<LockCall>, query: &str) -> Takes {
        let backend = Backend {
            lock_calls: calls,
            query: Some(query.to_owned()),
            ..Backend::default()
        };
        let lock = Lock {
            locktype: "advisory".into(),
            mode: "ExclusiveLock".into(),
            classid: Some(0),
            objid: Some(42),
            objsubid: Some(1),
            ..Lock::default()
        };
        takes(&backend, &lock)
    }

    #[test]
    fn a_statement_speaks_of_its_own_keys_only() {
        let text = "SELECT pg_advisory_lock(?)";
        assert_eq!(told(vec![call(Some("42"))], text), Takes::Surely);
        assert_eq!(told(vec![call(Some("43"))], text), Takes::No);
        assert_eq!(told(vec![call(None)], text), Takes::Possibly);
        let both = vec![call(Some("43")), call(Some("42"))];
        assert_eq!(told(both, text), Takes::Surely);
        let of_transaction = LockCall {
            transaction: true,
            ..call(Some("42"))
        };
        let text = "SELECT pg_advisory_xact_lock(?)";
        assert_eq!(told(vec![of_transaction], text), Takes::No);
        let shared = LockCall {
            shared: true,
            ..call(Some("42"))
        };
        assert_eq!(told(vec![shared], text), Takes::No);
    }

    #[test]
    fn a_capture_without_calls_is_read_by_its_text() {
        let text = "select PG_TRY_ADVISORY_LOCK($1)";
        assert_eq!(told(Vec::new(), text), Takes::Possibly);
        assert_eq!(told(Vec::new(), "EXECUTE take"), Takes::No);
    }
}
