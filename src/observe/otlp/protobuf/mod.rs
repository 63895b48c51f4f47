//! OTLP in protobuf, read in place: traces and metrics in files of their own,
//! what they share here.
//!
//! Invariants: a body that is not whole is refused as a whole; inside a whole
//! one a fault costs the span or point that has it, and no other.

mod metrics;
mod traces;

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

pub use metrics::metrics;
pub use traces::traces;

use super::record::{Labels, Resource};
use super::wire::{Fault, Fields, Value};

/// `Resource`: 1 attributes.
fn resource<'a>(message: &'a [u8], hasher: &RandomState) -> Result<Resource<'a>, Fault> {
    let mut resource = Resource::default();
    for field in Fields::new(message) {
        let (1, value) = field? else { continue };
        let bytes = value.bytes()?;
        resource.identity = resource.identity.wrapping_add(hasher.hash_one(bytes));
        let (key, value) = key_value(bytes)?;
        if key == b"service.name" {
            resource.service = string(value)?.map(Cow::Borrowed);
        }
    }
    Ok(resource)
}

/// The part with that number of a message about a resource or scope: the last
/// one, or an empty one.
fn head(message: &[u8]) -> Result<&[u8], Fault> {
    let mut head: &[u8] = &[];
    for field in Fields::new(message) {
        if let (1, value) = field? {
            head = value.bytes()?;
        }
    }
    Ok(head)
}

/// `KeyValue` into the labels, when it is one that is wanted.
fn label<'a>(message: &'a [u8], labels: &mut Labels<'a>) -> Result<(), Fault> {
    let (key, value) = key_value(message)?;
    if Labels::wants(key)
        && let Some(text) = string(value)?
    {
        labels.take(key, Cow::Borrowed(text));
    }
    Ok(())
}

/// `KeyValue`: 1 key, 2 value.
fn key_value(message: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    let (mut key, mut value): (&[u8], &[u8]) = (&[], &[]);
    for field in Fields::new(message) {
        match field? {
            (1, bytes) => key = bytes.bytes()?,
            (2, bytes) => value = bytes.bytes()?,
            _ => {}
        }
    }
    Ok((key, value))
}

/// `AnyValue`: 1 string. A value of another kind is no text.
fn string(message: &[u8]) -> Result<Option<&str>, Fault> {
    let mut text = None;
    for field in Fields::new(message) {
        text = match field? {
            (1, value) => Some(value.text()?),
            _ => None,
        };
    }
    Ok(text)
}

/// How many messages stand in field `number` of a message that may be broken.
fn count(message: &[u8], number: u32) -> u64 {
    let fields = Fields::new(message);
    let counted = fields.filter(|f| matches!(f, Ok((n, Value::Bytes(_))) if *n == number));
    counted.count() as u64
}
