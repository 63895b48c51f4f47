//! What an installation has around the daemon: Prometheus with the rules as they
//! are shipped, and Alertmanager with the example's routing, to look around in.

use std::io::Write;
use std::net::SocketAddr;

use super::DemoError;
use super::servers::{Alertmanager, Prometheus, ServerError};
use super::timeline::Timeline;
use crate::config::{AlertmanagerUrl, Credentials};

const RULES: &str = include_str!("../../alerts/snowpit.rules.yml");
const ROUTING: &str = include_str!("../../alerts/alertmanager.example.yml");

/// What begins the part of the example that names somebody's pager.
const RECEIVERS: &str = "\nreceivers:\n";

/// An Alertmanager that waits for its Prometheus.
#[derive(Debug)]
pub(super) struct Alerting(Alertmanager);

/// Both, in the order in which they are stopped.
#[derive(Debug)]
pub(super) struct Monitoring {
    prometheus: Prometheus,
    alertmanager: Alertmanager,
}

impl Alerting {
    /// Receivers without a way to anybody: what would page is on the page.
    pub(super) async fn start() -> Result<Self, DemoError> {
        let (routing, _) = ROUTING.split_once(RECEIVERS).unwrap_or((ROUTING, ""));
        let config = format!("{routing}{RECEIVERS}  - name: pager\n  - name: tickets\n");
        Ok(Self(Alertmanager::start(&config).await?))
    }

    /// Where the daemon pushes to.
    pub(super) fn url(&self) -> AlertmanagerUrl {
        let url = self.0.url();
        AlertmanagerUrl {
            name: url.trim_start_matches("http://").to_owned(),
            url,
            credentials: Credentials::None,
        }
    }

    /// Prometheus, which scrapes the daemon.
    pub(super) async fn scrape(self, daemon: SocketAddr) -> Result<Monitoring, DemoError> {
        let rules = rules().map_err(|source| ServerError::Directory {
            program: "prometheus",
            directory: std::env::temp_dir(),
            source,
        })?;
        let config = format!(
            "global: {{scrape_interval: 5s, evaluation_interval: 5s}}\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{}']}}]}}]}}\n\
             scrape_configs: [{{job_name: snowpit, static_configs: [{{targets: ['{daemon}']}}]}}]\n",
            self.0.port(),
        );
        Ok(Monitoring {
            prometheus: Prometheus::start(&config, Some(rules.path())).await?,
            alertmanager: self.0,
        })
    }
}

/// The rules as a file, until it is dropped.
fn rules() -> std::io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(RULES.as_bytes())?;
    Ok(file)
}

impl Monitoring {
    /// Where to look.
    pub(super) fn tell(&self, daemon: SocketAddr, timeline: &mut Timeline) {
        let (prometheus, alertmanager) = (self.prometheus.url(), self.alertmanager.url());
        for (what, url) in [
            ("snowpit's page", format!("http://{daemon}/")),
            ("metrics", format!("http://{daemon}/metrics")),
            ("Prometheus", format!("{prometheus}/graph")),
            ("its alerts", format!("{prometheus}/alerts")),
            ("Alertmanager", format!("{alertmanager}/#/alerts")),
        ] {
            timeline.say(&format!("  {what:<15} {url}"));
        }
    }

    pub(super) async fn stop(self) {
        self.prometheus.stop().await;
        self.alertmanager.stop().await;
    }
}
