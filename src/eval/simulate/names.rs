//! Names that tell nothing: of services, routes and applications.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

const SERVICES: &[&str] = &[
    "registry", "shop", "billing", "accounts", "search", "ledger", "gateway", "portal", "feeds",
    "catalog", "booking", "fleet",
];

const BACKGROUND: &[&str] = &[
    "report-runner",
    "nightly-export",
    "metabase",
    "airflow",
    "psql",
    "etl",
    "pg_dump",
    "dbt",
    "analytics",
    "reindexer",
    "backfill",
    "mailer",
    "archiver",
    "sidekiq",
    "celery",
];

const NOUNS: &[&str] = &[
    "users",
    "orders",
    "packages",
    "carts",
    "invoices",
    "teams",
    "projects",
    "builds",
    "images",
    "tags",
    "manifests",
    "blobs",
    "payments",
    "refunds",
    "sessions",
    "tokens",
    "events",
    "hooks",
    "rooms",
    "tickets",
    "comments",
    "labels",
    "files",
    "folders",
    "reports",
    "plans",
    "devices",
    "alerts",
    "rules",
    "queues",
    "jobs",
    "regions",
    "offers",
    "reviews",
    "stores",
    "stocks",
    "routes",
    "drivers",
    "trips",
    "quotes",
    "notes",
    "pages",
    "boards",
    "cards",
    "channels",
    "members",
    "roles",
    "grants",
    "repos",
    "branches",
];

const PARTS: &[&str] = &[
    "",
    "/{id}",
    "/{id}/history",
    "/{id}/items",
    "/search",
    "/export",
    "/{id}/owner",
    "/recent",
    "/{id}/status",
    "/summary",
    "/{id}/links",
    "/bulk",
    "/{id}/audit",
    "/counts",
    "/{id}/permissions",
    "/{id}/children",
    "/import",
    "/{id}/preview",
    "/{id}/settings",
    "/trending",
    "/{id}/versions",
    "/{id}/similar",
    "/archive",
    "/{id}/lock",
    "/{id}/metrics",
    "/suggest",
    "/{id}/tags",
    "/sync",
    "/{id}/share",
    "/{id}/notes",
    "/feed",
    "/{id}/graph",
    "/stats",
    "/{id}/attachments",
];

const VERSIONS: &[&str] = &["/api/v1", "/api/v2", "", "/internal"];

const METHODS: &[&str] = &["GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE"];

/// So many different services, at most as many as there are names.
pub fn services(count: usize, rng: &mut impl Rng) -> Vec<String> {
    some(SERVICES, count, rng)
}

/// So many different applications without routes.
pub fn background(count: usize, rng: &mut impl Rng) -> Vec<String> {
    some(BACKGROUND, count, rng)
}

fn some(names: &[&str], count: usize, rng: &mut impl Rng) -> Vec<String> {
    let chosen = names.choose_multiple(rng, count);
    chosen.map(|name| (*name).to_owned()).collect()
}

/// So many routes (method, template), no two with one template.
pub fn routes(count: usize, rng: &mut impl Rng) -> Vec<(String, String)> {
    let all = VERSIONS.len() * NOUNS.len() * PARTS.len();
    let mut places: Vec<usize> = (0..all).collect();
    let (chosen, _) = places.partial_shuffle(rng, count);
    chosen
        .iter()
        .map(|place| {
            let version = VERSIONS[place % VERSIONS.len()];
            let noun = NOUNS[place / VERSIONS.len() % NOUNS.len()];
            let part = PARTS[place / VERSIONS.len() / NOUNS.len()];
            let method = METHODS[rng.random_range(0..METHODS.len())];
            (method.to_owned(), format!("{version}/{noun}{part}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    #[test]
    fn five_thousand_routes_have_templates_of_their_own() {
        let routes = routes(5_000, &mut ChaCha8Rng::seed_from_u64(1));
        let templates: BTreeSet<_> = routes.iter().map(|(_, template)| template).collect();
        assert_eq!(templates.len(), 5_000);
    }
}
