//! `[alertmanager]`, checked: where alerts are pushed to, and as whom.

use std::path::PathBuf;

use reqwest::Url;

use super::problem::{Problems, Show};
use super::reader::{Table, Text};
use super::scrape::{self, Credentials};
use super::shape::{self, Login};

/// More than a cluster has.
const MAX_URLS: usize = 16;

/// The section as the file has it.
pub(super) struct Section {
    urls: Vec<Text>,
    external_url: Option<Text>,
    login: Login,
}

/// Where alerts go; without `urls` nowhere.
#[derive(Debug, Clone, Default)]
pub struct AlertmanagerConfig {
    pub urls: Vec<AlertmanagerUrl>,
    /// PEM file of the authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Where people reach this snowpit, without a slash at the end.
    pub external_url: Option<String>,
}

/// One Alertmanager.
#[derive(Debug, Clone)]
pub struct AlertmanagerUrl {
    /// Host, port and path prefix: the label `alertmanager`.
    pub name: String,
    /// Without user and password, query and fragment, and without a slash at the
    /// end.
    pub url: String,
    pub credentials: Credentials,
}

/// Reads the section.
pub(super) fn read(table: Table<'_>) -> Section {
    let section = Section {
        urls: table.texts("urls").unwrap_or_default(),
        external_url: table.text("external_url"),
        login: shape::read_login(&table),
    };
    table.finish();
    section
}

/// How it fits together.
pub(super) fn check(section: &Section, problems: &Problems) -> AlertmanagerConfig {
    let credentials = scrape::credentials("[alertmanager]", &section.login, problems);
    if let Some(text) = section.urls.get(MAX_URLS) {
        let message = format!("at most {MAX_URLS} Alertmanagers are pushed to");
        problems.at(text.span.clone(), Show::Nothing, message);
    }
    let mut urls: Vec<AlertmanagerUrl> = Vec::new();
    for text in &section.urls {
        let Some((url, inline)) = scrape::address("urls", text, problems) else {
            continue;
        };
        let name = name(&url);
        if urls.iter().any(|known| known.name == name) {
            let message = "this Alertmanager is in \"urls\" twice; take one out";
            problems.at(text.span.clone(), Show::Nothing, message);
        }
        urls.push(AlertmanagerUrl {
            url: format!("{}://{name}", url.scheme()),
            name,
            credentials: inline.unwrap_or_else(|| credentials.clone()),
        });
    }
    let external = section.external_url.as_ref();
    let external = external.and_then(|text| {
        let (url, login) = scrape::address("external_url", text, problems)?;
        if login.is_some() {
            let message = "\"external_url\" is shown to everybody who gets an alert: take the user and password out";
            problems.at(text.span.clone(), Show::Nothing, message);
        }
        Some(format!("{}://{}", url.scheme(), self::name(&url)))
    });
    AlertmanagerConfig {
        urls,
        ca_file: scrape::path(section.login.ca_file.as_ref()),
        external_url: external,
    }
}

/// `alertmanager:9093`, with the path behind it where there is one.
fn name(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!("{host}{port}{}", url.path().trim_end_matches('/'))
}
