//! The stage: the servers, the applications and their users, and how the daemon
//! is told to watch them.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_postgres::Client;

use super::DemoError;
use super::application::Application;
use super::fleet::{Fleet, SCANNER};
use super::load::Load;
use super::metrics_page;
use super::neighbours::move_in;
use super::routes::{APPLICATION, schema};
use super::servers::{
    Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions, ServerError, connect,
};
use crate::config::{
    AlertmanagerConfig, ChannelBinding, Config, Credentials, Dsn, HistoryConfig, PgbouncerConfig,
    PostgresConfig, ScrapeConfig, SslMode,
};
use crate::engine::Settings;
use crate::engine::settings::{Pooler, Service};
use crate::listen::DoorsConfig;
use crate::observe::otlp::OtlpConfig;

/// Names that incidents are expected to carry.
pub(super) const TARGET: &str = "main";
pub(super) const POOLER: &str = "pooler-1";
pub(super) const DATABASE: &str = "app";
pub(super) const USER: &str = "app";
/// The second application of the same database, and its role.
pub(super) const GATEWAY: &str = "gateway";
/// The role that the daemon logs in as, at both servers.
const MONITOR: &str = "snowpit";
const ADMIN: &str = "admin";
/// The `application_name` of our own eyes.
pub(super) const EYES: &str = "demo";

/// PostgreSQL's limit, far enough above the pool and the direct sessions that no
/// scenario meets it.
const MAX_CONNECTIONS: u32 = 260;
/// The pooler's servers: room for the avalanche, and for all workers of the
/// orphan at once.
const POOL_SIZE: u32 = 60;
/// Between two looks at the application's metrics page; the default.
const SCRAPE_EVERY: Duration = Duration::from_secs(5);
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(4);
/// The default is 2 minutes; a demo has no time for it, and no daily cycle to
/// learn.
pub(super) const WARM_UP: f64 = 40.0;
/// The default is 5 minutes, for the same reason.
pub(super) const RESOLVE_AFTER: f64 = 10.0;

/// The default is a minute: a leak of the demo is a fast one.
pub(super) const LEAK_WINDOW: f64 = 18.0;

/// Of what is kept: longer than any demo.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Everything that runs, in the order in which it is stopped.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) load: Load,
    application: Application,
    pub(super) fleet: Fleet,
    neighbours: JoinSet<()>,
    pub(super) pooler: PgBouncer,
    pub(super) postgres: Postgres,
}

