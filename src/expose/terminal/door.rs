//! The way to what a daemon knows: over HTTP, or in this process.
//!
//! Invariants: a request has an end and an answer a limit; no error and no
//! `Debug` shows a password or a token.

use std::error::Error as _;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use percent_encoding::percent_decode_str;
use reqwest::redirect::Policy;
use reqwest::{StatusCode, Url};

use crate::expose::web::Desk;
use crate::observe::failure::one_line;
use crate::observe::scrape::secret;
use crate::observe::tls;

/// How long an answer may take: it is made from memory, over a slow line.
const TIMEOUT: Duration = Duration::from_secs(8);

/// The longest answer: five thousand locks are about 3 MB.
const LIMIT: usize = 32 * 1024 * 1024;

/// Of a refusal, what is told.
const REFUSAL: usize = 300;

/// Why there is no answer: a sentence, and what to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    #[error("the address {0:?} cannot be read: write it as http://127.0.0.1:9899")]
    Address(String),
    #[error("{0}")]
    Setting(String),
    #[error("nothing answers at {address}: {why}")]
    Unreachable { address: String, why: String },
    #[error("{address} asks who you are (401): {remedy}")]
    Unknown {
        address: String,
        remedy: &'static str,
    },
    #[error("{address} has no {path} (404): is it snowpit, and of this version?")]
    Missing { address: String, path: String },
    #[error("{address} answers {status}: {words}")]
    Refused {
        address: String,
        status: StatusCode,
        words: String,
    },
    #[error("{address} answers {path} with what is no answer of snowpit: {why}")]
    Nonsense {
        address: String,
        path: String,
        why: String,
    },
}

/// Who answers.
#[derive(Debug)]
pub enum Door {
    Daemon(Daemon),
    /// The program polls by itself.
    Here(Desk),
}

/// A daemon at an address.
pub struct Daemon {
    http: reqwest::Client,
    /// Without credentials, and without a slash at its end.
    address: String,
    login: Login,
}

impl fmt::Debug for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Daemon({})", self.address)
    }
}

enum Login {
    None,
    Basic(String, Option<String>),
    Bearer(PathBuf),
}

