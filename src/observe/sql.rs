//! Text of statements, made fit to leave the database: route tags decoded and
//! statements redacted. The keys of advisory locks are read on the way, because
//! they are gone afterwards.
//!
//! Redaction keeps what says which statement it is (words, identifiers,
//! operators, `$1`) and drops what says about whom: every literal becomes `?`,
//! comments go. The text may be cut anywhere, so a literal that does not end is
//! swallowed to the end. Pure, and linear in the length of the text.
//!
//! Whether a backslash escapes the quote behind it cannot be known from the text
//! alone: it does in a plain literal with `standard_conforming_strings` off (on
//! since 9.1, and every session may set it), and in the later lines of an `E''`
//! literal. So what follows a plain literal with one before a quote is dropped,
//! save for `ESCAPE '\'`, which is no literal of anybody's.

use super::lock_call;
use crate::sample::LockCall;

/// Longest route that is kept, in characters: routes are label values.
const MAX_ROUTE: usize = 200;

/// Longest redacted statement, in characters; `track_activity_query_size` is
/// 1,024 bytes by default.
const MAX_STATEMENT: usize = 1024;

/// The route behind a tag of a sqlcommenter comment: url-decoded, bounded.
/// `None` when nothing is left.
pub fn route_tag(raw: &str) -> Option<String> {
    // Django doubles the sign for its driver's formatting.
    let undoubled = raw.replace("%%", "%");
    let decoded = percent_encoding::percent_decode_str(&undoubled).decode_utf8_lossy();
    let route: String = decoded
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_ROUTE)
        .collect();
    // A controller without an action leaves its separator.
    let route = route.trim().trim_end_matches('#');
    (!route.is_empty()).then(|| route.to_owned())
}

/// What may be known of a statement outside of the database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Statement {
    /// Without literals and comments, on one line, bounded.
    pub text: String,
    /// The advisory locks that it takes, at most [`lock_call::MAX_CALLS`] and one
    /// that stands for the rest.
    pub lock_calls: Vec<LockCall>,
}

/// Redacts a statement, and reads the lock calls in it.
pub fn read(statement: &str) -> Statement {
    let mut scanner = Scanner {
        rest: statement,
        out: String::with_capacity(statement.len().min(MAX_STATEMENT)),
        lock_calls: Vec::new(),
    };
    while scanner.step() {}
    let out = scanner.out.trim();
    let end = out.char_indices().nth(MAX_STATEMENT);
    Statement {
        text: out[..end.map_or(out.len(), |(end, _)| end)].to_owned(),
        lock_calls: scanner.lock_calls,
    }
}

struct Scanner<'a> {
    rest: &'a str,
    out: String,
    lock_calls: Vec<LockCall>,
}

