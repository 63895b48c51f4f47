//! Captures read back: exactly what was written, whatever the compression, and
//! whatever else is in the file told and left out.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use flate2::Compression;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use snowpit::capture::{
    CaptureReader, Captures, FileProblem, Header, LINE_LIMIT, Line, LineProblem, parse,
};
use snowpit::engine::{Engine, Settings};
use snowpit::replay::{Replay, Step, tuned};
use snowpit::sample::{Group, PostgresReport, Report, Sample, Server};

const START: f64 = 1_604_902_320.0;

fn sample(t: f64, count: u32) -> Sample {
    let group = Group {
        application: Some("registry".into()),
        state: Some("active".into()),
        route: Some("GET /a".into()),
        count,
        ..Group::default()
    };
    let report = PostgresReport {
        target: "main".into(),
        server: Some(Server {
            max_connections: Some(100),
            ..Server::default()
        }),
        groups: vec![group],
        ..PostgresReport::default()
    };
    Sample {
        t,
        report: Report::Postgres(report),
    }
}

fn samples(n: u32) -> Vec<Sample> {
    (0..n)
        .map(|i| sample(START + f64::from(i) + 0.1 / 3.0, 5 + i % 3))
        .collect()
}

const HEADER: &str = "{\"snowpit_capture\":1,\"poolers_complete\":true}";

/// The text of a capture.
fn text(samples: &[Sample]) -> Vec<u8> {
    let mut lines = vec![HEADER.to_owned()];
    lines.extend(samples.iter().map(|s| serde_json::to_string(s).unwrap()));
    (lines.join("\n") + "\n").into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

/// Samples, and problems as (line, word of the message).
fn read(bytes: &[u8]) -> (Vec<Sample>, Vec<(u64, String)>) {
    let mut reader = CaptureReader::new(Path::new("f"), bytes).unwrap();
    let (mut samples, mut problems) = (Vec::new(), Vec::new());
    while let Some(next) = reader.next() {
        match next {
            Ok(sample) => samples.push(sample),
            Err(rejected) => problems.push((rejected.line, rejected.to_string())),
        }
    }
    (samples, problems)
}

fn with_line(at: usize, line: &str) -> (Vec<Sample>, Vec<(u64, String)>) {
    let all = String::from_utf8(text(&samples(6))).unwrap();
    let mut lines: Vec<&str> = all.lines().collect();
    lines.insert(at, line);
    read((lines.join("\n") + "\n").as_bytes())
}

#[test]
fn the_compression_is_told_by_the_content() {
    let expected = samples(40);
    let plain = text(&expected);
    let halves = plain.split_at(plain.len() / 2);
    let members = [gzip(halves.0), gzip(halves.1)].concat();
    let frames = [zstd(halves.0), zstd(halves.1)].concat();
    for file in [&plain, &gzip(&plain), &zstd(&plain), &members, &frames] {
        assert_eq!(read(file), (expected.clone(), Vec::new()));
    }
}

#[test]
fn a_file_that_ends_anywhere_gives_every_whole_line_before() {
    let expected = samples(30);
    let plain = text(&expected);
    for file in [plain.clone(), gzip(&plain), zstd(&plain)] {
        for end in (0..file.len()).step_by(7) {
            let Ok(mut reader) = CaptureReader::new(Path::new("f"), &file[..end]) else {
                continue;
            };
            let mut read = Vec::new();
            while let Some(next) = reader.next() {
                match next {
                    Ok(sample) => read.push(sample),
                    Err(rejected) => assert!(rejected.problem.is_harmless(), "{rejected}"),
                }
            }
            assert_eq!(read, expected[..read.len()]);
        }
    }
    let cut = &plain[..plain.len() - 20];
    let (found, problems) = read(cut);
    assert_eq!(found, expected[..29]);
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].0, 31);
    assert!(problems[0].1.contains("middle of a line"), "{problems:?}");
}

#[test]
fn a_last_line_without_its_end_is_used_when_it_is_whole() {
    let expected = samples(3);
    let mut file = text(&expected);
    file.pop();
    assert_eq!(read(&file), (expected, Vec::new()));
}

