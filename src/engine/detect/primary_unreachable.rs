//! The primary refuses logins, does not answer, or serves as a standby now.
//!
//! Only a server that was seen as a primary can be lost as one: a standby that
//! always was one is no failover, and of a server that never told its role
//! nothing is known. A server without a free slot answers, so it is not
//! unreachable; nor is one that does not like our password, or cancels our
//! statements. A look that failed on our side of the wire (the name service, our
//! own certificate) says nothing of the server and changes nothing. Over when a
//! primary answers again under this name, the same or a promoted one.

use serde_json::json;

use super::scene::fields;
use super::watch::{Account, Looked, Stance, Suspicion, Watch};
use crate::engine::incident::{Finding, Incident, Kind};
use crate::engine::settings::PrimaryUnreachable;
use crate::engine::words;
use crate::sample::{FailureReason, PgbouncerReport, PostgresReport, UnixSeconds};

/// A server that does not answer may only be slow: it is given this many times
/// as long as one that refuses.
const PATIENCE: f64 = 6.0;

/// Seconds after which a primary that serves as a standby is taken for one.
const ACCEPTED: f64 = 3600.0;

/// Failed looks without which nothing is told.
const LEAST_LOOKS: u32 = 3;

/// What was seen last.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sight {
    Serves,
    Refuses,
    Silent,
    /// It answers, as a standby.
    Standby,
    /// It answers, and nothing more is known.
    Answers,
    /// Not even whether it answers.
    Unknown,
}

/// Follows the role and the reach of one target.
#[derive(Debug, Clone)]
pub struct Reach {
    target: String,
    settings: PrimaryUnreachable,
    watch: Watch,
    was_primary: bool,
    served_at: Option<UnixSeconds>,
    /// Since when it has answered as a standby.
    standby_since: Option<UnixSeconds>,
    /// Since when it has not served, and the looks since.
    lost: Option<(UnixSeconds, u32)>,
    /// What the newest failed look said.
    said: Option<String>,
    /// Poolers that cannot log in to it either, with the clients that wait.
    stuck: Vec<(String, u32)>,
}

impl Reach {
    pub fn new(target: &str, settings: &PrimaryUnreachable) -> Self {
        Self {
            target: target.to_owned(),
            settings: settings.clone(),
            // Its patience is in the check, because it differs.
            watch: Watch::new(Kind::PrimaryUnreachable),
            was_primary: false,
            served_at: None,
            standby_since: None,
            lost: None,
            said: None,
            stuck: Vec::new(),
        }
    }

    /// Takes in other thresholds. Who is switched on or off begins anew.
    pub fn reconfigure(&mut self, settings: &PrimaryUnreachable) {
        if settings.enabled == self.settings.enabled {
            self.settings = settings.clone();
        } else {
            *self = Self::new(&self.target, settings);
        }
    }

    /// A pooler is not there any more.
    pub fn forget(&mut self, pooler: &str) {
        self.stuck.retain(|(name, _)| name != pooler);
    }

    /// Goes on with an incident of an earlier life of the program.
    pub fn restore(&mut self, key: &str, incident: &Incident) {
        if self.settings.enabled {
            self.was_primary = true;
            self.lost = Some((incident.onset_at, LEAST_LOOKS));
            self.watch.restore(key, incident);
        }
    }

    /// Takes in what a pooler says of its logins at the server.
    pub fn pooler(&mut self, report: &PgbouncerReport) {
        self.stuck.retain(|(name, _)| *name != report.pooler);
        let pools = report.pools.iter();
        let stuck = pools.filter(|pool| {
            let has_servers = [pool.sv_active, pool.sv_idle, pool.sv_used] != [0, 0, 0];
            pool.sv_login > 0 && !has_servers && pool.cl_waiting > 0
        });
        let waiting: Vec<u32> = stuck.map(|pool| pool.cl_waiting).collect();
        if !waiting.is_empty() && self.stuck.len() < 100 {
            let clients = waiting.into_iter().fold(0, u32::saturating_add);
            self.stuck.push((report.pooler.clone(), clients));
        }
    }

