//! One name for a route, whoever tells of it: `METHOD /template`.
//!
//! OTLP attributes, labels of a metrics page and tags of query comments all
//! come through [`name`], so that they meet as (service, route). A template is
//! kept as its framework writes it (`{id}`, `:id`, `<int:id>`, `[id]`, `*`, a
//! regular expression); in anything else whatever looks like an id is folded
//! into `{id}`. A query string never survives, nor does the host of a URL.
//!
//! Pure, and linear in the first [`MAX_INPUT`] bytes of a label. That numbers
//! and random-looking words are ids is a guess; a route that is folded too much
//! is still a bounded name, while one id in a name is a new series for each
//! request.

use std::borrow::Cow;

/// Longest name, in characters, as long as the tags of query comments may be.
pub const MAX_NAME: usize = 200;

/// Bytes of a label that are looked at. A route template longer than this is
/// none; a label can have a megabyte.
const MAX_INPUT: usize = 1024;

/// The name that stands for all routes for which there was no room.
pub const OTHER: &str = "other";

/// What an id becomes.
const ID: &str = "{id}";

/// A word of hexadecimal digits this long is an id: `deadbeef` is a word that
/// can stand in a path, twelve such digits in a row are a short object id.
const HEX_ID: usize = 12;

/// A run of digits this long makes an id of the word around it
/// (`order-12345`); years and versions are shorter.
const DIGIT_RUN: usize = 5;

/// A word this long that mixes cases and digits is a token.
const TOKEN: usize = 20;

/// The methods of RFC 9110 and PATCH (RFC 5789), as OpenTelemetry lists them.
const METHODS: [&str; 10] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT", "TRACE", "QUERY",
];

/// OpenTelemetry's word for any other method: a client can invent them without
/// end.
const OTHER_METHOD: &str = "_OTHER";

/// The name of a route: the method, where one is known, a space, and the
/// template. A method that stands in the label already wins. `None` when
/// nothing of the label is left.
pub fn name(method: Option<&str>, label: &str) -> Option<String> {
    let label = clean(cut(label));
    let (own, label) = split_method(label.trim());
    let method = own.or_else(|| method.and_then(canonical_method));
    let template = template(label.trim());
    if template.is_empty() {
        return None;
    }
    let joined = match method {
        Some(method) => Cow::Owned(format!("{method} {template}")),
        None => template,
    };
    Some(bounded(&joined))
}

/// The name of an endpoint that is told of as controller and action, as Rails
/// does: `users#show`. Without an action the controller alone.
pub fn action_name(controller: &str, action: &str) -> Option<String> {
    let (controller, action) = (clean(cut(controller)), clean(cut(action)));
    let (controller, action) = (controller.trim(), action.trim());
    if controller.is_empty() {
        return None;
    }
    if action.is_empty() {
        return Some(bounded(controller));
    }
    Some(bounded(&format!("{controller}#{action}")))
}

/// The name behind a tag of a query comment, already url-decoded: a route, or
/// `controller#action`.
pub fn tag_name(tag: &str) -> Option<String> {
    match tag.split_once('#') {
        // A path has no action; what follows there is a fragment.
        Some((controller, action)) if !controller.starts_with('/') && !controller.contains(' ') => {
            action_name(controller, action)
        }
        _ => name(None, tag),
    }
}

/// One of the known methods in upper case, `_OTHER` for any other, `None` of
/// nothing.
fn canonical_method(method: &str) -> Option<&'static str> {
    let method = method.trim();
    if method.is_empty() {
        return None;
    }
    let known = METHODS
        .iter()
        .find(|known| known.eq_ignore_ascii_case(method));
    Some(known.copied().unwrap_or(OTHER_METHOD))
}

/// A known method in upper case before a space, and the rest.
fn split_method(label: &str) -> (Option<&'static str>, &str) {
    let Some((first, rest)) = label.split_once([' ', '\t']) else {
        return (None, label);
    };
    let known = METHODS
        .iter()
        .chain([&OTHER_METHOD])
        .find(|&&known| known == first);
    match known {
        Some(&known) => (Some(known), rest),
        None => (None, label),
    }
}

