//! The history on disk: what is written is read again, what is damaged is told
//! of and loses nothing beside it, and one directory has one daemon.

use std::collections::BTreeMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use snowpit::engine::series::{Block, Gathered, Key, Millis, Selector, Store};
use snowpit::expose::history::format::{self, Interner};
use snowpit::expose::history::segment::Segment;
use snowpit::expose::history::{Batch, DirectoryError, Failure, History, Opened};

const RETENTION: Duration = Duration::from_secs(72 * 3600);
/// Some time in September 2020, at a full ten minutes.
const START: Millis = 1_600_000_200_000;
/// More than a frame holds.
const SERIES: usize = 260;
/// Milliseconds between two looks: tests need many files, not many rows.
const LOOK_EVERY: Millis = 150_000;

/// Everything in a directory: (hash of the series, time) to the bits of the value.
type Contents = BTreeMap<(u64, Millis), u64>;

fn open(directory: &Path, now: Millis) -> Opened {
    History::open(directory, RETENTION, now).unwrap()
}

fn contents(history: &History) -> Contents {
    let mut gathered = Gathered::new(0, Millis::MAX, usize::MAX, usize::MAX);
    let selector = Selector::named("x");
    history
        .gather(&selector, 0, Millis::MAX, &mut gathered)
        .unwrap();
    told(gathered)
}

fn told(gathered: Gathered) -> Contents {
    let mut contents = Contents::new();
    for (key, points) in gathered.finish() {
        let series = hash(&key);
        for (t, value) in points {
            contents.insert((series, t), value.to_bits());
        }
    }
    contents
}

fn hash(key: &Key) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

/// Two sources of [`SERIES`] series each.
struct Feed {
    store: Store,
    random: fastrand::Rng,
    now: Millis,
    fed: Contents,
}

impl Feed {
    fn new() -> Self {
        let mut store = Store::default();
        store.hand_over(f64::INFINITY);
        Self {
            store,
            random: fastrand::Rng::with_seed(7),
            now: START,
            fed: Contents::new(),
        }
    }

    fn run(&mut self, looks: usize) {
        for _ in 0..looks {
            for source in ["postgres/main", "pgbouncer/pooler-1"] {
                let mut row = self.store.row(source, self.now as f64 / 1e3).unwrap();
                for n in 0..SERIES {
                    if self.random.u8(0..20) == 0 {
                        continue;
                    }
                    let value = match n % 3 {
                        0 => 5000.0,
                        1 => f64::from(self.random.u8(0..9)),
                        _ => self.random.f64(),
                    };
                    let number = n.to_string();
                    let labels = [("source", source), ("n", number.as_str())];
                    row.put("x", &labels, value);
                    let series = hash(&Key::new("x", &labels));
                    self.fed.insert((series, self.now), value.to_bits());
                }
            }
            self.now += LOOK_EVERY;
        }
    }

    fn batch(&mut self) -> Batch {
        Batch {
            sealed: self.store.take_sealed(),
            unsaved: self.store.take_unsaved(),
            last: false,
        }
    }

