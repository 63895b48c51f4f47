//! Users with bcrypt hashes of their passwords, and a bearer token: what is
//! known, and what a request brings.
//!
//! Invariant: nothing of these types prints a secret.

use std::collections::BTreeMap;
use std::fmt;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, HeaderValue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::access::{AccessConfig, FileProblem, Files};
use super::recent::Recent;

/// bcrypt knows no lower.
const LOWEST_COST: u32 = 4;

/// Each step doubles the time: 14 takes a second, of one core, for each login.
const HIGHEST_COST: u32 = 14;

/// Below this passwords are quickly tried out by who has seen the hashes; it is
/// what the usual tools choose when nothing is said.
pub const WEAK_COST: u32 = 10;

/// What a user who is not there is held against, but for its cost. It is that of
/// a known test, and never lets anybody in.
const DECOY: &str = "CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";

/// `$2y$…`, as htpasswd and others write it.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    text: String,
    cost: u32,
}

/// Why a text is no hash to be used here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHash {
    #[error(
        "is not a bcrypt hash such as \"$2y$10$…\" of 60 characters; make one with: htpasswd -nBC 10 NAME"
    )]
    Malformed,
    #[error(
        "has cost {0}, and each login would take seconds of a core; use {LOWEST_COST} to {HIGHEST_COST}, such as 10"
    )]
    Cost(u32),
}

impl PasswordHash {
    /// # Errors
    /// It is no bcrypt hash, or a too costly one.
    pub fn parse(text: &str) -> Result<Self, BadHash> {
        let known = ["$2a$", "$2b$", "$2y$"];
        if !known.iter().any(|version| text.starts_with(version)) {
            return Err(BadHash::Malformed);
        }
        let parts: bcrypt::HashParts = text.parse().map_err(|_| BadHash::Malformed)?;
        let cost = parts.get_cost();
        if cost < LOWEST_COST {
            return Err(BadHash::Malformed);
        }
        if cost > HIGHEST_COST {
            return Err(BadHash::Cost(cost));
        }
        Ok(Self {
            text: text.to_owned(),
            cost,
        })
    }

    /// How often the work is doubled.
    pub fn cost(&self) -> u32 {
        self.cost
    }

    fn verify(&self, password: &[u8]) -> bool {
        bcrypt::verify(password, &self.text).unwrap_or(false)
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// Who is known.
#[derive(Default)]
pub(super) struct Credentials {
    users: BTreeMap<String, PasswordHash>,
    token: Option<String>,
    /// One of each cost from the cheapest user's to the costliest's.
    decoys: Vec<PasswordHash>,
    /// Those that were right lately. It goes with them, so that a password that
    /// was taken away is not right any more.
    pub(super) recent: Recent,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

impl Credentials {
    pub(super) fn new(config: &AccessConfig, files: &Files) -> Result<Self, FileProblem> {
        let token = config.bearer_token_file.as_ref().map(|path| {
            let problem = |what: &str| FileProblem::new("bearer_token_file", path, what);
            let bytes = files.bytes("bearer_token_file", path)?;
            token(bytes).map_err(problem)
        });
        Ok(Self {
            users: config.users.clone(),
            token: token.transpose()?,
            decoys: decoys(&config.users),
            recent: Recent::default(),
        })
    }

    /// Whether everybody may come in.
    pub(super) fn are_none(&self) -> bool {
        self.users.is_empty() && self.token.is_none()
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether both are the same.
    pub(super) fn are_those(&self, other: &Self) -> bool {
        self.users == other.users && self.token == other.token
    }

    /// Whether these are right. Takes tens of milliseconds for a password; a
    /// wrong one takes as long for every user as for one who is not there.
    pub(super) fn are(&self, given: &Given) -> bool {
        match given {
            Given::Token(given) => self
                .token
                .as_ref()
                .is_some_and(|token| token.as_bytes().ct_eq(given.as_bytes()).into()),
            Given::Password { user, password } => {
                let hash = self.users.get(user);
                if hash.is_some_and(|hash| hash.verify(password.as_bytes())) {
                    return true;
                }
                for decoy in self.rest(hash) {
                    std::hint::black_box(decoy.verify(password.as_bytes()));
                }
                false
            }
        }
    }

    /// What a wrong password is held against beside this hash. Each cost is
    /// twice the work of the one before, so the decoys from the hash's own cost
    /// up to the highest but one, with the hash, are the work of the highest.
    fn rest(&self, hash: Option<&PasswordHash>) -> impl Iterator<Item = &PasswordHash> {
        let highest = self.decoys.last().map_or(0, PasswordHash::cost);
        let own = hash.map(PasswordHash::cost);
        self.decoys.iter().filter(move |decoy| match own {
            Some(own) => (own..highest).contains(&decoy.cost),
            None => decoy.cost == highest,
        })
    }
}

fn decoys(users: &BTreeMap<String, PasswordHash>) -> Vec<PasswordHash> {
    let costs = || users.values().map(PasswordHash::cost);
    let (Some(lowest), Some(highest)) = (costs().min(), costs().max()) else {
        return Vec::new();
    };
    let decoy = |cost| PasswordHash {
        text: format!("$2b${cost:02}${DECOY}"),
        cost,
    };
    (lowest..=highest).map(decoy).collect()
}

/// One line, as a header can carry it.
fn token(bytes: &[u8]) -> Result<String, &'static str> {
    let text = str::from_utf8(bytes).map_err(|_| "is not text; it must hold one token")?;
    let token = text.trim();
    if token.is_empty() {
        return Err("is empty; write the token into it");
    }
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must hold one token without spaces, on one line");
    }
    Ok(token.to_owned())
}

/// What a request brings.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Given {
    Password { user: String, password: String },
    Token(String),
}

impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given(…)")
    }
}

