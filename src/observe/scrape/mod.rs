//! Scraping: an application's own metrics page as a source of its traffic.
//!
//! ```text
//! client ──► lines ──► line ──► collector (names) ──► page ──► tracker ──► Account
//! bounded    cut       read     what tells of         series   what came
//! body                          requests                       since
//! ```
//!
//! Everything behind the client is pure. Invariants: an application that is
//! slow, broken or hostile costs a failed poll or a counted rejection and
//! nothing else; the first look at a process is only a start.

pub mod client;
pub mod collector;
pub mod line;
pub mod lines;
pub mod names;
pub mod page;
pub mod tracker;

use std::sync::{Arc, Mutex, PoisonError};

use crate::config::ScrapeConfig;
use crate::observe::poll::unix_now;
use crate::observe::rejections::Rejections;
use crate::observe::traffic::Account;
use crate::observe::{PollError, Source};
use crate::sample::{Report, TrafficReport, TrafficVia};
use client::Client;
pub use client::secret;
use page::{Page, Wanted};
use tracker::Tracker;

/// The label `source`.
pub const SOURCE: &str = "scrape";

/// The account of a service: its pages share it, so that running requests of
/// several instances add up.
pub type SharedAccount = Arc<Mutex<Account>>;

/// An account for the pages of one service.
pub fn account(service: &str) -> SharedAccount {
    let limit = crate::observe::traffic::account::DEFAULT_LIMIT;
    Arc::new(Mutex::new(Account::new(service, TrafficVia::Scrape, limit)))
}

/// One page, read again and again.
#[derive(Debug)]
pub struct ScrapeSource {
    config: ScrapeConfig,
    client: Option<Client>,
    account: SharedAccount,
    rejections: Rejections,
    tracker: Tracker,
    further: Vec<Report>,
    /// What was last logged of the page: the family, or none.
    told: Option<Option<String>>,
}

impl ScrapeSource {
    /// Connects at the first poll.
    pub fn new(config: &ScrapeConfig, account: SharedAccount, rejections: Rejections) -> Self {
        Self {
            config: config.clone(),
            client: None,
            account,
            rejections,
            tracker: Tracker::new(&config.name),
            further: Vec::new(),
            told: None,
        }
    }

    /// What is wanted of the page now.
    fn wanted(&self) -> Wanted {
        Wanted {
            metric: self.config.metric.clone(),
            route_labels: self.config.route_labels.clone(),
            openmetrics: false,
            now: unix_now(),
            hashes: self.tracker.hashes().clone(),
        }
    }

    /// Once, and again when it changes.
    fn tell(&mut self, page: &Page) {
        let family = page.found.as_ref().map(|found| found.family.clone());
        if self.told.as_ref() == Some(&family) {
            return;
        }
        let service = self.config.name.as_str();
        match &page.found {
            Some(found) => {
                let labels = found.labels.join(", ");
                let (metric, routes) = (&found.family, found.routes);
                tracing::info!(
                    service,
                    metric,
                    labels,
                    routes,
                    "found its requests by route"
                );
            }
            None => tracing::warn!(
                service,
                "no requests by route on its metrics page; snowpit check says what is there instead"
            ),
        }
        self.told = Some(family);
    }
}

impl Source for ScrapeSource {
    fn kind(&self) -> &'static str {
        SOURCE
    }

    fn name(&self) -> &str {
        &self.config.name
    }

    async fn poll(&mut self) -> Result<Report, PollError> {
        let wanted = self.wanted();
        let client = match self.client.take() {
            Some(client) => client,
            None => Client::new(&self.config)?,
        };
        let (at, page) = client.page(wanted).await?;
        self.client = Some(client);
        self.tell(&page);
        let reports = {
            // A panic elsewhere leaves sums, which are valid at any moment.
            let mut account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
            let mut refused = self.tracker.take(at, &page, &mut account);
            let reports = account.flush(at);
            refused.merge(&account.take_refused());
            let about = match page.first_rejected {
                Some((line, _)) => format!("{}, first in line {line}", self.config.name),
                None => self.config.name.clone(),
            };
            self.rejections.add(at, SOURCE, &about, &refused);
            reports
        };
        let mut reports = reports.into_iter().map(Report::Traffic);
        let first = reports.next();
        self.further = reports.collect();
        Ok(first.unwrap_or_else(|| self.nothing()))
    }

    fn further(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.further)
    }

    fn failure(&self, _: &PollError) -> Report {
        self.nothing()
    }
}

impl ScrapeSource {
    /// A report without routes, which the poller does not pass on.
    fn nothing(&self) -> Report {
        Report::Traffic(TrafficReport {
            service: self.config.service.clone(),
            via: Some(TrafficVia::Scrape),
            ..TrafficReport::default()
        })
    }
}