#[test]
fn a_bad_line_is_told_with_its_number_and_those_beside_it_are_used() {
    let good = samples(6);
    let negative = "{\"t\":1604902322,\"source\":\"postgres\",\"groups\":[{\"count\":-1}]}";
    for (line, word) in [
        ("nonsense", "is no sample"),
        ("{\"snowpit_capture\":7}", "version 7"),
        ("{\"t\":1e999,\"source\":\"postgres\"}", "out of range"),
        ("{\"t\":NaN,\"source\":\"postgres\"}", "is no sample"),
        (negative, "invalid value"),
        ("{\"t\":5,\"source\":\"postgres\"}", "years away"),
        ("{\"t\":4294967295,\"source\":\"postgres\"}", "years away"),
        ("{\"t\":1604902322,\"source\":\"news\"}", "does not know"),
    ] {
        let (found, problems) = with_line(3, line);
        assert_eq!(found, good, "{line}");
        assert_eq!(problems.len(), 1, "{line}: {problems:?}");
        assert_eq!(problems[0].0, 4, "{line}: {problems:?}");
        assert!(problems[0].1.starts_with("f:4: "), "{problems:?}");
        assert!(problems[0].1.contains(word), "{line}: {problems:?}");
    }
    let (found, problems) = with_line(7, "{\"t\":5,\"source\":\"postgres\"}");
    assert_eq!((found, problems.len()), (good, 1), "the last line");
}

#[test]
fn a_clock_that_was_set_is_no_damage() {
    // Everything after it agrees, so the live engine saw the same.
    let mut all = samples(4);
    all.extend((0..4).map(|i| sample(100.0 + f64::from(i), 1)));
    assert_eq!(read(&text(&all)), (all, Vec::new()));
}

/// Gives a header, one endless line of 1 GiB, and a sample.
struct Endless {
    head: io::Cursor<Vec<u8>>,
    left: u64,
    tail: io::Cursor<Vec<u8>>,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let head = self.head.read(buffer)?;
        if head > 0 {
            return Ok(head);
        }
        if self.left > 0 {
            let n = buffer.len().min(usize::try_from(self.left).unwrap());
            buffer[..n].fill(b'7');
            self.left -= n as u64;
            return Ok(n);
        }
        self.tail.read(buffer)
    }
}

fn most_memory_used() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_line_of_a_gibibyte_is_passed_over_in_bounded_memory() {
    let last = sample(START, 1);
    let mut tail = b"\n".to_vec();
    serde_json::to_writer(&mut tail, &last).unwrap();
    tail.push(b'\n');
    let file = Endless {
        head: io::Cursor::new(format!("{HEADER}\n").into_bytes()),
        left: 1 << 30,
        tail: io::Cursor::new(tail),
    };
    let before = most_memory_used();
    let mut reader = CaptureReader::new(Path::new("f"), file).unwrap();
    let rejected = reader.next().unwrap().unwrap_err();
    assert_eq!(rejected.line, 2);
    assert!(matches!(rejected.problem, LineProblem::TooLong));
    assert_eq!(reader.next().unwrap().unwrap(), last);
    assert!(reader.next().is_none());
    let grown = most_memory_used() - before;
    // The buffer doubles on its way to the limit. Other tests run beside.
    assert!(grown * 1024 < 6 * LINE_LIMIT, "{grown} kB more");
}

