//! `[service.scrape]`, checked: where an application's metrics page is, and how
//! to read it.
//!
//! Passwords and tokens stay in their files until a request is made, so that a
//! rotated one is taken up; one in the URL is taken out of it here. Invariant:
//! nothing of this type prints a secret.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use super::plain_file;
use super::problem::{Problems, Show};
use super::reader::Text;
use super::shape::{self, Login};

/// One metrics page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrapeConfig {
    pub service: String,
    /// The label `name`: that of the service, with the address behind it where
    /// the service has several pages.
    pub name: String,
    /// Without user and password.
    pub url: Url,
    pub interval: Duration,
    /// Of a whole look.
    pub timeout: Duration,
    pub credentials: Credentials,
    /// PEM file of the authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// The family that tells of requests; `None`: found by itself.
    pub metric: Option<String>,
    /// The labels that make the route; empty: found by themselves.
    pub route_labels: Vec<String>,
}

/// Who we are to the application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    None,
    Basic {
        username: String,
        password: Secret,
    },
    /// The file that holds the token.
    Bearer(PathBuf),
}

/// A password or where it is.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    Here(String),
    File(PathBuf),
    Absent,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(_) => f.write_str("Here(…)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Absent => f.write_str("Absent"),
        }
    }
}

impl ScrapeConfig {
    /// The address as it may be told: without user, password and query, which
    /// may hold a token.
    pub fn shown(&self) -> String {
        let mut url = self.url.clone();
        url.set_query(None);
        url.set_fragment(None);
        url.to_string()
    }
}

/// Every page of every service.
pub(super) fn check(services: &[shape::Service], problems: &Problems) -> Vec<ScrapeConfig> {
    let mut checked: Vec<ScrapeConfig> = Vec::new();
    for service in services {
        let (Some(name), Some(scrape)) = (&service.name, &service.scrape) else {
            continue;
        };
        let owner = format!("[[service]] \"{}\": scrape", name.written);
        let credentials = credentials(&owner, &scrape.login, problems);
        if let Some(text) = scrape.route_labels.get(2) {
            let message = "at most two labels make a route: that of the route, or controller and action; the method is found by itself";
            problems.at(text.span.clone(), Show::Span, message);
        }
        let several = scrape.urls.len() > 1;
        for text in &scrape.urls {
            let Some((url, inline)) = address("url", text, problems) else {
                continue;
            };
            let host = url.host_str().unwrap_or_default();
            let port = url.port_or_known_default().unwrap_or_default();
            let page = ScrapeConfig {
                service: name.value.clone(),
                name: if several {
                    format!("{}/{host}:{port}", name.value)
                } else {
                    name.value.clone()
                },
                credentials: inline.unwrap_or_else(|| credentials.clone()),
                url,
                interval: scrape.interval,
                timeout: scrape.timeout,
                ca_file: path(scrape.login.ca_file.as_ref()),
                metric: scrape.metric.as_ref().map(|metric| metric.value.clone()),
                route_labels: scrape
                    .route_labels
                    .iter()
                    .map(|l| l.value.clone())
                    .collect(),
            };
            if checked.iter().any(|other| other.name == page.name) {
                let message = "two addresses of one service need different hosts or ports, or its requests are counted twice";
                problems.at(text.span.clone(), Show::Nothing, message);
            }
            checked.push(page);
        }
        if scrape.timeout > scrape.interval {
            problems.warn(format!(
                "[[service]] \"{}\": the timeout of scrape is longer than its interval, so a slow page is read less often",
                name.written
            ));
        }
    }
    checked
}

/// The address under `key` without its user and password, and these.
pub(super) fn address(
    key: &str,
    text: &Text,
    problems: &Problems,
) -> Option<(Url, Option<Credentials>)> {
    // A password may stand in it, so nothing of it is printed.
    let refuse = |message: String| problems.at(text.span.clone(), Show::Nothing, message);
    let Ok(mut url) = Url::parse(&text.value) else {
        refuse(format!(
            "\"{key}\" must be an address such as \"http://registry:8000/metrics\""
        ));
        return None;
    };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        refuse(format!(
            "\"{key}\" must begin with http:// or https:// and a host"
        ));
        return None;
    }
    let decoded = |part: &str| {
        percent_encoding::percent_decode_str(part)
            .decode_utf8_lossy()
            .into_owned()
    };
    let inline = (!url.username().is_empty()).then(|| Credentials::Basic {
        username: decoded(url.username()),
        password: url
            .password()
            .map_or(Secret::Absent, |word| Secret::Here(decoded(word))),
    });
    // Cannot fail: the URL has a host.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    Some((url, inline))
}

pub(super) fn credentials(owner: &str, login: &Login, problems: &Problems) -> Credentials {
    for text in [
        &login.password_file,
        &login.bearer_token_file,
        &login.ca_file,
    ]
    .into_iter()
    .flatten()
    {
        if let Err(error) = plain_file::open(Path::new(&text.value)) {
            let message = format!("{} cannot be read: {error}", text.written);
            problems.at(text.span.clone(), Show::Span, message);
        }
    }
    let password = path(login.password_file.as_ref());
    if let Some(token) = path(login.bearer_token_file.as_ref()) {
        if login.username.is_some() || password.is_some() {
            problems.warn(format!(
                "{owner} has a bearer_token_file, so its username and password_file are not used"
            ));
        }
        return Credentials::Bearer(token);
    }
    match (&login.username, password) {
        (Some(username), password) => Credentials::Basic {
            username: username.value.clone(),
            password: password.map_or(Secret::Absent, Secret::File),
        },
        (None, Some(_)) => {
            let text = login.password_file.as_ref();
            let span = text.map_or(0..0, |text| text.span.clone());
            problems.at(
                span,
                Show::Span,
                "\"password_file\" needs a \"username\" beside it",
            );
            Credentials::None
        }
        (None, None) => Credentials::None,
    }
}

pub(super) fn path(text: Option<&Text>) -> Option<PathBuf> {
    text.map(|text| PathBuf::from(&text.value))
}