    /// Takes in one look, good or failed.
    pub fn observe(&mut self, t: UnixSeconds, report: &PostgresReport) {
        if !self.settings.enabled || !t.is_finite() {
            return;
        }
        let sight = Self::sight(report);
        if sight != Sight::Unknown {
            self.said.clone_from(&report.error_text);
            self.follow_role(t, sight);
        }
        let suspicions = match sight {
            Sight::Serves => {
                self.was_primary = true;
                self.served_at = Some(t);
                self.lost = None;
                Vec::new()
            }
            // An answer ends a refusal, and does not say that a primary serves.
            Sight::Answers => self.keeps(t),
            // Neither good nor bad: what is being told goes on as it is.
            Sight::Unknown => return,
            Sight::Refuses | Sight::Silent | Sight::Standby if !self.was_primary => Vec::new(),
            Sight::Refuses | Sight::Silent | Sight::Standby => self.lost(t, sight),
        };
        self.watch.settle(Looked::server(t), suspicions, |_| true);
    }

    /// A primary that has been a standby for long is one: after a switchover the
    /// servers have changed places for good.
    fn follow_role(&mut self, t: UnixSeconds, sight: Sight) {
        if sight != Sight::Standby {
            self.standby_since = None;
            return;
        }
        let since = *self.standby_since.get_or_insert(t);
        if t - since >= ACCEPTED {
            self.was_primary = false;
            self.lost = None;
        }
    }

    pub fn findings(&self) -> Vec<Finding> {
        self.watch.findings()
    }

    fn sight(report: &PostgresReport) -> Sight {
        match report.error {
            None => match report.server.as_ref().and_then(|server| server.in_recovery) {
                Some(false) => Sight::Serves,
                Some(true) => Sight::Standby,
                // Once lost, its role must be seen again.
                None => Sight::Answers,
            },
            Some(FailureReason::Refused) => Sight::Refuses,
            Some(_) if report.answered => Sight::Answers,
            Some(FailureReason::Timeout) => Sight::Silent,
            // Only a server says these.
            Some(FailureReason::TooManyConnections | FailureReason::Auth) => Sight::Answers,
            // The name does not resolve, a certificate of ours cannot be read,
            // we are out of files, something else listens there.
            Some(
                FailureReason::Tls
                | FailureReason::Permission
                | FailureReason::Protocol
                | FailureReason::Other,
            ) => Sight::Unknown,
        }
    }

    fn keeps(&mut self, t: UnixSeconds) -> Vec<Suspicion> {
        match self.lost {
            Some((since, looks)) if looks >= LEAST_LOOKS && self.watch.is_open("") => {
                let account = self.account(t, since, Sight::Answers);
                vec![Suspicion {
                    key: String::new(),
                    stance: Stance::Keeps,
                    onset_at: since,
                    account,
                }]
            }
            _ => {
                self.lost = None;
                Vec::new()
            }
        }
    }

    fn lost(&mut self, t: UnixSeconds, sight: Sight) -> Vec<Suspicion> {
        let (since, looks) = self.lost.get_or_insert((t, 0));
        *looks = looks.saturating_add(1);
        *since = since.min(t);
        let (since, looks) = (*since, *looks);
        let patience = if sight == Sight::Silent && self.stuck.is_empty() {
            self.settings.hold * PATIENCE
        } else {
            self.settings.hold
        };
        let confirmed = looks >= LEAST_LOOKS && t - since >= patience;
        if !confirmed && !self.watch.is_open("") {
            return Vec::new();
        }
        vec![Suspicion {
            key: String::new(),
            stance: Stance::Opens,
            onset_at: since,
            account: self.account(t, since, sight),
        }]
    }

