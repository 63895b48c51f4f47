//! libpq's words for what is encrypted, who is verified, and what we show of
//! ourselves.

use std::path::PathBuf;

use super::dsn::DsnError;

/// libpq's `sslcert` and `sslkey`: PEM files, the certificate with its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// libpq's `channel_binding`: whether SCRAM has to prove that nobody sits
/// between us and the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    Disable,
    /// Where the server offers it.
    #[default]
    Prefer,
    Require,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SslMode {
    Disable,
    #[default]
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

impl SslMode {
    pub(super) fn parse(word: &str) -> Result<Self, DsnError> {
        match word {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(DsnError::SslMode),
        }
    }
}

impl ChannelBinding {
    pub(super) fn parse(word: &str) -> Result<Self, DsnError> {
        match word {
            "disable" => Ok(Self::Disable),
            "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            _ => Err(DsnError::ChannelBinding),
        }
    }
}
