//! Calls of advisory lock functions in the text of a statement.
//!
//! The key is read only where it is a number in the text, as PostgreSQL would
//! read it: one bigint or two int4, each perhaps signed, quoted or cast. Anything
//! else (a parameter, `hashtext(…)`, a text that is cut) is a call whose key is
//! not known. Pure; [`super::sql`] finds the words, outside of literals and
//! comments.

use crate::sample::LockCall;

/// Calls kept of one statement. A statement that takes more is told by one call
/// of an unknown key.
pub const MAX_CALLS: usize = 16;

/// The call that begins with `word`, an identifier in the text; `behind` is what
/// follows it. `None` when it is no function that takes an advisory lock.
pub fn read(word: &str, behind: &str) -> Option<LockCall> {
    let word = word.to_ascii_lowercase();
    let name = word.strip_prefix("pg_")?;
    let (tries, name) = match name.strip_prefix("try_") {
        Some(name) => (true, name),
        None => (false, name),
    };
    let name = name.strip_prefix("advisory_")?;
    let (transaction, name) = match name.strip_prefix("xact_") {
        Some(name) => (true, name),
        None => (false, name),
    };
    let shared = match name {
        "lock" => false,
        "lock_shared" => true,
        _ => return None,
    };
    Some(LockCall {
        key: key(behind),
        tries,
        shared,
        transaction,
    })
}

/// The arguments in parentheses, as `pg_locks` would show them.
fn key(behind: &str) -> Option<String> {
    let mut rest = behind.trim_start().strip_prefix('(')?;
    let mut numbers = Vec::new();
    loop {
        let (number, tail) = number(rest)?;
        numbers.push(number);
        let tail = tail.trim_start();
        if let Some(tail) = tail.strip_prefix(',') {
            rest = tail;
        } else {
            tail.strip_prefix(')')?;
            break;
        }
    }
    match numbers[..] {
        [key] => Some(key.to_string()),
        [first, second] => {
            let first = i32::try_from(first).ok()?;
            let second = i32::try_from(second).ok()?;
            Some(format!("{first},{second}"))
        }
        _ => None,
    }
}

/// A number with sign, quotes or cast around it, and what follows.
fn number(text: &str) -> Option<(i64, &str)> {
    let text = text.trim_start();
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let text = text.trim_start();
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text.trim_start()),
        None => (false, text),
    };
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, mut rest) = text.split_at(end);
    // A text that ends in a number may be cut within it.
    if digits.is_empty() || rest.is_empty() {
        return None;
    }
    let number: i64 = if negative {
        format!("-{digits}").parse().ok()?
    } else {
        digits.parse().ok()?
    };
    if quoted {
        rest = rest.trim_start().strip_prefix('\'')?;
    }
    Some((number, cast(rest)?))
}

/// What follows a cast to an integer type, where there is one; `None` when it is
/// a cast to something else.
fn cast(text: &str) -> Option<&str> {
    let Some(behind) = text.trim_start().strip_prefix("::") else {
        return Some(text);
    };
    let behind = behind.trim_start();
    let end = behind
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(behind.len());
    let (name, rest) = behind.split_at(end);
    let integer = ["bigint", "int8", "int", "int4", "integer"];
    integer
        .contains(&name.to_ascii_lowercase().as_str())
        .then_some(rest)
}

#[cfg(test)]
mod tests {
    use crate::observe::sql::read;
    use crate::sample::LockCall;

    fn calls(statement: &str) -> Vec<LockCall> {
        read(statement).lock_calls
    }

    fn keys(statement: &str) -> Vec<Option<String>> {
        calls(statement).into_iter().map(|call| call.key).collect()
    }

    #[test]
    fn the_function_is_told() {
        let told = |statement| {
            let call = calls(statement).pop()?;
            Some((call.tries, call.shared, call.transaction))
        };
        for (statement, expected) in [
            ("SELECT pg_advisory_lock(1)", (false, false, false)),
            ("select PG_TRY_ADVISORY_LOCK (1)", (true, false, false)),
            (
                "SELECT pg_catalog.pg_advisory_lock_shared(1)",
                (false, true, false),
            ),
            (
                "SELECT pg_try_advisory_xact_lock_shared(1)",
                (true, true, true),
            ),
            ("SELECT pg_advisory_xact_lock(1)", (false, false, true)),
        ] {
            assert_eq!(told(statement), Some(expected), "{statement}");
        }
        for statement in [
            "SELECT pg_advisory_unlock(1)",
            "SELECT pg_advisory_unlock_all()",
            "SELECT 'pg_advisory_lock(1)'",
            "SELECT 1 -- pg_advisory_lock(1)",
            "SELECT my_pg_advisory_lock(1)",
            "SELECT \"pg_advisory_lock(1)\"",
        ] {
            assert_eq!(told(statement), None, "{statement}");
        }
    }

    #[test]
    fn a_key_is_read_as_the_server_reads_it() {
        for (arguments, key) in [
            ("(42424242424242)", "42424242424242"),
            ("( -5 )", "-5"),
            ("(-9223372036854775808)", "-9223372036854775808"),
            ("('72707369')", "72707369"),
            ("(7::bigint)", "7"),
            ("(1, -7)", "1,-7"),
            ("(1::int4,'2'::int)", "1,2"),
            ("(007)", "7"),
        ] {
            let statement = format!("SELECT pg_advisory_lock{arguments} AS got");
            assert_eq!(keys(&statement), [Some(key.to_owned())], "{arguments}");
        }
    }

    #[test]
    fn a_key_that_is_not_in_the_text_is_not_guessed() {
        for arguments in [
            "($1)",
            "(hashtext('a'))",
            "(1 + 2)",
            "(1, $1)",
            "(1.5)",
            "(1e3)",
            "(0x10)",
            "(99999999999999999999)",
            "(1, 2, 3)",
            "(3000000000, 1)",
            "(12::text)",
            "(-(5))",
            "()",
            "(12",
            "(1",
            "(",
            "",
        ] {
            let statement = format!("SELECT pg_advisory_lock{arguments}");
            assert_eq!(keys(&statement), [None], "{arguments}");
        }
    }

    #[test]
    fn every_call_of_a_statement_is_read_and_their_number_bounded() {
        let two = "BEGIN; SELECT pg_try_advisory_lock(1), pg_advisory_lock($1); COMMIT";
        assert_eq!(keys(two), [Some("1".into()), None]);
        let many = "SELECT pg_advisory_lock(1);".repeat(40);
        let told = keys(&many);
        assert_eq!(told.len(), super::MAX_CALLS + 1);
        assert_eq!(told.last(), Some(&None), "the rest may be about any key");
    }
}
