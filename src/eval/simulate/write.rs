//! A scenario written as a capture, with the truth in a file beside it.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::scenario::{Evidence, Family, Scenario, Truth};
use crate::capture::Header;

/// zstd's own default: a faster one saves little beside the writing of JSON.
const LEVEL: i32 = 3;

/// What stands in the file beside a capture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sheet {
    pub family: Family,
    pub seed: u64,
    pub evidence: Evidence,
    pub truth: Truth,
}

/// Where a scenario was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub capture: PathBuf,
    pub truth: PathBuf,
}

/// Writes `FAMILY-SEED-EVIDENCE.jsonl.zst` and the same name with `.truth.json`
/// into a directory that is there.
///
/// # Errors
/// A file cannot be made or written.
pub fn write_capture(
    scenario: &Scenario,
    evidence: Evidence,
    directory: &Path,
) -> io::Result<Written> {
    let name = format!(
        "{}-{}-{}",
        scenario.family,
        scenario.seed,
        evidence.as_str()
    );
    let written = Written {
        capture: directory.join(format!("{name}.jsonl.zst")),
        truth: directory.join(format!("{name}.truth.json")),
    };
    let file = BufWriter::new(File::create(&written.capture)?);
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    line(&mut encoder, &Header::new(&scenario.settings, &name))?;
    for sample in evidence.restrict(scenario) {
        line(&mut encoder, &sample)?;
    }
    encoder.finish()?.flush()?;
    let sheet = Sheet {
        family: scenario.family,
        seed: scenario.seed,
        evidence,
        truth: scenario.truth.clone(),
    };
    let mut file = BufWriter::new(File::create(&written.truth)?);
    serde_json::to_writer_pretty(&mut file, &sheet)?;
    file.write_all(b"\n")?;
    file.flush()?;
    Ok(written)
}

fn line(to: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    to.write_all(b"\n")
}