impl Daemon {
    /// `url` may have a user and a password; `token` is a file with a bearer
    /// token, read for each request, so that a new one is taken.
    ///
    /// # Errors
    /// The address cannot be read, or the certificates of `ca_file` cannot.
    pub fn new(
        url: &str,
        ca_file: Option<PathBuf>,
        token: Option<PathBuf>,
    ) -> Result<Self, Refusal> {
        tls::use_ring();
        // What cannot be read may have a password in it: nothing of it is told
        // but what is behind the last "@".
        let told = || {
            let (_, shown) = url.rsplit_once('@').unwrap_or(("", url));
            shown.chars().take(80).collect::<String>()
        };
        let parsed = Url::parse(url).ok();
        let mut base = parsed
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or_else(|| Refusal::Address(told()))?;
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let user = decoded(base.username());
        let password = base.password().map(decoded);
        let login = match (token, user.is_empty() && password.is_none()) {
            (Some(_), false) => {
                let words = "give a user in --url or --bearer-token-file, not both";
                return Err(Refusal::Setting(words.to_owned()));
            }
            (Some(file), true) => Login::Bearer(file),
            (None, true) => Login::None,
            (None, false) => Login::Basic(user, password),
        };
        // These fail only for an address without a host.
        let _ = base.set_username("");
        let _ = base.set_password(None);
        base.set_query(None);
        base.set_fragment(None);
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("snowpit/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1);
        if base.scheme() == "https" {
            let config = tls::web_client(ca_file.as_deref())
                .map_err(|error| Refusal::Setting(error.message))?;
            builder = builder.tls_backend_preconfigured(config);
        } else if ca_file.is_some() {
            let words = "--ca-file is for an https address";
            return Err(Refusal::Setting(words.to_owned()));
        }
        let http = builder.build().map_err(|error| {
            Refusal::Setting(format!("the HTTP client cannot be made: {}", words(&error)))
        })?;
        Ok(Self {
            http,
            address: base.as_str().trim_end_matches('/').to_owned(),
            login,
        })
    }

    async fn get(&self, path: &str) -> Result<(StatusCode, Bytes), Refusal> {
        let request = self.http.get(format!("{}{path}", self.address));
        let request = match &self.login {
            Login::None => request,
            Login::Basic(user, password) => request.basic_auth(user, password.as_ref()),
            Login::Bearer(file) => {
                let token = secret("--bearer-token-file", file).await;
                request.bearer_auth(token.map_err(|error| Refusal::Setting(error.message))?)
            }
        };
        let unreachable = |error: reqwest::Error| Refusal::Unreachable {
            address: self.address.clone(),
            why: words(&error),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if body.len() + chunk.len() > LIMIT {
                return Err(self.nonsense(path, "it is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((response.status(), body.freeze()))
    }

    fn nonsense(&self, path: &str, why: String) -> Refusal {
        Refusal::Nonsense {
            address: self.address.clone(),
            path: path.to_owned(),
            why,
        }
    }

    fn refused(&self, status: StatusCode, path: &str, body: &[u8]) -> Refusal {
        let address = self.address.clone();
        // The query of a path says nothing to a person.
        let path = path.split('?').next().unwrap_or_default().to_owned();
        let answer: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let told = answer.as_ref().and_then(|answer| answer["error"].as_str());
        match (status, told) {
            (StatusCode::UNAUTHORIZED, _) => Refusal::Unknown {
                address,
                remedy: match self.login {
                    Login::None => {
                        "give --bearer-token-file, or user:password@ before the host in --url"
                    }
                    _ => "it does not know this user and password, or this token",
                },
            },
            // What is missing by an own sentence is not a missing path.
            (StatusCode::NOT_FOUND, None) => Refusal::Missing { address, path },
            (status, told) => Refusal::Refused {
                address,
                status,
                words: told.unwrap_or(&path).chars().take(REFUSAL).collect(),
            },
        }
    }
}

impl Door {
    /// What is answered to a GET of `path`.
    ///
    /// # Errors
    /// There is no answer, or it is no good one.
    pub(super) async fn get(&self, path: &str) -> Result<Bytes, Refusal> {
        match self {
            Self::Daemon(daemon) => {
                let (status, body) = daemon.get(path).await?;
                if status.is_success() {
                    return Ok(body);
                }
                Err(daemon.refused(status, path, &body))
            }
            Self::Here(desk) => {
                let here = || "this program".to_owned();
                let answer = desk.get(path, LIMIT).await;
                let answer = answer.ok_or_else(|| Refusal::Nonsense {
                    address: here(),
                    path: path.to_owned(),
                    why: "it is too long".to_owned(),
                })?;
                if answer.status.is_success() {
                    return Ok(answer.body);
                }
                Err(Refusal::Refused {
                    address: here(),
                    status: answer.status,
                    words: String::from_utf8_lossy(&answer.body)
                        .chars()
                        .take(REFUSAL)
                        .collect(),
                })
            }
        }
    }

    /// What an answer that cannot be understood is.
    pub(super) fn nonsense(&self, path: &str, error: &serde_json::Error) -> Refusal {
        let why = error.to_string();
        match self {
            Self::Daemon(daemon) => daemon.nonsense(path, why),
            Self::Here(_) => Refusal::Nonsense {
                address: "this program".to_owned(),
                path: path.to_owned(),
                why,
            },
        }
    }

    /// Who is asked, without a secret.
    pub(super) fn source(&self) -> String {
        match self {
            Self::Daemon(daemon) => daemon.address.clone(),
            Self::Here(_) => "the servers themselves".to_owned(),
        }
    }
}

/// The innermost cause, which says most. The outer ones quote the address.
fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let mut cause = error.source();
    let mut text = "the connection failed".to_owned();
    while let Some(inner) = cause {
        text = inner.to_string();
        cause = inner.source();
    }
    one_line(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        Daemon::new(url, None, None)
            .map(|_| ())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_password_is_never_shown() {
        let daemon = Daemon::new("http://ops:se%40cret@127.0.0.1:9899/", None, None).unwrap();
        assert_eq!(format!("{daemon:?}"), "Daemon(http://127.0.0.1:9899)");
        assert!(matches!(&daemon.login, Login::Basic(user, Some(password))
            if user == "ops" && password == "se@cret"));
        for url in [
            "ops:secret@127.0.0.1:9899",
            "ftp://ops:secret@h/",
            "http://ops:secret@",
        ] {
            assert!(!refusal(url).contains("secret"), "{}", refusal(url));
        }
    }

    #[test]
    fn an_address_says_how_it_is_written() {
        for url in ["", "127.0.0.1:9899", "localhost", "unix:///run/snowpit"] {
            assert!(
                refusal(url).contains("http://127.0.0.1:9899"),
                "{}",
                refusal(url)
            );
        }
        let both = Daemon::new("http://u:p@h", None, Some("token".into()));
        assert!(both.unwrap_err().to_string().contains("not both"));
        let ca = Daemon::new("http://h", Some("ca.pem".into()), None);
        assert!(ca.unwrap_err().to_string().contains("https"));
    }
}
