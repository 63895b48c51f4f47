//! From the host of a dsn to addresses, without standing still.
//!
//! The system's resolver blocks for as long as a dead name server lets it, ten
//! seconds and more, and cannot be told to stop. So it runs on a thread beside
//! the runtime, an answer that is late is not waited for, and one source has
//! only so many questions open. A name that does not resolve says nothing of
//! the server behind it, so it is never told as a server that does not answer.
//!
//! Of several addresses one is tried after the other, up to the first server that
//! lets us in or says why not: what it says is not to be covered by another
//! address where nobody is at home.

use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Error, Socket};

use crate::config::Dsn;
use crate::observe::PollError;
use crate::observe::failure::{Standing, one_line};
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
    /// The addresses behind the host of `dsn`, each once, in the order of the
    /// system. None for a socket of this machine.
    ///
    /// # Errors
    /// When the name does not resolve, or not in half of the connect time-out.
    pub async fn addresses(&self, dsn: &Dsn) -> Result<Vec<IpAddr>, PollError> {
        if dsn.host.starts_with('/') {
            return Ok(Vec::new());
        }
        match dsn.host.parse::<IpAddr>() {
            Ok(address) => Ok(vec![address]),
            Err(_) => self.resolve(dsn).await,
        }
    }

    async fn resolve(&self, dsn: &Dsn) -> Result<Vec<IpAddr>, PollError> {
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

/// Connects by `config` to the first of `addresses` where a server lets us in or
/// says why not; by the socket of `dsn` when there are none. The host of `dsn`
/// stays what a certificate is checked against.
///
/// # Errors
/// The failure that says most: a server's own word, else that nobody listens,
/// else that nothing came back.
pub async fn connect<T>(
    mut config: Config,
    tls: T,
    dsn: &Dsn,
    addresses: &[IpAddr],
) -> Result<(Client, Connection<Socket, T::Stream>), Error>
where
    T: MakeTlsConnect<Socket> + Clone,
{
    config.host(&dsn.host).port(dsn.port);
    let mut failed: Option<(Standing, Error)> = None;
    for address in addresses {
        let mut one = config.clone();
        one.hostaddr(*address);
        let error = match one.connect(tls.clone()).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        let standing = Standing::of(&error);
        if standing == Standing::Answer {
            return Err(error);
        }
        if failed.as_ref().is_none_or(|(before, _)| standing > *before) {
            failed = Some((standing, error));
        }
    }
    match failed {
        Some((_, error)) => Err(error),
        None => config.connect(tls).await,
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
        let error = resolver.addresses(&dsn("db.invalid")).await.unwrap_err();
        assert_eq!(error.reason, FailureReason::Other);
        assert!(error.message.contains("db.invalid"), "{error}");
        // An address asks nobody.
        let known = resolver.addresses(&dsn("127.0.0.1")).await.unwrap();
        assert_eq!(known, [IpAddr::from([127, 0, 0, 1])]);
        assert!(resolver.addresses(&dsn("/run")).await.unwrap().is_empty());
    }
}
