//! The demo's application: an HTTP server that answers every route from the
//! database, through the pooler.
//!
//! It keeps its own pool of client connections, as applications do, has a
//! metrics page, and uses the simple protocol only: PgBouncer 1.18 knows no
//! prepared statements in transaction mode.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::RawPathParams;
use axum::http::StatusCode;
use axum::routing::{MethodFilter, get, on};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_postgres::Client;

use super::DemoError;
use super::metrics_page::{self, MetricsPage};
use super::routes::{APPLICATION, ROUTES, ROWS, Route, SLOW};
use super::servers::connect;

/// Client connections of the application; more than the pooler's servers, so
/// that the pooler is the narrow place.
const POOL_SIZE: usize = 90;

/// A running application. Dropping it closes its port.
#[derive(Debug)]
pub(super) struct Application {
    address: SocketAddr,
    _server: JoinSet<()>,
}

impl Application {
    /// Listens on a free loopback port and reaches the database with these
    /// connection parameters.
    pub(super) async fn start(database: tokio_postgres::Config) -> Result<Self, DemoError> {
        let pool = Arc::new(ConnectionPool::new(database));
        let page = Arc::new(MetricsPage::new());
        let mut router = Router::new();
        for route in ROUTES.iter().chain(&SLOW) {
            router = router.route(route.path, handler(*route, Arc::clone(&pool), &page)?);
        }
        router = router.route(
            metrics_page::PATH,
            get(move || async move { page.answer() }),
        );
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            // Ends when the set is dropped; a failing accept is retried inside.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self {
            address,
            _server: server,
        })
    }

    /// The address of its port, without a slash at the end.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn handler(
    route: Route,
    pool: Arc<ConnectionPool>,
    page: &MetricsPage,
) -> Result<axum::routing::MethodRouter, DemoError> {
    let method = axum::http::Method::from_bytes(route.method.as_bytes())
        .ok()
        .and_then(|method| MethodFilter::try_from(method).ok())
        .ok_or(DemoError::Route(route.name()))?;
    let durations = page.of(&route);
    Ok(on(method, move |parameters: RawPathParams| async move {
        let began = Instant::now();
        let id = parameters
            .iter()
            .find_map(|(_, value)| value.parse().ok())
            .unwrap_or_else(|| fastrand::u32(1..=ROWS));
        let result = pool.run(&route.statement(id)).await;
        durations.observe(began.elapsed().as_secs_f64());
        match result {
            Ok(()) => (StatusCode::OK, String::new()),
            Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        }
    }))
}

/// Opens connections as needed, at most [`POOL_SIZE`], and keeps them.
#[derive(Debug)]
struct ConnectionPool {
    database: tokio_postgres::Config,
    slots: Semaphore,
    idle: Mutex<Vec<Client>>,
}

impl ConnectionPool {
    fn new(mut database: tokio_postgres::Config) -> Self {
        database
            .application_name(APPLICATION)
            .connect_timeout(Duration::from_secs(5));
        Self {
            database,
            slots: Semaphore::new(POOL_SIZE),
            idle: Mutex::default(),
        }
    }

    /// A connection whose statement failed or was cancelled is not kept.
    async fn run(&self, statement: &str) -> Result<(), DemoError> {
        let _slot = self.slots.acquire().await;
        let kept = self.lock().pop();
        let client = match kept {
            Some(client) if !client.is_closed() => client,
            _ => connect(&self.database).await?,
        };
        client
            .simple_query(statement)
            .await
            .map_err(super::servers::ServerError::from)?;
        self.lock().push(client);
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Client>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
