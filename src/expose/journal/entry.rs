//! One line of the journal.
//!
//! `{"t": …, "event": …, "incident": {…}, "key": "…", "crc": "…"}`: the effect as
//! a replay prints it, what the detector knows the incident by, and a CRC-32 of
//! the line up to there. A flipped bit can leave valid JSON behind, with another
//! number in it. A line without a checksum is believed: a person may have
//! written it.

use serde::{Deserialize, Serialize};

use crate::engine::incident::{Effect, Event, Incident};
use crate::sample::UnixSeconds;

/// What stands before the checksum.
const CRC: &str = ",\"crc\":\"";

/// What stands behind it, the end of the line.
const END: &str = "\"}";

/// Digits of a CRC-32.
const DIGITS: usize = 8;

/// One change of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub t: UnixSeconds,
    pub event: Event,
    pub incident: Incident,
    /// See [`Effect::key`].
    #[serde(default)]
    pub key: String,
}

impl From<&Effect> for Entry {
    fn from(effect: &Effect) -> Self {
        Self {
            t: effect.t,
            event: effect.event,
            incident: effect.incident.clone(),
            key: effect.key.clone(),
        }
    }
}

impl Entry {
    /// Appends the line, with its end. Nothing is added when the entry holds
    /// what JSON cannot say.
    pub(super) fn write(&self, lines: &mut Vec<u8>) {
        let Ok(mut line) = serde_json::to_vec(self) else {
            return;
        };
        line.pop();
        let crc = crc32fast::hash(&line);
        lines.append(&mut line);
        lines.extend_from_slice(format!("{CRC}{crc:08x}{END}\n").as_bytes());
    }

    /// Reads a line without its end.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        if let Some((body, told)) = split(line)
            && format!("{:08x}", crc32fast::hash(body)).as_bytes() != told
        {
            return Err("its checksum is wrong".to_owned());
        }
        serde_json::from_slice(line).map_err(|error| {
            let text = error.to_string();
            text.replace(" at line 1 column ", " at column ")
        })
    }
}

/// What the checksum is of, and the checksum; `None` when there is none.
fn split(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = line.strip_suffix(END.as_bytes())?;
    let (rest, told) = line.split_at_checked(line.len().checked_sub(DIGITS)?)?;
    Some((rest.strip_suffix(CRC.as_bytes())?, told))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::incident::Kind;

    pub(super) fn entry() -> Entry {
        let kind = Kind::ConnectionHeadroom;
        Entry {
            t: 1_604_902_320.1,
            event: Event::Opened,
            incident: Incident {
                id: "main-connection_headroom-20201109T061200Z".into(),
                target: "main".into(),
                kind,
                severity: kind.severity(),
                cause: None,
                onset_at: 1_604_902_320.1,
                opened_at: 1_604_902_330.1,
                resolved_at: None,
                subject: serde_json::Map::new(),
                summary: "main has 90 of 97".into(),
                attribution: Vec::new(),
                unexplained_share: None,
                evidence: Vec::new(),
                actions: Vec::new(),
                runbook: kind.as_str().into(),
            },
            key: String::new(),
        }
    }

    fn line(entry: &Entry) -> Vec<u8> {
        let mut line = Vec::new();
        entry.write(&mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    #[test]
    fn a_line_comes_back_and_is_json() {
        let line = line(&entry());
        assert_eq!(Entry::parse(&line).unwrap(), entry());
        let json: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(json["incident"]["kind"], "connection_headroom");
        assert_eq!(json["crc"].as_str().unwrap().len(), 8);
    }

    #[test]
    fn no_flipped_bit_changes_what_is_read() {
        let line = line(&entry());
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(read) = Entry::parse(&damaged) {
                    assert_eq!(read, entry(), "byte {at}, bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_line_by_hand_needs_no_checksum() {
        let plain = serde_json::to_vec(&entry()).unwrap();
        assert_eq!(Entry::parse(&plain).unwrap(), entry());
        assert!(Entry::parse(b"{}").is_err());
        assert!(Entry::parse(b"").is_err());
    }
}
