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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::engine::incident::{Cause, Incident, Kind};

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn each_change_is_one_line_with_its_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = tracing_subscriber::fmt()
            .json()
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, || {
            for event in [Event::Opened, Event::Updated, Event::Resolved] {
                incident(&effect(event));
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 3);
        let levels: Vec<&str> = lines.iter().filter_map(|l| l["level"].as_str()).collect();
        assert_eq!(levels, ["ERROR", "INFO", "INFO"]);
        let fields = &lines[0]["fields"];
        assert_eq!(fields["message"], "incident opened");
        assert_eq!(fields["id"], "main-connection_avalanche-1");
        assert_eq!(fields["target"], "main");
        assert_eq!(fields["kind"], "connection_avalanche");
        assert_eq!(fields["cause"], "endpoint");
        assert_eq!(fields["summary"], "from 4 to 40");
    }

    fn effect(event: Event) -> Effect {
        let kind = Kind::ConnectionAvalanche;
        Effect {
            t: 1.0,
            event,
            incident: Incident {
                id: "main-connection_avalanche-1".into(),
                target: "main".into(),
                kind,
                severity: kind.severity(),
                cause: Some(Cause::Endpoint),
                onset_at: 0.0,
                opened_at: 1.0,
                resolved_at: None,
                subject: serde_json::Map::new(),
                summary: "from 4 to 40".into(),
                attribution: Vec::new(),
                unexplained_share: None,
                evidence: Vec::new(),
                actions: Vec::new(),
                runbook: kind.as_str().into(),
            },
            key: String::new(),
        }
    }
}
