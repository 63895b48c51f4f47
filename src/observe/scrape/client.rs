//! Fetching a metrics page: one GET, bounded in every direction.
//!
//! Invariants: a body is read in pieces and never kept; it has a limit on the
//! wire and another one unpacked, so that neither an endless page nor a gzip
//! bomb takes memory or the processor for long; credentials go to the
//! configured host only; no error shows a secret.

use std::error::Error as _;
use std::io::{self, Write};
use std::path::Path;

use flate2::write::MultiGzDecoder;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION,
};
use reqwest::redirect::Policy;
use reqwest::{RequestBuilder, Response, StatusCode};

use super::page::{Page, Reader, Wanted};
use crate::config::{Credentials, ScrapeConfig, Secret, plain_file};
use crate::observe::failure::one_line;
use crate::observe::poll::unix_now;
use crate::observe::{PollError, tls};
use crate::sample::{FailureReason, UnixSeconds};

/// Most bytes of a page on the wire.
pub const MAX_WIRE: usize = 16 * 1024 * 1024;

/// Most bytes of a page when unpacked. Text of 10,000 series has one or two
/// megabytes.
pub const MAX_PLAIN: usize = 32 * 1024 * 1024;

/// Packed bytes taken at a time: gzip makes at most 1,032 of one, so no more
/// than half a megabyte is read before others get their turn.
const MORSEL: usize = 512;

/// Unpacked bytes after which others get their turn.
const TURN: usize = 256 * 1024;

/// No password or token is longer.
const MAX_SECRET: u64 = 64 * 1024;

/// Redirects that are followed, on the same host only.
const MAX_REDIRECTS: usize = 3;

/// OpenMetrics first, then the older text.
const ACCEPTED: &str =
    "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.7,*/*;q=0.1";

/// A client of one page. It keeps its connection between two looks.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    config: ScrapeConfig,
    /// How the page is called where it is told of.
    shown: String,
}

impl Client {
    /// # Errors
    /// When the certificates to trust cannot be read.
    pub fn new(config: &ScrapeConfig) -> Result<Self, PollError> {
        let policy = Policy::custom(|attempt| {
            let first = attempt.previous().first();
            let same = first.is_some_and(|first| first.origin() == attempt.url().origin());
            if same && attempt.previous().len() <= MAX_REDIRECTS {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("snowpit/", env!("CARGO_PKG_VERSION")))
            .redirect(policy)
            .no_proxy()
            .no_gzip()
            .connect_timeout(config.timeout)
            .timeout(config.timeout)
            .pool_max_idle_per_host(1);
        if config.url.scheme() == "https" {
            builder =
                builder.tls_backend_preconfigured(tls::web_client(config.ca_file.as_deref())?);
        } else {
            tls::use_ring();
        }
        let http = builder.build().map_err(|error| {
            let what = one_line(&error.to_string());
            PollError::new(
                FailureReason::Other,
                format!("the HTTP client cannot be made: {what}"),
            )
        })?;
        Ok(Self {
            http,
            shown: config.shown(),
            config: config.clone(),
        })
    }

    /// Reads the page, and tells when it was written. `wanted.openmetrics` is
    /// set from the answer.
    ///
    /// # Errors
    /// When there is no answer in time, or it is no page of metrics.
    pub async fn page(&self, mut wanted: Wanted) -> Result<(UnixSeconds, Page), PollError> {
        let request = self
            .http
            .get(self.config.url.clone())
            .header(ACCEPT, ACCEPTED)
            .header(ACCEPT_ENCODING, "gzip");
        let request = self.authorized(request).await?;
        let answer = request
            .send()
            .await
            .map_err(|error| self.unanswered(error))?;
        let at = unix_now();
        let answer = self.accepted(answer)?;
        let kind = header(answer.headers(), CONTENT_TYPE);
        if kind.starts_with("text/html") {
            return Err(self.no_metrics("it is HTML"));
        }
        wanted.openmetrics = kind.starts_with("application/openmetrics-text");
        let page = self.body(answer, Reader::new(wanted)).await?;
        if page.samples == 0 && page.rejected.total() > 0 {
            return Err(self.no_metrics("not one line of it is a sample"));
        }
        Ok((at, page))
    }

    async fn authorized(&self, request: RequestBuilder) -> Result<RequestBuilder, PollError> {
        Ok(match &self.config.credentials {
            Credentials::None => request,
            Credentials::Basic { username, password } => {
                let password = match password {
                    Secret::Absent => None,
                    Secret::Here(password) => Some(password.clone()),
                    Secret::File(file) => Some(secret("password_file", file).await?),
                };
                request.basic_auth(username, password)
            }
            Credentials::Bearer(file) => {
                request.bearer_auth(secret("bearer_token_file", file).await?)
            }
        })
    }

    fn accepted(&self, answer: Response) -> Result<Response, PollError> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let shown = &self.shown;
        let (reason, message) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::PROXY_AUTHENTICATION_REQUIRED => (
                FailureReason::Auth,
                format!(
                    "{shown} wants a login ({status}): set username and password_file, or bearer_token_file, in scrape"
                ),
            ),
            StatusCode::FORBIDDEN => (
                FailureReason::Permission,
                format!(
                    "{shown} does not let us read it ({status}): allow it to this user or address"
                ),
            ),
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => (
                FailureReason::Refused,
                format!("{shown} does not serve now ({status}): it is tried again"),
            ),
            _ if status.is_redirection() => {
                let host = redirected_to(&answer);
                (
                    FailureReason::Protocol,
                    format!(
                        "{shown} redirects to {host}, and no redirect to another host is followed: give the address of the page itself"
                    ),
                )
            }
            _ => (
                FailureReason::Protocol,
                format!("{shown} answers {status}: correct the path in the url"),
            ),
        };
        Err(PollError::new(reason, message))
    }

