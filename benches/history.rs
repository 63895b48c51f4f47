//! What the history costs: bytes a value, memory, processor time, the time of a
//! start, and the time of a question.
//!
//! `cargo bench --bench history` measures a minute or two of a real server, and
//! 72 hours of 3,000 simulated series. `SNOWPIT_CAPTURE=DIR` (or files, with ":"
//! between them) takes recorded polls instead of the minute. With
//! `SNOWPIT_BENCH_HOURS=N` only N hours, more than three, are simulated, and the
//! files of the others are the same values at earlier times. It fails when a
//! figure is over its budget.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use snowpit::capture::CaptureReader;
use snowpit::config::Config;
use snowpit::daemon;
use snowpit::demo::servers::{Alias, PgBouncer, PgBouncerOptions, Postgres, PostgresOptions};
use snowpit::engine::series::feed::{names, postgres_source};
use snowpit::engine::series::{Block, BlockBuilder, Gathered, Key, Millis, Selector, Store};
use snowpit::engine::{Engine, Settings};
use snowpit::expose::history::segment::Segment;
use snowpit::expose::history::{Batch, History, KEEP_SECONDS, Opened, Writer};

const BYTES_BUDGET: f64 = 0.35;
const MEMORY_BUDGET_MIB: f64 = 64.0;
const CPU_BUDGET: f64 = 0.01;
const START_BUDGET: Duration = Duration::from_secs(2);
const WINDOW_BUDGET: Duration = Duration::from_micros(100);

const TARGETS: usize = 10;
const SERIES_OF_TARGET: usize = 300;
const HOURS: u32 = 72;
/// Questions of each kind; the median is told.
const ROUNDS: usize = 501;
/// The simulation begins at a full hour in September 2020.
const START: Millis = 1_600_000_200_000;
const RETENTION: Duration = Duration::from_secs(72 * 3600);
/// Seconds of the real server when there is no capture.
const REAL_SECONDS: u64 = 90;

fn main() -> anyhow::Result<()> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("measures only under `cargo bench`");
        return Ok(());
    }
    let directory = tempfile::tempdir()?;
    let simulated = directory.path().join("simulated");
    let cost = simulate(&simulated)?;
    lengthen(&simulated)?;
    let start = start(&simulated, cost.now)?;
    let window = windows(&simulated, cost.now)?;
    let bytes = match std::env::var("SNOWPIT_CAPTURE") {
        Ok(captures) => captured(&captures, directory.path())?,
        Err(_) => polled(&directory.path().join("polled"))?,
    };
    ensure!(bytes <= BYTES_BUDGET, "a value takes too many bytes");
    ensure!(cost.memory <= MEMORY_BUDGET_MIB, "too much memory");
    ensure!(cost.share <= CPU_BUDGET, "too much processor time");
    ensure!(start <= START_BUDGET, "the start takes too long");
    ensure!(window <= WINDOW_BUDGET, "a question takes too long");
    Ok(())
}

/// What the simulation cost.
struct Cost {
    /// MiB at most, beyond what the process had before.
    memory: f64,
    /// Of one core.
    share: f64,
    now: Millis,
}

/// 3,000 series at one a second: a third constant, a third gauges that change
/// now and then, a quarter busy gauges, and a few counters of microseconds.
fn simulate(directory: &Path) -> anyhow::Result<Cost> {
    let hours = hours()?;
    let resident = resident_mib()?;
    let began = processor_seconds()?;
    let mut writer = History::open(directory, RETENTION, START)?.writer;
    let mut store = Store::default();
    store.hand_over(KEEP_SECONDS);
    let mut simulated = Simulated::new();
    let mut simulating = 0.0;
    let mut memory = 0.0_f64;
    let seconds = hours * 3600;
    for second in 0..seconds {
        let before = processor_seconds()?;
        simulated.step();
        simulating += processor_seconds()? - before;
        let t = f64::from(second) + START as f64 / 1e3;
        for target in 0..TARGETS {
            let mut row = store.row(&simulated.sources[target], t).context("a row")?;
            for series in &simulated.series[target] {
                let labels = [("target", &*simulated.names[target]), ("n", &*series.label)];
                row.put(series.name, &labels, series.value);
            }
        }
        if second % 60 == 59 {
            hand_over(&mut store, &mut writer, t);
        }
        if second % 600 == 30 {
            memory = memory.max(resident_mib()? - resident);
        }
    }
    let share = (processor_seconds()? - began - simulating) / f64::from(seconds);
    memory = memory.max(resident_mib()? - resident);
    store.seal_all();
    let last = Batch {
        sealed: store.take_sealed(),
        unsaved: Vec::new(),
        last: true,
    };
    let now = START + i64::from(seconds) * 1000;
    writer.take(last, now);
    let counts = store.counts();
    println!(
        "{hours} h of {} series at 1 s, history on disk:",
        counts.series
    );
    println!("memory     {memory:.1} MiB at most (budget {MEMORY_BUDGET_MIB} MiB)");
    println!(
        "processor  {:.3} % of a core (budget {:.0} %)",
        share * 100.0,
        CPU_BUDGET * 100.0
    );
    let length: u64 = segments(directory)?
        .iter()
        .map(|segment| segment.length)
        .sum();
    println!(
        "disk       {:.1} MiB, {:.3} bytes a simulated value",
        length as f64 / 1048576.0,
        length as f64 / counts.samples as f64
    );
    ensure!(
        counts.over_budget + counts.evicted + counts.late == 0,
        "{counts:?}"
    );
    Ok(Cost { memory, share, now })
}

