//! TLS of a listener, made of what its files hold.
//!
//! The cryptography is ring, named here and not taken from a process-wide
//! default. Messages name the file and what is wrong with it, never what stands
//! in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Protocol;
use super::access::{FileProblem, Files, TlsFiles};
use crate::sample::UnixSeconds;

/// What a handshake needs.
#[derive(Debug)]
pub(super) struct Tls {
    http: Arc<ServerConfig>,
    grpc: Arc<ServerConfig>,
    /// When the certificate begins and ceases to be valid, unix time.
    pub(super) valid: (UnixSeconds, UnixSeconds),
}

impl Tls {
    pub(super) fn settings(&self, protocol: Protocol) -> &Arc<ServerConfig> {
        match protocol {
            Protocol::Http => &self.http,
            Protocol::Grpc => &self.grpc,
        }
    }

    /// # Errors
    /// Everything that is wrong with any of the files.
    pub(super) fn new(config: &TlsFiles, files: &Files) -> Result<Self, Vec<FileProblem>> {
        let mut problems = Vec::new();
        let chain = keep(chain(config, files), &mut problems);
        let key = keep(key(config, files), &mut problems);
        let clients = keep(clients(config, files), &mut problems);
        let (Some((chain, valid)), Some(key), Some(clients)) = (chain, key, clients) else {
            return Err(problems);
        };
        let broken = |what: String| vec![config.key_problem(what)];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| broken(error.to_string()))?;
        let builder = match clients {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let settings = builder
            .with_single_cert(chain, key)
            .map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => {
                    broken("is not the key of the certificate in cert_file".to_owned())
                }
                error => broken(format!("cannot be used with cert_file: {error}")),
            })?;
        let speaking = |protocol: &[u8]| {
            let mut settings = settings.clone();
            settings.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(settings)
        };
        Ok(Self {
            http: speaking(b"http/1.1"),
            grpc: speaking(b"h2"),
            valid,
        })
    }

    /// What is unwise about the certificate at this time.
    pub(super) fn warning(&self, now: UnixSeconds) -> Option<&'static str> {
        let (from, until) = self.valid;
        if now >= until {
            Some("the certificate has expired; most clients refuse it")
        } else if now < from {
            Some("the certificate is not valid yet; most clients refuse it")
        } else {
            None
        }
    }
}

fn keep<T>(result: Result<T, FileProblem>, problems: &mut Vec<FileProblem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

type Chain = (Vec<CertificateDer<'static>>, (UnixSeconds, UnixSeconds));

fn chain(config: &TlsFiles, files: &Files) -> Result<Chain, FileProblem> {
    let problem = |what: &str| FileProblem::new("cert_file", &config.cert_file, what);
    let bytes = files.bytes("cert_file", &config.cert_file)?;
    let chain = certificates(bytes).ok_or_else(|| problem(NOT_PEM))?;
    let own = chain.first().ok_or_else(|| problem(NO_CERTIFICATE))?;
    let own = Certificate::from_der(own);
    let own = own.map_err(|_| problem("its first certificate cannot be parsed"))?;
    let validity = own.tbs_certificate.validity;
    let [from, until] =
        [validity.not_before, validity.not_after].map(|time| time.to_unix_duration().as_secs_f64());
    Ok((chain, (from, until)))
}

fn key(config: &TlsFiles, files: &Files) -> Result<PrivateKeyDer<'static>, FileProblem> {
    let bytes = files.bytes("key_file", &config.key_file)?;
    PrivateKeyDer::from_pem_slice(bytes).map_err(|_| {
        let what = "there is no private key in it: it must be in PEM, without a passphrase";
        config.key_problem(what.to_owned())
    })
}

type Clients = Option<Arc<dyn ClientCertVerifier>>;

fn clients(config: &TlsFiles, files: &Files) -> Result<Clients, FileProblem> {
    let Some(path) = &config.client_ca_file else {
        return Ok(None);
    };
    let problem = |what: &str| FileProblem::new("client_ca_file", path, what);
    let bytes = files.bytes("client_ca_file", path)?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates(bytes).ok_or_else(|| problem(NOT_PEM))? {
        let added = roots.add(certificate);
        added.map_err(|_| problem("one of its certificates cannot be parsed"))?;
    }
    if roots.is_empty() {
        return Err(problem(NO_CERTIFICATE));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| problem(&error.to_string()))?;
    Ok(Some(verifier))
}

const NOT_PEM: &str = "it is not in PEM";
const NO_CERTIFICATE: &str = "there is no certificate in it: it must be in PEM";

fn certificates(bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .ok()
}

impl TlsFiles {
    fn key_problem(&self, what: String) -> FileProblem {
        FileProblem::new("key_file", &self.key_file, what)
    }

    /// Each with its key in the configuration.
    pub(super) fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let clients = self.client_ca_file.as_ref();
        [("cert_file", &self.cert_file), ("key_file", &self.key_file)]
            .into_iter()
            .chain(clients.map(|path| ("client_ca_file", path)))
            .map(|(key, path)| (key, PathBuf::as_path(path)))
    }
}
