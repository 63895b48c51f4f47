use super::*;
use crate::sample::{Pool, PoolDatabase};

/// Five clients wait in a pooler without a server.
fn queue(change: impl FnOnce(&mut PgbouncerReport)) -> u32 {
    let settings = Arc::new(Settings::default());
    let mut target = Target::new("main", &settings);
    let mut report = PgbouncerReport {
        pooler: "pooler-1".to_owned(),
        target: "main".to_owned(),
        version: Some("1.18.0".to_owned()),
        pools: vec![Pool {
            database: "app".to_owned(),
            user: "app".to_owned(),
            cl_waiting: 5,
            ..Pool::default()
        }],
        databases: vec![PoolDatabase {
            name: "app".to_owned(),
            ..PoolDatabase::default()
        }],
        ..PgbouncerReport::default()
    };
    change(&mut report);
    target.pgbouncer(100.0, report);
    target.clients_waiting(101.0)
}

#[test]
fn who_waits_behind_a_pause_is_no_load() {
    assert_eq!(queue(|report| report.databases[0].paused = true), 0);
    // PAUSE without a database, of a console that does not tell.
    assert_eq!(queue(|_| {}), 0);
    assert_eq!(queue(|report| report.all_paused = Some(false)), 5);
    assert_eq!(queue(|report| report.pools[0].sv_login = 1), 5);
    assert_eq!(queue(|report| report.pools[0].sv_active = 20), 5);
}
