//! The SQL condition for the statements that carry a route's tag.

use crate::engine::words;

/// Characters of a route that go into a condition.
const ROUTE_LIMIT: usize = 120;

/// The SQL condition for statements whose comment carries the route. Emitters
/// that know no route give controller and action, which are shown as
/// `controller#action`.
pub fn tagged_with(route: &str) -> String {
    // Not any tag, and no literal of the statement, that happens to be equal.
    let whole = matches("[*, ]route='", route, "'");
    match route.split_once('#') {
        None => whole,
        Some((controller, action)) => format!(
            "({whole} OR {} AND {})",
            matches("[*, ]controller(='|:'?)", controller, "[', *]"),
            matches("[*, ]action(='|:'?)", action, "[', *]"),
        ),
    }
}

/// The condition that a value stands between a prefix and an end (regular
/// expressions), plain or percent-encoded: emitters differ in what they encode,
/// and some double `%`. A regular expression, because a `LIKE` pattern cannot say
/// "this or that". A value that is cut has no end.
fn matches(prefix: &str, value: &str, end: &str) -> String {
    let mut pattern = String::from(prefix);
    let mut characters = value.chars();
    for character in characters.by_ref().take(ROUTE_LIMIT) {
        push_pattern(&mut pattern, character);
    }
    if characters.next().is_none() {
        pattern.push_str(end);
    }
    format!("query ~ {}", words::sql_literal(&pattern))
}

fn push_pattern(pattern: &mut String, character: char) {
    match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '_' | '~' => pattern.push(character),
        '.' => pattern.push_str("[.]"),
        '\'' => pattern.push_str(r"(\\?'|%+27)"),
        ' ' => pattern.push_str("( |[+]|%+20)"),
        control if control.is_control() => pattern.push('.'),
        other => {
            pattern.push('(');
            if other.is_ascii() && other != '/' && other != '%' {
                pattern.push('\\');
            }
            pattern.push(other);
            pattern.push('|');
            let mut bytes = [0; 4];
            for byte in other.encode_utf8(&mut bytes).bytes() {
                pattern.push_str("%+");
                push_hex(pattern, byte >> 4);
                push_hex(pattern, byte & 15);
            }
            pattern.push(')');
        }
    }
}

/// A hexadecimal digit in either case.
fn push_hex(pattern: &mut String, digit: u8) {
    match digit {
        0..=9 => pattern.push(char::from(b'0' + digit)),
        _ => {
            let lower = char::from(b'a' + digit - 10);
            pattern.extend(['[', lower.to_ascii_uppercase(), lower, ']']);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_route_stays_readable() {
        assert_eq!(tagged_with("users"), "query ~ '[*, ]route=''users'''");
    }

    #[test]
    fn a_controller_and_its_action_are_looked_for_apart() {
        assert_eq!(
            tagged_with("users#show"),
            "(query ~ '[*, ]route=''users(\\#|%+23)show''' \
             OR query ~ '[*, ]controller(=''|:''?)users['', *]' \
             AND query ~ '[*, ]action(=''|:''?)show['', *]')"
        );
    }

    #[test]
    fn reserved_characters_match_plain_and_encoded() {
        assert_eq!(
            tagged_with("GET /{id}"),
            "query ~ '[*, ]route=''GET( |[+]|%+20)(/|%+2[Ff])(\\{|%+7[Bb])id(\\}|%+7[Dd])'''"
        );
    }

    #[test]
    fn a_quote_cannot_end_the_literal() {
        let condition = tagged_with("a'; DROP TABLE x; --");
        let inner = condition
            .strip_prefix("query ~ '")
            .and_then(|rest| rest.strip_suffix('\''))
            .unwrap();
        assert!(!inner.replace("''", "").contains('\''), "{condition}");
    }

    #[test]
    fn a_long_route_is_cut_and_left_open() {
        let condition = tagged_with(&"x".repeat(500));
        assert_eq!(condition.len(), "query ~ '[*, ]route=''".len() + 120 + 1);
    }
}
