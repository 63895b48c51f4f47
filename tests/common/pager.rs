//! A pager: a receiver of Alertmanager's webhooks that remembers what came when.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Path as Segments, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// One alert of one notification.
#[derive(Debug, Clone)]
pub struct Page {
    pub at: Instant,
    /// Which way it came: the first part of the address it was sent to.
    pub way: String,
    /// `pager` or `tickets`.
    pub receiver: String,
    pub firing: bool,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
}

impl Page {
    pub fn name(&self) -> &str {
        &self.labels["alertname"]
    }

    pub fn summary(&self) -> &str {
        &self.annotations["summary"]
    }
}

/// What Alertmanager posts; the rest of it is not looked at.
#[derive(Debug, Deserialize)]
struct Notification {
    alerts: Vec<Posted>,
}

#[derive(Debug, Deserialize)]
struct Posted {
    status: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

type Pages = Arc<Mutex<Vec<Page>>>;

/// Listens until it is dropped.
pub struct Pager {
    pages: Pages,
    url: String,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Pager {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Pager {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let pages = Pages::default();
        let app = Router::new()
            .route("/{way}/{receiver}", post(take))
            .with_state(Arc::clone(&pages));
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { pages, url, server }
    }

    /// The example for Alertmanager as it is shipped, with this pager in it.
    pub fn configuration(&self, way: &str) -> String {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/alertmanager.example.yml");
        let text = std::fs::read_to_string(example).unwrap();
        let own = |receiver: &str| format!("{}/{way}/{receiver}", self.url);
        let text = text.replace("http://pager.example:8080/alerts", &own("pager"));
        let text = text.replace("http://tickets.example:8080/alerts", &own("tickets"));
        assert_eq!(text.matches(&self.url).count(), 2, "{text}");
        text
    }

    /// All that has come.
    pub fn pages(&self) -> Vec<Page> {
        self.pages.lock().unwrap().clone()
    }

    /// The first page of this way and name since then.
    pub async fn wait(
        &self,
        way: &str,
        name: &str,
        firing: bool,
        since: Instant,
        patience: Duration,
    ) -> Page {
        let until = Instant::now() + patience;
        loop {
            let pages = self.pages();
            let page = pages.iter().find(|page| {
                page.way == way && page.name() == name && page.firing == firing && page.at >= since
            });
            if let Some(page) = page {
                return page.clone();
            }
            let word = if firing { "page" } else { "resolve" };
            assert!(
                Instant::now() < until,
                "no {word} of {name} by {way} within {patience:?}: {pages:#?}"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn take(
    State(pages): State<Pages>,
    Segments((way, receiver)): Segments<(String, String)>,
    Json(notification): Json<Notification>,
) {
    let at = Instant::now();
    let new = notification.alerts.into_iter().map(|alert| Page {
        at,
        way: way.clone(),
        receiver: receiver.clone(),
        firing: alert.status == "firing",
        labels: alert.labels,
        annotations: alert.annotations,
    });
    pages.lock().unwrap().extend(new);
}
