//! The routes of the demo's application: a container registry with a small,
//! rarely used corner, the App Registry, that lists packages.
//!
//! The order of [`ROUTES`] is the order of popularity. Every route runs one
//! statement, tagged with its name in a sqlcommenter comment. The tables are
//! small and two cores must do for all of it, so a statement sleeps for the time
//! that it would take on a large one.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Repositories, accounts and so on in the demo's tables; ids are 1 to this.
pub(super) const ROWS: u32 = 2_000;
/// The `application_name` of the application, and its sqlcommenter tag.
pub(super) const APPLICATION: &str = "registry";

/// The statements that the routes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Repository,
    Manifest,
    Tags,
    Blob,
    Account,
    Search,
    Push,
    /// A look-up by an index that only this route uses.
    Indexed(Indexed),
    /// A report without an index, slow on every day.
    Report,
}

/// A table with one index beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Indexed {
    pub(super) table: &'static str,
    pub(super) index: &'static str,
}

const TAG: Indexed = Indexed {
    table: "tag",
    index: "tag_by_repository",
};
const NOTIFICATION: Indexed = Indexed {
    table: "notification",
    index: "notification_by_account",
};
const BUILD: Indexed = Indexed {
    table: "build",
    index: "build_by_repository",
};
/// Rows of such a table; each owner has one.
pub(super) const INDEXED_ROWS: u32 = 300;

/// An endpoint: what an operator calls a route.
#[derive(Debug, Clone, Copy)]
pub(super) struct Route {
    pub(super) method: &'static str,
    /// With `{name}` for what varies.
    pub(super) path: &'static str,
    pub(super) work: Work,
}

const fn route(method: &'static str, path: &'static str, work: Work) -> Route {
    Route { method, path, work }
}

/// Rarely used routes with a slow statement.
pub(super) const SLOW: [Route; 3] = [
    route("GET", "/cnr/api/v1/packages", Work::Report),
    route("GET", "/api/v1/superuser/logs", Work::Report),
    route(
        "POST",
        "/api/v1/repository/{repository}/logs/export",
        Work::Report,
    ),
];
/// How long such a statement takes, seconds; the mean of what
/// [`Work::Report`] sleeps.
pub(super) const SLOW_SECONDS: f64 = 12.0;

/// Everything else, the most popular first.
pub(super) const ROUTES: [Route; 29] = [
    route(
        "GET",
        "/v2/{repository}/manifests/{reference}",
        Work::Manifest,
    ),
    route(
        "HEAD",
        "/v2/{repository}/manifests/{reference}",
        Work::Manifest,
    ),
    route("GET", "/v2/{repository}/blobs/{digest}", Work::Blob),
    route("GET", "/v2/auth", Work::Account),
    route("HEAD", "/v2/{repository}/blobs/{digest}", Work::Blob),
    route("GET", "/v2/", Work::Account),
    route("GET", "/v2/{repository}/tags/list", Work::Indexed(TAG)),
    route("GET", "/api/v1/repository/{repository}", Work::Repository),
    route("GET", "/api/v1/repository/{repository}/tag", Work::Tags),
    route("PUT", "/v2/{repository}/manifests/{reference}", Work::Push),
    route("POST", "/v2/{repository}/blobs/uploads", Work::Push),
    route(
        "PATCH",
        "/v2/{repository}/blobs/uploads/{upload}",
        Work::Push,
    ),
    route("PUT", "/v2/{repository}/blobs/uploads/{upload}", Work::Push),
    route("GET", "/api/v1/user", Work::Account),
    route(
        "GET",
        "/api/v1/user/notifications",
        Work::Indexed(NOTIFICATION),
    ),
    route("GET", "/api/v1/find/repositories", Work::Search),
    route("GET", "/api/v1/find/all", Work::Search),
    route(
        "GET",
        "/api/v1/repository/{repository}/build",
        Work::Indexed(BUILD),
    ),
    route("POST", "/api/v1/repository/{repository}/build", Work::Push),
    route("GET", "/api/v1/organization/{organization}", Work::Account),
    route(
        "GET",
        "/api/v1/organization/{organization}/members",
        Work::Account,
    ),
    route(
        "GET",
        "/api/v1/organization/{organization}/team",
        Work::Account,
    ),
    route(
        "GET",
        "/api/v1/repository/{repository}/permissions",
        Work::Repository,
    ),
    route("PUT", "/api/v1/repository/{repository}", Work::Push),
    route(
        "GET",
        "/api/v1/repository/{repository}/logs",
        Work::Repository,
    ),
    route(
        "GET",
        "/api/v1/repository/{repository}/manifest/{reference}/security",
        Work::Manifest,
    ),
    route(
        "DELETE",
        "/v2/{repository}/manifests/{reference}",
        Work::Push,
    ),
    route(
        "GET",
        "/cnr/api/v1/packages/{repository}/blobs/{digest}",
        Work::Blob,
    ),
    route("GET", "/v2/_catalog", Work::Search),
];

