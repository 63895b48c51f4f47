//! What an application's metrics page tells of its requests, or what is there
//! instead.

use super::{Finding, Level, Source};
use crate::config::{Credentials, ScrapeConfig};
use crate::observe::poll::unix_now;
use crate::observe::scrape::client::Client;
use crate::observe::scrape::page::{Candidate, Found, Page, Wanted};
use crate::observe::{PollError, scrape};

/// Reads the page as the daemon does, once.
pub(super) async fn probe(config: &ScrapeConfig) -> (Source, Vec<Finding>) {
    let mut source = Source {
        source: scrape::SOURCE,
        name: config.name.clone(),
        up: false,
        version: None,
        role: None,
        user: match &config.credentials {
            Credentials::None => "-".to_owned(),
            Credentials::Basic { username, .. } => username.clone(),
            Credentials::Bearer(_) => "bearer token".to_owned(),
        },
        privileges: Vec::new(),
        clock_offset_seconds: None,
    };
    match ask(config).await {
        Ok(page) => {
            source.up = true;
            source.role = Some("metrics");
            let findings = findings(config, &page);
            (source, findings)
        }
        Err(error) => {
            let finding = Finding::sentence(Level::Missing, &config.name, error.message);
            (source, vec![finding])
        }
    }
}

async fn ask(config: &ScrapeConfig) -> Result<Page, PollError> {
    let wanted = Wanted {
        metric: config.metric.clone(),
        route_labels: config.route_labels.clone(),
        now: unix_now(),
        ..Wanted::default()
    };
    let (_, page) = Client::new(config)?.page(wanted).await?;
    Ok(page)
}

fn findings(config: &ScrapeConfig, page: &Page) -> Vec<Finding> {
    let mut findings = vec![match &page.found {
        Some(found) => Finding::sentence(Level::Note, &config.name, seen(found, page)),
        None => missing(config, page),
    }];
    if let Some((line, reason)) = page.first_rejected {
        let count = page.rejected.total();
        findings.push(Finding::new(
            Level::Note,
            &config.name,
            &format!("{count} points of the page are refused, the first in line {line} ({reason})"),
            "those series do not count",
            "look at that line of the page",
        ));
    }
    findings
}

fn seen(found: &Found, page: &Page) -> String {
    let routes = found.routes;
    let mut text = format!(
        "requests by route are in {} by {}: {routes} {}",
        found.family,
        found.labels.join(" and "),
        if routes == 1 { "route" } else { "routes" },
    );
    if let Some(gauge) = &page.in_flight_metric {
        text.push_str(&format!("; running requests in {gauge}"));
    }
    if found.without_route > 0 {
        text.push_str(&format!("; {} series name no route", found.without_route));
    }
    text
}

fn missing(config: &ScrapeConfig, page: &Page) -> Finding {
    let near: Vec<String> = page.candidates.iter().map(described).collect();
    let what = if near.is_empty() {
        "no histogram or summary of request durations is on the page".to_owned()
    } else {
        format!(
            "no requests by route were found on the page; the nearest: {}",
            near.join("; ")
        )
    };
    Finding::new(
        Level::Missing,
        &config.name,
        &what,
        "no route of this service is known from its metrics",
        "set metric and route_labels in [service.scrape], or, where nothing was ever asked for yet, send a request and check again",
    )
}

fn described(candidate: &Candidate) -> String {
    let labels = if candidate.labels.is_empty() {
        "no labels".to_owned()
    } else {
        candidate.labels.join(", ")
    };
    format!("{} ({labels}): {}", candidate.name, candidate.why)
}
