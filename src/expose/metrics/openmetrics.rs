//! OpenMetrics 1.0, written by `prometheus-client` from a collector over the
//! page: what is not on this page has no series.

use std::fmt::{Error, Result};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::page::{Family, Page, Type, Value};

/// The media type of [`encode`]'s answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the page.
///
/// # Errors
/// Only when the encoder itself refuses, which it does not for these types.
pub fn encode(page: Page) -> std::result::Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(page));
    let mut out = String::new();
    prometheus_client::encoding::text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result {
        self.families()
            .try_for_each(|family| encode_family(&mut encoder, family))
    }
}

fn encode_family(encoder: &mut DescriptorEncoder, family: &Family) -> Result {
    let metric = family.metric;
    let (name, kind) = match metric.kind {
        // The encoder appends `_total` itself.
        Type::Counter => (metric.name.trim_end_matches("_total"), MetricType::Counter),
        Type::Gauge => (metric.name, MetricType::Gauge),
        Type::Histogram => (metric.name, MetricType::Histogram),
    };
    let mut encoder = encoder.encode_descriptor(name, metric.help, None, kind)?;
    for (values, value) in &family.points {
        let labels: Vec<(&str, &str)> = metric
            .labels
            .iter()
            .copied()
            .zip(values.iter().map(String::as_str))
            .collect();
        if labels.is_empty() {
            encode_value(&mut encoder, metric.kind, value)?;
        } else {
            encode_value(&mut encoder.encode_family(&labels)?, metric.kind, value)?;
        }
    }
    Ok(())
}

fn encode_value(encoder: &mut MetricEncoder, kind: Type, value: &Value) -> Result {
    match value {
        Value::Number(number) if kind == Type::Counter => {
            encoder.encode_counter::<NoLabelSet, f64, f64>(number, None)
        }
        Value::Number(number) => encoder.encode_gauge(number),
        Value::Histogram(buckets) => encoder.encode_histogram::<NoLabelSet>(
            buckets.sum,
            buckets.count(),
            &buckets.counts,
            None,
        ),
    }
}
