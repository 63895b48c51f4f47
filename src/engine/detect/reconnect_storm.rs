//! Everybody opens sessions anew, again and again, without more requests: a
//! crash loop, a pool that throws its connections away, a client that reconnects
//! in a tight loop.
//!
//! A deploy turns every session over about once, and is none: what counts is how
//! many were opened *beyond* those that stay, against how many there were.
//! And it is everybody, not one client in a loop as a cron job is: where looks
//! tell how old sessions are, half of an application's must be young. Where it is
//! not known whether requests rose, sessions that live for less than
//! a minute are taken for one a request, whose number says nothing.

use serde_json::json;

use super::demand::Demand;
use super::scene::fields;
use super::watch::{Account, Stance, Suspicion};
use crate::engine::incident::Kind;
use crate::engine::settings::ReconnectStorm;
use crate::engine::words;
use crate::sample::UnixSeconds;

/// Mean seconds that a session lives below which it is one a request or so.
const LONG_LIVED: f64 = 60.0;

/// Young sessions of an application that are everybody, and the part of its
/// sessions that they must be.
const EVERYBODY: f64 = 5.0;
const EVERYBODY_PART: f64 = 0.5;

/// An application whose sessions are young.
#[derive(Debug, Clone, PartialEq)]
pub struct Youth {
    pub application: String,
    pub young: f64,
    pub of: f64,
}

impl Youth {
    /// All of the application is young, not one client in a loop.
    pub fn is_everybody(&self) -> bool {
        self.young >= EVERYBODY && self.young >= EVERYBODY_PART * self.of
    }
}

/// What is known of the sessions opened, while more are than normal.
#[derive(Debug, Clone, PartialEq)]
pub struct Churn {
    pub onset_at: UnixSeconds,
    /// Opened a second: normal, and over the last half minute.
    pub expected: f64,
    pub now: f64,
    /// Opened since the onset more than normal and more than are left of them.
    pub replaced: f64,
    /// Client backends before the onset.
    pub standing: f64,
    pub demand: Demand,
    /// The application with most young sessions; `None` where looks do not tell
    /// how old sessions are.
    pub youth: Option<Youth>,
}

impl Churn {
    fn is_everybody(&self) -> bool {
        self.youth.as_ref().is_none_or(Youth::is_everybody)
    }

    /// How many times everybody has reconnected.
    pub fn turnover(&self) -> f64 {
        self.replaced / self.standing.max(1.0)
    }

    fn is_without_demand(&self) -> bool {
        match self.demand.is_flat() {
            Some(flat) => flat,
            None => self.standing >= LONG_LIVED * self.expected,
        }
    }
}

/// What is to be said of it at `t`.
pub fn check(
    target: &str,
    t: UnixSeconds,
    churn: &Churn,
    settings: &ReconnectStorm,
    told_elsewhere: Option<Kind>,
) -> Suspicion {
    let many = churn.now >= settings.min_rate.max(settings.factor * churn.expected);
    let lasting = t - churn.onset_at >= settings.hold;
    let all_of_them = churn.turnover() >= settings.turnover;
    let is_storm = many && lasting && all_of_them && churn.is_without_demand();
    let stance = match told_elsewhere {
        Some(kind) => Stance::Yields(kind),
        None if is_storm && churn.is_everybody() => Stance::Opens,
        None => Stance::Keeps,
    };
    Suspicion {
        key: String::new(),
        stance,
        onset_at: churn.onset_at,
        account: account(target, t, churn),
    }
}

