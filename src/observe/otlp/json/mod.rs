//! OTLP in JSON: traces and metrics in files of their own, what they share
//! here.
//!
//! The rules are those of the OTLP specification: names in lowerCamelCase,
//! trace and span ids in hex, 64-bit integers as numbers or strings, enums as
//! numbers, unknown names ignored. Lists are kept as slices of the body and
//! their elements read one at a time, so that a value of the wrong type costs
//! the span or point that has it and no other, and a body of a million empty
//! objects costs little more memory than itself.

mod metrics;
mod traces;

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde_json::value::RawValue;

pub use metrics::metrics;
pub use traces::traces;

use super::record::{Labels, Reason, Resource};

/// A list whose elements are not read yet.
type List<'a> = Option<Vec<&'a RawValue>>;

/// The body is no JSON object of the right shape.
#[derive(Debug, thiserror::Error)]
#[error("not valid OTLP JSON: {0}")]
pub struct NotJson(#[from] serde_json::Error);

#[derive(serde::Deserialize)]
struct ResourceJson<'a> {
    #[serde(borrow, default)]
    attributes: List<'a>,
}

#[derive(serde::Deserialize)]
struct KeyValue<'a> {
    #[serde(borrow, default)]
    key: Cow<'a, str>,
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
}

/// `AnyValue`. Only strings matter; another kind is no text, a string that is
/// none is an error.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnyValue {
    #[serde(default)]
    string_value: Option<String>,
}

fn resource(json: Option<&RawValue>, hasher: &RandomState) -> Result<Resource<'static>, Reason> {
    let mut resource = Resource::default();
    let Some(json) = json else {
        return Ok(resource);
    };
    let json: Option<ResourceJson<'_>> = read(json)?;
    for attribute in json.and_then(|json| json.attributes).unwrap_or_default() {
        let hash = hasher.hash_one(attribute.get());
        resource.identity = resource.identity.wrapping_add(hash);
        let pair: KeyValue<'_> = read(attribute)?;
        if pair.key == "service.name" {
            resource.service = string(pair.value)?.map(Cow::Owned);
        }
    }
    Ok(resource)
}

/// A `KeyValue` into the labels, when it is one that is wanted.
fn label(json: &RawValue, labels: &mut Labels<'_>) -> Result<(), Reason> {
    let pair: KeyValue<'_> = read(json)?;
    let key = pair.key.as_bytes();
    if Labels::wants(key)
        && let Some(text) = string(pair.value)?
    {
        labels.take(key, Cow::Owned(text));
    }
    Ok(())
}

fn string(value: Option<&RawValue>) -> Result<Option<String>, Reason> {
    let value: Option<AnyValue> = value.map(read).transpose()?.flatten();
    Ok(value.and_then(|value| value.string_value))
}

fn read<'a, T: Deserialize<'a>>(json: &'a RawValue) -> Result<T, Reason> {
    serde_json::from_str(json.get()).map_err(|_| Reason::Malformed)
}

/// An integer, which may stand in a string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Int<T>(T);

impl<'de, T: TryFrom<u64> + TryFrom<i64> + FromStr> Deserialize<'de> for Int<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntVisitor<T>(std::marker::PhantomData<T>);

        impl<T: TryFrom<u64> + TryFrom<i64> + FromStr> Visitor<'_> for IntVisitor<T> {
            type Value = Int<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an integer, or a string of one")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Int<T>, E> {
                T::try_from(value).map(Int).map_err(|_| out_of_range())
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Int<T>, E> {
                T::try_from(value).map(Int).map_err(|_| out_of_range())
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Int<T>, E> {
                value.parse().map(Int).map_err(|_| out_of_range())
            }
        }

        deserializer.deserialize_any(IntVisitor(std::marker::PhantomData))
    }
}

fn out_of_range<E: de::Error>() -> E {
    E::custom("no integer, or out of range")
}

/// A floating point number; JSON has no other way to write NaN and infinity
/// than in a string.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Double(f64);

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DoubleVisitor;

        impl Visitor<'_> for DoubleVisitor {
            type Value = Double;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a number, or a string of one")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Double, E> {
                Ok(Double(value))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Double, E> {
                value.parse().map(Double).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(DoubleVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_doubles_may_stand_in_strings() {
        let int = |text| serde_json::from_str::<Int<u64>>(text).ok().map(|i| i.0);
        assert_eq!(int("7"), Some(7));
        assert_eq!(int("\"18446744073709551615\""), Some(u64::MAX));
        for bad in ["-1", "1.5", "\"x\"", "\"\"", "[]", "true", "1e30"] {
            assert_eq!(int(bad), None, "{bad}");
        }
        let signed = |text| serde_json::from_str::<Int<i32>>(text).ok().map(|i| i.0);
        assert_eq!(signed("-3"), Some(-3));
        assert_eq!(signed("3000000000"), None);
        let double = |text| serde_json::from_str::<Double>(text).ok().map(|d| d.0);
        assert_eq!(double("1.5"), Some(1.5));
        assert_eq!(double("-2"), Some(-2.0));
        assert!(double("\"NaN\"").is_some_and(f64::is_nan));
        assert_eq!(double("\"-Infinity\""), Some(f64::NEG_INFINITY));
        assert_eq!(double("{}"), None);
    }

    #[test]
    fn a_string_of_the_wrong_type_is_an_error_and_another_kind_is_no_text() {
        let take = |json: &str| {
            let json: Box<RawValue> = serde_json::from_str(json).unwrap();
            let mut labels = Labels::default();
            label(&json, &mut labels).map(|()| labels.route.map(Cow::into_owned))
        };
        let route = r#"{"key":"http.route","value":{"stringValue":"/a"}}"#;
        assert_eq!(take(route), Ok(Some("/a".to_owned())));
        let number = r#"{"key":"http.route","value":{"intValue":"7"}}"#;
        assert_eq!(take(number), Ok(None));
        let wrong = r#"{"key":"http.route","value":{"stringValue":7}}"#;
        assert_eq!(take(wrong), Err(Reason::Malformed));
        assert_eq!(take("[1]"), Err(Reason::Malformed));
        let elsewhere = r#"{"key":"other","value":{"stringValue":7}}"#;
        assert_eq!(take(elsewhere), Ok(None), "nobody looks at it");
    }
}
