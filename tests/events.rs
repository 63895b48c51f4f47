//! The stream of events: whole, numbered, bounded, and over at shutdown.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::Value;
use snowpit::engine::Snapshot;
use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use snowpit::expose::metrics::EngineTicks;
use snowpit::expose::web::{WebState, serve};
use snowpit::observe::health::Health;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Longer than a busy machine takes for anything here.
const PATIENCE: Duration = Duration::from_secs(20);

struct Site {
    address: String,
    snapshot: watch::Sender<Arc<Snapshot>>,
    effects: broadcast::Sender<Arc<Effect>>,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (snapshot, receiver) = watch::channel(Arc::new(Snapshot::default()));
        let (effects, heard) = broadcast::channel(1024);
        let ticks = Arc::new(EngineTicks::default());
        let targets = vec!["main".to_owned()];
        let state = WebState::new(receiver, Health::new(), ticks, targets).with_effects(heard);
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(listener, state, stop.clone()));
        Self {
            address,
            snapshot,
            effects,
            stop,
            server,
        }
    }

    async fn listen(&self, last: Option<&str>) -> Stream {
        let mut tcp = TcpStream::connect(&self.address).await.unwrap();
        let last = last.map_or(String::new(), |id| format!("Last-Event-ID: {id}\r\n"));
        let request = format!("GET /api/v1/events HTTP/1.1\r\nHost: here\r\n{last}\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut stream = Stream {
            tcp,
            text: String::new(),
        };
        stream.read_until("\r\n\r\n").await;
        stream
    }

    fn say(&self, number: u32) {
        self.tell(number, &format!("incident {number}\nwith a second line"));
    }

    /// An incident is opened: the change, then what is known.
    fn tell(&self, number: u32, summary: &str) {
        let kind = Kind::ConnectionHeadroom;
        let incident = Incident {
            id: format!("main-{number}"),
            target: "main".into(),
            kind,
            severity: kind.severity(),
            cause: None,
            onset_at: 1.0,
            opened_at: 2.0,
            resolved_at: None,
            subject: serde_json::Map::new(),
            summary: summary.into(),
            attribution: Vec::new(),
            unexplained_share: None,
            evidence: vec!["why".into()],
            actions: vec!["do this".into()],
            runbook: kind.as_str().into(),
        };
        let snapshot = Snapshot {
            at: f64::from(number),
            open: vec![Arc::new(incident.clone())],
            ..Snapshot::default()
        };
        let effect = Effect {
            t: 2.0,
            event: Event::Opened,
            incident,
            key: String::new(),
        };
        self.effects.send(Arc::new(effect)).unwrap();
        self.snapshot.send_replace(Arc::new(snapshot));
    }
}

struct Stream {
    tcp: TcpStream,
    text: String,
}

/// One event: its kind, id and data.
type Told = (String, String, Value);