impl Stage {
    pub(super) async fn start() -> Result<Self, DemoError> {
        let postgres = Postgres::start(PostgresOptions {
            max_connections: MAX_CONNECTIONS,
            ..PostgresOptions::default()
        })
        .await?;
        let roles = format!(
            "CREATE ROLE {USER} LOGIN; CREATE ROLE {GATEWAY} LOGIN; \
             CREATE ROLE {SCANNER} LOGIN IN ROLE pg_read_all_data; \
             CREATE ROLE {MONITOR} LOGIN IN ROLE pg_monitor"
        );
        postgres.execute("postgres", &roles).await?;
        let database = format!("CREATE DATABASE {DATABASE} OWNER {USER}");
        postgres.execute("postgres", &database).await?;
        let owner = postgres.connect(USER, DATABASE).await?;
        owner
            .batch_execute(&schema())
            .await
            .map_err(ServerError::from)?;
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: vec![Alias::new(DATABASE, postgres.port())],
            users: [USER, GATEWAY]
                .map(|user| (user.into(), String::new()))
                .into(),
            pool_mode: "transaction".into(),
            default_pool_size: POOL_SIZE,
            max_client_conn: 400,
            admin_users: vec![ADMIN.into()],
            stats_users: vec![MONITOR.into()],
            ..PgBouncerOptions::default()
        })
        .await?;
        let application = Application::start(local(pooler.port(), USER)).await?;
        let load = Load::start(&application)?;
        let fleet = Fleet::start(local(postgres.port(), SCANNER));
        let neighbours = move_in(&local(postgres.port(), USER));
        Ok(Self {
            load,
            application,
            fleet,
            neighbours,
            pooler,
            postgres,
        })
    }

    /// How this role reaches the database through the pooler.
    pub(super) fn database(&self, user: &str) -> tokio_postgres::Config {
        local(self.pooler.port(), user)
    }

    /// How this role reaches the database past the pooler.
    pub(super) fn directly(&self, user: &str) -> tokio_postgres::Config {
        local(self.postgres.port(), user)
    }

    /// A direct session of the superuser, to see for ourselves what is staged.
    pub(super) async fn own_eyes(&self) -> Result<Client, DemoError> {
        let mut config = self.directly("postgres");
        config.application_name(EYES);
        Ok(connect(&config).await?)
    }

    /// PostgreSQL's own word for its version, for example `15.18`.
    pub(super) async fn version(&self) -> Result<String, DemoError> {
        let eyes = self.own_eyes().await?;
        let row = eyes
            .query_one(
                "SELECT split_part(current_setting('server_version'), ' ', 1)",
                &[],
            )
            .await
            .map_err(ServerError::from)?;
        Ok(row.get(0))
    }

    /// Stops everything without blocking the runtime.
    pub(super) async fn stop(self) {
        let Self {
            load,
            application,
            fleet,
            neighbours,
            pooler,
            postgres,
        } = self;
        drop(load);
        drop(fleet);
        drop(neighbours);
        drop(application);
        pooler.stop().await;
        postgres.stop().await;
    }

    /// The application's metrics page.
    fn page(&self) -> Option<ScrapeConfig> {
        let url = format!("{}{}", self.application.url(), metrics_page::PATH);
        Some(ScrapeConfig {
            service: APPLICATION.into(),
            name: APPLICATION.into(),
            url: url.parse().ok()?,
            interval: SCRAPE_EVERY,
            timeout: SCRAPE_TIMEOUT,
            credentials: Credentials::None,
            ca_file: None,
            metric: None,
            route_labels: Vec::new(),
        })
    }

    /// What the daemon is told: where the servers are and which application
    /// has routes, and where to keep what it sees. Nothing about what will be
    /// staged.
    pub(super) fn config(&self, listen: SocketAddr, keep: Option<&Path>) -> Config {
        let interval = Duration::from_secs(1);
        let mut settings = Settings {
            targets: vec![TARGET.into()],
            poolers: vec![Pooler {
                name: POOLER.into(),
                target: TARGET.into(),
            }],
            poolers_complete: true,
            services: vec![Service {
                name: APPLICATION.into(),
                targets: vec![TARGET.into()],
                applications: vec![APPLICATION.into()],
            }],
            ..Settings::default()
        };
        settings.detect.connection_avalanche.warm_up = WARM_UP;
        settings.detect.connection_avalanche.resolve_after = RESOLVE_AFTER;
        settings.detect.reconnect_storm.resolve_after = RESOLVE_AFTER;
        settings.detect.connection_leak.window = LEAK_WINDOW;
        Config {
            path: None,
            warnings: Vec::new(),
            listen,
            otlp: OtlpConfig::default(),
            doors: DoorsConfig::default(),
            telemetry_endpoint: None,
            alertmanager: AlertmanagerConfig::default(),
            postgres: vec![PostgresConfig {
                name: TARGET.into(),
                connection: dsn(self.postgres.port(), "postgres"),
                interval,
            }],
            pgbouncer: vec![PgbouncerConfig {
                name: POOLER.into(),
                target: TARGET.into(),
                connection: dsn(self.pooler.port(), "pgbouncer"),
                interval,
            }],
            scrape: self.page().into_iter().collect(),
            history: keep.map(|directory| HistoryConfig {
                directory: directory.to_owned(),
                retention: RETENTION,
                capture: true,
            }),
            settings,
        }
    }
}

fn local(port: u16, user: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host("127.0.0.1")
        .port(port)
        .user(user)
        .dbname(DATABASE);
    config
}

fn dsn(port: u16, database: &str) -> Dsn {
    Dsn {
        host: "127.0.0.1".into(),
        port,
        user: MONITOR.into(),
        password: None,
        database: database.into(),
        ssl_mode: SslMode::Disable,
        ssl_root_cert: None,
        client_certificate: None,
        channel_binding: ChannelBinding::Prefer,
        connect_timeout: Duration::from_secs(5),
    }
}
