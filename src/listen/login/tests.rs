use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::listen::access::{Access, AccessConfig};
use crate::listen::credentials::PasswordHash;

const USERS: &str = "prometheus";

fn access() -> Access {
    let hash = PasswordHash::parse(&bcrypt::hash("right", 4).unwrap()).unwrap();
    let config = AccessConfig {
        users: [(USERS.to_owned(), hash)].into(),
        ..AccessConfig::default()
    };
    Access::open("[server]", &config).unwrap()
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
