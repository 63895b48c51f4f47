//! What is locked: its identity among the rows of one look, and the words for
//! it.

use std::hash::{Hash, Hasher};

use super::super::key::LockKey;
use super::super::view::LockObject;
use crate::sample::Lock;

/// The columns that name what is locked. No column is ever required: a row
/// lock waits on `transactionid`, whose `database` is NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object<'a> {
    locktype: &'a str,
    database: Option<&'a str>,
    relation: Relation<'a>,
    page: Option<i64>,
    tuple: Option<i64>,
    transactionid: Option<&'a str>,
    virtualxid: Option<&'a str>,
    key: (Option<u32>, Option<u32>, Option<i32>),
}

/// A name that was learnt before a table was renamed may be another's now, so
/// the oid says which relation it is, wherever it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Relation<'a> {
    Oid(u32),
    Name(Option<&'a str>),
}

/// What tells objects apart in nearly every look is hashed, and no more: a look
/// hashes each of its rows. Equality compares everything.
impl Hash for Object<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self {
            relation,
            page,
            tuple,
            transactionid,
            virtualxid,
            key,
            ..
        } = self;
        if let Some(id) = transactionid.or(*virtualxid) {
            id.hash(state);
        } else if let (Some(class), object, _) = key {
            state.write_u64(u64::from(*class) << 32 | u64::from(object.unwrap_or(0)));
        } else {
            relation.hash(state);
            state.write_i64(page.unwrap_or(-1) << 16 | tuple.unwrap_or(-1));
        }
    }
}

impl<'a> Object<'a> {
    pub fn of(lock: &'a Lock) -> Self {
        Self {
            locktype: &lock.locktype,
            database: lock.database.as_deref(),
            relation: match lock.relation_oid {
                Some(oid) => Relation::Oid(oid),
                None => Relation::Name(lock.relation.as_deref()),
            },
            page: lock.page,
            tuple: lock.tuple,
            transactionid: lock.transactionid.as_deref(),
            virtualxid: lock.virtualxid.as_deref(),
            key: (lock.classid, lock.objid, lock.objsubid),
        }
    }
}

/// The lock in words. A relation whose name is not known (it is another
/// database's, or the catalog was locked) is told by its oid and its database.
pub fn describe(lock: &Lock) -> LockObject {
    let database = lock.database.as_deref().unwrap_or("shared");
    let relation = relation(lock);
    let object = if let Some(key) = LockKey::of(lock) {
        key.to_string()
    } else if let Some(xid) = &lock.transactionid {
        xid.clone()
    } else if let Some(vxid) = &lock.virtualxid {
        vxid.clone()
    } else {
        match (lock.page, lock.tuple, &lock.relation, lock.classid) {
            (Some(page), Some(tuple), ..) => format!("{relation} ({page},{tuple})"),
            (Some(page), ..) => format!("{relation} page {page}"),
            (_, _, Some(_), _) => relation,
            (_, _, None, Some(class)) => format!("{class}/{}", lock.objid.unwrap_or(0)),
            _ => database.to_owned(),
        }
    };
    LockObject {
        locktype: lock.locktype.clone(),
        mode: lock.mode.clone(),
        object,
    }
}

fn relation(lock: &Lock) -> String {
    let name = lock.relation.as_deref().unwrap_or("?");
    let is_oid = lock.relation_oid.is_some_and(|oid| name.parse() == Ok(oid));
    match lock.database.as_deref().filter(|_| is_oid) {
        Some(database) => format!("{name} (database {database})"),
        None => name.to_owned(),
    }
}