fn hours() -> anyhow::Result<u32> {
    match std::env::var("SNOWPIT_BENCH_HOURS") {
        Ok(hours) => Ok(hours.parse::<u32>()?.clamp(4, HOURS)),
        Err(_) => Ok(HOURS),
    }
}

/// Makes files for the hours that were not simulated, out of those that were.
fn lengthen(directory: &Path) -> anyhow::Result<()> {
    let missing = i64::from(HOURS - hours()?);
    let mut keys = Default::default();
    for (number, segment) in segments(directory)?.into_iter().enumerate() {
        let mut blocks = Vec::new();
        segment.read(&mut keys, |_| true, |block| blocks.push(block))?;
        let simulated = i64::from(hours()?);
        for round in 1.. {
            let earlier = round * simulated * 3_600_000;
            let at = blocks.first().context("an empty segment")?.start() - earlier;
            if at < START - missing * 3_600_000 {
                break;
            }
            let shifted: Vec<Arc<Block>> = blocks
                .iter()
                .filter_map(|block| Some(Arc::new(shift(block, -earlier)?)))
                .collect();
            let name = format!("{:012}.segment", 1_000_000 + number as i64 * 1000 + round);
            Segment::write(directory.join("series").join(name), &shifted, at)?;
        }
    }
    Ok(())
}

/// The same values at another time.
fn shift(block: &Block, by: Millis) -> Option<Block> {
    let times = block.times().iter().map(|t| t + by).collect();
    let mut builder = BlockBuilder::new(Arc::clone(block.source()), times)?;
    for (column, key) in block.keys().iter().enumerate() {
        builder.push_packed(Arc::clone(key), block.packed(column)?);
    }
    Some(builder.finish())
}

fn hand_over(store: &mut Store, writer: &mut Writer, t: f64) {
    let batch = Batch {
        sealed: store.take_sealed(),
        unsaved: store.take_unsaved(),
        last: false,
    };
    writer.take(batch, (t * 1e3) as Millis);
}

/// A series and its value now.
struct Series {
    name: &'static str,
    label: String,
    kind: usize,
    value: f64,
}

struct Simulated {
    random: fastrand::Rng,
    names: Vec<String>,
    sources: Vec<String>,
    series: Vec<Vec<Series>>,
}

impl Simulated {
    fn new() -> Self {
        let names: Vec<String> = (0..TARGETS).map(|n| format!("target-{n}")).collect();
        let series = |number| Series {
            name: match number {
                // What a start reads again.
                0 => names::IN_USE,
                1 => names::CLIENTS_WAITING,
                2..50 => names::ROUTE,
                _ => "snowpit_connections",
            },
            label: format!("a-label-of-usual-length-{number}"),
            kind: number % 12,
            value: (number % 50) as f64,
        };
        Self {
            random: fastrand::Rng::with_seed(5),
            sources: names.iter().map(|name| postgres_source(name)).collect(),
            names,
            series: (0..TARGETS)
                .map(|_| (0..SERIES_OF_TARGET).map(series).collect())
                .collect(),
        }
    }