/// What sqlcommenter leaves as it is: the unreserved characters of RFC 3986.
const RESERVED: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

impl Route {
    /// Method and path, the value of the route tag.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The path of a request, about the thing with this id.
    pub(super) fn address(&self, id: u32) -> String {
        let mut address = String::new();
        for (i, part) in self.path.split(['{', '}']).enumerate() {
            // Odd parts stood between braces.
            if i % 2 == 1 {
                let _ = write!(address, "{id}");
            } else {
                address.push_str(part);
            }
        }
        address
    }

    /// The statement about the thing with this id, with its comment behind it,
    /// where sqlcommenter puts it.
    pub(super) fn statement(&self, id: u32) -> String {
        format!(
            "{} /*application='{APPLICATION}',route='{}'*/",
            self.work.statement(id),
            utf8_percent_encode(&self.name(), &RESERVED)
        )
    }
}

impl Work {
    fn statement(self, id: u32) -> String {
        // In FROM a function is called once, however many rows there are.
        let held = format!("pg_sleep({:.3})", hold(fastrand::f64()));
        match self {
            Self::Repository => {
                format!("SELECT id, name, pulls FROM repository, {held} WHERE id = {id}")
            }
            Self::Manifest => {
                format!("SELECT id, digest FROM manifest, {held} WHERE repository = {id}")
            }
            Self::Tags => {
                format!(
                    "SELECT digest FROM manifest, {held} WHERE repository = {id} ORDER BY digest"
                )
            }
            Self::Blob => format!("SELECT digest, size FROM blob, {held} WHERE id = {id}"),
            Self::Account => format!("SELECT id, name FROM account, {held} WHERE id = {id}"),
            Self::Search => format!(
                "SELECT id, name FROM repository, {held} WHERE id > {id} ORDER BY id LIMIT 20"
            ),
            Self::Push => {
                format!("UPDATE repository SET pulls = pulls + 1 FROM {held} WHERE id = {id}")
            }
            Self::Indexed(Indexed { table, .. }) => format!(
                "SELECT id, content FROM {table} WHERE owner = {} AND read_from_disk(id)",
                1 + id % INDEXED_ROWS
            ),
            // No index leads to a repository's packages, so each request scans
            // the table. On the table that this is modelled on the scan takes
            // up to 30 s.
            Self::Report => format!(
                "SELECT count(*), max(digest), pg_sleep({}) FROM package WHERE repository = {id}",
                10 + id % 5
            ),
        }
    }
}

/// How long a popular route's statement takes, seconds, for a random number from
/// 0 to 1: mostly short, at times long, [`HOLD`] in the mean.
fn hold(random: f64) -> f64 {
    (-(1.0 - random).ln() * HOLD).min(20.0 * HOLD)
}

/// Mean of the time that a popular route's statement takes, seconds.
const HOLD: f64 = 0.07;

