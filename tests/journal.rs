//! The journal on disk: what was told is there after any end, damage costs what
//! was damaged, and a full disk costs nothing that fits into memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use snowpit::engine::incident::{Effect, Event, Incident, Kind};
use snowpit::expose::journal::{Entry, FILE, Journal, JournalError, JournalWriter};
use snowpit::observe::health::Health;
use snowpit::observe::poll::unix_now;

fn incident(n: u32, resolved_at: Option<f64>) -> Incident {
    let kind = Kind::ALL[n as usize % Kind::ALL.len()];
    let opened_at = unix_now() - 3600.0 + f64::from(n);
    Incident {
        id: format!("main-{}-{n}", kind.as_str()),
        target: if n.is_multiple_of(2) { "main" } else { "spare" }.into(),
        kind,
        severity: kind.severity(),
        cause: None,
        onset_at: opened_at - 10.0,
        opened_at,
        resolved_at,
        subject: serde_json::Map::new(),
        summary: format!("summary {n}"),
        attribution: Vec::new(),
        unexplained_share: None,
        evidence: vec!["figures".into(); 3],
        actions: Vec::new(),
        runbook: kind.as_str().into(),
    }
}

fn effect(event: Event, incident: Incident) -> Effect {
    Effect {
        t: incident.opened_at,
        event,
        key: format!("key of {}", incident.id),
        incident,
    }
}

fn opened(n: u32) -> Effect {
    effect(Event::Opened, incident(n, None))
}

fn resolved(n: u32) -> Effect {
    effect(Event::Resolved, incident(n, Some(unix_now())))
}

async fn write(directory: &Path, effects: &[Effect]) {
    let (writer, _) = JournalWriter::start(directory, &Health::new()).unwrap();
    effects.iter().for_each(|effect| writer.offer(effect));
    writer.finish().await;
}

fn open_ids(journal: &Journal) -> BTreeSet<String> {
    journal.open().map(|(_, incident)| incident.id).collect()
}

#[tokio::test]
async fn what_was_open_is_open_with_its_key_and_what_was_over_is_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("made/on/the/way");
    write(&path, &[opened(1), opened(2)]).await;
    write(&path, &[resolved(1), opened(3)]).await;
    let journal = Journal::load(&path).unwrap();
    let open: Vec<_> = journal.open().collect();
    assert_eq!(open.len(), 2);
    assert_eq!(open[0].0, format!("key of {}", open[0].1.id));
    assert_eq!(open[0].1.summary, "summary 2");
    assert_eq!(open[1].1.summary, "summary 3");
    let over: Vec<_> = journal.resolved().collect();
    assert_eq!(over.len(), 1);
    assert_eq!(over[0].summary, "summary 1");
    assert!(journal.damage.is_empty());
}

#[tokio::test]
async fn two_daemons_do_not_share_a_journal() {
    let directory = tempfile::tempdir().unwrap();
    let health = Health::new();
    let (writer, _) = JournalWriter::start(directory.path(), &health).unwrap();
    let second = JournalWriter::start(directory.path(), &health);
    assert!(matches!(second, Err(JournalError::Taken(_))));
    writer.finish().await;
    let third = JournalWriter::start(directory.path(), &health);
    third.unwrap().0.finish().await;
}

#[tokio::test]
async fn it_is_written_anew_without_what_is_superseded_and_what_is_old() {
    let directory = tempfile::tempdir().unwrap();
    let mut ancient = incident(9, Some(1_000.0));
    ancient.opened_at = 900.0;
    let mut effects = vec![effect(Event::Resolved, ancient)];
    effects.extend((0..400).map(|_| opened(2)));
    write(directory.path(), &effects).await;
    let path = directory.path().join(FILE);
    let long = fs::metadata(&path).unwrap().len();
    write(directory.path(), &[]).await;
    assert!(fs::metadata(&path).unwrap().len() < long / 100);
    let journal = Journal::load(directory.path()).unwrap();
    assert_eq!(journal.open().count(), 1);
    assert_eq!(journal.resolved().count(), 0, "older than 90 days");
}

#[test]
fn an_open_incident_is_never_too_old_to_be_remembered() {
    let directory = tempfile::tempdir().unwrap();
    let mut text = Vec::new();
    let effects = std::iter::once(opened(0)).chain((1..=10_000).map(resolved));
    for effect in effects {
        serde_json::to_writer(&mut text, &Entry::from(&effect)).unwrap();
        text.push(b'\n');
    }
    fs::write(directory.path().join(FILE), text).unwrap();
    let journal = Journal::load(directory.path()).unwrap();
    assert_eq!(journal.damaged, 0);
    assert_eq!(journal.entries().len(), 10_000);
    assert_eq!(open_ids(&journal).len(), 1);
}

/// A journal of 20 open incidents, in a fresh directory.
async fn twenty() -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let effects: Vec<Effect> = (0..20).map(opened).collect();
    write(directory.path(), &effects).await;
    let whole = fs::read(directory.path().join(FILE)).unwrap();
    assert_eq!(whole.iter().filter(|b| **b == b'\n').count(), 20);
    (directory, whole)
}

/// Starts on what is there, goes on writing, and starts again.
async fn survives(directory: &Path) -> (Journal, u64) {
    let (writer, journal) = JournalWriter::start(directory, &Health::new()).unwrap();
    let told = journal.damaged;
    writer.offer(&opened(77));
    writer.finish().await;
    let after = Journal::load(directory).unwrap();
    assert_eq!(after.damaged, 0, "what was damaged is set aside");
    assert!(open_ids(&after).contains(&opened(77).incident.id));
    let aside = directory.join("incidents.jsonl.damaged");
    assert_eq!(aside.exists(), told > 0, "and kept");
    let _ = fs::remove_file(aside);
    (journal, told)
}

