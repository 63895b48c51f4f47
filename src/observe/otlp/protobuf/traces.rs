//! `ExportTraceServiceRequest` to spans.

use std::hash::RandomState;

use super::super::record::{Reason, Span, SpanKind, SpanSink};
use super::super::wire::{self, Fault, Fields};

/// Hands every span of the request to the sink.
///
/// # Errors
/// When the body is no whole message; the sink has then seen nothing.
pub fn traces(body: &[u8], hasher: &RandomState, sink: &mut impl SpanSink) -> Result<(), Fault> {
    if !wire::is_whole(body) {
        return Err(Fault::Malformed);
    }
    for field in Fields::new(body) {
        if let (1, value) = field? {
            match value.bytes() {
                Ok(message) => resource_spans(message, hasher, sink),
                Err(_) => sink.refuse(Reason::Malformed, 1),
            }
        }
    }
    Ok(())
}

/// `ResourceSpans`: 1 resource, 2 scope spans.
fn resource_spans(message: &[u8], hasher: &RandomState, sink: &mut impl SpanSink) {
    match super::head(message).and_then(|head| super::resource(head, hasher)) {
        Ok(resource) => sink.resource(&resource),
        Err(fault) => {
            let scopes = Fields::new(message).flatten().filter(|(n, _)| *n == 2);
            let spans = scopes.map(|(_, scope)| super::count(scope.bytes().unwrap_or(&[]), 2));
            sink.refuse(fault.into(), spans.sum::<u64>().max(1));
            return;
        }
    }
    for field in Fields::new(message) {
        match field.and_then(|(number, value)| (number == 2).then(|| value.bytes()).transpose()) {
            Ok(Some(scope)) => scope_spans(scope, sink),
            Ok(None) => {}
            Err(fault) => sink.refuse(fault.into(), 1),
        }
    }
}

/// `ScopeSpans`: 2 spans.
fn scope_spans(message: &[u8], sink: &mut impl SpanSink) {
    for field in Fields::new(message) {
        let decoded = match field {
            Ok((2, value)) => value.bytes().map_err(Reason::from).and_then(span),
            Ok(_) => continue,
            Err(fault) => Err(fault.into()),
        };
        if let Err(reason) = decoded.and_then(|span| sink.span(&span)) {
            sink.refuse(reason, 1);
        }
    }
}

/// `Span`: 1 trace_id, 2 span_id, 4 parent_span_id, 6 kind, 7 and 8 times,
/// 9 attributes.
fn span(message: &[u8]) -> Result<Span<'_>, Reason> {
    let mut span = Span::default();
    let mut kind = None;
    // Attributes that came before the kind, which says whether they matter.
    let mut passed_over = false;
    for field in Fields::new(message) {
        match field? {
            (1, value) => span.trace = u128::from_be_bytes(id(value.bytes()?)?),
            (2, value) => span.id = u64::from_be_bytes(id(value.bytes()?)?),
            (4, value) => {
                let bytes = value.bytes()?;
                span.parent = if bytes.is_empty() {
                    0
                } else {
                    u64::from_be_bytes(id(bytes)?)
                };
            }
            (6, value) => kind = Some(SpanKind::of(value.small()?)),
            (7, value) => span.start = value.fixed64()?,
            (8, value) => span.end = value.fixed64()?,
            (9, value) => match kind {
                None => passed_over = true,
                Some(SpanKind::Other) => {}
                Some(_) => super::label(value.bytes()?, &mut span.labels)?,
            },
            _ => {}
        }
    }
    span.kind = kind.unwrap_or_default();
    if passed_over && span.kind != SpanKind::Other {
        span.labels = Default::default();
        for field in Fields::new(message) {
            if let (9, value) = field? {
                super::label(value.bytes()?, &mut span.labels)?;
            }
        }
    }
    // All zeros is "invalid" in W3C trace context.
    if span.trace == 0 || span.id == 0 {
        return Err(Reason::Malformed);
    }
    Ok(span)
}

fn id<const N: usize>(bytes: &[u8]) -> Result<[u8; N], Fault> {
    bytes.try_into().map_err(|_| Fault::Malformed)
}