    async fn body(&self, mut answer: Response, reader: Reader) -> Result<Page, PollError> {
        let encoding = header(answer.headers(), CONTENT_ENCODING);
        let mut body = match encoding.as_str() {
            "" | "identity" => Body::Plain(Box::new(Sink::new(reader))),
            "gzip" | "x-gzip" => Body::Gzip(Box::new(MultiGzDecoder::new(Sink::new(reader)))),
            other => {
                let other = one_line(other);
                return Err(self.no_metrics(&format!(
                    "it is packed with {other:?}, and only gzip was asked for"
                )));
            }
        };
        let (mut wire, mut turn) = (0, 0);
        while let Some(piece) = answer
            .chunk()
            .await
            .map_err(|error| self.unanswered(error))?
        {
            wire += piece.len();
            if wire > MAX_WIRE {
                return Err(self.too_long(MAX_WIRE, "on the wire"));
            }
            for morsel in piece.chunks(body.morsel()) {
                body.write_all(morsel)
                    .map_err(|error| self.unpacked(&error))?;
                if body.sink().taken - turn > TURN {
                    turn = body.sink().taken;
                    tokio::task::yield_now().await;
                }
            }
        }
        let sink = match body {
            Body::Plain(sink) => *sink,
            Body::Gzip(gzip) => gzip.finish().map_err(|error| self.unpacked(&error))?,
        };
        Ok(sink.reader.finish())
    }

    fn unpacked(&self, error: &io::Error) -> PollError {
        if error.kind() == io::ErrorKind::FileTooLarge {
            self.too_long(MAX_PLAIN, "unpacked")
        } else {
            self.no_metrics("its gzip is damaged or was cut")
        }
    }

    fn too_long(&self, limit: usize, how: &str) -> PollError {
        let mebibytes = limit / (1024 * 1024);
        PollError::new(
            FailureReason::Protocol,
            format!(
                "the page at {} is longer than {mebibytes} MiB {how}: look whether it is one of metrics, or drop labels that are different for each request",
                self.shown
            ),
        )
    }

    fn no_metrics(&self, why: &str) -> PollError {
        PollError::new(
            FailureReason::Protocol,
            format!(
                "what {} answers is no page of metrics ({why}): correct the path in the url",
                self.shown
            ),
        )
    }

