use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::listen::access::{Access, AccessConfig};
use crate::listen::credentials::PasswordHash;

const USERS: &str = "prometheus";

fn config() -> AccessConfig {
    let hash = PasswordHash::parse(&bcrypt::hash("right", 4).unwrap()).unwrap();
    AccessConfig {
        users: [(USERS.to_owned(), hash)].into(),
        ..AccessConfig::default()
    }
}

fn access() -> Access {
    Access::open("[server]", &config()).unwrap()
}

fn bearer(token: &str) -> HeaderMap {
    let value = format!("Bearer {token}").parse().unwrap();
    [(AUTHORIZATION, value)].into_iter().collect()
}

fn basic(password: &str) -> HeaderMap {
    let value = format!("Basic {}", STANDARD.encode(format!("{USERS}:{password}")));
    [(AUTHORIZATION, value.parse().unwrap())]
        .into_iter()
        .collect()
}

fn from(last: u8) -> Option<Origin> {
    Some(Origin::of([192, 0, 2, last].into()))
}

#[tokio::test]
async fn a_guess_slows_its_origin_and_nobody_else() {
    let access = access();
    let (right, wrong) = (basic("right"), basic("wrong"));
    assert_eq!(access.admit(&right, from(1)).await, Ok(()));
    let denied = access.admit(&wrong, from(1)).await.unwrap_err();
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    assert!(
        denied.headers()[0]
            .1
            .to_str()
            .unwrap()
            .starts_with("Basic ")
    );
    for _ in 0..10 {
        let denied = access.admit(&wrong, from(1)).await.unwrap_err();
        assert!(matches!(denied, Denied::Slowed(_)), "{denied}");
        assert_eq!(denied.headers()[0].1, "1");
    }
    assert_eq!(access.admit(&right, from(1)).await, Ok(()), "let in lately");
    assert_eq!(access.admit(&right, from(2)).await, Ok(()), "elsewhere");
    let none = access.admit(&HeaderMap::new(), from(1)).await;
    assert!(matches!(none, Err(Denied::Missing(_))), "{none:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_guesses_at_once_are_one_check_and_many_right_ones_as_well() {
    let access = Arc::new(access());
    let many = |headers: HeaderMap, last: u8| {
        let access = Arc::clone(&access);
        async move {
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..100 {
                let (access, headers) = (Arc::clone(&access), headers.clone());
                tasks.spawn(async move { access.admit(&headers, from(last)).await });
            }
            tasks.join_all().await
        }
    };
    let guesses = many(basic("wrong"), 3).await;
    let wrong = |answer: &&Result<(), Denied>| matches!(answer, Err(Denied::Wrong(_)));
    let checked = guesses.iter().filter(wrong).count();
    assert!(
        (1..=2).contains(&checked),
        "{checked} of 100 were looked at"
    );
    let right = many(basic("right"), 4).await;
    assert!(right.iter().all(Result::is_ok), "{right:?}");
}

#[tokio::test]
async fn who_is_wrong_for_days_never_keeps_out_who_is_right_beside_him() {
    let access = access();
    let right = basic("right");
    assert_eq!(access.admit(&right, from(1)).await, Ok(()));
    let (login, credentials) = (&access.login, access.credentials());
    let origin = from(1).unwrap();
    let marks = login.marks(origin, &Given::read(&right).unwrap().unwrap());
    let mut now = Instant::now();
    let end = now + Duration::from_secs(3 * 24 * 3600);
    let mut slowed = 0;
    while now < end {
        now += Duration::from_secs(5);
        login.brakes(|brakes| match brakes.leave(origin, now) {
            Leave::Try => brakes.wrong(origin, now),
            _ => {
                slowed += 1;
                brakes.early(origin);
            }
        });
        let known = login.is_known(&credentials, origin, marks, now);
        assert_eq!(known, Ok(true), "{:?} before the end", end - now);
    }
    assert!(slowed > 30_000, "{slowed}");
}

#[tokio::test]
async fn a_token_and_who_was_right_elsewhere_wait_for_no_check() {
    let directory = tempfile::tempdir().unwrap();
    let token = directory.path().join("token");
    std::fs::write(&token, "correct-horse").unwrap();
    let config = AccessConfig {
        bearer_token_file: Some(token),
        ..config()
    };
    let access = Access::open("[server]", &config).unwrap();
    let right = basic("right");
    assert_eq!(access.admit(&right, from(1)).await, Ok(()));
    // Guesses elsewhere have taken all the places for checks.
    let checks = access.login.checks.acquire_many(CHECKS as u32).await;
    let token = access.admit(&bearer("correct-horse"), from(2)).await;
    assert_eq!(token, Ok(()));
    assert_eq!(access.admit(&right, from(3)).await, Ok(()));
    let wrong = access.admit(&bearer("battery"), from(4)).await;
    assert!(matches!(wrong, Err(Denied::Wrong(_))), "{wrong:?}");
    for _ in 0..10 {
        // Now it is as long as it gets.
        let long = |brakes: &mut Brakes| brakes.wrong(from(6).unwrap(), Instant::now());
        access.login.brakes(long);
    }
    let elsewhere = access.admit(&right, from(6)).await;
    assert!(
        matches!(elsewhere, Err(Denied::Slowed(_))),
        "who may not try learns nothing of other addresses: {elsewhere:?}"
    );
    drop(checks);
}

#[tokio::test]
async fn the_same_passwords_read_again_are_still_known() {
    let config = config();
    let access = Access::open("[server]", &config).unwrap();
    let right = basic("right");
    assert_eq!(access.admit(&right, from(1)).await, Ok(()));
    for _ in 0..10 {
        let long = |brakes: &mut Brakes| brakes.wrong(from(1).unwrap(), Instant::now());
        access.login.brakes(long);
    }
    access.replace(Access::open("[server]", &config).unwrap());
    assert_eq!(access.admit(&right, from(1)).await, Ok(()));
}

#[tokio::test]
async fn new_passwords_take_the_place_of_old_ones_at_once() {
    let access = access();
    assert_eq!(access.admit(&basic("right"), from(5)).await, Ok(()));
    let hash = PasswordHash::parse(&bcrypt::hash("newer", 4).unwrap()).unwrap();
    let config = AccessConfig {
        users: [(USERS.to_owned(), hash)].into(),
        ..AccessConfig::default()
    };
    access.replace(Access::open("[server]", &config).unwrap());
    assert!(access.admit(&basic("right"), from(5)).await.is_err());
    assert_eq!(access.admit(&basic("newer"), from(6)).await, Ok(()));
}