/// The credentials of a request could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

impl Given {
    /// `None` when the request brings none.
    pub(super) fn read(headers: &HeaderMap) -> Result<Option<Self>, Unreadable> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else {
            return Ok(None);
        };
        if values.next().is_some() {
            return Err(Unreadable);
        }
        Self::parse(value).map(Some).ok_or(Unreadable)
    }

    fn parse(value: &HeaderValue) -> Option<Self> {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Self::Token(rest.to_owned()));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let text = String::from_utf8(STANDARD.decode(rest).ok()?).ok()?;
        // A user's name has no colon (RFC 7617); a password may.
        let (user, password) = text.split_once(':')?;
        Some(Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The two kinds never look alike: a name has no colon.
    pub(super) fn parts(&self) -> [&[u8]; 3] {
        match self {
            Self::Password { user, password } => [user.as_bytes(), b":", password.as_bytes()],
            Self::Token(token) => [b":", b":", token.as_bytes()],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(users: &[(&str, &str)]) -> Credentials {
        let hash = |password: &str| {
            PasswordHash::parse(&bcrypt::hash(password, LOWEST_COST).unwrap()).unwrap()
        };
        let users = users
            .iter()
            .map(|(user, password)| ((*user).to_owned(), hash(password)))
            .collect();
        Credentials {
            decoys: decoys(&users),
            users,
            token: Some("correct-horse".to_owned()),
            recent: Recent::default(),
        }
    }

    fn read(value: &str) -> Result<Option<Given>, Unreadable> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, value.parse().unwrap());
        Given::read(&headers)
    }

    fn basic(text: &str) -> Given {
        let value = format!("Basic {}", STANDARD.encode(text));
        read(&value).unwrap().unwrap()
    }

    #[test]
    fn the_right_ones_are_right_and_no_others() {
        let known = users(&[("prometheus", "hunter:2"), ("ops", "ünter")]);
        assert!(known.are(&basic("prometheus:hunter:2")));
        assert!(known.are(&basic("ops:ünter")));
        assert!(known.are(&read("bearer correct-horse").unwrap().unwrap()));
        for wrong in [
            "prometheus:hunter",
            "ops:hunter:2",
            "nobody:U*U",
            ":",
            "ops:",
        ] {
            assert!(!known.are(&basic(wrong)), "{wrong}");
        }
        for wrong in ["correct-hors", "correct-horse2", "", ":correct-horse"] {
            let given = Given::Token(wrong.to_owned());
            assert!(!known.are(&given), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_password_is_the_same_work_for_everybody() {
        let mut known = users(&[("prometheus", "hunter:2")]);
        for cost in [6, 9] {
            let hash = PasswordHash::parse(&format!("$2b${cost:02}${DECOY}")).unwrap();
            known.users.insert(format!("user {cost}"), hash);
        }
        known.decoys = decoys(&known.users);
        for decoy in &known.decoys {
            let parsed = PasswordHash::parse(&decoy.text);
            assert_eq!(parsed.as_ref(), Ok(decoy), "a decoy is a hash");
        }
        for name in ["prometheus", "user 6", "user 9", "nobody"] {
            let hash = known.users.get(name);
            let all = hash.into_iter().chain(known.rest(hash));
            let work: u32 = all.map(|hash| 1 << hash.cost).sum();
            assert_eq!(work, 1 << 9, "{name}");
        }
        assert!(known.are(&basic("prometheus:hunter:2")));
        for wrong in ["prometheus:hunter", "nobody:hunter:2"] {
            assert!(!known.are(&basic(wrong)), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_login_is_none() {
        for value in [
            "Basic",
            "Basic !!!",
            "Basic bm9jb2xvbg==",
            "Digest username=x",
            "Basic /w==",
        ] {
            assert_eq!(read(value), Err(Unreadable), "{value}");
        }
        assert_eq!(Given::read(&HeaderMap::new()), Ok(None));
        let mut twice = HeaderMap::new();
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        twice.append(AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        assert_eq!(Given::read(&twice), Err(Unreadable));
    }

    #[test]
    fn a_hash_is_whole_and_can_be_paid() {
        let tail = DECOY;
        for version in ["2a", "2b", "2y"] {
            let hash = PasswordHash::parse(&format!("${version}$10${tail}")).unwrap();
            assert_eq!(hash.cost(), 10);
            assert!(!format!("{hash:?}").contains("CCC"));
        }
        for bad in ["", "hunter2", "$2x$10$", "$1$10$abc", "$2y$xx$"] {
            let text = format!("{bad}{tail}");
            assert_eq!(PasswordHash::parse(&text), Err(BadHash::Malformed), "{bad}");
        }
        let cut = format!("$2y$10${}", &tail[1..]);
        assert_eq!(PasswordHash::parse(&cut), Err(BadHash::Malformed));
        let slow = PasswordHash::parse(&format!("$2y$15${tail}"));
        assert_eq!(slow, Err(BadHash::Cost(15)));
    }

    #[test]
    fn a_token_is_one_word() {
        assert_eq!(token(b" abc\r\n").as_deref(), Ok("abc"));
        for bad in [&b"\n"[..], b"a b", b"a\nb", b"\xff", "ü".as_bytes()] {
            assert!(token(bad).is_err(), "{bad:?}");
        }
    }
}