fn template(label: &str) -> Cow<'_, str> {
    if is_regex(label) {
        return Cow::Borrowed(label);
    }
    let path = without_query(without_host(label));
    if !path.contains('/') || !path.starts_with('/') && path.contains('#') {
        // The name of a handler, or of a controller with its action.
        return Cow::Borrowed(path);
    }
    let path = path.split_once('#').map_or(path, |(path, _)| path);
    let path = if is_template(path) {
        Cow::Borrowed(path)
    } else {
        folded(path)
    };
    if path.is_empty() || path.starts_with('/') {
        return path;
    }
    // Django writes its templates without the first slash.
    Cow::Owned(format!("/{path}"))
}

/// A regular expression is a route as it is; its `?` begins no query string.
fn is_regex(label: &str) -> bool {
    let before_query = || {
        let end = label
            .match_indices('?')
            .find(|&(at, _)| at == 0 || !label[..at].ends_with('('))
            .map_or(label.len(), |(at, _)| at);
        &label[..end]
    };
    label.starts_with('^')
        || label.contains("(?P<")
        || label.contains("(?<")
        || label.contains("(?:")
        || before_query().contains("\\d")
        || before_query().contains("\\w")
        || before_query().contains("[^/]")
        || before_query().contains(".*")
}

/// A parameter of any framework stands in it.
fn is_template(path: &str) -> bool {
    path.split('/').any(|word| {
        let in_pair = |open, close| word.find(open).is_some_and(|at| word[at..].contains(close));
        // Aiohttp, Axum, FastAPI, Spring, ASP.NET; Flask, Django; Next.js.
        in_pair('{', '}')
            || in_pair('<', '>')
            || in_pair('[', ']')
            // Express, Rails, Gin; `a:b` is no parameter, `:` alone neither.
            || word.starts_with(':') && word.len() > 1
            || word.starts_with("(:")
            || word.starts_with('*')
            || word.ends_with('*')
    })
}

fn without_host(label: &str) -> &str {
    let Some((scheme, rest)) = label.split_once("://") else {
        return label;
    };
    if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return label;
    }
    rest.find('/').map_or("/", |at| &rest[at..])
}

fn without_query(label: &str) -> &str {
    let optional = |at: usize| {
        // `/users/:id?` and `/users/{id?}` mark what may be missing.
        let rest = &label[at + 1..];
        is_template(&label[..at + 1]) && (rest.is_empty() || rest.starts_with(['/', '}', ']']))
            || label[..at]
                .rsplit('/')
                .next()
                .is_some_and(|word| word.contains('{') && !word.contains('}') && rest.contains('}'))
    };
    label
        .match_indices('?')
        .find(|&(at, _)| !optional(at))
        .map_or(label, |(at, _)| &label[..at])
}

/// A raw path with every word that looks like an id made `{id}`.
fn folded(path: &str) -> Cow<'_, str> {
    let is_raw = |word: &str| looks_like_id(word) || word.contains(';');
    if !path.split('/').any(is_raw) {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for (i, word) in path.split('/').enumerate() {
        if i > 0 {
            out.push('/');
        }
        // Matrix parameters, `;jsessionid=…`, are a query string by another name.
        let word = word.split(';').next().unwrap_or(word);
        out.push_str(if looks_like_id(word) { ID } else { word });
    }
    Cow::Owned(out)
}

/// Whether a word of a path stands for one of many things.
fn looks_like_id(word: &str) -> bool {
    // `sha256:4f53…`, `blob.4f53…`: the part behind decides.
    if let Some((kind, rest)) = word.split_once([':', '@'])
        && !kind.is_empty()
        && (word.contains('@') || looks_like_id(rest))
    {
        return true;
    }
    let stem = word.rsplit_once('.').map_or(word, |(stem, ending)| {
        // The ending of a file says what it is, not which.
        if ending.len() <= 5 && ending.bytes().all(|b| b.is_ascii_alphabetic()) {
            stem
        } else {
            word
        }
    });
    if stem.is_empty() {
        return false;
    }
    let mut shape = Shape::default();
    for byte in stem.bytes() {
        shape.take(byte);
    }
    shape.is_id(stem.len())
}

/// What a word is made of.
#[derive(Debug, Default)]
struct Shape {
    digits: usize,
    hex: usize,
    separators: usize,
    lower: usize,
    upper: usize,
    encoded: bool,
    run: usize,
    longest_run: usize,
}

