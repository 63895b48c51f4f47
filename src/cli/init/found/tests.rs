//! What is behind what, and what a stranger is told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

fn server(name: &str, host: &str) -> Server {
    let dsn = format!("postgresql://ops:s3cret@{host}/app");
    let config = Config::from_dsn(&dsn, |_| None).unwrap();
    Server {
        name: name.to_owned(),
        config: config.postgres[0].clone(),
        had_password: true,
        version: 160_004,
        databases: Vec::new(),
        groups: Vec::new(),
    }
}

fn pooler(host: &str, behind: &str) -> Pooler {
    let dsn = format!("postgresql://stats@{host}:6432/pgbouncer");
    Pooler {
        name: String::new(),
        config: Config::pooler_from_dsn(&dsn, |_| None).unwrap(),
        had_password: false,
        behind: [(behind.to_owned(), 5432)].into(),
        addresses: BTreeSet::new(),
    }
}

fn suspect(server: &str, address: &str) -> Suspect {
    Suspect {
        server: server.to_owned(),
        address: address.to_owned(),
        sessions: 20,
        applications: 1,
        users: 1,
        probe: None,
    }
}

#[test]
fn what_is_local_is_on_the_poolers_machine() {
    let servers = [server("db", "db"), server("here", "localhost")];
    let cases = [
        ("db", "127.0.0.1", vec!["db"]),
        ("db", "/run/postgresql", vec!["db"]),
        ("pooler.internal", "127.0.0.1", vec![]),
        ("pooler.internal", "db", vec!["db"]),
        ("pooler.internal", "localhost", vec![]),
        ("127.0.0.1", "127.0.0.1", vec!["here"]),
        ("localhost", "/tmp", vec!["here"]),
        ("127.0.0.1", "db", vec!["db"]),
    ];
    for (at, behind, expected) in cases {
        let pooler = pooler(at, behind);
        let found = servers.iter().filter(|server| is_behind(&pooler, server));
        let found: Vec<&str> = found.map(|server| server.name.as_str()).collect();
        assert_eq!(found, expected, "{behind} behind {at}");
    }
    let mut elsewhere = pooler("db", "127.0.0.1");
    elsewhere.behind = [("127.0.0.1".to_owned(), 5433)].into();
    assert!(!is_sure(&elsewhere, &servers));
}

#[tokio::test]
async fn a_stranger_on_the_port_gets_no_password_and_is_asked_once() {
    // An address of its own, so that no PgBouncer of this machine is in the way.
    let thief = TcpListener::bind(("127.0.0.77", POOLER_PORT))
        .await
        .unwrap();
    let servers = [server("main", "127.0.0.77")];
    let stealing = tokio::spawn(async move {
        let mut all = Vec::new();
        let mut guests = 0;
        while let Ok(Ok((mut guest, _))) =
            tokio::time::timeout(Duration::from_secs(5), thief.accept()).await
        {
            guests += 1;
            let mut bytes = [0; 8];
            guest.read_exact(&mut bytes).await.unwrap();
            guest.write_all(b"N").await.unwrap();
            let mut bytes = [0; 4096];
            let read = guest.read(&mut bytes).await.unwrap();
            all.extend_from_slice(&bytes[..read]);
            // The password in the clear, please.
            guest.write_all(b"R\0\0\0\x08\0\0\0\x03").await.unwrap();
            let _ = guest.read_to_end(&mut all).await;
        }
        (guests, all)
    });
    let mut suspects = [suspect("main", "127.0.0.1"), suspect("main", "::1")];
    let found = probe(&mut suspects, &servers, &[]).await;
    assert!(found.is_empty());
    let (guests, all) = stealing.await.unwrap();
    let text = String::from_utf8_lossy(&all);
    assert!(text.contains("user\0snowpit\0"), "{text:?}");
    assert!(
        !text.contains("s3cret") && !text.contains("ops"),
        "{text:?}"
    );
    assert_eq!(guests, 1);
    for one in &suspects {
        let said = one.probe.as_deref().unwrap();
        assert!(said.contains("none was sent"), "{said}");
    }
}

#[tokio::test]
async fn what_was_given_is_not_probed() {
    let servers = [server("db", "db.invalid")];
    let given = [pooler("db.invalid", "127.0.0.1")];
    let mut suspects = [suspect("db", "127.0.0.1")];
    let found = probe(&mut suspects, &servers, &given).await;
    assert!(found.is_empty());
    assert_eq!(suspects[0].probe.as_deref(), Some("the PgBouncer below"));
}
