//! From the host of a dsn to addresses, without standing still.
//!
//! The system's resolver blocks for as long as a dead name server lets it, ten
//! seconds and more, and cannot be told to stop. So it runs on a thread beside
//! the runtime, an answer that is late is not waited for, and one source has
//! only so many questions open. A name that does not resolve says nothing of
//! the server behind it, so it is never told as a server that does not answer.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_postgres::Config;

use crate::config::Dsn;
use crate::observe::PollError;
use crate::observe::failure::one_line;
use crate::sample::FailureReason;

/// Questions of one source that the resolver may be busy with. A new one each
/// few seconds notices at once that names are back; each holds a thread.
const QUESTIONS: usize = 4;

/// Addresses of one name that are tried. A name with more is a round robin, and
/// any of them will do.
const MAX_ADDRESSES: usize = 8;

/// Asks the system for the addresses of one source. Clones share the bound.
#[derive(Debug, Clone)]
pub struct Resolver {
    places: Arc<Semaphore>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self {
            places: Arc::new(Semaphore::new(QUESTIONS)),
        }
    }
}

impl Resolver {
    /// Puts host, addresses and port of `dsn` into `config`: the name stays
    /// what a certificate is checked against.
    ///
    /// # Errors
    /// When the name does not resolve, or not in half of the connect time-out.
    pub async fn fill(&self, config: &mut Config, dsn: &Dsn) -> Result<(), PollError> {
        config.port(dsn.port);
        if dsn.host.starts_with('/') || dsn.host.parse::<IpAddr>().is_ok() {
            config.host(&dsn.host);
            return Ok(());
        }
        for address in self.addresses(dsn).await? {
            config.host(&dsn.host).hostaddr(address);
        }
        Ok(())
    }

    async fn addresses(&self, dsn: &Dsn) -> Result<Vec<IpAddr>, PollError> {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Err(silent(
                dsn,
                &format!("{QUESTIONS} questions are still open"),
            ));
        };
        let (host, port) = (dsn.host.clone(), dsn.port);
        let asked = tokio::task::spawn_blocking(move || {
            // Given back when the resolver is done, however late that is.
            let _place = place;
            let found = (host.as_str(), port).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip()).collect::<Vec<_>>())
        });
        let limit = patience(dsn);
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(Ok(mut addresses))) if !addresses.is_empty() => {
                let mut seen = Vec::new();
                addresses.retain(|address| {
                    !seen.contains(address) && seen.len() < MAX_ADDRESSES && {
                        seen.push(*address);
                        true
                    }
                });
                Ok(addresses)
            }
            Ok(Ok(Ok(_))) => Err(unknown(dsn, &io::Error::other("no address"))),
            Ok(Ok(Err(error))) => Err(unknown(dsn, &error)),
            Ok(Err(ended)) => Err(unknown(dsn, &io::Error::other(ended))),
            Err(_) => {
                let seconds = limit.as_secs_f64();
                Err(silent(dsn, &format!("no answer within {seconds} s")))
            }
        }
    }
}

/// Half of the connect time-out: the other half is the server's.
pub fn patience(dsn: &Dsn) -> Duration {
    dsn.connect_timeout / 2
}

fn unknown(dsn: &Dsn, error: &io::Error) -> PollError {
    PollError::new(
        FailureReason::Other,
        format!(
            "the host name {} does not resolve ({}): correct the host in the dsn, or mend the name \
             service of this machine (/etc/resolv.conf, /etc/hosts)",
            dsn.host,
            one_line(&error.to_string()),
        ),
    )
}

fn silent(dsn: &Dsn, what: &str) -> PollError {
    PollError::new(
        FailureReason::Other,
        format!(
            "the name service does not answer for the host name {} ({what}): mend the name service \
             of this machine (/etc/resolv.conf), or put the address into the dsn or /etc/hosts",
            dsn.host,
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dsn(host: &str) -> Dsn {
        Dsn {
            host: host.into(),
            port: 5432,
            user: "snowpit".into(),
            password: None,
            database: "postgres".into(),
            ssl_mode: crate::config::SslMode::Disable,
            ssl_root_cert: None,
            client_certificate: None,
            channel_binding: crate::config::ChannelBinding::default(),
            connect_timeout: Duration::from_secs(5),
        }
    }

    #[tokio::test]
    async fn no_more_questions_are_open_than_there_are_places() {
        let resolver = Resolver::default();
        let _taken = Arc::clone(&resolver.places)
            .acquire_many_owned(u32::try_from(QUESTIONS).unwrap())
            .await
            .unwrap();
        let mut config = Config::new();
        let error = resolver
            .fill(&mut config, &dsn("db.invalid"))
            .await
            .unwrap_err();
        assert_eq!(error.reason, FailureReason::Other);
        assert!(error.message.contains("db.invalid"), "{error}");
        // An address asks nobody.
        resolver.fill(&mut config, &dsn("127.0.0.1")).await.unwrap();
    }
}