    fn last(&mut self) -> Batch {
        self.store.seal_all();
        Batch {
            sealed: self.store.take_sealed(),
            unsaved: Vec::new(),
            last: true,
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory.join("series"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn ending(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let names = names(directory).into_iter();
    names
        .filter(|name| name.ends_with(extension))
        .map(|name| directory.join("series").join(name))
        .collect()
}

#[test]
fn parts_give_way_to_segments() {
    let directory = tempfile::tempdir().unwrap();
    let mut feed = Feed::new();
    let mut opened = open(directory.path(), START);
    let mut most = 0;
    for _ in 0..30 {
        feed.run(1);
        opened.writer.take(feed.batch(), feed.now);
        most = most.max(ending(directory.path(), "part").len());
    }
    assert!((4..=14).contains(&most), "{most} parts");
    opened.writer.take(feed.last(), feed.now);
    assert_eq!(ending(directory.path(), "part"), Vec::<PathBuf>::new());
    assert_eq!(contents(&opened.history), feed.fed);
}

#[test]
fn nothing_that_was_handed_over_is_lost_by_a_kill() {
    let directory = tempfile::tempdir().unwrap();
    let mut feed = Feed::new();
    let mut opened = open(directory.path(), START);
    for minute in 0..25 {
        feed.run(1);
        opened.writer.take(feed.batch(), feed.now);
        if minute % 7 == 3 {
            // As after a kill: nothing else was handed over.
            drop(opened);
            opened = open(directory.path(), feed.now);
            assert_eq!(contents(&opened.history), feed.fed, "minute {minute}");
        }
    }
    opened.writer.take(feed.last(), feed.now);
    assert_eq!(contents(&opened.history), feed.fed);
    assert_eq!(opened.history.health().failures(Failure::Write), 0);
    let length: u64 = names(directory.path())
        .iter()
        .map(|name| {
            fs::metadata(directory.path().join("series").join(name))
                .unwrap()
                .len()
        })
        .sum();
    assert_eq!(opened.history.bytes(), length);

    drop(opened);
    let opened = open(directory.path(), feed.now);
    let mut gathered = Gathered::new(0, Millis::MAX, usize::MAX, usize::MAX);
    for block in &opened.recent {
        gathered
            .block(block, &Selector::named("x"), Millis::MAX)
            .unwrap();
    }
    assert_eq!(
        told(gathered),
        feed.fed,
        "the last hours are handed to the engine"
    );
}

#[test]
fn a_second_daemon_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = open(directory.path(), START);
    let second = History::open(directory.path(), RETENTION, START);
    let error = second.unwrap_err();
    assert!(matches!(error, DirectoryError::Locked(_)), "{error}");
    assert!(error.to_string().contains("another snowpit"), "{error}");
    drop(first);
    open(directory.path(), START);
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_a_remedy() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = History::open(file.path(), RETENTION, START).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("make the directory writable"), "{text}");
}

#[test]
fn retention_removes_whole_files_and_a_wrong_clock_removes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let mut feed = Feed::new();
    let mut opened = open(directory.path(), START);
    for _ in 0..24 {
        feed.run(1);
        opened.writer.take(feed.batch(), feed.now);
    }
    opened.writer.take(feed.last(), feed.now);
    let files = opened.history.files();
    assert!(files > 3, "{files}");
    // A look from 2106 is told of, and is as old as its file.
    let mut future = Store::default();
    future.hand_over(f64::INFINITY);
    future
        .row("postgres/main", 4_294_967_296.0)
        .unwrap()
        .put("x", &[], 1.0);
    future.seal_all();
    let sealed = future.take_sealed();
    opened.writer.take(
        Batch {
            sealed,
            last: true,
            ..Batch::default()
        },
        feed.now,
    );
    assert_eq!(opened.history.files(), files + 1);

    let half = START + 30 * 60_000;
    let later = half + RETENTION.as_millis() as Millis;
    opened.writer.take(Batch::default(), later);
    let kept = contents(&opened.history);
    assert!(kept.keys().all(|(_, t)| *t > half - 25 * 60_000));
    let expected = feed.fed.keys().filter(|(_, t)| *t >= half).count();
    let found = kept
        .keys()
        .filter(|(_, t)| *t >= half && *t < feed.now)
        .count();
    assert_eq!(found, expected, "what is young enough stays");
    let much_later = feed.now + 2 * RETENTION.as_millis() as Millis;
    opened.writer.take(Batch::default(), much_later);
    assert_eq!(opened.history.files(), 0);
    assert_eq!(names(directory.path()), Vec::<String>::new());
}

#[test]
fn a_file_of_another_version_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let mut feed = Feed::new();
    let mut opened = open(directory.path(), START);
    feed.run(2);
    opened.writer.take(feed.last(), feed.now);
    drop(opened);
    let path = ending(directory.path(), "segment").remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[7] += 1;
    let checksum = crc32fast::hash(&bytes[..16]).to_le_bytes();
    bytes[16..20].copy_from_slice(&checksum);
    fs::write(&path, bytes).unwrap();
    let opened = open(directory.path(), feed.now);
    assert_eq!(opened.history.health().failures(Failure::Read), 1);
    assert!(path.exists());
    assert!(contents(&opened.history).is_empty());
}

