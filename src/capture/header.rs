//! The first line of a capture: what the engine was told before its first
//! sample.

use serde::{Deserialize, Serialize};

use crate::engine::Settings;

/// The version of the format, the value of `snowpit_capture`.
pub const FORMAT: u32 = 1;

/// `services` and `poolers_complete` of the settings are the format's own; the
/// rest of them lets a replay judge as the live program did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    pub snowpit_capture: u32,
    /// The version of snowpit that wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written_by: Option<String>,
    /// Tells one run of the daemon from another; the files of a run follow one
    /// another by `part`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    #[serde(default)]
    pub part: u64,
    #[serde(flatten)]
    pub settings: Settings,
}

impl Header {
    /// The header of the first file of a run.
    pub fn new(settings: &Settings, run: &str) -> Self {
        Self {
            snowpit_capture: FORMAT,
            written_by: Some(env!("CARGO_PKG_VERSION").to_owned()),
            run: Some(run.to_owned()),
            part: 0,
            settings: settings.clone(),
        }
    }
}