#[tokio::test]
async fn a_hundred_truncations_cost_the_torn_line_and_no_more() {
    let (directory, whole) = twenty().await;
    let mut random = fastrand::Rng::with_seed(1);
    for _ in 0..100 {
        let end = random.usize(..=whole.len());
        fs::write(directory.path().join(FILE), &whole[..end]).unwrap();
        let (journal, told) = survives(directory.path()).await;
        let ended = whole[..end].iter().filter(|b| **b == b'\n').count();
        let torn = end > 0 && whole[end - 1] != b'\n';
        // A line that lacks its end and nothing else is whole.
        let lacks_end = torn && whole.get(end) == Some(&b'\n');
        assert_eq!(journal.open().count(), ended + usize::from(lacks_end));
        assert_eq!(told, u64::from(torn && !lacks_end));
    }
}

#[tokio::test]
async fn a_hundred_flipped_bytes_cost_their_line_and_no_more() {
    let (directory, whole) = twenty().await;
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..100 {
        let mut damaged = whole.clone();
        let at = random.usize(..damaged.len());
        damaged[at] ^= random.u8(1..);
        fs::write(directory.path().join(FILE), &damaged).unwrap();
        let (journal, told) = survives(directory.path()).await;
        // The end of a line makes one of two.
        let lost = 20 - journal.open().count();
        let most = if whole[at] == b'\n' { 2 } else { 1 };
        assert!(lost <= most, "{lost} lost by byte {at}");
        assert!(lost == 0 || told > 0, "what was lost is told");
        let line = whole[..at].iter().filter(|b| **b == b'\n').count() as u64 + 1;
        assert!(
            journal
                .damage
                .iter()
                .all(|damage| (line..=line + 1).contains(&damage.line))
        );
        for (_, incident) in journal.open() {
            assert!(incident.summary.starts_with("summary "), "{incident:?}");
        }
    }
}

/// A mounted tmpfs of 64 KiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where we may not mount, which no CI allows.
    fn mount() -> Option<Self> {
        let place = tempfile::tempdir().unwrap();
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=64k", "snowpit-test"]);
        let mounted = command.arg(place.path()).status();
        if mounted.is_ok_and(|status| status.success()) {
            return Some(Self(place));
        }
        assert!(std::env::var_os("CI").is_none(), "mount needs root");
        eprintln!("SKIPPED: a small tmpfs cannot be mounted");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let directory = disk.0.path().join("history");
    let health = Health::new();
    let (writer, _) = JournalWriter::start(&directory, &health).unwrap();
    writer.offer(&opened(0));
    let ballast = disk.0.path().join("ballast");
    tokio::time::sleep(Duration::from_millis(300)).await;
    fs::write(&ballast, vec![1; 128 * 1024]).expect_err("it is full now");
    (1..20).for_each(|n| writer.offer(&opened(n)));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let full = Journal::load(&directory).unwrap();
    assert!(full.open().count() < 20);
    assert_eq!(full.damaged, 0, "no line is torn");
    fs::remove_file(&ballast).unwrap();
    // Tried every five seconds, without a new incident.
    for _ in 0..100 {
        if Journal::load(&directory).unwrap().open().count() == 20 {
            writer.finish().await;
            assert!(health.losses().is_empty());
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never written");
}

fn snowpit(config: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.arg("incidents").arg("--config").arg(config);
    command.args(args).output().unwrap()
}

#[tokio::test]
async fn the_command_lists_and_filters() {
    let directory = tempfile::tempdir().unwrap();
    let mut old = incident(4, Some(unix_now() - 90_000.0));
    old.opened_at = unix_now() - 100_000.0;
    let effects = [
        opened(0),
        effect(Event::Resolved, old),
        resolved(1),
        opened(2),
    ];
    write(directory.path(), &effects).await;
    let config = directory.path().join("snowpit.toml");
    let text = format!(
        "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://a@127.0.0.1/a\"\n\
         [history]\ndirectory = \"{}\"\n",
        directory.path().display()
    );
    fs::write(&config, text).unwrap();
    let summaries = |args: &[&str]| -> Vec<String> {
        let output = snowpit(&config, &[&["--json"], args].concat());
        assert!(output.status.success(), "{output:?}");
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let incidents: Vec<Incident> = serde_json::from_value(answer["incidents"].clone()).unwrap();
        incidents.into_iter().map(|i| i.summary).collect()
    };
    let all = ["summary 2", "summary 0", "summary 1", "summary 4"];
    assert_eq!(summaries(&[]), all);
    assert_eq!(summaries(&["--since", "24h"]), all[..3]);
    assert_eq!(summaries(&["--open"]), all[..2]);
    assert_eq!(summaries(&["--target", "spare"]), ["summary 1"]);
    let kind = Kind::ALL[2].as_str();
    assert_eq!(summaries(&["--kind", kind]), ["summary 2"]);

    let table = String::from_utf8(snowpit(&config, &["--open"]).stdout).unwrap();
    assert!(table.contains("summary 0"), "{table}");
    assert!(table.contains("open"), "{table}");
    assert!(!table.contains("summary 1"), "{table}");

    assert_eq!(snowpit(&config, &["--kind", "x"]).status.code(), Some(2));
    fs::write(
        &config,
        "[[postgres]]\nname = \"main\"\ndsn = \"postgresql://a@b/c\"\n",
    )
    .unwrap();
    let output = snowpit(&config, &[]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("[history]"), "{told}");
}