fn account(target: &str, t: UnixSeconds, churn: &Churn) -> Account {
    let rate = words::mean(churn.now);
    let normal = words::mean(churn.expected);
    let turnover = format!("{:.1}", churn.turnover());
    let without = match churn.demand {
        Demand::Known { .. } => "without more requests",
        Demand::Unknown => "whether for more requests is not known",
    };
    let name = churn
        .youth
        .as_ref()
        .map(|youth| words::name(&youth.application));
    let most = name.as_deref().map_or_else(String::new, |name| {
        format!(", most of {}", words::application(name))
    });
    Account {
        severity: Kind::ReconnectStorm.severity(),
        subject: fields(json!({
            "application": name,
            "opened_per_second": (churn.now * 10.0).round() / 10.0,
            "expected_per_second": (churn.expected * 10.0).round() / 10.0,
            "turnover": (churn.turnover() * 10.0).round() / 10.0,
            "sessions_before": churn.standing.round(),
        })),
        summary: format!(
            "{target}: {rate} sessions a second are opened where {normal} are normal{most}, {without}: \
             every session was replaced {turnover} times"
        ),
        evidence: [
            Some(format!(
                "{rate} sessions a second opened over the last half minute, {normal} normally, for {}",
                words::duration(t - churn.onset_at),
            )),
            churn.youth.as_ref().map(|youth| {
                format!(
                    "{} of {} of {} began in the last ten seconds",
                    words::count(youth.young),
                    words::plural(youth.of, "session"),
                    words::application(&words::name(&youth.application)),
                )
            }),
            Some(format!(
                "{} of them did not stay, of {} before: a turnover of {turnover}, where a deploy makes about 1",
                words::count(churn.replaced),
                words::plural(churn.standing, "client backend"),
            )),
            Some(churn.demand.sentence()),
        ]
        .into_iter()
        .flatten()
        .collect(),
        actions: vec![
            "SELECT application_name, usename, client_addr, count(*), max(backend_start) AS newest \
             FROM pg_stat_activity WHERE backend_type = 'client backend' \
             AND backend_start > now() - interval '1 minute' \
             GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 20;  -- who reconnects"
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flat() -> Demand {
        Demand::Known {
            before: 100.0,
            now: 100.0,
            seconds: 30.0,
            what: "requests",
        }
    }

    fn churn() -> Churn {
        Churn {
            onset_at: 1_000.0,
            expected: 0.5,
            now: 40.0,
            replaced: 2_400.0,
            standing: 200.0,
            demand: flat(),
            youth: None,
        }
    }

    fn youth(application: &str, young: f64) -> Option<Youth> {
        Some(Youth {
            application: application.to_owned(),
            young,
            of: 24.0_f64.max(young),
        })
    }

    fn stance(churn: &Churn) -> Stance {
        check("main", 1_060.0, churn, &ReconnectStorm::default(), None).stance
    }

    #[test]
    fn a_crash_loop_is_told_and_reads_well() {
        let found = check("main", 1_060.0, &churn(), &ReconnectStorm::default(), None);
        assert_eq!(found.stance, Stance::Opens);
        assert_eq!(
            found.account.summary,
            "main: 40 sessions a second are opened where 0.5 are normal, without more requests: \
             every session was replaced 12.0 times"
        );
    }

    #[test]
    fn what_is_no_storm() {
        let deploy = Churn {
            replaced: 220.0,
            ..churn()
        };
        let short = Churn {
            onset_at: 1_045.5,
            ..churn()
        };
        let slow = Churn {
            now: 4.0,
            ..churn()
        };
        let busy = Churn {
            expected: 10.0,
            ..churn()
        };
        let asked_for = Churn {
            demand: Demand::Known {
                before: 100.0,
                now: 900.0,
                seconds: 30.0,
                what: "requests",
            },
            ..churn()
        };
        let one_a_request = Churn {
            demand: Demand::Unknown,
            expected: 6.0,
            ..churn()
        };
        let cron = Churn {
            youth: youth("cron", 2.0),
            ..churn()
        };
        for quiet in [deploy, short, slow, busy, asked_for, one_a_request, cron] {
            assert_eq!(stance(&quiet), Stance::Keeps, "{quiet:?}");
        }
        let unknown = Churn {
            demand: Demand::Unknown,
            ..churn()
        };
        assert_eq!(stance(&unknown), Stance::Opens);
        let named = Churn {
            youth: youth("scanner", 20.0),
            ..churn()
        };
        let found = check("main", 1_060.0, &named, &ReconnectStorm::default(), None);
        assert_eq!(found.stance, Stance::Opens);
        assert_eq!(found.account.subject["application"], "scanner");
        assert!(
            found
                .account
                .summary
                .contains("normal, most of scanner, without")
        );
    }
}
