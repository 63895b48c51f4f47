//! The routes of the demo's application: a container registry with a small,
//! rarely used corner, the App Registry, that lists packages.
//!
//! The order of [`ROUTES`] is the order of popularity. Every route runs one
//! statement, tagged with its name in a sqlcommenter comment.

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
    Packages,
}

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

/// The rarely used route with the slow statement.
pub(super) const RARE: Route = route("GET", "/cnr/api/v1/packages", Work::Packages);

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
    route("GET", "/v2/{repository}/tags/list", Work::Tags),
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
    route("GET", "/api/v1/user/notifications", Work::Account),
    route("GET", "/api/v1/find/repositories", Work::Search),
    route("GET", "/api/v1/find/all", Work::Search),
    route(
        "GET",
        "/api/v1/repository/{repository}/build",
        Work::Repository,
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
        match self {
            Self::Repository => format!("SELECT id, name, pulls FROM repository WHERE id = {id}"),
            Self::Manifest => format!("SELECT id, digest FROM manifest WHERE repository = {id}"),
            Self::Tags => {
                format!("SELECT digest FROM manifest WHERE repository = {id} ORDER BY digest")
            }
            Self::Blob => format!("SELECT digest, size FROM blob WHERE id = {id}"),
            Self::Account => format!("SELECT id, name FROM account WHERE id = {id}"),
            Self::Search => {
                format!("SELECT id, name FROM repository WHERE id > {id} ORDER BY id LIMIT 20")
            }
            Self::Push => format!("UPDATE repository SET pulls = pulls + 1 WHERE id = {id}"),
            // No index leads to a repository's packages, so each request scans
            // the table. On the table that this is modelled on the scan takes
            // up to 30 s; on ours it takes milliseconds, and the rest of the
            // time is slept, so that the demo needs two cores and not forty.
            Self::Packages => format!(
                "SELECT count(*), max(digest), pg_sleep({}) FROM package WHERE repository = {id}",
                8 + id % 5
            ),
        }
    }
}

/// The tables behind the routes, filled.
pub(super) const SCHEMA: &str = "
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
    ANALYZE;
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_carries_its_route() {
        assert_eq!(
            ROUTES[2].statement(7),
            "SELECT digest, size FROM blob WHERE id = 7 /*application='registry',\
             route='GET%20%2Fv2%2F%7Brepository%7D%2Fblobs%2F%7Bdigest%7D'*/"
        );
    }

    #[test]
    fn an_address_has_no_braces() {
        assert_eq!(ROUTES[0].address(7), "/v2/7/manifests/7");
        assert_eq!(RARE.address(12), "/cnr/api/v1/packages");
        assert_eq!(ROUTES[5].address(1), "/v2/");
    }
}