impl Shape {
    fn take(&mut self, byte: u8) {
        if byte.is_ascii_digit() {
            self.digits += 1;
            self.run += 1;
            self.longest_run = self.longest_run.max(self.run);
        } else {
            self.run = 0;
        }
        self.hex += usize::from(byte.is_ascii_hexdigit());
        self.separators += usize::from(matches!(byte, b'-' | b'_' | b'+' | b',' | b'='));
        self.lower += usize::from(byte.is_ascii_lowercase());
        self.upper += usize::from(byte.is_ascii_uppercase());
        self.encoded |= byte == b'%' || !byte.is_ascii();
    }

    fn is_id(&self, length: usize) -> bool {
        let dense = self.hex + self.separators == length;
        // Numbers, dates, negative numbers, lists of numbers.
        self.digits > 0 && self.digits + self.separators == length
            // UUIDs and hashes; a digit tells them from words like `facade`.
            || dense && self.hex >= HEX_ID && self.digits > 0
            || self.longest_run >= DIGIT_RUN
            // Tokens: base64, base58, ULIDs and the like.
            || length >= TOKEN
                && self.digits >= 2
                && (self.upper > 0 && self.lower > 0 || self.digits * 5 >= length)
            // What has to be encoded was typed by somebody: names, searches.
            || self.encoded
    }
}

/// The first [`MAX_INPUT`] bytes, whole characters.
fn cut(label: &str) -> &str {
    if label.len() <= MAX_INPUT {
        return label;
    }
    let mut end = MAX_INPUT;
    while !label.is_char_boundary(end) {
        end -= 1;
    }
    &label[..end]
}

/// Without control characters.
fn clean(label: &str) -> Cow<'_, str> {
    if label.contains(char::is_control) {
        Cow::Owned(label.chars().filter(|c| !c.is_control()).collect())
    } else {
        Cow::Borrowed(label)
    }
}

