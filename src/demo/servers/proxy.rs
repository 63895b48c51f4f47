//! A network of our own between a client and a server: a TCP proxy on loopback
//! that can be cut, partitioned, slow and lossy.
//!
//! It does what TCP shows of a bad network, since no packet can be dropped
//! without the kernel's help: what is lost is late, and everything behind it
//! too. Bounded: a connection keeps no more than [`SEGMENTS`] pieces a
//! direction; a connection that cannot be taken waits in the kernel's queue.
//! Dropping the value closes every connection.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Connections that the kernel completes while nobody takes them. Small, so
/// that in a partition the next ones wait for their handshake, as they would.
const BACKLOG: u32 = 1;

/// Pieces on their way in one direction.
const SEGMENTS: usize = 64;

/// Size of a piece, about what a segment is on loopback.
const SEGMENT: usize = 16 * 1024;

/// The first retransmission of Linux comes after this, the next after twice it.
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// Retransmissions of one piece after which it gets through in any case.
const MOST_RETRANSMISSIONS: u32 = 6;

/// How the way is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Open,
    /// Each direction takes so long, and loses this share of what is sent.
    Poor {
        delay: Duration,
        loss: f64,
    },
    /// Nothing gets through in either direction, and nobody is told. What was
    /// sent arrives when the way is open again.
    Closed,
}

/// What the connections follow.
#[derive(Debug, Clone, Copy)]
struct Conditions {
    way: Way,
    /// Port on 127.0.0.1 that new connections lead to.
    port: u16,
    /// Connections of an older number are reset.
    cut: u64,
    /// Over connections of an older number nothing ever passes again.
    forgotten: u64,
}

/// A proxy at work.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    conditions: watch::Sender<Conditions>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and leads to `port` there.
    ///
    /// # Errors
    /// When no port can be had.
    pub fn start(port: u16) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(BACKLOG)?;
        let own = listener.local_addr()?.port();
        let (conditions, followed) = watch::channel(Conditions {
            way: Way::Open,
            port,
            cut: 0,
            forgotten: 0,
        });
        let task = tokio::spawn(accept(listener, followed));
        Ok(Self {
            port: own,
            conditions,
            task,
        })
    }

    /// Where it listens on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes the way, for open connections as well.
    pub fn set(&self, way: Way) {
        self.conditions.send_modify(|now| now.way = way);
    }

    /// New connections lead to this port, and the old ones are reset: an address
    /// that moves to another machine.
    pub fn lead_to(&self, port: u16) {
        self.conditions.send_modify(|now| {
            now.port = port;
            now.cut += 1;
        });
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.conditions.send_modify(|now| now.cut += 1);
    }

    /// Over the connections that are open now nothing passes any more, and
    /// neither end is told; new ones are not touched.
    pub fn forget(&self) {
        self.conditions.send_modify(|now| now.forgotten += 1);
    }
}

/// The end of the task ends its connections: they are in its set.
async fn accept(listener: TcpListener, conditions: watch::Receiver<Conditions>) {
    let mut connections = JoinSet::new();
    let mut followed = conditions.clone();
    loop {
        if open(&mut followed).await.is_none() {
            return;
        }
        tokio::select! {
            taken = listener.accept() => {
                if let Ok((client, _)) = taken {
                    connections.spawn(serve(client, conditions.clone()));
                }
            }
            _ = connections.join_next(), if !connections.is_empty() => {}
            _ = followed.changed() => {}
        }
    }
}

/// Waits until the way is not closed; `None` when the proxy is gone.
async fn open(conditions: &mut watch::Receiver<Conditions>) -> Option<Conditions> {
    let now = conditions.wait_for(|now| now.way != Way::Closed).await;
    now.ok().map(|now| *now)
}

