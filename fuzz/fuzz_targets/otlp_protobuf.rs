//! Any bytes are a body: what can be read of it is taken in, the rest is refused,
//! and what comes out of it makes sense.
#![no_main]

use libfuzzer_sys::fuzz_target;
use snowpit::observe::otlp::{Encoding, Receiver, Signal};

/// The seeds' stamps lie around it.
const NOW: f64 = 1_800_000_000.0;

fuzz_target!(|data: &[u8]| {
    let mut receiver = Receiver::new(&["registry".to_owned()]);
    for signal in [Signal::Traces, Signal::Metrics] {
        // The second time some of it is known already.
        for now in [NOW, NOW + 1.0] {
            if let Ok(outcome) = receiver.take(now, signal, Encoding::Protobuf, data) {
                let told = outcome.accepted + outcome.refused.total();
                assert!(
                    told <= data.len() as u64 + 1,
                    "{told} of {} bytes",
                    data.len()
                );
            }
        }
    }
    let (reports, _) = receiver.flush(NOW + 2.0);
    for report in &reports {
        assert!(
            report
                .until
                .is_some_and(|until| (until - NOW).abs() < 400.0)
        );
        assert!((0.0..=301.0).contains(&report.interval));
        for route in &report.routes {
            assert!(!route.route.is_empty() && route.route.chars().count() <= 200);
            let figures = [
                route.requests,
                route.duration_seconds,
                route.in_flight.unwrap_or(0.0),
                route.database_seconds.unwrap_or(0.0),
            ];
            assert!(
                figures.iter().all(|f| f.is_finite() && *f >= 0.0),
                "{route:?}"
            );
            assert!(
                route
                    .durations
                    .iter()
                    .all(|b| b.count.is_finite() && b.count > 0.0)
            );
        }
    }
});