/// A history of several files, and what is in each frame of each.
struct Victim {
    directory: tempfile::TempDir,
    now: Millis,
    fed: Contents,
    /// File, bytes of the frame, what is in it.
    frames: Vec<(PathBuf, std::ops::Range<u64>, Contents)>,
}

fn victim() -> Victim {
    let directory = tempfile::tempdir().unwrap();
    let mut feed = Feed::new();
    let mut opened = open(directory.path(), START);
    for _ in 0..18 {
        feed.run(1);
        opened.writer.take(feed.batch(), feed.now);
    }
    opened.writer.take(feed.last(), feed.now);
    drop(opened);
    let mut frames = Vec::new();
    for path in ending(directory.path(), "segment") {
        let segment = Segment::open(&path).unwrap();
        for entry in &segment.entries {
            let mut gathered = Gathered::new(0, Millis::MAX, usize::MAX, usize::MAX);
            let only = |other: &_| other == entry;
            let add = |block: Block| {
                gathered
                    .block(&block, &Selector::named("x"), Millis::MAX)
                    .unwrap();
            };
            segment.read(&mut Interner::default(), only, add).unwrap();
            let (offset, length) = entry.range();
            frames.push((path.clone(), offset..offset + length as u64, told(gathered)));
        }
    }
    Victim {
        directory,
        now: feed.now,
        fed: feed.fed,
        frames,
    }
}

impl Victim {
    /// Copies all files, spoils one with `spoil`, and looks what is left: all but
    /// the frames that `hit` says were touched.
    fn survives(
        &self,
        file: &Path,
        spoil: impl Fn(&mut Vec<u8>),
        hit: impl Fn(&std::ops::Range<u64>) -> bool,
    ) {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("series")).unwrap();
        let place = |path: &Path| copy.path().join("series").join(path.file_name().unwrap());
        for path in ending(self.directory.path(), "segment") {
            fs::copy(&path, place(&path)).unwrap();
        }
        let mut bytes = fs::read(file).unwrap();
        spoil(&mut bytes);
        fs::write(place(file), bytes).unwrap();

        let Opened {
            history,
            mut writer,
            recent,
            ..
        } = open(copy.path(), self.now);
        writer.check();
        assert_eq!(
            history.health().failures(Failure::Damaged),
            1,
            "it says so, once"
        );
        assert_eq!(ending(copy.path(), "damaged").len(), 1, "it is set aside");
        assert!(!place(file).exists());
        let mut expected = self.fed.clone();
        for (path, range, contents) in &self.frames {
            if path == file && hit(range) {
                expected.retain(|point, _| !contents.contains_key(point));
            }
        }
        let found = contents(&history);
        assert!(
            found == expected,
            "{} of {} values",
            found.len(),
            expected.len()
        );
        let mut remembered = Gathered::new(0, Millis::MAX, usize::MAX, usize::MAX);
        for block in recent {
            let taken = remembered.block(&block, &Selector::named("x"), Millis::MAX);
            taken.unwrap();
        }
        assert!(told(remembered) == expected, "the engine is told of it all");
        drop((history, writer));
        // The next start has nothing left to complain of.
        let opened = open(copy.path(), self.now);
        assert_eq!(opened.history.health().failures(Failure::Damaged), 0);
        assert!(contents(&opened.history) == expected);
    }
}

