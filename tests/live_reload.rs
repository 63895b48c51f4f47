//! A daemon that reads its configuration again while it runs: what changes, what
//! does not, and what is refused.

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::slice;

use common::Stage;
use common::certificates::Authority;
use common::daemon::{Daemon, until};
use common::faults::Row;
use nix::sys::signal::Signal;
use serde_json::Value;
use snowpit::demo::servers::{Alertmanager, Postgres, PostgresOptions};
use tokio::time::Instant;

/// Of docs/faults.md.
const SECTION: &str = "The daemon itself";
const TEST: &str = "live_reload::each_kind_of_change_does_what_it_says_and_no_more";

/// Our sessions at a server: pid and start.
async fn sessions(server: &Postgres) -> Vec<(i32, String)> {
    let client = server.connect("postgres", "postgres").await.unwrap();
    let sql = "SELECT pid, backend_start::text FROM pg_stat_activity \
               WHERE application_name = 'snowpit' ORDER BY backend_start";
    let rows = client.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// The one session, once there is exactly one.
async fn session(server: &Postgres) -> (i32, String) {
    until("one session", async || {
        let mut sessions = sessions(server).await;
        (sessions.len() == 1).then(|| sessions.remove(0))
    })
    .await
}

/// The lines of a JSON Lines text, without what only the journal adds.
fn changes(text: &str) -> Vec<Value> {
    let lines = text.lines().map(|line| {
        let mut change: Value = serde_json::from_str(line).unwrap();
        let fields = change.as_object_mut().unwrap();
        fields.retain(|name, _| ["t", "event", "incident"].contains(&name.as_str()));
        change
    });
    lines.collect()
}

fn replay(captures: &Path) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.args(["replay", "--json"]).arg(captures);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    changes(&String::from_utf8(output.stdout).unwrap())
}

