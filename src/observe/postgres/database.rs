//! The names behind the oids of databases and roles, and what our own role may
//! see.
//!
//! This is the only part that reads catalogs, so it is read rarely and apart
//! from the polls: behind an exclusive lock on `pg_database` or `pg_authid` it
//! fails after the session's `lock_timeout`, the old names stay, and an oid
//! that has none is shown as a number.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error};

/// Templates have names as well: sessions can be in them.
const DATABASES: &str = "SELECT oid, datname::text AS name, datallowconn AND NOT datistemplate AS listed FROM pg_database ORDER BY datname LIMIT 10000";

const ROLES: &str = "SELECT oid, rolname::text AS name FROM pg_roles LIMIT 100000";

/// A superuser has every role.
const PRIVILEGE: &str =
    "SELECT pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS sees_all_sessions";

/// Names by oid.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    databases: BTreeMap<u32, String>,
    roles: BTreeMap<u32, String>,
    /// Names of the databases that sessions can be in, without templates.
    pub listed: Vec<String>,
    pub sees_all_sessions: Option<bool>,
}

impl Names {
    /// Reads all of them.
    ///
    /// # Errors
    /// SQLSTATE 55P03 when a catalog is locked.
    pub async fn read(client: &Client) -> Result<Self, Error> {
        let (databases, roles, privilege) = tokio::try_join!(
            client.query_typed(DATABASES, &[]),
            client.query_typed(ROLES, &[]),
            client.query_typed(PRIVILEGE, &[]),
        )?;
        let mut names = Self::default();
        for row in &databases {
            let name: String = row.try_get("name")?;
            if row.try_get("listed")? {
                names.listed.push(name.clone());
            }
            names.databases.insert(row.try_get("oid")?, name);
        }
        for row in &roles {
            names
                .roles
                .insert(row.try_get("oid")?, row.try_get("name")?);
        }
        if let Some(row) = privilege.first() {
            names.sees_all_sessions = row.try_get("sees_all_sessions")?;
        }
        Ok(names)
    }

    /// The database's name, or its oid as text. `None` for no database (0).
    pub fn database(&self, oid: Option<u32>) -> Option<String> {
        name(&self.databases, oid)
    }

    /// The role's name, or its oid as text. `None` for no role (0).
    pub fn role(&self, oid: Option<u32>) -> Option<String> {
        name(&self.roles, oid)
    }

    /// True when both are named, or are nothing that has a name.
    pub fn knows(&self, database: Option<u32>, role: Option<u32>) -> bool {
        let known = |names: &BTreeMap<u32, String>, oid: Option<u32>| {
            oid.is_none_or(|oid| oid == 0 || names.contains_key(&oid))
        };
        known(&self.databases, database) && known(&self.roles, role)
    }

    /// The oid of the database of this name.
    pub fn oid_of(&self, database: &str) -> Option<u32> {
        let mut all = self.databases.iter();
        all.find(|(_, name)| *name == database).map(|(oid, _)| *oid)
    }

    /// The oids of all databases.
    pub fn database_oids(&self) -> Vec<u32> {
        self.databases.keys().copied().collect()
    }
}

fn name(names: &BTreeMap<u32, String>, oid: Option<u32>) -> Option<String> {
    let oid = oid.filter(|&oid| oid != 0)?;
    Some(names.get(&oid).cloned().unwrap_or_else(|| oid.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_oid_is_shown_as_a_number_and_zero_as_nothing() {
        let names = Names {
            databases: BTreeMap::from([(5, "postgres".to_owned())]),
            ..Names::default()
        };
        assert_eq!(names.database(Some(5)).as_deref(), Some("postgres"));
        assert_eq!(names.database(Some(6)).as_deref(), Some("6"));
        assert_eq!(names.database(Some(0)), None);
        assert!(names.knows(Some(5), None));
        assert!(!names.knows(Some(5), Some(10)));
    }
}