    fn account(&self, t: UnixSeconds, since: UnixSeconds, sight: Sight) -> Account {
        let target = &self.target;
        let (what, state) = match sight {
            Sight::Refuses => ("refuses connections", "refuses"),
            Sight::Silent => ("does not answer", "silent"),
            Sight::Standby => (
                "serves as a standby now: no primary under this name",
                "standby",
            ),
            Sight::Answers | Sight::Serves | Sight::Unknown => {
                ("answers, but was not seen as a primary yet", "answers")
            }
        };
        let seconds = words::duration(t - since);
        let mut evidence = vec![format!("{target} {what}, for {seconds}")];
        if let Some(served_at) = self.served_at {
            evidence.push(format!(
                "it was last seen as a primary {} ago",
                words::duration(t - served_at)
            ));
        }
        if let Some(said) = &self.said {
            evidence.push(format!("the last look failed: {said}"));
        }
        evidence.extend(self.stuck.iter().map(|(pooler, clients)| {
            format!(
                "{pooler} cannot log in to it either: {} there, and no server",
                words::plural(f64::from(*clients), "client")
            )
        }));
        let action = match sight {
            Sight::Standby => {
                "SELECT pg_is_in_recovery(), pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn();  \
                 -- on every server of the cluster; point the poolers at the one that says false"
            }
            _ => {
                "pg_isready -h HOST -p PORT;  then the server's log, and the failover manager: if a \
                 standby was promoted, point the poolers at it (RELOAD on their consoles)"
            }
        };
        Account {
            severity: Kind::PrimaryUnreachable.severity(),
            subject: fields(json!({ "verdict": state })),
            summary: format!("primary {target} {what}, for {seconds}"),
            evidence,
            actions: vec![action.to_owned()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Pool, Server};

    fn role(in_recovery: Option<bool>) -> PostgresReport {
        PostgresReport {
            server: Some(Server {
                in_recovery,
                ..Server::default()
            }),
            ..PostgresReport::default()
        }
    }

    fn failed(reason: FailureReason) -> PostgresReport {
        PostgresReport {
            error: Some(reason),
            ..PostgresReport::default()
        }
    }

    fn primary() -> Reach {
        let mut reach = Reach::new("main", &PrimaryUnreachable::default());
        for t in 0..10 {
            reach.observe(f64::from(t), &role(Some(false)));
        }
        reach
    }

    /// Seconds at which it opens and ends, with the same look every second.
    fn changes(reach: &mut Reach, from: u32, seconds: u32, report: &PostgresReport) -> Vec<u32> {
        let mut open = !reach.findings().is_empty();
        let looks = from..from + seconds;
        looks
            .filter(|&t| {
                reach.observe(f64::from(t), report);
                let now = !reach.findings().is_empty();
                std::mem::replace(&mut open, now) != now
            })
            .collect()
    }

    #[test]
    fn a_refusing_primary_is_told_after_seconds_and_ends_when_it_serves() {
        let mut reach = primary();
        let refused = failed(FailureReason::Refused);
        assert_eq!(changes(&mut reach, 10, 60, &refused), [16]);
        let finding = reach.findings().remove(0);
        assert_eq!(finding.onset_at, 10.0);
        assert!(
            finding
                .summary
                .starts_with("primary main refuses connections, for "),
            "{}",
            finding.summary
        );
        assert_eq!(
            changes(&mut reach, 70, 60, &role(Some(true))),
            Vec::<u32>::new()
        );
        assert_eq!(changes(&mut reach, 130, 60, &role(Some(false))), [131]);
    }

    #[test]
    fn the_failed_look_is_quoted() {
        let mut reach = primary();
        let starting = PostgresReport {
            error_text: Some("the database system is starting up".to_owned()),
            ..failed(FailureReason::Refused)
        };
        changes(&mut reach, 10, 20, &starting);
        let evidence = reach.findings().remove(0).evidence;
        let wanted = "the last look failed: the database system is starting up";
        assert!(evidence.iter().any(|line| line == wanted), "{evidence:?}");
    }

    #[test]
    fn silence_needs_longer_unless_a_pooler_agrees() {
        let silent = failed(FailureReason::Timeout);
        assert_eq!(changes(&mut primary(), 10, 60, &silent), [41]);
        let mut reach = primary();
        reach.pooler(&PgbouncerReport {
            pooler: "pooler-1".to_owned(),
            pools: vec![Pool {
                sv_login: 1,
                cl_waiting: 7,
                ..Pool::default()
            }],
            ..PgbouncerReport::default()
        });
        assert_eq!(changes(&mut reach, 10, 60, &silent), [16]);
        let evidence = reach.findings().remove(0).evidence;
        assert!(evidence[2].contains("7 clients there"), "{evidence:?}");
    }

    #[test]
    fn a_missed_look_a_restart_and_a_full_server_are_none() {
        for reason in [FailureReason::Refused, FailureReason::Timeout] {
            let mut reach = primary();
            assert!(changes(&mut reach, 10, 4, &failed(reason)).is_empty());
            assert!(changes(&mut reach, 14, 60, &role(Some(false))).is_empty());
        }
        for reason in [
            FailureReason::TooManyConnections,
            FailureReason::Auth,
            FailureReason::Tls,
            FailureReason::Permission,
            FailureReason::Protocol,
        ] {
            let mut reach = primary();
            assert!(
                changes(&mut reach, 10, 600, &failed(reason)).is_empty(),
                "{reason:?}"
            );
        }
    }

    #[test]
    fn a_name_that_goes_with_the_primary_does_not_hide_that_it_is_lost() {
        let unknown = [
            FailureReason::Other,
            FailureReason::Tls,
            FailureReason::Permission,
            FailureReason::Protocol,
        ];
        for reason in unknown {
            let mut reach = primary();
            let (refused, nothing) = (failed(FailureReason::Refused), failed(reason));
            // In turns, from the first failure on: every second look is one.
            for t in 10..40u32 {
                let report = if t % 2 == 0 { &refused } else { &nothing };
                reach.observe(f64::from(t), report);
            }
            let told = reach.findings();
            assert_eq!(told.len(), 1, "{reason:?}");
            assert_eq!(told[0].onset_at, 10.0);
            // What is told is not rewritten, and does not end.
            assert!(changes(&mut reach, 40, 600, &nothing).is_empty());
            assert_eq!(reach.findings(), told, "{reason:?}");
            assert_eq!(changes(&mut reach, 640, 60, &role(Some(false))), [641]);
        }
    }

    #[test]
    fn a_server_that_cancels_our_looks_answers() {
        let canceled = PostgresReport {
            answered: true,
            ..failed(FailureReason::Timeout)
        };
        let six_times_as_long = 10 * 6 * 5;
        let mut reach = primary();
        assert!(changes(&mut reach, 10, six_times_as_long, &canceled).is_empty());
        // Nor does it add up with a moment of silence.
        assert!(changes(&mut reach, 400, 20, &failed(FailureReason::Timeout)).is_empty());
        assert!(changes(&mut reach, 420, 60, &canceled).is_empty());
        // A lost one that answers so was not seen as a primary yet.
        let mut reach = primary();
        assert_eq!(
            changes(&mut reach, 10, 30, &failed(FailureReason::Refused)),
            [16]
        );
        assert!(changes(&mut reach, 40, 60, &canceled).is_empty());
        assert_eq!(reach.findings()[0].subject["verdict"], "answers");
    }

    #[test]
    fn a_demoted_primary_is_lost_and_a_standby_is_not() {
        let mut reach = primary();
        assert_eq!(changes(&mut reach, 10, 60, &role(Some(true))), [16]);
        assert!(
            reach.findings()[0]
                .summary
                .contains("serves as a standby now")
        );
        let mut standby = Reach::new("replica", &PrimaryUnreachable::default());
        assert!(changes(&mut standby, 0, 60, &role(Some(true))).is_empty());
        assert!(changes(&mut standby, 60, 60, &failed(FailureReason::Refused)).is_empty());
        let mut unknown = Reach::new("main", &PrimaryUnreachable::default());
        assert!(changes(&mut unknown, 0, 60, &role(None)).is_empty());
        assert!(changes(&mut unknown, 60, 60, &failed(FailureReason::Refused)).is_empty());
    }
}