/// Not too long: it becomes a label value.
fn bounded(name: &str) -> String {
    let mut kept: String = clean(name).chars().take(MAX_NAME).collect();
    kept.truncate(kept.trim_end().len());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn templates_of_every_style_are_left_alone() {
        for template in [
            "/users/{id}",
            "/users/:id",
            "/users/:id/posts/:post_id",
            "/users/:id?",
            "/users/{id?}",
            "/users/<int:id>",
            "/blog/[slug]",
            "/docs/[...path]",
            "/static/*",
            "/static/*filepath",
            "/api/v2/**",
            "/api/1/users/{id}",
            "/v2/{name}/blobs/{digest}",
            "^users/(?P<id>[0-9]{5,})/$",
            "/files/(?<path>.*)",
            "/users/(\\d+)/?",
            "/{controller=Home}/{action=Index}/{id?}",
            "/2024/{month}",
        ] {
            assert_eq!(
                name(Some("get"), template).as_deref(),
                Some(format!("GET {template}").as_str())
            );
        }
    }

    #[test]
    fn plain_paths_stay_and_ids_are_folded() {
        for (raw, expected) in [
            ("/", "/"),
            ("/v2/", "/v2/"),
            ("/healthz", "/healthz"),
            ("/api/v1beta1/oauth2/s3", "/api/v1beta1/oauth2/s3"),
            ("/facade/deadbeef/added", "/facade/deadbeef/added"),
            ("/users/123", "/users/{id}"),
            ("/users/123/posts/-7", "/users/{id}/posts/{id}"),
            ("/orders/2024-01-31", "/orders/{id}"),
            ("/orders/order-12345", "/orders/{id}"),
            (
                "/users/1b4e28ba-2fa1-11d2-883f-0016d3cca427/x",
                "/users/{id}/x",
            ),
            ("/git/4f53cda18c2b", "/git/{id}"),
            (
                "/blobs/sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "/blobs/{id}",
            ),
            ("/img/4f53cda18c2b.png", "/img/{id}"),
            ("/app.js", "/app.js"),
            ("/t/dGhpcyBpcyBhIHRva2Vu0123", "/t/{id}"),
            ("/u/joe@example.org", "/u/{id}"),
            ("/search/caf%C3%A9", "/search/{id}"),
            ("/a;jsessionid=4F/b", "/a/b"),
            ("/a?user=joe&token=x", "/a"),
            ("/a?x", "/a"),
            ("/a#top", "/a"),
            ("https://joe:secret@shop.example/cart/9?x=1", "/cart/{id}"),
            ("http://shop.example", "/"),
        ] {
            assert_eq!(name(None, raw).as_deref(), Some(expected), "{raw}");
        }
    }

    #[test]
    fn a_query_string_never_survives() {
        for raw in [
            "/users/:id?secret=1",
            "/users/{id}?secret=1",
            "/users/{id}?secret",
            "/users/[id]?secret=1#x",
            "/a?secret=.*",
            "/a?secret=\\d",
            "GET /a?secret=[^/]",
        ] {
            let name = name(None, raw).unwrap();
            assert!(!name.contains("secret"), "{raw} -> {name}");
        }
    }

    #[test]
    fn the_three_sources_meet() {
        // OTLP: method and http.route; a metrics page: method and path; a tag.
        let otlp = name(Some("GET"), "/users/{id}");
        assert_eq!(otlp, name(Some("get"), "/users/{id}"));
        assert_eq!(otlp, tag_name("GET /users/{id}"));
        assert_eq!(tag_name("/users/{id}").as_deref(), Some("/users/{id}"));
        assert_eq!(
            name(Some("GET"), "users/<int:id>/").as_deref(),
            Some("GET /users/<int:id>/"),
            "Django has no first slash"
        );
        assert_eq!(tag_name("users#show"), action_name("users", "show"));
        assert_eq!(
            tag_name("admin/users#index"),
            action_name("admin/users", "index")
        );
        assert_eq!(action_name("users", "show").as_deref(), Some("users#show"));
        assert_eq!(action_name("users", "").as_deref(), Some("users"));
        assert_eq!(action_name("", "show"), None);
    }

    #[test]
    fn methods_are_a_closed_list() {
        assert_eq!(name(Some("pAtCh"), "/a").as_deref(), Some("PATCH /a"));
        assert_eq!(name(Some("BREW"), "/a").as_deref(), Some("_OTHER /a"));
        assert_eq!(name(Some(""), "/a").as_deref(), Some("/a"));
        assert_eq!(name(Some("POST"), "GET /a").as_deref(), Some("GET /a"));
        assert_eq!(name(None, "Get started").as_deref(), Some("Get started"));
    }

    #[test]
    fn handlers_keep_their_names_and_nothing_is_none() {
        assert_eq!(name(Some("GET"), "getUser").as_deref(), Some("GET getUser"));
        assert_eq!(name(None, "UNKNOWN").as_deref(), Some("UNKNOWN"));
        assert_eq!(name(Some("GET"), " "), None);
        assert_eq!(name(Some("GET"), "?x=1"), None);
        assert_eq!(name(None, "\u{0}\n").as_deref().unwrap_or(""), "");
    }

    #[test]
    fn a_label_of_a_megabyte_is_cut() {
        let label = format!("/a/{}", "é/".repeat(500_000));
        assert!(name(Some("GET"), &label).unwrap().chars().count() <= MAX_NAME);
    }

    proptest! {
        #[test]
        fn any_label_gives_a_short_clean_name_once_and_for_all(
            method in prop::option::of("[A-Za-z_]{0,8}"),
            label in r"[ -~]{0,60}|(/[a-z0-9:{}<>\[\]*?=&#.;%()^$\\-]{0,12}){0,8}|.{0,400}",
        ) {
            if let Some(name) = name(method.as_deref(), &label) {
                prop_assert!(!name.is_empty() && name.chars().count() <= MAX_NAME);
                prop_assert!(!name.chars().any(char::is_control));
                if name.chars().count() < MAX_NAME && !label.contains(['?', '#', ';', '(', '\\', '^']) {
                    let again = super::name(None, &name);
                    prop_assert_eq!(again.as_deref(), Some(name.as_str()), "{}", label);
                }
            }
            let _ = tag_name(&label);
        }

        #[test]
        fn ids_of_every_kind_fold_into_one_name(
            id in "[0-9]{1,19}|[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-a[0-9a-f]{3}-[0-9a-f]{12}|[1-9][0-9a-f]{39}|sha256:1[0-9a-f]{63}",
        ) {
            let name = name(Some("GET"), &format!("/things/{id}/parts"));
            prop_assert_eq!(name.as_deref(), Some("GET /things/{id}/parts"));
        }
    }
}
