//! What one section of the configuration asks of those who come in, kept up to
//! date with its files.
//!
//! Invariants: a connection or request sees one state of the files, whole; a
//! file that has become bad leaves everything as it was, is logged once, and is
//! tried again when it changes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use axum::http::HeaderMap;
use ring::digest;

use super::certificates::Tls;
use super::credentials::{Credentials, PasswordHash};
use super::login::{Denied, Login};
use super::{Listener, Origin, Tally};
use crate::config::plain_file;
use crate::observe::poll::unix_now;
use crate::sample::UnixSeconds;

/// How often the files are read. They are small, and a certificate is renewed
/// weeks before it must be.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(10);

/// No certificate, key or token file is longer; a wrong path may be a device.
const FILE_LIMIT: u64 = 1024 * 1024;

/// What a section asks for. Without TLS, users and token it asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AccessConfig {
    pub tls: Option<TlsFiles>,
    /// By name.
    pub users: BTreeMap<String, PasswordHash>,
    pub bearer_token_file: Option<PathBuf>,
    /// Whether health pages need neither user nor token.
    pub open_health: bool,
}

/// The files of TLS, all in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those between it and the authority.
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The authorities whose certificates clients must show; `None`: they need
    /// none.
    pub client_ca_file: Option<PathBuf>,
}

/// One file, and why it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} {}: {what}", .path.display())]
pub struct FileProblem {
    /// Its key in the configuration.
    pub key: &'static str,
    pub path: PathBuf,
    pub what: String,
}

impl FileProblem {
    pub(super) fn new(key: &'static str, path: &Path, what: impl Into<String>) -> Self {
        Self {
            key,
            path: path.to_owned(),
            what: what.into(),
        }
    }
}

/// The files that cannot be used, by section.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(|(section, problem)| format!("{section} {problem}")).collect::<Vec<_>>().join("; "))]
pub struct AccessErrors(Vec<(&'static str, FileProblem)>);

impl AccessErrors {
    pub(super) fn both<A, B>(a: Result<A, Self>, b: Result<B, Self>) -> Result<(A, B), Self> {
        match (a, b) {
            (Ok(a), Ok(b)) => Ok((a, b)),
            (Err(mut a), Err(b)) => {
                a.0.extend(b.0);
                Err(a)
            }
            (Err(error), _) | (_, Err(error)) => Err(error),
        }
    }
}

impl AccessConfig {
    /// Whether it asks for a password, a token or a certificate.
    pub fn asks(&self) -> bool {
        let tls = self.tls.as_ref();
        self.has_secrets() || tls.is_some_and(|tls| tls.client_ca_file.is_some())
    }

    /// Whether clients send passwords or tokens.
    pub fn has_secrets(&self) -> bool {
        !self.users.is_empty() || self.bearer_token_file.is_some()
    }

    /// Reads the files: what is wrong with them, and what is unwise.
    pub fn examine(&self) -> (Vec<FileProblem>, Option<&'static str>) {
        match State::new(self.clone()) {
            Ok(state) => {
                let tls = state.current.tls.as_ref();
                (Vec::new(), tls.and_then(|tls| tls.warning(unix_now())))
            }
            Err(problems) => (problems, None),
        }
    }

    fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let token = self.bearer_token_file.as_deref();
        let tls = self.tls.iter().flat_map(TlsFiles::paths);
        tls.chain(token.map(|path| ("bearer_token_file", path)))
    }
}

/// What the files held when they were read.
pub(super) struct Files {
    read: BTreeMap<&'static str, Result<Vec<u8>, String>>,
    print: [u8; digest::SHA256_OUTPUT_LEN],
}

impl Files {
    fn read(config: &AccessConfig) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut read = BTreeMap::new();
        for (key, path) in config.paths() {
            let bytes = read_bounded(path);
            let (good, text) = match &bytes {
                Ok(bytes) => (1, bytes.as_slice()),
                Err(error) => (0, error.as_bytes()),
            };
            context.update(&[good]);
            context.update(&text.len().to_le_bytes());
            context.update(text);
            read.insert(key, bytes);
        }
        let mut print = [0; digest::SHA256_OUTPUT_LEN];
        print.copy_from_slice(context.finish().as_ref());
        Self { read, print }
    }

    pub(super) fn bytes(&self, key: &'static str, path: &Path) -> Result<&[u8], FileProblem> {
        match self.read.get(key) {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(FileProblem::new(key, path, error.as_str())),
            None => Err(FileProblem::new(key, path, "was not read")),
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = plain_file::read(path, FILE_LIMIT + 1);
    let bytes = bytes.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err("is longer than 1 MiB".to_owned());
    }
    Ok(bytes)
}

/// One state of the files, whole.
#[derive(Debug)]
struct Current {
    tls: Option<Arc<Tls>>,
    credentials: Arc<Credentials>,
}

#[derive(Debug)]
struct State {
    config: AccessConfig,
    /// Of the files as they were read last, good or bad.
    print: [u8; digest::SHA256_OUTPUT_LEN],
    current: Current,
}

impl State {
    fn new(config: AccessConfig) -> Result<Self, Vec<FileProblem>> {
        let files = Files::read(&config);
        let current = Current::new(&config, &files)?;
        Ok(Self {
            config,
            print: files.print,
            current,
        })
    }
}

impl Current {
    fn new(config: &AccessConfig, files: &Files) -> Result<Self, Vec<FileProblem>> {
        let mut problems = Vec::new();
        let tls = config.tls.as_ref().map(|tls| Tls::new(tls, files));
        let tls = tls.transpose().unwrap_or_else(|found| {
            problems.extend(found);
            None
        });
        match Credentials::new(config, files) {
            Ok(credentials) if problems.is_empty() => Ok(Self {
                tls: tls.map(Arc::new),
                credentials: Arc::new(credentials),
            }),
            Ok(_) => Err(problems),
            Err(problem) => {
                problems.push(problem);
                Err(problems)
            }
        }
    }
}

impl Current {
    /// The next one. The same credentials stay, with who was right lately.
    fn followed_by(&self, mut next: Self) -> Self {
        if self.credentials.are_those(&next.credentials) {
            next.credentials = Arc::clone(&self.credentials);
        }
        next
    }
}

/// Who may come in at a section's listeners.
pub struct Access {
    section: &'static str,
    state: RwLock<State>,
    pub(super) login: Login,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("section", &self.section)
            .field("config", &self.read().config)
            .finish_non_exhaustive()
    }
}