#[test]
fn a_hundred_flipped_bytes_lose_only_their_frames() {
    let victim = victim();
    assert!(victim.frames.len() >= 16, "{} frames", victim.frames.len());
    let files: Vec<PathBuf> = ending(victim.directory.path(), "segment");
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..100 {
        let file = &files[random.usize(0..files.len())];
        let length = fs::metadata(file).unwrap().len();
        let at = random.u64(0..length);
        let bit = 1 << random.u8(0..8);
        println!("{} byte {at} of {length}, bit {bit}", file.display());
        victim.survives(
            file,
            |bytes| bytes[at as usize] ^= bit,
            |range| range.contains(&at),
        );
    }
}

#[test]
fn a_hundred_cut_files_lose_only_what_was_cut_off() {
    let victim = victim();
    let files: Vec<PathBuf> = ending(victim.directory.path(), "segment");
    let mut random = fastrand::Rng::with_seed(13);
    for round in 0..100 {
        let file = &files[random.usize(0..files.len())];
        let length = fs::metadata(file).unwrap().len();
        let at = if round == 0 { 0 } else { random.u64(0..length) };
        println!("{} cut to {at} of {length}", file.display());
        victim.survives(
            file,
            |bytes| bytes.truncate(at as usize),
            |range| range.end > at,
        );
    }
}

#[test]
fn a_reader_that_meets_damage_goes_on_and_the_writer_sees_to_it() {
    let victim = victim();
    let mut opened = open(victim.directory.path(), victim.now);
    let (file, range, lost) = &victim.frames[0];
    let mut bytes = fs::read(file).unwrap();
    bytes[range.start as usize + 40] ^= 4;
    fs::write(file, bytes).unwrap();
    let found = contents(&opened.history);
    assert!(found.len() < victim.fed.len() && !found.is_empty());
    opened.writer.take(Batch::default(), victim.now);
    assert_eq!(opened.history.health().failures(Failure::Damaged), 1);
    let mut expected = victim.fed.clone();
    expected.retain(|point, _| !lost.contains_key(point));
    assert!(contents(&opened.history) == expected);
}

#[test]
fn what_was_being_written_is_removed_and_strangers_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path(), START));
    let series = directory.path().join("series");
    for name in [
        "000000000007.tmp",
        "notes.txt",
        "x.segment",
        "000000000009.segment",
    ] {
        fs::write(
            series.join(name),
            "not a segment at all, but long enough to be looked at",
        )
        .unwrap();
    }
    // What cannot be removed stops nothing.
    fs::create_dir(series.join("a.tmp")).unwrap();
    let opened = open(directory.path(), START);
    assert_eq!(opened.history.health().failures(Failure::Damaged), 1);
    assert_eq!(
        names(directory.path()),
        [
            "000000000009.segment.damaged",
            "a.tmp",
            "notes.txt",
            "x.segment"
        ]
    );
    assert!(opened.recent.is_empty());
}

/// A checksum only says that the bytes are those that were written, not that who
/// wrote them meant well.
#[test]
fn contents_that_lie_are_refused_and_nothing_panics() {
    let victim = victim();
    let (file, range, _) = &victim.frames[0];
    let bytes = fs::read(file).unwrap();
    let payload = &bytes[range.start as usize + 12..range.end as usize];
    let mut keys = Interner::default();
    assert!(format::decode_payload(payload, &mut keys).is_some());
    let mut random = fastrand::Rng::with_seed(17);
    let mut values = Vec::new();
    for _ in 0..2_000 {
        let mut spoilt = payload.to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..spoilt.len());
            match random.u8(0..3) {
                0 => spoilt[at] = random.u8(..),
                1 => spoilt.truncate(at.max(1)),
                _ => {
                    spoilt.insert(at, random.u8(..));
                }
            }
        }
        if let Some(block) = format::decode_payload(&spoilt, &mut keys) {
            for column in 0..block.keys().len() {
                let _ = block.values(column, &mut values);
            }
        }
        let _ = format::decode_footer(&spoilt, crc32fast::hash(&spoilt), spoilt.len() as u64);
        let _ = format::decode_header(&spoilt);
        let _ = format::decode_trailer(&spoilt, spoilt.len() as u64);
        format::salvage(&spoilt);
    }
}