    fn step(&mut self) {
        for series in self.series.iter_mut().flatten() {
            series.value = match series.kind {
                0..4 => continue,
                4..8 if self.random.u8(0..60) == 0 => f64::from(self.random.u8(0..40)),
                4..8 => continue,
                8..11 => (series.value + f64::from(self.random.i8(-1..=1))).max(0.0),
                _ => ((series.value * 1e6).round() + f64::from(self.random.u16(0..2000))) / 1e6,
            };
        }
    }
}

/// Everything that happens before the first poll.
fn start(directory: &Path, now: Millis) -> anyhow::Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let began = clock();
        let opened = History::open(directory, RETENTION, now)?;
        let mut engine = Engine::new(Settings {
            targets: (0..TARGETS).map(|n| format!("target-{n}")).collect(),
            ..Settings::default()
        });
        let opening = began.elapsed();
        let blocks = opened.recent.len();
        engine.hand_over(KEEP_SECONDS);
        engine.remember(opened.recent_from, opened.recent);
        let took = began.elapsed();
        if took < best {
            best = took;
            println!(
                "start      {took:.2?} (opening {opening:.2?}, {} files, {blocks} blocks remembered; budget {START_BUDGET:?})",
                opened.history.files(),
            );
        }
    }
    Ok(best)
}

/// The last hour of one series, from memory and from disk.
fn windows(directory: &Path, now: Millis) -> anyhow::Result<Duration> {
    let Opened {
        history, recent, ..
    } = History::open(directory, RETENTION, now)?;
    let mut store = Store::default();
    for block in recent {
        store.adopt(block);
    }
    let mut slowest = Duration::ZERO;
    for kind in [0, 4, 8, 11] {
        let label = format!("a-label-of-usual-length-{}", 60 + kind);
        let labels = [("target", "target-3"), ("n", label.as_str())];
        let key = Key::new("snowpit_connections", &labels);
        let (from, to) = (now - 3_600_000, now);
        let median = median(|| {
            let (mut count, mut sum) = (0, 0.0);
            store.visit(&key, from, to, |_, value| {
                count += 1;
                sum += value;
            });
            assert!(count >= 3600, "{count} values, sum {sum}");
        });
        println!(
            "window     {median:.1?} for 1 h of series kind {kind} in memory (budget {WINDOW_BUDGET:?})"
        );
        slowest = slowest.max(median);
    }
    let selector = Selector::named("snowpit_connections")
        .with("target", "target-3")
        .with("n", "a-label-of-usual-length-68");
    let began = clock();
    let mut gathered = Gathered::new(now - 3_600_000, now, 1, 10_000);
    history.gather(&selector, now - 3_600_000, now, &mut gathered)?;
    let found = gathered.finish();
    ensure!(found.len() == 1 && found[0].1.len() >= 3600, "not on disk");
    println!(
        "           {:.1?} for 1 h of a series on disk",
        began.elapsed()
    );
    let began = clock();
    let mut gathered = Gathered::new(0, now, 1, 1_000_000);
    history.gather(&selector, 0, now, &mut gathered)?;
    let points = gathered.finish()[0].1.len();
    println!(
        "           {:.1?} for all {points} values of it",
        began.elapsed()
    );
    Ok(slowest)
}