/// The statement after which each row that is read from an [`Indexed`] table
/// takes as long as a page takes from a disk that is `seconds` slow.
///
/// The planner runs the cheapest filter first: with its cost, this one is called
/// for each row that a scan of the whole table meets, and behind an index for
/// the rows that the index leads to.
pub(super) fn disk(seconds: f64) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION read_from_disk(row_id int) RETURNS boolean \
         LANGUAGE plpgsql VOLATILE COST 0.01 \
         AS 'BEGIN PERFORM pg_sleep({seconds:.4}); RETURN true; END'"
    )
}

/// The disk of every day.
pub(super) const DISK_SECONDS: f64 = 0.03;

/// The tables behind the routes, filled.
const SCHEMA: &str = "
    CREATE TABLE account (id int PRIMARY KEY, name text NOT NULL);
    INSERT INTO account SELECT i, 'account ' || i FROM generate_series(1, 2000) i;
    CREATE TABLE repository (id int PRIMARY KEY, name text NOT NULL, pulls bigint NOT NULL DEFAULT 0)
        WITH (fillfactor = 50);
    INSERT INTO repository SELECT i, 'repository ' || i FROM generate_series(1, 2000) i;
    CREATE TABLE manifest (id int PRIMARY KEY, repository int NOT NULL, digest text NOT NULL);
    INSERT INTO manifest SELECT i, 1 + i % 2000, md5(i::text) FROM generate_series(1, 10000) i;
    CREATE INDEX ON manifest (repository);
    CREATE TABLE blob (id int PRIMARY KEY, digest text NOT NULL, size bigint NOT NULL);
    INSERT INTO blob SELECT i, md5(i::text), i * 100 FROM generate_series(1, 2000) i;
    CREATE TABLE package (repository int NOT NULL, digest text NOT NULL);
    INSERT INTO package SELECT 1 + i % 2000, md5(i::text) FROM generate_series(1, 40000) i;
";

/// What makes the tables, filled.
pub(super) fn schema() -> String {
    let mut schema = SCHEMA.to_owned();
    schema += &disk(DISK_SECONDS);
    for route in &ROUTES {
        let Work::Indexed(Indexed { table, .. }) = route.work else {
            continue;
        };
        // Few rows to a page, so that an index is worth it.
        let _ = write!(
            schema,
            ";CREATE TABLE {table} (id int PRIMARY KEY, owner int NOT NULL, content text NOT NULL);
             ALTER TABLE {table} ALTER content SET STORAGE PLAIN;
             INSERT INTO {table} SELECT i, i, repeat('x', 2500) FROM generate_series(1, {INDEXED_ROWS}) i;
             {}",
            route.work.create_index()
        );
    }
    schema + ";ANALYZE"
}

impl Work {
    /// The statement that makes the index; empty without one.
    pub(super) fn create_index(self) -> String {
        match self {
            Self::Indexed(Indexed { table, index }) => {
                format!("CREATE INDEX {index} ON {table} (owner)")
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_carries_its_route() {
        let statement = ROUTES[2].statement(7);
        let tag = "WHERE id = 7 /*application='registry',\
                   route='GET%20%2Fv2%2F%7Brepository%7D%2Fblobs%2F%7Bdigest%7D'*/";
        assert!(statement.starts_with("SELECT digest, size FROM blob, pg_sleep(0."));
        assert!(statement.ends_with(tag), "{statement}");
    }

    #[test]
    fn holds_have_their_mean() {
        let holds = (0..1000).map(|i| hold((f64::from(i) + 0.5) / 1000.0));
        let mean = holds.sum::<f64>() / 1000.0;
        assert!((mean / HOLD - 1.0).abs() < 0.02, "{mean}");
    }

    #[test]
    fn an_address_has_no_braces() {
        assert_eq!(ROUTES[0].address(7), "/v2/7/manifests/7");
        assert_eq!(SLOW[0].address(12), "/cnr/api/v1/packages");
        assert_eq!(ROUTES[5].address(1), "/v2/");
    }
}