impl Scanner<'_> {
    /// Takes one token; false at the end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else {
            return false;
        };
        match first {
            c if c.is_whitespace() || c.is_control() => {
                self.skip(c.len_utf8());
                self.space();
            }
            '-' if self.rest.starts_with("--") => {
                let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
                self.skip(end);
                self.space();
            }
            '/' if self.rest.starts_with("/*") => {
                self.skip(comment_end(self.rest));
                self.space();
            }
            '\'' => self.literal(0, false),
            '"' => {
                let end =
                    quoted_end(&self.rest[1..], '"', false).map_or(self.rest.len(), |e| e + 1);
                self.keep(end);
            }
            '$' => self.dollar(),
            '0'..='9' => self.number(),
            '.' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            c if begins_word(c) => self.word(),
            c => self.keep(c.len_utf8()),
        }
        true
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
    }

    fn keep(&mut self, bytes: usize) {
        let kept = self.rest[..bytes].chars();
        self.out
            .extend(kept.map(|c| if c.is_control() { ' ' } else { c }));
        self.skip(bytes);
    }

    fn space(&mut self) {
        if !self.out.ends_with(' ') {
            self.out.push(' ');
        }
    }

    /// A literal in single quotes behind `prefix` bytes.
    fn literal(&mut self, prefix: usize, escapes: bool) {
        let body = &self.rest[prefix + 1..];
        let end = quoted_end(body, '\'', escapes).unwrap_or(body.len());
        let inner = body[..end].strip_suffix('\'').unwrap_or_default();
        let open = !escapes && may_escape(&body[..end]) && !(inner == "\\" && self.after_escape());
        if open {
            self.skip(self.rest.len());
        } else {
            self.skip(prefix + 1 + end);
        }
        self.out.push('?');
    }

    /// Whether the last word was that of `LIKE … ESCAPE`.
    fn after_escape(&self) -> bool {
        let out = self.out.trim_end();
        let before = out.len().checked_sub("escape".len());
        before.is_some_and(|at| {
            out.get(at..)
                .is_some_and(|word| word.eq_ignore_ascii_case("escape"))
                && !out[..at].ends_with(in_word)
        })
    }

    /// An identifier or keyword, or the letter before a literal.
    fn word(&mut self) {
        let end = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
        let behind = &self.rest[end..];
        match self.rest[..end].to_ascii_lowercase().as_str() {
            "e" if behind.starts_with('\'') => self.literal(end, true),
            "b" | "x" | "n" if behind.starts_with('\'') => self.literal(end, false),
            "u" if behind.starts_with("&'") => self.literal(end + 1, false),
            word => {
                self.note(lock_call::read(word, behind));
                self.keep(end);
            }
        }
    }

    fn note(&mut self, call: Option<LockCall>) {
        let known = self.lock_calls.len();
        self.lock_calls.extend(call.and_then(|call| {
            let rest = LockCall {
                key: None,
                ..call.clone()
            };
            match known {
                ..lock_call::MAX_CALLS => Some(call),
                lock_call::MAX_CALLS => Some(rest),
                _ => None,
            }
        }));
    }

    /// A parameter `$1`, a dollar-quoted literal, or a lone sign.
    fn dollar(&mut self) {
        let tail = &self.rest[1..];
        let tag = tail.find(|c| !in_word(c) || c == '$').unwrap_or(tail.len());
        let is_tag = !tail.starts_with(|c: char| c.is_ascii_digit());
        if is_tag && tail[tag..].starts_with('$') {
            let quote = &self.rest[..tag + 2];
            let body = &self.rest[quote.len()..];
            let end = body
                .find(quote)
                .map_or(self.rest.len(), |at| at + 2 * quote.len());
            self.skip(end);
            self.out.push('?');
        } else if is_tag && tag == tail.len() {
            // The text is cut within the opening tag.
            self.skip(self.rest.len());
        } else {
            self.keep(1 + if is_tag { 0 } else { tag });
        }
    }

    /// A number in any base, with fraction, exponent and `_` separators.
    fn number(&mut self) {
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        while let Some(&byte) = bytes.get(end) {
            let sign = matches!(byte, b'+' | b'-')
                && matches!(bytes.get(end.wrapping_sub(1)), Some(b'e' | b'E'))
                && bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
            if !(byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.') || sign) {
                break;
            }
            end += 1;
        }
        self.skip(end);
        self.out.push('?');
    }
}

fn begins_word(c: char) -> bool {
    c.is_alphabetic() || c == '_' || !c.is_ascii()
}

fn in_word(c: char) -> bool {
    begins_word(c) || c.is_ascii_digit() || c == '$'
}

