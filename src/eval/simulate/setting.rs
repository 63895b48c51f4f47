//! What a site is called, and what the engine is told of it.

use rand::Rng;

use super::frame::{Naming, Owner, PoolName, Reporter, RouteName, TARGET};
use super::names;
use super::plot::Plot;
use super::probe::BLOCKER_PID;
use super::rows::{Blocker, Held};
use super::site::Site;
use crate::engine::Settings;
use crate::engine::settings::{Pooler, Service};
use crate::sample::{Server, TrafficVia, UnixSeconds};

/// The only pooler.
const POOLER: &str = "pooler-1";

const POOLER_HOST: &str = "10.1.0.2";

/// Gives everything its name.
pub fn name(site: &Site, plot: &Plot, start: UnixSeconds, seed: u64, rng: &mut impl Rng) -> Naming {
    let mut naming = Naming {
        seed,
        ..Naming::default()
    };
    let services = names::services(site.services.len(), rng);
    let database = ["app", "main", "prod"][rng.random_range(0..3)];
    let mut methods_in_tags = Vec::new();
    for (number, service) in services.iter().enumerate() {
        let pool = &site.services[number].pool;
        let suffix = ["", "-web", "-api"][rng.random_range(0..3)];
        // A pool of its own: one of its database and user.
        let owner = Owner {
            application: format!("{service}{suffix}"),
            database: format!("{database}_{number}"),
            user: service.clone(),
            client: Some(if pool.pooled {
                POOLER_HOST.to_owned()
            } else {
                format!("10.0.{number}.7")
            }),
        };
        if pool.pooled {
            naming.pools.push(PoolName {
                pooler: POOLER.to_owned(),
                database: owner.database.clone(),
                user: owner.user.clone(),
                size: pool.size,
            });
        }
        naming.owners.push(owner);
        let via = [
            None,
            Some(TrafficVia::Scrape),
            Some(TrafficVia::OtlpMetrics),
        ];
        naming.reporters.push(Reporter {
            service: service.clone(),
            via: via[rng.random_range(0..3)],
        });
        methods_in_tags.push(rng.random_bool(0.5));
    }
    for application in names::background(site.background.len(), rng) {
        naming.owners.push(Owner {
            database: format!("{database}_0"),
            user: "jobs".to_owned(),
            client: Some("10.0.9.9".to_owned()),
            application,
        });
    }
    let routes = names::routes(site.endpoints.len(), rng);
    for ((method, template), endpoint) in routes.into_iter().zip(&site.endpoints) {
        let reported = format!("{method} {template}");
        let tag = if methods_in_tags[endpoint.service] {
            reported.clone()
        } else {
            template
        };
        naming.routes.push(RouteName {
            reported,
            tag: endpoint.reported.then_some(tag),
            survival: 0.5 + 0.4 * rng.random::<f64>(),
        });
    }
    naming.server = server(site, plot, start, rng);
    naming.blocker = plot
        .lock
        .map(|held| blocker(held, site, start + plot.onset, rng));
    naming
}

fn server(site: &Site, plot: &Plot, start: UnixSeconds, rng: &mut impl Rng) -> Server {
    let pools: f64 = site.services.iter().map(|s| f64::from(s.pool.size)).sum();
    let storm = plot.storm.map_or(0.0, |storm| {
        f64::from(storm.wave) * (storm.linger / storm.period + 2.0)
    });
    let leak = plot
        .leak
        .map_or(0.0, |leak| leak.rate * (plot.until - plot.onset));
    let job = plot.job.map_or(0.0, |(_, sessions)| f64::from(sessions));
    let most = (pools + storm + leak + job + 60.0) * (1.1 + 1.4 * rng.random::<f64>());
    Server {
        version: Some([150_018, 160_010, 170_006][rng.random_range(0..3)]),
        clock: None,
        started_at: Some(start - 3_600.0 * (30.0 + 900.0 * rng.random::<f64>()).floor()),
        in_recovery: Some(false),
        max_connections: Some(((most / 50.0).ceil() * 50.0).max(100.0) as u32),
        reserved_connections: Some(3),
    }
}

fn blocker(held: Held, site: &Site, since: UnixSeconds, rng: &mut impl Rng) -> Blocker {
    let table = ["orders", "accounts", "packages", "events"][rng.random_range(0..4)];
    let query = match held {
        Held::Table => format!("alter table {table} alter column note type text"),
        Held::Row => format!("update {table} set state = $1 where id = $2"),
    };
    Blocker {
        held,
        pid: BLOCKER_PID,
        owner: site.services.len() as u16,
        since,
        query,
        relation: format!("public.{table}"),
        transaction: rng.random_range(1_000_000..9_000_000).to_string(),
        active: held == Held::Table,
    }
}

/// What the engine is told before the first sample.
pub fn settings(naming: &Naming) -> Settings {
    let pooled = !naming.pools.is_empty();
    let poolers = pooled.then(|| Pooler {
        name: POOLER.to_owned(),
        target: TARGET.to_owned(),
    });
    let services = naming.reporters.iter().zip(&naming.owners);
    Settings {
        targets: vec![TARGET.to_owned()],
        poolers: poolers.into_iter().collect(),
        poolers_complete: true,
        services: services
            .map(|(reporter, owner)| Service {
                name: reporter.service.clone(),
                targets: vec![TARGET.to_owned()],
                applications: vec![owner.application.clone()],
            })
            .collect(),
        ..Settings::default()
    }
}