fn list(answer: &Value, name: &str) -> Vec<String> {
    serde_json::from_value(answer[name].clone()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_change_does_what_it_says_and_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let stage = Stage::start().await;
    let spare = Postgres::start(PostgresOptions::default()).await.unwrap();
    let history = directory.path().join("history");
    let kept = format!(
        "[poolers]\ncomplete = true\n[history]\ndirectory = \"{}\"\ncapture = true\n",
        history.display()
    );
    let first = stage.configuration(&kept);
    let mut daemon = Daemon::start(directory.path(), &first);
    daemon.ready().await;
    let own = session(&stage.postgres).await;

    // An incident that is open all the while.
    let client = stage.client("app", "gateway").await;
    let lock = "SELECT pg_advisory_lock(42424242424242)";
    client.simple_query(lock).await.unwrap();
    until("the lock", async || {
        let shown = daemon.metric("snowpit_advisory_locks", "target=\"main\"");
        shown.await.filter(|locks| *locks > 0.0)
    })
    .await;
    drop(client);
    let open = until("opened", async || daemon.incidents().await.pop()).await;

    // Refused: nothing changes, by signal and by request alike.
    let secret = "hunter2-not-to-be-told";
    let bad = first.replace("postgres@127", &format!("postgres:{secret}@127"));
    daemon.write(&format!("{bad}[detect.lock_pileup]\nmin_waitres = 2\n"));
    daemon.signal(Signal::SIGHUP);
    let told = Instant::now();
    until("refused", async || {
        let failed = daemon.metric("snowpit_config_reloads_total", "failure");
        failed.await.filter(|failed| *failed == 1.0)
    })
    .await;
    Row {
        section: SECTION,
        staged: "SIGHUP with a file that has a mistake",
        says: "the whole report with line and column; `snowpit_config_last_reload_successful` 0"
            .into(),
        within: Some(told.elapsed()),
        again: None,
        lost: "nothing: the configuration before goes on, on the same sessions".into(),
        test: TEST,
    }
    .print();
    let successful = "snowpit_config_last_reload_successful";
    assert_eq!(daemon.metric(successful, "").await, Some(0.0));
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    let report = answer["error"].as_str().unwrap();
    assert_eq!(status, 400, "{report}");
    assert!(
        report.contains("min_waitres") && report.contains("min_waiters"),
        "{report}"
    );
    assert!(daemon.log().contains("min_waitres"), "{}", daemon.log());
    assert!(!report.contains(secret) && !daemon.log().contains(secret));
    // Also what is wrong behind the file.
    let push = "[alertmanager]\nurls = [\"http://127.0.0.1:1\"]\nca_file = \"/nowhere/ca.pem\"\n";
    daemon.write(&format!("{first}{push}"));
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 400, "{answer}");
    // Also what became bad in a file of the same name.
    let authorities = directory.path().join("ca.pem");
    let pem = Authority::new("ours").pem().to_owned();
    fs::write(&authorities, pem).unwrap();
    let push = push.replace("http:", "https:");
    let push = push.replace("/nowhere/ca.pem", &authorities.display().to_string());
    daemon.write(&format!("{first}{push}"));
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 200, "{answer}");
    fs::write(&authorities, "nothing").unwrap();
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    let report = answer["error"].as_str().unwrap();
    assert!(status == 400 && report.contains("ca_file"), "{report}");
    assert_eq!(sessions(&stage.postgres).await, slice::from_ref(&own));

    // The same again: nothing to do, and all good.
    daemon.write(&first);
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(
        (status, answer["kept"].as_u64()),
        (200, Some(2)),
        "{answer}"
    );
    assert_eq!(daemon.metric(successful, "").await, Some(1.0));

    // A page of another site may not; many at once are one after another.
    let foreign = [("origin", "http://evil.example")];
    assert_eq!(daemon.post("/-/reload", &foreign).await.0, 403);
    let rebound = [
        ("host", "evil.example:9899"),
        ("origin", "http://evil.example:9899"),
    ];
    assert_eq!(daemon.post("/-/reload", &rebound).await.0, 403);
    let many = (0..20).map(|_| daemon.post("/-/reload", &[]));
    let mut statuses: Vec<u16> = Vec::new();
    for answer in futures(many).await {
        statuses.push(answer.0);
    }
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses.iter().all(|s| [200, 409].contains(s)),
        "{statuses:?}"
    );
    assert_eq!(sessions(&stage.postgres).await, slice::from_ref(&own));

    // One more server, a name for the lock, an Alertmanager.
    let pager = Alertmanager::start("route: {receiver: none}\nreceivers: [{name: none}]\n").await;
    let pager = pager.unwrap();
    let more = format!(
        "[[postgres]]\nname = \"spare\"\ndsn = \"{}\"\n\
         [[advisory_lock]]\nkey = 42424242424242\nname = \"gateway bootstrap\"\n\
         [alertmanager]\nurls = [\"{}\"]\n",
        spare.dsn("postgres", "postgres"),
        pager.url(),
    );
    daemon.write(&format!("{first}{more}"));
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(list(&answer, "started"), ["postgres spare"]);
    assert_eq!(answer["kept"], 2);
    session(&spare).await;
    until("its series", async || {
        daemon
            .metric("snowpit_connections", "target=\"spare\"")
            .await
    })
    .await;
    until("the name", async || {
        let page = daemon.text("/metrics").await?;
        page.contains("name=\"gateway bootstrap").then_some(())
    })
    .await;
    until("the alert", async || {
        let alerts = reqwest::get(format!("{}/api/v2/alerts", pager.url())).await;
        let alerts = alerts.ok()?.text().await.ok()?;
        alerts.contains("orphaned_advisory_lock").then_some(())
    })
    .await;
    assert_eq!(sessions(&stage.postgres).await, slice::from_ref(&own));

    // A source that changes is opened anew, and what it told of goes on.
    let paced = first.replacen(
        "name = \"main\"",
        "name = \"main\"\ninterval = \"700ms\"",
        1,
    );
    daemon.write(&format!("{paced}{more}"));
    let told = Instant::now();
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(list(&answer, "restarted"), ["postgres main"]);
    assert_eq!(answer["kept"], 2);
    let other = until("another session", async || {
        let sessions = sessions(&stage.postgres).await;
        (sessions.len() == 1 && sessions[0] != own).then(|| sessions[0].clone())
    })
    .await;
    assert!(other.1 > own.1);
    let now = daemon.incidents().await;
    assert_eq!((now.len(), &now[0]["id"]), (1, &open["id"]));
    assert_eq!(now[0]["resolved_at"], Value::Null);

    Row {
        section: SECTION,
        staged: "`POST /-/reload` after the interval of one server has changed",
        says: "restarted: postgres main; kept: 2".into(),
        within: None,
        again: Some(told.elapsed()),
        lost: "nothing: its next session begins after the last one has ended, its incident goes on"
            .into(),
        test: TEST,
    }
    .print();

    // What cannot change is told, and stays.
    // With the address stays who may come in there.
    let hash = bcrypt::hash("hunter2", 10).unwrap();
    let users = format!("127.0.0.1:1\"\nusers = {{ ops = \"{hash}\" }}\n#\"");
    let moved = paced.replace("127.0.0.1:0\"", &users);
    daemon.write(&format!("{moved}{more}"));
    for _ in 0..2 {
        let (status, answer) = daemon.post("/-/reload", &[]).await;
        assert_eq!(status, 200, "{answer}");
        let restart = list(&answer, "needs_restart");
        assert!(restart[1].contains("[server] users"), "{restart:?}");
    }
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 200, "{answer}");
    let restart = list(&answer, "needs_restart");
    assert!(
        restart[0].starts_with("[server] listen needs a restart"),
        "{restart:?}"
    );

    // The first server goes, with its pooler and its incident.
    let (head, _) = first.split_once("[[postgres]]").unwrap();
    daemon.write(&format!("{head}{kept}{more}"));
    let (status, answer) = daemon.post("/-/reload", &[]).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        list(&answer, "stopped"),
        ["pgbouncer pooler-1", "postgres main"]
    );
    until("closed", async || {
        sessions(&stage.postgres).await.is_empty().then_some(())
    })
    .await;
    session(&spare).await;
    let page = daemon.text("/metrics").await.unwrap();
    assert!(
        !page.contains("main") && !page.contains("pooler-1"),
        "{page}"
    );
    let ended = daemon.incidents().await;
    assert_eq!((ended.len(), &ended[0]["id"]), (1, &open["id"]));
    let evidence = list(&ended[0], "evidence");
    assert!(
        evidence
            .last()
            .unwrap()
            .contains("not in the configuration"),
        "{evidence:?}"
    );

    // The next look begins a file of its own, as the first change did.
    let files = || fs::read_dir(history.join("captures")).unwrap().count();
    until("three files", async || (files() == 3).then_some(())).await;
    daemon.signal(Signal::SIGTERM);
    let (status, _) = daemon.ended().await;
    assert!(status.success(), "{status}\n{}", daemon.log());

    // The capture goes from file to file with the settings, and says the same.
    let journal = fs::read_to_string(history.join("incidents.jsonl")).unwrap();
    assert_eq!(replay(&history.join("captures")), changes(&journal));
}

/// All of them at the same time.
async fn futures<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        all.retain_mut(|one| match one.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value);
                false
            }
            std::task::Poll::Pending => true,
        });
        if all.is_empty() {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done
}