    /// There was no answer, or it broke off.
    fn unanswered(&self, error: reqwest::Error) -> PollError {
        let shown = &self.shown;
        let (reason, message) = if error.is_timeout() {
            let seconds = self.config.timeout.as_secs_f64();
            (
                FailureReason::Timeout,
                format!(
                    "{shown} did not answer within {seconds} s: look for an overloaded application, or raise timeout in scrape"
                ),
            )
        } else {
            match Cause::of(&error) {
                Cause::Tls(what) => (
                    FailureReason::Tls,
                    format!(
                        "TLS with {shown} failed ({what}): check ca_file and the names in its certificate"
                    ),
                ),
                Cause::Io(io::ErrorKind::ConnectionRefused) => (
                    FailureReason::Refused,
                    format!("nothing listens at {shown}: start the application or correct the url"),
                ),
                Cause::Io(
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe,
                ) => (
                    FailureReason::Refused,
                    format!(
                        "{shown} closed the connection: it is restarting, or it speaks no HTTP there"
                    ),
                ),
                Cause::Io(_) | Cause::Other(_) if error.is_connect() => (
                    FailureReason::Other,
                    format!("{shown} cannot be reached: correct host and port in the url"),
                ),
                Cause::Io(kind) => (
                    FailureReason::Other,
                    format!("reading {shown} failed: {kind}"),
                ),
                Cause::Other(what) => (
                    FailureReason::Protocol,
                    format!("{shown} does not speak HTTP as it should ({what}): correct the url"),
                ),
            }
        };
        PollError {
            source: Some(Box::new(error.without_url())),
            ..PollError::new(reason, message)
        }
    }
}

/// What lies beneath an error of the HTTP client.
enum Cause {
    Io(io::ErrorKind),
    Tls(String),
    Other(String),
}

impl Cause {
    fn of(error: &reqwest::Error) -> Self {
        let mut last = String::new();
        let mut io = None;
        let mut next = error.source();
        while let Some(cause) = next {
            last = one_line(&cause.to_string());
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(one_line(&tls.to_string()));
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                if let Some(tls) = wrapped(error) {
                    return Self::Tls(one_line(&tls.to_string()));
                }
                io = Some(innermost(error).kind());
            }
            next = cause.source();
        }
        io.map_or(Self::Other(last), Self::Io)
    }
}

/// The error of TLS in one of a stream, which may be wrapped more than once and
/// is not its source.
fn wrapped(error: &io::Error) -> Option<&rustls::Error> {
    innermost(error).get_ref()?.downcast_ref()
}

fn innermost(error: &io::Error) -> &io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map_or(error, innermost)
}

/// A header in lower case; empty when it is absent.
fn header(headers: &HeaderMap, name: reqwest::header::HeaderName) -> String {
    let value = headers.get(name).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().trim().to_ascii_lowercase()
}

/// The host that an answer points to, and nothing else of it.
fn redirected_to(answer: &Response) -> String {
    let location = answer.headers().get(LOCATION);
    let target = location
        .and_then(|value| value.to_str().ok())
        .and_then(|value| answer.url().join(value).ok());
    let host = target.as_ref().and_then(reqwest::Url::host_str);
    host.map_or_else(|| "nowhere".to_owned(), one_line)
}

/// A secret, the one line of its file, read anew each time so that a rotated one
/// is taken up.
///
/// # Errors
/// The file cannot be read, or holds more than one line.
pub async fn secret(key: &str, file: &Path) -> Result<String, PollError> {
    let problem = |what: String| {
        PollError::new(
            FailureReason::Auth,
            format!("{key} {}: {what}", file.display()),
        )
    };
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || plain_file::read(&path, MAX_SECRET)).await;
    let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
    let read = read.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    let text = read.map_err(|error| problem(format!("it cannot be read: {error}")))?;
    let line = text.trim_end_matches(['\n', '\r']);
    if line.is_empty() || line.contains(['\n', '\r']) {
        return Err(problem("it must hold one line and nothing else".to_owned()));
    }
    Ok(line.to_owned())
}

/// The way from the wire to the reader.
enum Body {
    Plain(Box<Sink>),
    Gzip(Box<MultiGzDecoder<Sink>>),
}

impl Body {
    fn sink(&self) -> &Sink {
        match self {
            Self::Plain(sink) => sink,
            Self::Gzip(gzip) => gzip.get_ref(),
        }
    }

    fn morsel(&self) -> usize {
        match self {
            Self::Plain(_) => TURN,
            Self::Gzip(_) => MORSEL,
        }
    }

    fn write_all(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.write_all(piece),
            Self::Gzip(gzip) => gzip.write_all(piece),
        }
    }
}

/// Feeds the reader until there is too much.
struct Sink {
    reader: Reader,
    taken: usize,
}

impl Sink {
    fn new(reader: Reader) -> Self {
        Self { reader, taken: 0 }
    }
}

impl Write for Sink {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        self.taken += piece.len();
        if self.taken > MAX_PLAIN {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.reader.feed(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