#[test]
fn what_is_no_capture_is_refused_with_a_reason() {
    let refused = |bytes: &[u8]| match CaptureReader::new(Path::new("f"), bytes) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => error,
    };
    assert!(matches!(refused(b"").problem, FileProblem::Empty));
    let version = refused(b"{\"snowpit_capture\":2,\"x\":[]}\n");
    assert!(matches!(version.problem, FileProblem::Version(2)));
    for bytes in [&b"\x7fELF\0\0"[..], b"{\"t\":1}\n", b"\n\n", b"[]"] {
        let error = refused(bytes);
        assert!(matches!(error.problem, FileProblem::NoHeader(_)), "{error}");
        assert!(error.to_string().contains("must begin with"), "{error}");
    }
    for magic in [&b"\x1f\x8b"[..], b"\x28\xb5\x2f\xfd"] {
        let error = refused(magic);
        assert!(matches!(error.problem, FileProblem::Read(_)), "{error}");
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

fn all_of(paths: &[PathBuf]) -> Vec<Sample> {
    let mut captures = Captures::open(paths).unwrap_or_else(|errors| panic!("{errors:?}"));
    let mut all = Vec::new();
    while let Some(next) = captures.next() {
        all.push(next.unwrap());
    }
    all
}

#[test]
fn several_captures_are_one_whatever_their_order() {
    let place = Place::new();
    let all = samples(90);
    let mut files = vec![
        place.file("z", &text(&all[..30])),
        place.file("a", &gzip(&text(&all[30..60]))),
        place.file("m", &zstd(&text(&all[60..]))),
    ];
    for _ in 0..3 {
        files.rotate_left(1);
        assert_eq!(all_of(&files), all);
    }
    // Side by side in time: merged.
    let (even, odd): (Vec<_>, Vec<_>) = all.iter().cloned().enumerate().partition(|x| x.0 % 2 == 0);
    let strip = |half: Vec<(usize, Sample)>| half.into_iter().map(|x| x.1).collect::<Vec<_>>();
    let files = [
        place.file("odd", &text(&strip(odd))),
        place.file("even", &text(&strip(even))),
    ];
    assert_eq!(all_of(&files), all);
}

#[test]
fn files_of_one_run_keep_the_order_of_the_engine() {
    let place = Place::new();
    let mut all = samples(9);
    // A slow look was handed over after its file was ended.
    all.swap(4, 6);
    let part = |part: u64, samples: &[Sample]| {
        let mut header = Header::new(&Settings::default(), "one run");
        header.part = part;
        let body = text(samples);
        let body = &body[HEADER.len()..];
        [serde_json::to_vec(&header).unwrap(), body.to_vec()].concat()
    };
    let files = [
        place.file("2.jsonl", &part(1, &all[5..])),
        place.file("1.jsonl", &part(0, &all[..5])),
    ];
    assert_eq!(all_of(&files), all);
    assert_eq!(all_of(&[place.0.path().to_owned()]), all, "as a directory");
    let again = place.file("again", &part(1, &all[5..]));
    let errors = Captures::open(&[files[0].clone(), again]).err().unwrap();
    assert!(errors[0].to_string().contains("name it once"), "{errors:?}");
}

#[test]
fn settings_come_from_the_headers_and_thresholds_from_the_configuration() {
    let place = Place::new();
    let header = |text: &str| place.file(&text.len().to_string(), format!("{text}\n").as_bytes());
    let paths = [
        header(
            r#"{"snowpit_capture":1,"services":[{"name":"a","targets":["main"],"applications":["a*"]}],"poolers_complete":true,"future":1}"#,
        ),
        header(r#"{"snowpit_capture":1,"services":null,"poolers_complete":null}"#),
    ];
    let captured = Captures::open(&paths).unwrap().settings();
    assert_eq!(captured.services[0].applications, ["a*"]);
    assert!(!captured.poolers_complete, "one is not complete");
    let mut configured = Settings::default();
    configured.detect.connection_headroom.open_ratio = 0.5;
    configured.poolers_complete = true;
    let tuned = tuned(captured, &configured);
    assert_eq!(tuned.detect.connection_headroom.open_ratio, 0.5);
    assert_eq!(tuned.services[0].name, "a");
    assert!(!tuned.poolers_complete);
}

/// A server that fills up: the headroom incident opens.
fn filling() -> Vec<Sample> {
    (0..60)
        .map(|i| sample(START + f64::from(i), if i < 20 { 50 } else { 90 }))
        .collect()
}

fn snowpit(args: &[&str], files: &[&Path]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_snowpit"));
    command.arg("replay").args(args).args(files);
    command.output().unwrap()
}

#[test]
fn the_command_prints_what_the_engine_says() {
    let place = Place::new();
    let file = place.file("fills.zst", &zstd(&text(&filling())));
    let mut engine = Engine::new(Settings {
        poolers_complete: true,
        ..Settings::default()
    });
    let effects = filling().into_iter().flat_map(|s| engine.apply(s));
    let expected: Vec<Value> = effects.map(|e| serde_json::to_value(e).unwrap()).collect();
    assert_eq!(expected[0]["event"], json!("opened"));

    let first = snowpit(&["--json"], &[&file]);
    assert_eq!(first.status.code(), Some(0), "{first:?}");
    let lines = String::from_utf8(first.stdout.clone()).unwrap();
    let told: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(told, expected);
    assert_eq!(snowpit(&["--json"], &[&file]).stdout, first.stdout);

    let timeline = String::from_utf8(snowpit(&[], &[&file]).stdout).unwrap();
    assert!(timeline.contains("2020-11-09 06:12:"), "{timeline}");
    assert!(timeline.contains("connection_headroom"), "{timeline}");
}

#[test]
fn the_exit_status_tells_a_bad_file() {
    let place = Place::new();
    let good = text(&filling());
    let bad_line = [&good[..], b"nonsense\n"].concat();
    let cut = &good[..good.len() - 9];
    let version = b"{\"snowpit_capture\":2}\n";
    for (bytes, status, word) in [
        (&good[..], 0, "60 samples"),
        (cut, 0, "middle of a line"),
        (&bad_line, 2, "is no sample"),
        (&version[..], 2, "version 2"),
        (b"", 2, "is empty"),
    ] {
        let file = place.file("f", bytes);
        let output = snowpit(&[], &[&file]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{told}");
        assert!(told.contains(word), "{told}");
    }
    let absent = place.0.path().join("absent");
    assert_eq!(snowpit(&[], &[&absent]).status.code(), Some(2));
    let tuned = place.file("tuned.toml", b"[[postgres]]\nname = 1\n");
    let good = place.file("good", &good);
    let output = snowpit(&["--config", tuned.to_str().unwrap()], &[&good]);
    assert_eq!(output.status.code(), Some(2), "a bad configuration");
}

#[test]
fn thresholds_of_a_configuration_apply() {
    let place = Place::new();
    let file = place.file("f", &text(&filling()));
    let config = place.file(
        "tuned.toml",
        b"[[postgres]]\nname = \"main\"\ndsn = \"postgresql://a@b/c\"\n\
          [detect.connection_headroom]\nopen_ratio = 0.95\nresolve_ratio = 0.9\n",
    );
    let output = snowpit(&["--config", config.to_str().unwrap()], &[&file]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn times_and_figures_come_back_exactly(t in prop::num::f64::NORMAL, count: u32) {
        let written = sample(t, count);
        let line = serde_json::to_vec(&written).unwrap();
        prop_assert_eq!(parse(&line).unwrap(), Line::Sample(Box::new(written)));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let file = [HEADER.as_bytes(), b"\n", &bytes].concat();
        for file in [&file, &bytes] {
            if let Ok(mut reader) = CaptureReader::new(Path::new("f"), &file[..]) {
                while reader.next().is_some() {}
            }
        }
    }

    #[test]
    fn damage_anywhere_harms_no_more_than_lines(at in 0usize..2_000, with: u8, kind in 0..3) {
        let plain = text(&samples(8));
        let mut file = match kind {
            0 => plain,
            1 => gzip(&plain),
            _ => zstd(&plain),
        };
        let at = at % file.len();
        file[at] = with;
        let place = Place::new();
        let path = place.file("f", &file);
        if let Ok(captures) = Captures::open(&[path]) {
            let settings = captures.settings();
            let mut replay = Replay::new(captures, settings);
            let mut left_out = 0;
            while let Some(step) = replay.step() {
                left_out += u32::from(matches!(step, Step::LeftOut(_)));
            }
            if kind == 0 {
                prop_assert!(replay.summary().samples >= 6);
                prop_assert!(left_out <= 2);
            }
        }
    }
}