impl Default for Access {
    /// Everybody may.
    fn default() -> Self {
        let current = Current {
            tls: None,
            credentials: Arc::default(),
        };
        let state = State {
            config: AccessConfig::default(),
            print: [0; digest::SHA256_OUTPUT_LEN],
            current,
        };
        Self {
            section: "",
            state: RwLock::new(state),
            login: Login::default(),
        }
    }
}

impl Access {
    /// `section` is how messages call it.
    ///
    /// # Errors
    /// The files that cannot be used.
    pub fn open(section: &'static str, config: &AccessConfig) -> Result<Self, AccessErrors> {
        let state = State::new(config.clone()).map_err(|problems| {
            AccessErrors(problems.into_iter().map(|p| (section, p)).collect())
        })?;
        Ok(Self {
            section,
            state: RwLock::new(state),
            login: Login::default(),
        })
    }

    /// Takes what the other has been opened with; who guessed wrong is still
    /// remembered.
    pub(super) fn replace(&self, other: Self) {
        let other = other.state.into_inner();
        let other = other.unwrap_or_else(PoisonError::into_inner);
        let mut state = self.write();
        let current = state.current.followed_by(other.current);
        *state = State { current, ..other };
    }

    /// Takes up what has changed in the files.
    pub(super) fn look(&self, tally: &Tally, listeners: &[Listener]) {
        let (config, print) = {
            let state = self.read();
            (state.config.clone(), state.print)
        };
        let files = Files::read(&config);
        if files.print == print {
            return;
        }
        let made = Current::new(&config, &files);
        let mut state = self.write();
        if state.config != config {
            // Another configuration came meanwhile, with files of its own.
            return;
        }
        state.print = files.print;
        let section = self.section;
        match made {
            Ok(current) => {
                state.current = state.current.followed_by(current);
                tracing::info!(section, "changed certificates or tokens are taken up");
            }
            Err(problems) => {
                for listener in listeners {
                    tally.reload_failed(*listener);
                }
                for problem in problems {
                    tracing::warn!(section, "the files in use before stay in use: {problem}");
                }
            }
        }
    }

    pub(super) async fn admit(
        &self,
        headers: &HeaderMap,
        origin: Option<Origin>,
    ) -> Result<(), Denied> {
        let credentials = self.credentials();
        self.login.admit(&credentials, headers, origin).await
    }

    pub(super) fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.read().current.credentials)
    }

    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.read().current.tls.clone()
    }

    pub(super) fn certificate_expiry(&self) -> Option<UnixSeconds> {
        self.read().current.tls.as_ref().map(|tls| tls.valid.1)
    }

    pub(super) fn asks(&self) -> bool {
        self.read().config.asks()
    }

    pub(super) fn health_is_open(&self) -> bool {
        self.read().config.open_health
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        // Nothing is done under the lock that can panic.
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
