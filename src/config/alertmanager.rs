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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AlertmanagerConfig {
    pub urls: Vec<AlertmanagerUrl>,
    /// PEM file of the authorities to trust; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Where people reach this snowpit, without a slash at the end.
    pub external_url: Option<String>,
}

/// One Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigErrors, Credentials};

    fn parse(section: &str) -> Result<Config, ConfigErrors> {
        let server = "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://u@h/d\"\n";
        let text = format!("{server}[alertmanager]\n{section}\n");
        Config::parse(&text, "the test", |_| None)
    }

    #[test]
    fn a_url_may_have_a_path_and_a_login() {
        let config = parse(
            "urls = [\"http://a:9093/\", \"https://me:hunter2@b.example/am/\"]\n\
             external_url = \"https://pit.example/\"",
        );
        let config = config.unwrap().alertmanager;
        let urls: Vec<_> = config.urls.iter().map(|url| url.url.as_str()).collect();
        assert_eq!(urls, ["http://a:9093", "https://b.example/am"]);
        assert_eq!(config.urls[1].name, "b.example/am");
        assert!(matches!(
            config.urls[1].credentials,
            Credentials::Basic { .. }
        ));
        assert!(!format!("{config:?}").contains("hunter2"));
        assert_eq!(config.external_url.as_deref(), Some("https://pit.example"));
        assert!(parse("").unwrap().alertmanager.urls.is_empty());
    }

    #[test]
    fn what_cannot_be_pushed_to_is_told_with_its_line() {
        for (section, part) in [
            (
                "urls = [\"alertmanager:9093\"]",
                "must begin with http:// or https://",
            ),
            ("urls = [\"no address\"]", "must be an address"),
            ("urls = [\"http://a\", \"http://a/\"]", "twice"),
            ("urls = [\"http://a\"]\nurl = \"b\"", "unknown key \"url\""),
            (
                "external_url = \"https://u:hunter2@a\"",
                "take the user and password out",
            ),
            (
                "urls = [\"http://a\"]\nusername = \"u\"\npassword_file = \"/nowhere\"",
                "cannot be read",
            ),
        ] {
            let report = parse(section).unwrap_err().to_string();
            assert!(report.contains(part), "{section}: {report}");
            assert!(report.contains("the test:"), "{report}");
            assert!(!report.contains("hunter2"), "{report}");
        }
    }
}
