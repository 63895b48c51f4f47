//! A disk that is full, and has room again: a small tmpfs, filled by somebody
//! else.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use snowpit::engine::series::{Gathered, Millis, Selector, Store};
use snowpit::expose::history::{Batch, Failure, History};

const RETENTION: Duration = Duration::from_secs(72 * 3600);
const START: Millis = 1_600_000_200_000;

/// A file system of one mebibyte.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where this user may not mount; in CI that is a failure.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let options = Some("size=1m");
        let mounted = mount(
            Some("snowpit"),
            directory.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            options,
        );
        match mounted {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                assert!(
                    std::env::var_os("CI").is_none(),
                    "cannot mount a tmpfs: {error}"
                );
                eprintln!(
                    "SKIPPED: a full disk was not tried, because this user cannot mount a tmpfs: {error}"
                );
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills all the room there is.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("somebody-elses");
        let mut size = 1 << 20;
        let mut bytes = Vec::new();
        while size > 0 {
            bytes.resize(bytes.len() + size, 7_u8);
            if fs::write(&path, &bytes).is_err() {
                bytes.truncate(bytes.len() - size);
                size /= 2;
            }
        }
        let _ = fs::write(&path, &bytes);
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

fn feed(store: &mut Store, seconds: std::ops::Range<u32>) -> Millis {
    let mut random = fastrand::Rng::with_seed(u64::from(seconds.start));
    let end = seconds.end;
    for second in seconds {
        let t = START as f64 / 1e3 + f64::from(second);
        let mut row = store.row("postgres/main", t).unwrap();
        for n in 0..20 {
            row.put("x", &[("n", &n.to_string())], random.f64());
        }
    }
    START + i64::from(end) * 1000
}

fn batch(store: &mut Store) -> Batch {
    Batch {
        sealed: store.take_sealed(),
        unsaved: store.take_unsaved(),
        last: false,
    }
}

fn on_disk(history: &History) -> usize {
    let mut gathered = Gathered::new(0, Millis::MAX, 100, usize::MAX);
    let selector = Selector::named("x");
    history
        .gather(&selector, 0, Millis::MAX, &mut gathered)
        .unwrap();
    gathered
        .finish()
        .iter()
        .map(|(_, points)| points.len())
        .sum()
}

#[test]
fn a_full_disk_loses_nothing_and_is_used_again_when_it_has_room() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let opened = History::open(disk.path(), RETENTION, START).unwrap();
    let (history, mut writer) = (opened.history, opened.writer);
    let mut store = Store::default();
    store.hand_over(f64::INFINITY);
    for minute in 0..3 {
        let now = feed(&mut store, minute * 60..(minute + 1) * 60);
        writer.take(batch(&mut store), now);
    }
    assert!(!history.health().is_stuck());
    assert_eq!(on_disk(&history), 3 * 60 * 20);

    let filler = disk.fill();
    for minute in 3..25 {
        let now = feed(&mut store, minute * 60..(minute + 1) * 60);
        writer.take(batch(&mut store), now);
    }
    assert!(history.health().is_stuck());
    let failures = history.health().failures(Failure::Write);
    assert!(failures >= 20, "{failures}");
    assert_eq!(history.health().failures(Failure::Lost), 0);
    let mut count = 0;
    for n in 0..20 {
        let key = snowpit::engine::series::Key::new("x", &[("n", &n.to_string())]);
        store.visit(&key, 0, Millis::MAX, |_, _| count += 1);
    }
    assert_eq!(count, 25 * 60 * 20, "the memory goes on");
    assert_eq!(
        on_disk(&history),
        3 * 60 * 20,
        "what was written is still read"
    );
    let leftovers = fs::read_dir(disk.path().join("series")).unwrap();
    let unfinished = leftovers.filter(|entry| {
        let path = entry.as_ref().unwrap().path();
        path.extension().is_some_and(|extension| extension == "tmp")
    });
    assert_eq!(unfinished.count(), 0, "nothing half-written takes the room");

    fs::remove_file(filler).unwrap();
    let now = feed(&mut store, 25 * 60..26 * 60);
    writer.take(batch(&mut store), now);
    assert!(!history.health().is_stuck(), "it resumes by itself");
    store.seal_all();
    let last = Batch {
        sealed: store.take_sealed(),
        last: true,
        ..Batch::default()
    };
    writer.take(last, now);
    assert_eq!(on_disk(&history), 26 * 60 * 20, "and nothing is missing");
}
