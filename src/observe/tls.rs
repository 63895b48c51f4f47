//! TLS to a server as libpq means it: `sslmode`, `sslrootcert`, `sslcert`,
//! `sslkey` and `channel_binding`.
//!
//! `prefer` and `require` encrypt and trust whoever answers, unless a root
//! certificate is given, in which case `require` checks the chain as libpq
//! does; `verify-ca` checks the chain but not the name; `verify-full` checks
//! both. Certificates and keys are read at every connect, so one that was renewed
//! is taken without a restart. The cryptography is ring, named here and not taken from a process-wide
//! default.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::config::{ChannelBinding, ClientCertificate, Dsn, SslMode, plain_file};
use crate::observe::PollError;
use crate::sample::FailureReason;

/// Makes ring the cryptography of every TLS client in this process that does
/// not bring its own, as the HTTP client does not: it panics without. May be
/// called any number of times.
pub fn use_ring() {
    // An error says that it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// The TLS side of connecting to `dsn`. It is also given for `disable`, where
/// the driver does not use it; see [`secure`].
///
/// # Errors
/// When a file with certificates or with the key cannot be read.
pub async fn connector(dsn: &Dsn) -> Result<MakeRustlsConnect, PollError> {
    let dsn = dsn.clone();
    // Files are read, the system's authorities among them.
    tokio::task::spawn_blocking(move || client_config(&dsn).map(MakeRustlsConnect::new))
        .await
        .map_err(|error| broken(&error))?
}

fn client_config(dsn: &Dsn) -> Result<ClientConfig, PollError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = verifier(dsn, &provider)?;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match &dsn.client_certificate {
        // Without TLS nobody asks for it.
        Some(files) if dsn.ssl_mode != SslMode::Disable => {
            let (chain, key) = client_certificate(files)?;
            config.with_client_auth_cert(chain, key).map_err(|error| {
                unusable(
                    "sslkey",
                    &files.key,
                    &format!("it does not fit sslcert ({error})"),
                )
            })
        }
        _ => Ok(config.with_no_client_auth()),
    }
}

/// Our certificate with its chain, and its key, which nobody else may read.
fn client_certificate(
    files: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), PollError> {
    let chain = certificates("sslcert", &files.certificate)?;
    let refuse = |what: &str| unusable("sslkey", &files.key, what);
    let about = std::fs::metadata(&files.key).map_err(|error| refuse(&error.to_string()))?;
    // As libpq: a key of root's may be read by a group.
    let forbidden = if about.uid() == 0 { 0o027 } else { 0o077 };
    if about.is_file() && about.mode() & forbidden != 0 {
        return Err(refuse("others may read it (chmod 600)"));
    }
    let opened = plain_file::open(&files.key).map_err(|error| refuse(&error.to_string()))?;
    let key = PrivateKeyDer::from_pem_reader(opened)
        .map_err(|error| refuse(&format!("{error} (a key with a passphrase cannot be used)")))?;
    Ok((chain, key))
}

/// TLS to a web server: chain and name are verified against the certificates in
/// `ca_file`, or against the system's.
///
/// # Errors
/// When the certificates cannot be read.
pub fn web_client(ca_file: Option<&Path>) -> Result<ClientConfig, PollError> {
    let roots = match ca_file {
        Some(file) => roots_of_file("ca_file", file)?,
        None => system_roots("ca_file in [service.scrape]")?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| broken(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// What of TLS the driver does itself. It knows three modes; what is verified is
/// the connector's part. TLS does not go over a unix socket, whatever is asked
/// for, as in libpq.
pub fn secure(config: &mut tokio_postgres::Config, dsn: &Dsn) {
    use tokio_postgres::config::{ChannelBinding as Binding, SslMode as Mode};
    let mode = match dsn.ssl_mode {
        _ if dsn.host.starts_with('/') => Mode::Disable,
        SslMode::Disable => Mode::Disable,
        SslMode::Prefer => Mode::Prefer,
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => Mode::Require,
    };
    let binding = match dsn.channel_binding {
        ChannelBinding::Disable => Binding::Disable,
        ChannelBinding::Prefer => Binding::Prefer,
        ChannelBinding::Require => Binding::Require,
    };
    config.ssl_mode(mode).channel_binding(binding);
}

fn verifier(
    dsn: &Dsn,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, PollError> {
    let chain = |roots: RootCertStore| {
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| broken(&error))
    };
    Ok(match (dsn.ssl_mode, &dsn.ssl_root_cert) {
        (SslMode::Disable | SslMode::Prefer, _) | (SslMode::Require, None) => {
            Arc::new(AnyCertificate(Arc::clone(provider)))
        }
        (SslMode::Require | SslMode::VerifyCa, Some(file)) => {
            Arc::new(AnyName(chain(roots_of_file("sslrootcert", file)?)?))
        }
        (SslMode::VerifyCa, None) => {
            Arc::new(AnyName(chain(system_roots("sslrootcert in the dsn")?)?))
        }
        (SslMode::VerifyFull, Some(file)) => chain(roots_of_file("sslrootcert", file)?)?,
        (SslMode::VerifyFull, None) => chain(system_roots("sslrootcert in the dsn")?)?,
    })
}

fn roots_of_file(key: &str, file: &Path) -> Result<RootCertStore, PollError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(key, file)? {
        roots
            .add(certificate)
            .map_err(|error| unusable(key, file, &error.to_string()))?;
    }
    Ok(roots)
}

/// Every certificate in a PEM file, at least one.
fn certificates(key: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, PollError> {
    use rustls::pki_types::pem::Error;
    let problem = |error: Error| unusable(key, file, &error.to_string());
    let opened = plain_file::open(file).map_err(|error| problem(Error::Io(error)))?;
    let found: Vec<_> = CertificateDer::pem_reader_iter(opened)
        .collect::<Result<_, _>>()
        .map_err(problem)?;
    if found.is_empty() {
        return Err(unusable(key, file, "there is no certificate in it"));
    }
    Ok(found)
}

fn unusable(key: &str, file: &Path, what: &str) -> PollError {
    let wanted = match key {
        "sslkey" => "give a PEM file with the key of sslcert",
        "sslcert" => "give a PEM file with our certificate",
        _ => "give a PEM file with the certificates to trust",
    };
    PollError::new(
        FailureReason::Tls,
        format!("{key} {}: {what}: {wanted}", file.display()),
    )
}

fn system_roots(key: &str) -> Result<RootCertStore, PollError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(PollError::new(
            FailureReason::Tls,
            format!(
                "this system has no trusted root certificates: set {key}, or install ca-certificates"
            ),
        ));
    }
    Ok(roots)
}

fn broken(error: &dyn std::fmt::Display) -> PollError {
    PollError::new(
        FailureReason::Tls,
        format!("TLS could not be set up: {error}"),
    )
}

/// Accepts whoever answers: encryption without identity.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Checks the chain and lets any name pass.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let inner = &self.0;
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is checked last, after the chain has been found good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
