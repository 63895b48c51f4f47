use super::*;
use crate::sample::{RouteTraffic, TrafficReport};

/// A target with one application, looked at once a second.
struct Stage {
    leaks: Leaks,
    holdings: Holdings,
    flows: Flows,
    traffic: Traffic,
    t: f64,
    opened: f64,
    requests: f64,
    /// Seconds between two looks.
    step: f64,
}

impl Stage {
    fn new() -> Self {
        let settings = ConnectionLeak::default();
        let mut traffic = Traffic::new(&[]);
        traffic.see(0.0, "main", "app");
        Self {
            leaks: Leaks::new(&settings),
            holdings: Holdings::new(settings.window),
            flows: Flows::default(),
            traffic,
            t: 1e6,
            opened: 0.0,
            requests: 100.0,
            step: 1.0,
        }
    }

    /// Without anybody who tells of requests.
    fn blind() -> Self {
        Self {
            requests: 0.0,
            ..Self::new()
        }
    }

    /// `seconds` with (idle, idle in transaction, working) sessions, and so many
    /// more opened a second than the sessions grew by. When it opened.
    fn run(&mut self, seconds: u32, sessions: impl Fn(f64) -> [f64; 3], churn: f64) -> Option<u32> {
        let mut told = None;
        for second in (0..seconds).step_by(self.step as usize) {
            let [idle, in_transaction, working] = sessions(f64::from(second)).map(f64::floor);
            let mut census = Census::default();
            census.add("app", Some("idle"), idle);
            census.add("app", Some("idle in transaction"), in_transaction);
            census.add("app", Some("active"), working);
            self.t += self.step;
            let before = self.flows.backends.last().map_or(0.0, |(_, count)| count);
            self.opened += churn * self.step + (census.total.all - before).max(0.0);
            self.flows.sessions(self.t, self.opened);
            self.flows.levels(self.t, census.total.all, in_transaction);
            self.holdings.take(self.t, &census);
            if self.requests > 0.0 {
                let route = RouteTraffic {
                    route: "/a".to_owned(),
                    requests: self.requests * self.step,
                    ..RouteTraffic::default()
                };
                let report = TrafficReport {
                    service: "app".to_owned(),
                    interval: self.step,
                    routes: vec![route],
                    ..TrafficReport::default()
                };
                self.traffic.apply(self.t, &report);
            }
            self.look(&census);
            if !self.leaks.findings().is_empty() {
                told = told.or(Some(second));
            }
        }
        told
    }

    fn look(&mut self, census: &Census) {
        let input = Input {
            t: self.t,
            target: "main",
            census,
            holdings: &self.holdings,
            flows: &self.flows,
            traffic: &self.traffic,
            elsewhere: None,
        };
        self.leaks.observe(&input);
    }
}

const QUIET: [f64; 3] = [20.0, 1.0, 3.0];

#[test]
fn a_quick_leak_is_told_within_a_minute_and_a_half_and_ends_when_given_back() {
    let mut stage = Stage::new();
    assert_eq!(stage.run(600, |_| QUIET, 0.2), None);
    let told = stage.run(200, |t| [20.0 + t, 1.0, 3.0], 0.2).unwrap();
    assert!((45..90).contains(&told), "{told}");
    let finding = stage.leaks.findings().remove(0);
    assert_eq!(finding.subject["application"], "app");
    assert_eq!(finding.subject["state"], "idle");
    assert!(
        finding.summary.starts_with("main: app went from 2")
            && finding.summary.contains("sessions in"),
        "{}",
        finding.summary
    );
    assert_eq!(finding.evidence[1], "requests: 100/s before, 100/s now");
    stage.run(60, |_| [219.0, 1.0, 3.0], 0.2);
    assert_eq!(stage.leaks.findings().len(), 1, "kept is not given back");
    stage.run(70, |_| QUIET, 0.2);
    assert!(stage.leaks.findings().is_empty());
}

#[test]
fn transactions_left_open_need_no_requests_to_be_told() {
    let mut stage = Stage::blind();
    assert_eq!(stage.run(900, |_| QUIET, 0.2), None);
    let told = stage.run(600, |t| [20.0, 1.0 + t / 5.0, 3.0], 0.2).unwrap();
    assert!(told < 400, "{told}");
    let finding = stage.leaks.findings().remove(0);
    assert_eq!(finding.subject["state"], "idle in transaction");
    assert!(
        finding.evidence[1].contains("is not known"),
        "{:?}",
        finding.evidence
    );
}

#[test]
fn a_slow_leak_is_told_within_the_hour() {
    let mut stage = Stage::new();
    stage.run(600, |_| QUIET, 0.1);
    let told = stage.run(4_000, |t| [20.0 + t / 60.0, 1.0, 3.0], 0.1);
    assert!(told.is_some_and(|told| told < 3_700), "{told:?}");
}

#[test]
fn what_is_no_leak() {
    // A pool that grows with its traffic, known or by what works.
    let mut busy = Stage::new();
    busy.run(600, |_| QUIET, 0.2);
    busy.requests = 300.0;
    assert_eq!(busy.run(200, |t| [20.0 + t, 1.0, 3.0], 0.2), None);
    let mut working = Stage::blind();
    working.run(1_500, |_| QUIET, 0.2);
    assert_eq!(
        working.run(
            3_600,
            |t| [20.0 + t / 60.0, 1.0 + t / 90.0, 3.0 + t / 200.0],
            0.2
        ),
        None
    );
    // The next version beside this one, a burst, and sessions that come and go.
    let mut deploy = Stage::new();
    deploy.run(600, |_| QUIET, 0.2);
    let both = |t: f64| [20.0 + (t / 3.0).min(24.0), 1.0, 3.0];
    assert_eq!(deploy.run(120, both, 0.2), None);
    assert_eq!(deploy.run(300, |_| QUIET, 0.2), None);
    assert_eq!(
        deploy.run(
            300,
            |t| [20.0 + 40.0 * (t / 60.0).sin().abs(), 1.0, 3.0],
            0.2
        ),
        None
    );
    let mut churning = Stage::new();
    churning.run(600, |_| QUIET, 0.2);
    assert_eq!(churning.run(120, |t| [20.0 + t, 1.0, 3.0], 5.0), None);
    // A pool that comes back to where it was.
    let mut restarted = Stage::new();
    restarted.run(300, |_| [120.0, 1.0, 3.0], 0.2);
    restarted.run(30, |_| [5.0, 0.0, 0.0], 0.2);
    assert_eq!(
        restarted.run(300, |t| [5.0 + t.min(115.0), 1.0, 3.0], 0.2),
        None
    );
}

#[test]
fn a_day_of_traffic_alarms_nobody() {
    for blind in [true, false] {
        let mut stage = if blind { Stage::blind() } else { Stage::new() };
        stage.step = 5.0;
        let mut worst = None;
        for hour in 0..24u32 {
            let day = |t: f64| {
                let phase = (f64::from(hour) * 3_600.0 + t) / 86_400.0 * std::f64::consts::TAU;
                1.0 - 0.7 * phase.cos()
            };
            if !blind {
                stage.requests = 100.0 * day(1_800.0);
            }
            let told = stage.run(3_600, |t| [30.0 * day(t), 4.0 * day(t), 10.0 * day(t)], 0.5);
            worst = worst.or(told.map(|told| (hour, told)));
        }
        assert_eq!(worst, None, "blind: {blind}");
    }
}
