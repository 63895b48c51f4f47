//! `ExportTraceServiceRequest` in JSON to spans.

use std::borrow::Cow;
use std::hash::RandomState;

use serde_json::value::RawValue;

use super::super::record::{Reason, Span, SpanKind, SpanSink};
use super::{Int, List, NotJson, read};

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow, default)]
    resource_spans: List<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceSpans<'a> {
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
    #[serde(borrow, default)]
    scope_spans: List<'a>,
}

#[derive(serde::Deserialize)]
struct ScopeSpans<'a> {
    #[serde(borrow, default)]
    spans: List<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpanJson<'a> {
    #[serde(borrow, default)]
    trace_id: Cow<'a, str>,
    #[serde(borrow, default)]
    span_id: Cow<'a, str>,
    #[serde(default)]
    parent_span_id: Option<String>,
    #[serde(default)]
    kind: Int<u32>,
    #[serde(default)]
    start_time_unix_nano: Int<u64>,
    #[serde(default)]
    end_time_unix_nano: Int<u64>,
    #[serde(borrow, default)]
    attributes: List<'a>,
}

/// Hands every span of the request to the sink.
///
/// # Errors
/// When the body is no JSON object of that kind; the sink has then seen nothing.
pub fn traces(body: &[u8], hasher: &RandomState, sink: &mut impl SpanSink) -> Result<(), NotJson> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    for json in request.resource_spans.unwrap_or_default() {
        if let Err(reason) = resource_spans(json, hasher, sink) {
            sink.refuse(reason, 1);
        }
    }
    Ok(())
}

fn resource_spans(
    json: &RawValue,
    hasher: &RandomState,
    sink: &mut impl SpanSink,
) -> Result<(), Reason> {
    let part: ResourceSpans<'_> = read(json)?;
    let scopes = part.scope_spans.unwrap_or_default();
    let resource = match super::resource(part.resource, hasher) {
        Ok(resource) => resource,
        Err(reason) => {
            let spans = scopes.iter().filter_map(|json| read(json).ok());
            let spans = spans.map(|s: ScopeSpans<'_>| s.spans.map_or(0, |s| s.len() as u64));
            sink.refuse(reason, spans.sum::<u64>().max(1));
            return Ok(());
        }
    };
    sink.resource(&resource);
    for json in scopes {
        let scope: ScopeSpans<'_> = match read(json) {
            Ok(scope) => scope,
            Err(reason) => {
                sink.refuse(reason, 1);
                continue;
            }
        };
        for json in scope.spans.unwrap_or_default() {
            if let Err(reason) = span(json).and_then(|span| sink.span(&span)) {
                sink.refuse(reason, 1);
            }
        }
    }
    Ok(())
}

fn span(json: &RawValue) -> Result<Span<'_>, Reason> {
    let json: SpanJson<'_> = read(json)?;
    let parent = json.parent_span_id.unwrap_or_default();
    let mut span = Span {
        trace: hex(&json.trace_id, 32)?,
        id: hex(&json.span_id, 16)? as u64,
        parent: if parent.is_empty() {
            0
        } else {
            hex(&parent, 16)? as u64
        },
        kind: SpanKind::of(json.kind.0),
        start: json.start_time_unix_nano.0,
        end: json.end_time_unix_nano.0,
        ..Span::default()
    };
    // All zeros is "invalid" in W3C trace context.
    if span.trace == 0 || span.id == 0 {
        return Err(Reason::Malformed);
    }
    if span.kind != SpanKind::Other {
        for attribute in json.attributes.unwrap_or_default() {
            super::label(attribute, &mut span.labels)?;
        }
    }
    Ok(span)
}

/// Exactly that many hex digits, in either case.
fn hex(text: &str, digits: usize) -> Result<u128, Reason> {
    if text.len() != digits || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(Reason::Malformed);
    }
    u128::from_str_radix(text, 16).map_err(|_| Reason::Malformed)
}