impl Stream {
    async fn read_until(&mut self, end: &str) -> String {
        let read = async {
            let mut buffer = [0; 4096];
            loop {
                if let Some(at) = self.text.find(end) {
                    let head = self.text[..at].to_owned();
                    self.text.drain(..at + end.len());
                    return head;
                }
                let count = self.tcp.read(&mut buffer).await.unwrap();
                assert!(count > 0, "the stream ended: {}", self.text);
                self.text
                    .push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        };
        timeout(PATIENCE, read).await.expect("something comes")
    }

    /// The next event; the sizes of chunks and the pause to try again are passed.
    async fn next(&mut self) -> Told {
        loop {
            let block = self.read_until("\n\n").await;
            let field = |name: &str| {
                let line = block.lines().find_map(|line| line.strip_prefix(name));
                line.map(str::to_owned)
            };
            if let (Some(event), Some(id), Some(data)) =
                (field("event: "), field("id: "), field("data: "))
            {
                return (event, id, serde_json::from_str(&data).unwrap());
            }
        }
    }

    async fn next_of(&mut self, kind: &str) -> Told {
        loop {
            let told = self.next().await;
            if told.0 == kind {
                return told;
            }
        }
    }
}

#[tokio::test]
async fn what_is_now_comes_first_and_a_change_at_once() {
    let site = Site::start().await;
    let mut stream = site.listen(None).await;
    let (event, _, now) = stream.next().await;
    assert_eq!(event, "now");
    assert_eq!(now["targets"][0]["name"], "main");
    assert_eq!(now["open_incidents"], 0);

    let began = Instant::now();
    site.say(1);
    let (_, id, told) = stream.next_of("incident").await;
    assert_eq!(told["event"], "opened");
    assert_eq!(
        told["incident"]["summary"],
        "incident 1\nwith a second line"
    );
    let (_, _, now) = stream.next_of("now").await;
    println!("both after {:?}", began.elapsed());
    assert_eq!(now["incidents"][0]["id"], "main-1");
    assert_eq!(now["incidents"][0]["actions"][0], "do this");
    assert!(began.elapsed() < Duration::from_secs(2));

    // Who comes back is told what it missed, once.
    site.say(2);
    stream.next_of("incident").await;
    let mut again = site.listen(Some(&id)).await;
    let (event, missed, told) = again.next().await;
    assert_eq!(
        (event.as_str(), &told["incident"]["id"]),
        ("incident", &"main-2".into())
    );
    assert_eq!(again.next().await.0, "now");
    for strange in ["0-0", &missed, "", "x", "99999999999999999999-1"] {
        let mut stream = site.listen(Some(strange)).await;
        assert_eq!(stream.next().await.0, "now", "{strange}");
    }
    let changes = format!("http://{}/api/v1/incidents/main-2/changes", site.address);
    snowpit::observe::tls::use_ring();
    let changes: Value = reqwest::get(changes).await.unwrap().json().await.unwrap();
    assert_eq!(changes["complete"], true);
    assert_eq!(changes["changes"][0]["incident"]["evidence"][0], "why");
    let none = format!("http://{}/api/v1/incidents/none/changes", site.address);
    let none = reqwest::get(none).await.unwrap();
    assert_eq!(none.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_quiet_night_is_not_a_dead_line() {
    let site = Site::start().await;
    let mut stream = site.listen(None).await;
    stream.next().await;
    let began = Instant::now();
    stream.next_of("now").await;
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn pages_are_bounded_and_the_end_is_an_end() {
    let site = Site::start().await;
    let mut streams = Vec::new();
    for _ in 0..300 {
        streams.push(site.listen(None).await);
    }
    snowpit::observe::tls::use_ring();
    let url = format!("http://{}/api/v1/events", site.address);
    let refused = reqwest::get(&url).await.unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused: Value = refused.json().await.unwrap();
    assert!(refused["error"].as_str().unwrap().contains("300 pages"));
    // A place that comes free is used, once the next event finds it so.
    streams.pop();
    let began = Instant::now();
    while reqwest::get(&url).await.unwrap().status() != StatusCode::OK {
        assert!(began.elapsed() < PATIENCE, "no place came free");
        site.say(1);
        sleep(Duration::from_millis(50)).await;
    }

    let began = Instant::now();
    site.stop.cancel();
    timeout(PATIENCE, site.server).await.unwrap().unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn who_does_not_read_is_dropped_and_the_others_are_not() {
    let site = Site::start().await;
    let silent = site.listen(None).await;
    let mut reader = site.listen(None).await;
    reader.next().await;
    // More than the queue and the buffers of both ends hold.
    let long = "x".repeat(200_000);
    for number in 0..200 {
        site.tell(number, &long);
        reader.next_of("incident").await;
    }
    snowpit::observe::tls::use_ring();
    let status = format!("http://{}/api/v1/status", site.address);
    let status: Value = reqwest::get(status).await.unwrap().json().await.unwrap();
    assert_eq!(status["pages"], 1, "the silent one is dropped");
    drop(silent);
}
