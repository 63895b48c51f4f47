//! The page's files, from `ui/`: embedded, compressed once, and asked for again
//! only when they changed.
//!
//! Invariants: everything that the page needs is here, so that it works without
//! any other server; nothing in it is inline, so that its policy can forbid
//! inline code.

use std::io::Write;
use std::sync::LazyLock;

use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::error::ApiError;

/// What the page may load and do: its own files and its own API. Text can become
/// markup nowhere, not even by mistake: no string is accepted where HTML is.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; require-trusted-types-for 'script'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// The library is made for a global variable; the page takes it as a module.
const UPLOT: &str = concat!(
    include_str!("../../../ui/vendor/uPlot.iife.min.js"),
    "\nexport default uPlot;\n"
);

/// Path, type and text of each file.
const FILES: &[(&str, &str, &str)] = &[
    ("/", HTML, include_str!("../../../ui/index.html")),
    ("/ui/style.css", CSS, include_str!("../../../ui/style.css")),
    (
        "/ui/uplot.css",
        CSS,
        include_str!("../../../ui/vendor/uPlot.min.css"),
    ),
    ("/ui/icon.svg", SVG, include_str!("../../../ui/icon.svg")),
    ("/ui/uplot.js", SCRIPT, UPLOT),
    ("/ui/theme.js", SCRIPT, include_str!("../../../ui/theme.js")),
    ("/ui/main.js", SCRIPT, include_str!("../../../ui/main.js")),
    ("/ui/state.js", SCRIPT, include_str!("../../../ui/state.js")),
    ("/ui/dom.js", SCRIPT, include_str!("../../../ui/dom.js")),
    ("/ui/words.js", SCRIPT, include_str!("../../../ui/words.js")),
    (
        "/ui/stream.js",
        SCRIPT,
        include_str!("../../../ui/stream.js"),
    ),
    ("/ui/keys.js", SCRIPT, include_str!("../../../ui/keys.js")),
    ("/ui/parts.js", SCRIPT, include_str!("../../../ui/parts.js")),
    ("/ui/chart.js", SCRIPT, include_str!("../../../ui/chart.js")),
    ("/ui/now.js", SCRIPT, include_str!("../../../ui/now.js")),
    (
        "/ui/incident.js",
        SCRIPT,
        include_str!("../../../ui/incident.js"),
    ),
    ("/ui/locks.js", SCRIPT, include_str!("../../../ui/locks.js")),
    (
        "/ui/routes.js",
        SCRIPT,
        include_str!("../../../ui/routes.js"),
    ),
    (
        "/ui/history.js",
        SCRIPT,
        include_str!("../../../ui/history.js"),
    ),
];

/// One file as it is sent.
#[derive(Debug)]
struct Asset {
    path: &'static str,
    kind: &'static str,
    plain: Bytes,
    packed: Bytes,
    /// Changes with the text.
    tag: HeaderValue,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(asset).collect());

fn asset(&(path, kind, text): &(&'static str, &'static str, &'static str)) -> Asset {
    let plain = Bytes::from_static(text.as_bytes());
    let sum = crc32fast::hash(&plain);
    let tag = format!("\"{sum:08x}-{:x}\"", plain.len());
    Asset {
        path,
        kind,
        packed: pack(&plain).unwrap_or_else(|| plain.clone()),
        plain,
        tag: HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\"")),
    }
}

/// Gzip at its best: it is done once.
fn pack(plain: &[u8]) -> Option<Bytes> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(plain).ok()?;
    encoder.finish().ok().map(Bytes::from)
}

/// The paths that are answered here.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

/// One of them.
pub(super) async fn serve(uri: Uri, headers: HeaderMap) -> Result<Response, ApiError> {
    let asset = ASSETS.iter().find(|asset| asset.path == uri.path());
    let asset = asset.ok_or_else(|| ApiError::not_found("there is no such file"))?;
    let mut response = if has(&headers, header::IF_NONE_MATCH, &asset.tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else if takes_gzip(&headers) && asset.packed.len() < asset.plain.len() {
        let packed = [(header::CONTENT_ENCODING, "gzip")];
        (packed, asset.packed.clone()).into_response()
    } else {
        asset.plain.clone().into_response()
    };
    let fixed = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.kind)),
        (header::ETAG, asset.tag.clone()),
        // Kept, and asked about: the page of an older version must not go on.
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        (header::VARY, HeaderValue::from_static("accept-encoding")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}

/// The header lists this value, or `*`.
fn has(headers: &HeaderMap, name: header::HeaderName, value: &HeaderValue) -> bool {
    let lists = headers.get_all(name);
    let mut listed = lists
        .iter()
        .flat_map(|list| list.as_bytes().split(|&byte| byte == b','));
    listed.any(|one| {
        let one = one.trim_ascii();
        one == b"*" || one.strip_prefix(b"W/").unwrap_or(one) == value.as_bytes()
    })
}

/// Gzip is named and not refused.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let lists = headers.get_all(header::ACCEPT_ENCODING);
    let mut codings = lists
        .iter()
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','));
    codings.any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, "q=1"));
        let weight = weight.trim().strip_prefix("q=").unwrap_or("1");
        name.trim().eq_ignore_ascii_case("gzip") && weight.parse().is_ok_and(|q: f32| q > 0.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn gzip_is_sent_to_who_takes_it() {
        for (value, takes) in [
            ("gzip, deflate, br", true),
            ("br;q=1.0, GZIP;q=0.5", true),
            ("gzip;q=0", false),
            ("gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let headers = headers(header::ACCEPT_ENCODING, value);
            assert_eq!(takes_gzip(&headers), takes, "{value}");
        }
    }

    #[tokio::test]
    async fn what_has_not_changed_is_not_sent_again() {
        let first = serve(Uri::from_static("/"), HeaderMap::new())
            .await
            .unwrap();
        assert_eq!(first.status(), StatusCode::OK);
        let tag = first.headers()[header::ETAG].clone();
        let again = HeaderMap::from_iter([(header::IF_NONE_MATCH, tag)]);
        let second = serve(Uri::from_static("/"), again).await.unwrap();
        assert_eq!(second.status(), StatusCode::NOT_MODIFIED);
        let other = headers(header::IF_NONE_MATCH, "\"0-0\", W/\"1-1\"");
        let third = serve(Uri::from_static("/"), other).await.unwrap();
        assert_eq!(third.status(), StatusCode::OK);
    }

    #[test]
    fn the_page_is_small_and_makes_no_markup_of_text() {
        let packed: usize = ASSETS.iter().map(|asset| asset.packed.len()).sum();
        println!("{packed} bytes of gzip in {} files", ASSETS.len());
        assert!(packed < 150_000, "{packed}");
        for (path, kind, text) in FILES {
            if *kind != SCRIPT || *path == "/ui/uplot.js" {
                continue;
            }
            for sink in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                "Function(",
                "srcdoc",
                "javascript:",
            ] {
                assert!(!text.contains(sink), "{path}: {sink}");
            }
        }
    }
}
