//! One log line for each change of an incident, so that a plain log tells the
//! story without the API.

use crate::engine::incident::{Effect, Event, Severity};

/// Writes the line. Opened incidents are errors or warnings by their severity;
/// updates and resolves are information.
pub fn incident(effect: &Effect) {
    let incident = &effect.incident;
    let id = incident.id.as_str();
    let target = incident.target.as_str();
    let kind = incident.kind.as_str();
    let cause = incident.cause.map(|cause| cause.as_str());
    let summary = incident.summary.as_str();
    match (effect.event, incident.severity) {
        (Event::Opened, Severity::Critical) => {
            tracing::error!(id, target, kind, cause, summary, "incident opened");
        }
        (Event::Opened, Severity::Warning) => {
            tracing::warn!(id, target, kind, cause, summary, "incident opened");
        }
        (Event::Updated, _) => {
            tracing::info!(id, target, kind, cause, summary, "incident updated");
        }
        (Event::Resolved, _) => {
            tracing::info!(id, target, kind, cause, summary, "incident resolved");
        }
    }
}
