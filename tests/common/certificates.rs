//! Certificates of private authorities, made when a test wants them.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, as PEM.
pub struct Signed {
    pub certificate: String,
    pub key: String,
}

/// Until when a certificate holds.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Holds {
    Now,
    /// It ended years ago.
    Expired,
    /// Until that year begins.
    Until(i32),
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// The certificate of the authority itself.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// For a server under these names or addresses.
    pub fn server(&self, names: &[&str], holds: Holds) -> Signed {
        self.sign("server", names, holds)
    }

    /// For a client with this common name.
    pub fn client(&self, name: &str, holds: Holds) -> Signed {
        self.sign(name, &[], holds)
    }

    fn sign(&self, common_name: &str, names: &[&str], holds: Holds) -> Signed {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let usage = match names.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let mut params = CertificateParams::new(names).unwrap();
        let subject = &mut params.distinguished_name;
        subject.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = match holds {
            Holds::Now => date_time_ymd(2100, 1, 1),
            Holds::Expired => date_time_ymd(2020, 1, 1),
            Holds::Until(year) => date_time_ymd(year, 1, 1),
        };
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

/// Writes a file that only the owner of `directory` may read, as servers want of
/// their keys.
pub fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    // A reader never sees half of it.
    let half = directory.join(format!("{name}.half"));
    std::fs::write(&half, text).unwrap();
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(directory).unwrap();
    chown(&half, Some(owner.uid()), Some(owner.gid())).unwrap();
    std::fs::rename(&half, &path).unwrap();
    path
}