/// Bytes up to and including the closing quote; `None` when there is none.
fn quoted_end(body: &str, quote: char, escapes: bool) -> Option<usize> {
    let mut chars = body.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|&(_, next)| next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// Whether one of the quotes in `literal` is behind a backslash that may escape it.
fn may_escape(literal: &str) -> bool {
    literal.match_indices('\'').any(|(at, _)| {
        let bare = literal[..at].trim_end_matches('\\').len();
        (at - bare) % 2 == 1
    })
}

/// Bytes of the comment at the beginning of `text`. Comments nest.
fn comment_end(text: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn redact(statement: &str) -> String {
        read(statement).text
    }

    #[test]
    fn literals_of_every_kind_become_question_marks() {
        let cases = [
            ("select 'secret'", "select ?"),
            ("select 'it''s secret', 2", "select ?, ?"),
            (r"select E'a\'secret' , e'\\'", "select ? , ?"),
            (
                "select U&'\\0441secret', N'secret', B'101', x'ff'",
                "select ?, ?, ?, ?",
            ),
            ("select $$secret$$, $a_1$it$$s secret$a_1$", "select ?, ?"),
            (
                "select 1, -2.5, .5e-10, 0xFF, 1_000, 1e+5-3",
                "select ?, -?, ?, ?, ?, ?-?",
            ),
            ("select $1, $2::int", "select $1, $2::int"),
            (
                "select a1, \"b'2\", t$3 from \"T\"\"x\"",
                "select a1, \"b'2\", t$3 from \"T\"\"x\"",
            ),
        ];
        for (given, expected) in cases {
            assert_eq!(redact(given), expected, "{given}");
        }
    }

    #[test]
    fn what_follows_a_backslash_before_a_quote_is_not_trusted() {
        for (given, expected) in [
            // With standard_conforming_strings off all of it is one literal.
            (r"select 'a\', secret from t where x = 'b'", "select ?"),
            (
                "select E'a'\n'b\\', secret from t where x = 'c'",
                "select ? ?",
            ),
            (r"select 'a\\', b from t", "select ?, b from t"),
            (
                r"select a like 'b%' escape '\' and c = 'd'",
                "select a like ? escape ? and c = ?",
            ),
            ("select E'a'\n'b\\'''secret\n', 'c'", "select ? ?"),
            (r"select a LIKE 'b' ESCAPE '\'", "select a LIKE ? ESCAPE ?"),
            (r"select my_escape '\' secret", "select my_escape ?"),
        ] {
            assert_eq!(redact(given), expected, "{given}");
        }
    }

    #[test]
    fn comments_go_and_white_space_shrinks() {
        let given = "/*route='x'*/ select\n\t1 -- secret\n from t /* a /* nested */ secret */ ;";
        assert_eq!(redact(given), "select ? from t ;");
    }

    #[test]
    fn a_text_that_is_cut_within_a_literal_or_comment_leaks_nothing() {
        for given in [
            "select 'sec",
            "select E'sec\\",
            "select $x$sec",
            "select $sec",
            "select /* sec",
            "select -- sec",
        ] {
            assert!(!redact(given).contains("sec"), "{given}");
        }
    }

    #[test]
    fn a_try_lock_call_stays_visible() {
        assert_eq!(
            redact("SELECT pg_try_advisory_lock(42424242424242)"),
            "SELECT pg_try_advisory_lock(?)"
        );
    }

    #[test]
    fn a_route_is_decoded_and_bounded() {
        assert_eq!(
            route_tag("%2Fv2%2F%3Cname%3E").as_deref(),
            Some("/v2/<name>")
        );
        assert_eq!(route_tag("%%2Fv2").as_deref(), Some("/v2"));
        assert_eq!(route_tag("packages#").as_deref(), Some("packages"));
        assert_eq!(
            route_tag("packages#index").as_deref(),
            Some("packages#index")
        );
        assert_eq!(route_tag(" "), None);
        assert_eq!(
            route_tag(&"x".repeat(1000)).map(|r| r.len()),
            Some(MAX_ROUTE)
        );
    }

    /// A literal that holds the secret, in every way of writing one.
    fn literal() -> impl Strategy<Value = String> {
        let noise = r#"[ a-z'"\\$/*?-]{0,12}"#;
        (noise, noise, 0..6u8).prop_map(|(before, after, kind)| {
            let inner = format!("{before}SECRET{after}");
            match kind {
                // A backslash before a quote would hide what follows.
                0 => format!("'{}'", inner.replace('\\', "").replace('\'', "''")),
                1 => format!("E'{}'", inner.replace('\\', "\\\\").replace('\'', "\\'")),
                2 => format!("U&'{}'", inner.replace('\\', "").replace('\'', "''")),
                3 => format!("$q${}$q$", inner.replace('$', "")),
                4 => format!("$${}$$", inner.replace('$', "")),
                _ => "7353237".to_owned(),
            }
        })
    }

    proptest! {
        #[test]
        fn no_literal_survives(
            parts in prop::collection::vec(
                (literal(), prop_oneof![
                    Just(" and \"a'b\" = "), Just(", "), Just(" || "), Just("\n--don't\n+"),
                    Just(" /* it's */ "), Just("::text,$1,"), Just(" t$1 = "),
                ]),
                1..8,
            ),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut statement = String::from("select ");
            for (literal, glue) in &parts {
                statement.push_str(literal);
                statement.push_str(glue);
            }
            let whole = redact(&statement);
            prop_assert!(!whole.contains("SECRET") && !whole.contains("7353237"), "{statement} -> {whole}");
            prop_assert_eq!(whole.matches('?').count(), parts.len());
            let ends: Vec<usize> = statement.char_indices().map(|(at, _)| at).collect();
            let redacted = redact(&statement[..ends[cut.index(ends.len())]]);
            prop_assert!(!redacted.contains("SEC"), "{redacted}");
        }

        #[test]
        fn any_text_is_taken_without_panic_and_bounded(text in ".{0,3000}") {
            prop_assert!(redact(&text).chars().count() <= MAX_STATEMENT);
            let _ = route_tag(&text);
        }
    }
}