async fn serve(mut client: TcpStream, mut conditions: watch::Receiver<Conditions>) {
    let began = *conditions.borrow_and_update();
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, began.port)).await;
    let Ok(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let is_cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::join!(
                carry(from_client, to_server, conditions.clone(), began),
                carry(from_server, to_client, conditions.clone(), began)
            )
        };
        let mut watched = conditions.clone();
        let cut = watched.wait_for(|now| now.cut != began.cut);
        tokio::select! {
            _ = both => false,
            _ = cut => true,
        }
    };
    if is_cut {
        // Closed without a goodbye.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

type Piece = (Instant, Vec<u8>);

/// Moves one direction until it ends. An empty piece is the end of the stream,
/// and it takes the same way as any other.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut conditions: watch::Receiver<Conditions>,
    began: Conditions,
) {
    let (pieces, mut arriving) = mpsc::channel::<Piece>(SEGMENTS);
    let now = conditions.clone();
    let read = async {
        let mut earliest = Instant::now();
        loop {
            let mut piece = vec![0; SEGMENT];
            let size = from.read(&mut piece).await.unwrap_or(0);
            piece.truncate(size);
            earliest = earliest.max(Instant::now() + lateness(now.borrow().way));
            if pieces.send((earliest, piece)).await.is_err() || size == 0 {
                return;
            }
        }
    };
    let write = async {
        while let Some((at, piece)) = arriving.recv().await {
            sleep_until(at).await;
            if passes(&mut conditions, began).await.is_none() {
                return;
            }
            let sent = match piece.is_empty() {
                true => to.shutdown().await,
                false => to.write_all(&piece).await,
            };
            if sent.is_err() || piece.is_empty() {
                return;
            }
        }
    };
    // Who cannot be written to is not read from either.
    let write = async {
        write.await;
        Err::<(), ()>(())
    };
    let read = async {
        read.await;
        Ok::<(), ()>(())
    };
    let _ = tokio::try_join!(read, write);
}

/// Waits until a piece may pass: for ever, where the connection is forgotten.
async fn passes(conditions: &mut watch::Receiver<Conditions>, began: Conditions) -> Option<()> {
    let passing = conditions
        .wait_for(|now| now.way != Way::Closed && now.forgotten == began.forgotten)
        .await;
    passing.ok().map(|_| ())
}

/// How late a piece arrives that is sent now.
fn lateness(way: Way) -> Duration {
    let Way::Poor { delay, loss } = way else {
        return Duration::ZERO;
    };
    let mut late = delay;
    for time in 0..MOST_RETRANSMISSIONS {
        if fastrand::f64() >= loss {
            break;
        }
        late += RETRANSMISSION * (1 << time);
    }
    late
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends back what it gets.
    async fn echo() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        port
    }

    async fn dial(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()))
            .await
            .unwrap()
    }

    /// Whether a word comes back within this time.
    async fn answers(stream: &mut TcpStream, milliseconds: u64) -> Option<bool> {
        let ask = async {
            stream.write_all(b"word").await.ok()?;
            let mut back = [0; 4];
            stream.read_exact(&mut back).await.ok()?;
            Some(&back == b"word")
        };
        let limit = Duration::from_millis(milliseconds);
        tokio::time::timeout(limit, ask)
            .await
            .unwrap_or(Some(false))
    }

    #[tokio::test]
    async fn what_was_sent_into_a_closed_way_arrives_when_it_opens() {
        let proxy = Proxy::start(echo().await).unwrap();
        let mut stream = dial(&proxy).await;
        assert_eq!(answers(&mut stream, 5_000).await, Some(true));
        proxy.set(Way::Closed);
        assert_eq!(answers(&mut stream, 200).await, Some(false));
        proxy.set(Way::Open);
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"word");
    }

    #[tokio::test]
    async fn a_forgotten_connection_is_silent_and_a_new_one_works() {
        let proxy = Proxy::start(echo().await).unwrap();
        let mut old = dial(&proxy).await;
        assert_eq!(answers(&mut old, 5_000).await, Some(true));
        proxy.forget();
        assert_eq!(answers(&mut old, 200).await, Some(false));
        let mut new = dial(&proxy).await;
        assert_eq!(answers(&mut new, 5_000).await, Some(true));
        proxy.cut();
        assert_eq!(answers(&mut new, 5_000).await, None, "the cut is seen");
    }

    #[test]
    fn loss_is_lateness_that_doubles() {
        let poor = |loss| Way::Poor {
            delay: Duration::from_millis(100),
            loss,
        };
        assert_eq!(lateness(Way::Open), Duration::ZERO);
        assert_eq!(lateness(poor(0.0)), Duration::from_millis(100));
        assert_eq!(lateness(poor(1.0)), Duration::from_millis(100 + 200 * 63));
    }
}
