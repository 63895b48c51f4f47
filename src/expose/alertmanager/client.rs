//! One request to one Alertmanager, bounded in time and in what is read of the
//! answer. No redirect is followed, and no error shows a secret.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Response, StatusCode};

use super::alert::Alert;
use super::health::Failure;
use crate::config::{AlertmanagerUrl, Credentials, Secret};
use crate::observe::failure::one_line;
use crate::observe::scrape::secret;
use crate::observe::{PollError, tls};
use crate::sample::FailureReason;

/// How long a request may take: Alertmanager only puts it into memory.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Of a refusal, what is read and told: it says what is wrong in a sentence.
const ANSWER_BYTES: usize = 1024;

/// Why an Alertmanager did not take alerts.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SendError {
    pub failure: Failure,
    message: String,
}

/// Keeps its connection between two requests.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    credentials: Credentials,
}

impl Client {
    /// # Errors
    /// When the certificates to trust cannot be read.
    pub fn new(to: &AlertmanagerUrl, ca_file: Option<&Path>) -> Result<Self, PollError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("snowpit/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .no_proxy()
            .timeout(TIMEOUT)
            .pool_max_idle_per_host(1);
        if to.url.starts_with("https:") {
            builder = builder.tls_backend_preconfigured(tls::web_client(ca_file)?);
        }
        let http = builder.build().map_err(|error| {
            let what = one_line(&error.to_string());
            let message = format!("the HTTP client cannot be made: {what}");
            PollError::new(FailureReason::Other, message)
        })?;
        Ok(Self {
            http,
            url: format!("{}/api/v2/alerts", to.url),
            credentials: to.credentials.clone(),
        })
    }

    /// # Errors
    /// They were not taken, or nobody knows.
    pub async fn send(&self, alerts: &[Alert]) -> Result<(), SendError> {
        let request = self.http.post(&self.url).json(alerts);
        let request = match &self.credentials {
            Credentials::None => request,
            Credentials::Basic { username, password } => {
                let password = match password {
                    Secret::Absent => None,
                    Secret::Here(password) => Some(password.clone()),
                    Secret::File(file) => Some(self.secret("password_file", file).await?),
                };
                request.basic_auth(username, password)
            }
            Credentials::Bearer(file) => {
                request.bearer_auth(self.secret("bearer_token_file", file).await?)
            }
        };
        let answer = request.send().await.map_err(|error| self.unsent(&error))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        Err(self.refused(status, answer).await)
    }

    async fn secret(&self, key: &str, file: &Path) -> Result<String, SendError> {
        let read = secret(key, file).await;
        read.map_err(|error| SendError {
            failure: Failure::Rejected,
            message: format!("[alertmanager] {error}"),
        })
    }

    fn unsent(&self, error: &reqwest::Error) -> SendError {
        let mut words = String::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            words = format!("{words}: {error}");
            cause = error.source();
        }
        let words = one_line(&words);
        let url = &self.url;
        let (failure, remedy) = if error.is_timeout() {
            (Failure::Timeout, "see whether it is overloaded")
        } else if words.to_lowercase().contains("certificate") {
            (Failure::Tls, "set [alertmanager] ca_file to who signed it")
        } else if error.is_connect() {
            (Failure::Connect, "see whether it runs, and correct the url")
        } else {
            (Failure::Error, "see its log")
        };
        SendError {
            failure,
            message: format!("{url} does not take alerts{words}; {remedy}; it is tried again"),
        }
    }

    async fn refused(&self, status: StatusCode, mut answer: Response) -> SendError {
        let mut said = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            said.extend_from_slice(&piece);
            if said.len() >= ANSWER_BYTES {
                said.truncate(ANSWER_BYTES);
                break;
            }
        }
        let said = one_line(&String::from_utf8_lossy(&said));
        let (failure, remedy) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (
                Failure::Rejected,
                "set username and password_file, or bearer_token_file, in [alertmanager]",
            ),
            _ if status.is_server_error() => (Failure::Error, "see its log"),
            _ => (
                Failure::Rejected,
                "correct the url: it is that of Alertmanager's page, with the path prefix it has there",
            ),
        };
        let url = &self.url;
        SendError {
            failure,
            message: format!("{url} answers {status}: {said}; {remedy}; it is tried again"),
        }
    }
}