fn median(mut measured: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|_| {
            let began = clock();
            measured();
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// Bytes a value of recorded polls, run through the engine.
fn captured(captures: &str, directory: &Path) -> anyhow::Result<f64> {
    let mut files: Vec<PathBuf> = captures.split(':').map(PathBuf::from).collect();
    if let [only] = &files[..]
        && only.is_dir()
    {
        let entries = std::fs::read_dir(only)?;
        files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<anyhow::Result<_>>()?;
        files.sort();
    }
    let first = CaptureReader::open(files.first().context("no capture")?)?;
    let mut engine = Engine::new(first.header().settings.clone());
    engine.hand_over(f64::INFINITY);
    let (mut polls, mut from, mut to) = (0_u64, f64::MAX, f64::MIN);
    let mut sealed: Vec<Arc<Block>> = Vec::new();
    for file in &files {
        let mut reader = CaptureReader::open(file)?;
        while let Some(sample) = reader.next() {
            // A recording that still goes on ends in the middle of a line.
            let Ok(sample) = sample else { continue };
            polls += 1;
            (from, to) = (from.min(sample.t), to.max(sample.t));
            engine.apply(sample);
            sealed.extend(engine.take_sealed());
        }
    }
    engine.seal_history();
    sealed.extend(engine.take_sealed());
    let values = engine.snapshot().history.samples;
    // As the writer does: one file for what is sealed at one time.
    sealed.sort_by_key(|block| block.start() / 600_000);
    let mut length = 0;
    for (number, blocks) in sealed
        .chunk_by(|a, b| a.start() / 600_000 == b.start() / 600_000)
        .enumerate()
    {
        let path = directory.join(format!("{number}.segment"));
        length += Segment::write(path, blocks, START)?.length;
    }
    println!("{polls} recorded polls over {:.0} min:", (to - from) / 60.0);
    tell(length, values);
    by_name(&sealed);
    Ok(length as f64 / values as f64)
}

fn tell(length: u64, values: u64) {
    println!(
        "disk       {:.3} bytes a value ({length} bytes, {values} values; budget {BYTES_BUDGET})",
        length as f64 / values as f64
    );
}

/// Where the bytes go.
fn by_name(blocks: &[Arc<Block>]) {
    let mut sums: std::collections::BTreeMap<&str, (usize, usize)> = Default::default();
    for block in blocks {
        for (column, key) in block.keys().iter().enumerate() {
            let sum = sums.entry(key.name()).or_default();
            sum.0 += block.packed(column).map_or(0, <[u8]>::len);
            sum.1 += 1;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, (bytes, _))| std::cmp::Reverse(*bytes));
    for (name, (bytes, columns)) in sums.into_iter().take(8) {
        println!("           {name}: {bytes} bytes in {columns} columns");
    }
}

/// Bytes a value of a real server and pooler that are looked at now.
fn polled(directory: &Path) -> anyhow::Result<f64> {
    tokio::runtime::Runtime::new()?.block_on(async {
        let postgres = Postgres::start(PostgresOptions::default()).await?;
        let pooler = PgBouncer::start(PgBouncerOptions {
            databases: vec![Alias::new("postgres", postgres.port())],
            users: vec![("postgres".into(), String::new())],
            ..PgBouncerOptions::default()
        })
        .await?;
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[history]\ndirectory = \"{}\"\n\
             [[postgres]]\nname = \"main\"\ndsn = \"{}\"\n\
             [[pgbouncer]]\nname = \"pooler-1\"\ntarget = \"main\"\ndsn = \"{}\"\n",
            directory.display(),
            postgres.dsn("postgres", "postgres"),
            pooler.dsn("stats", "pgbouncer"),
        );
        let config = Config::parse(&text, "the bench", |_| None)?;
        let running = daemon::start(config).await?;
        let mut clients = Vec::new();
        for _ in 0..10 {
            clients.push(pooler.connect("postgres", "postgres", "bench").await?);
        }
        let until = clock() + Duration::from_secs(REAL_SECONDS);
        let mut random = fastrand::Rng::with_seed(9);
        while clock() < until {
            let client = &clients[random.usize(0..clients.len())];
            client.simple_query("SELECT pg_sleep(0.02)").await?;
        }
        running.shutdown(Duration::from_secs(3)).await;
        let (mut length, mut values) = (0, 0);
        let mut keys = Default::default();
        for segment in segments(directory)? {
            length += segment.length;
            segment.read(
                &mut keys,
                |_| true,
                |block| {
                    let mut column = Vec::new();
                    for number in 0..block.keys().len() {
                        if block.values(number, &mut column).is_ok() {
                            values += column.iter().filter(|value| !value.is_nan()).count() as u64;
                        }
                    }
                },
            )?;
        }
        println!("{REAL_SECONDS} s of a real server (an hour packs better; see SNOWPIT_CAPTURE):");
        tell(length, values);
        // Nothing is a figure that was measured on so little: names and times of
        // a file weigh as much in a minute as in ten.
        Ok(0.0)
    })
}

fn segments(directory: &Path) -> anyhow::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    for entry in std::fs::read_dir(directory.join("series"))? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "segment")
        {
            segments.push(Segment::open(&path)?);
        }
    }
    Ok(segments)
}

fn resident_mib() -> anyhow::Result<f64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split(' ').nth(1).context("statm")?.parse::<f64>()?;
    Ok(pages * 4096.0 / 1048576.0)
}

fn processor_seconds() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(micros as f64 / 1e6)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn clock() -> Instant {
    Instant::now()
}
