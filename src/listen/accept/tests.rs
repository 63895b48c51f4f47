use std::net::SocketAddr;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::listen::{Doors, DoorsConfig, Listener};

/// For what takes a moment, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(60);

/// More than the buffers of both kernels hold.
const LONG: usize = 64 << 20;

/// Serves `/` and `/long` with so many places.
async fn served(config: &DoorsConfig, connections: usize) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let door = Doors::open(config).unwrap().door(Listener::Server);
    let asked = door.clone();
    let answer = move |request: Request| async move {
        match asked.admit(request.headers(), request.extensions()).await {
            Ok(()) if request.uri() == "/long" => Ok(Bytes::from(vec![b'x'; LONG])),
            Ok(()) => Ok(Bytes::from_static(b"in")),
            Err(_) => Err(StatusCode::UNAUTHORIZED),
        }
    };
    let router = Router::new().fallback(get(answer));
    let rules = Rules {
        protocol: Protocol::Http,
        connections,
        per_address: connections,
        first_head: LIMIT,
        idle: LIMIT,
        grace: Duration::ZERO,
    };
    let stop = CancellationToken::new();
    tokio::spawn(serve(listener, router, rules, door, stop.clone()));
    (address, stop)
}

async fn asks(address: SocketAddr, path: &str, headers: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = vec![0; "HTTP/1.1 200".len()];
    let read = timeout(LIMIT, stream.read_exact(&mut head)).await.unwrap();
    read.unwrap();
    (stream, String::from_utf8(head).unwrap())
}

/// Reads what is left; how long it was, until it was closed or waits.
async fn rest(stream: &mut TcpStream, enough: usize) -> usize {
    let (mut length, mut buffer) = (0, vec![0; 1 << 20]);
    while length < enough {
        match timeout(LIMIT, stream.read(&mut buffer)).await.unwrap() {
            Ok(0) | Err(_) => break,
            Ok(more) => length += more,
        }
    }
    length
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_on_a_slow_line_is_not_cut_for_another() {
    let (address, stop) = served(&DoorsConfig::default(), 1).await;
    let (mut slow, head) = asks(address, "/long", "").await;
    assert_eq!(head, "HTTP/1.1 200");
    let mut other = TcpStream::connect(address).await.unwrap();
    assert_eq!(rest(&mut other, 1).await, 0, "it is refused");
    assert!(rest(&mut slow, LONG).await >= LONG, "all of it came");
    // Then it is one that waits, and gives way.
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut other = TcpStream::connect(address).await.unwrap();
        let request = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let sent = other.write_all(request.as_bytes()).await;
        if sent.is_ok() && rest(&mut other, 12).await >= 12 {
            break;
        }
        assert!(Instant::now() < deadline, "it keeps its place");
        sleep(Duration::from_millis(20)).await;
    }
    stop.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_let_in_stays_before_who_was_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "correct-horse").unwrap();
    let mut config = DoorsConfig::default();
    config.server.bearer_token_file = Some(token);
    let (address, stop) = served(&config, 2).await;
    let right = "authorization: Bearer correct-horse\r\n";
    let (mut let_in, head) = asks(address, "/", right).await;
    assert_eq!(head, "HTTP/1.1 200");
    let (mut turned_away, head) = asks(address, "/", "").await;
    assert_eq!(head, "HTTP/1.1 401");
    let (_new, head) = asks(address, "/", right).await;
    assert_eq!(head, "HTTP/1.1 200");
    rest(&mut turned_away, usize::MAX).await;
    let request = format!("GET / HTTP/1.1\r\nhost: localhost\r\n{right}\r\n");
    let_in.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while String::from_utf8_lossy(&answer)
        .matches("\r\n\r\nin")
        .count()
        < 2
    {
        let read = timeout(LIMIT, let_in.read_buf(&mut answer)).await.unwrap();
        assert_ne!(read.unwrap(), 0, "it was not closed");
    }
    stop.cancel();
}
