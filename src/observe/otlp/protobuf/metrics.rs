//! `ExportMetricsServiceRequest` to points.

use std::hash::{BuildHasher, RandomState};

use super::super::distribution::{BUCKET_LIMIT, Distribution, Exponential};
use super::super::record::{
    DataKind, Metric, MetricName, NO_RECORDED_VALUE, Point, PointSink, PointValue, Reason,
    Temporality,
};
use super::super::wire::{self, Fault, Fields, Value};

/// Hands every point of a metric that matters to the sink.
///
/// # Errors
/// When the body is no whole message; the sink has then seen nothing.
pub fn metrics(body: &[u8], hasher: &RandomState, sink: &mut impl PointSink) -> Result<(), Fault> {
    if !wire::is_whole(body) {
        return Err(Fault::Malformed);
    }
    let mut decoder = Decoder {
        hasher,
        buckets: Distribution::default(),
        sink,
    };
    for field in Fields::new(body) {
        if let (1, value) = field? {
            match value.bytes() {
                Ok(message) => decoder.resource_metrics(message),
                Err(_) => decoder.sink.refuse(Reason::Malformed, 1),
            }
        }
    }
    Ok(())
}

struct Decoder<'s, S> {
    hasher: &'s RandomState,
    /// Used for one point after the other.
    buckets: Distribution,
    sink: &'s mut S,
}

/// `Metric`: 1 name, 3 unit, one of 5, 7, 9, 10, 11 data.
struct Head<'a> {
    name: MetricName,
    unit: &'a str,
    kind: DataKind,
    data: &'a [u8],
}

impl<S: PointSink> Decoder<'_, S> {
    /// `ResourceMetrics`: 1 resource, 2 scope metrics.
    fn resource_metrics(&mut self, message: &[u8]) {
        match super::head(message).and_then(|head| super::resource(head, self.hasher)) {
            Ok(resource) => self.sink.resource(&resource, has_stable(message)),
            Err(fault) => {
                let points = heads(message).map(|head| super::count(head.data, 1));
                self.sink.refuse(fault.into(), points.sum::<u64>().max(1));
                return;
            }
        }
        for field in Fields::new(message) {
            match field.and_then(|(number, value)| (number == 2).then(|| value.bytes()).transpose())
            {
                Ok(Some(scope)) => self.scope_metrics(scope),
                Ok(None) => {}
                Err(fault) => self.sink.refuse(fault.into(), 1),
            }
        }
    }

    /// `ScopeMetrics`: 1 scope, 2 metrics.
    fn scope_metrics(&mut self, message: &[u8]) {
        // Two libraries may have metrics of one name.
        let scope = self.hasher.hash_one(super::head(message).unwrap_or(&[]));
        for field in Fields::new(message) {
            let head = match field {
                Ok((2, value)) => value.bytes().and_then(head),
                Ok(_) => continue,
                Err(fault) => Err(fault),
            };
            match head {
                Ok(Some(head)) => self.metric(&head, scope),
                Ok(None) => {}
                Err(fault) => self.sink.refuse(fault.into(), 1),
            }
        }
    }

    /// The data of any kind: 1 points, 2 temporality.
    fn metric(&mut self, head: &Head<'_>, scope: u64) {
        let metric = temporality(head.data)
            .map_err(Reason::from)
            .and_then(|temporality| Metric::new(head.name, head.unit, head.kind, temporality));
        let metric = match metric {
            Ok(metric) => metric,
            Err(reason) => {
                self.sink.refuse(reason, super::count(head.data, 1));
                return;
            }
        };
        for field in Fields::new(head.data) {
            let refused = match field {
                Ok((1, value)) => self.point(&metric, head.kind, scope, value),
                Ok(_) => Ok(()),
                Err(fault) => Err(fault.into()),
            };
            if let Err(reason) = refused {
                self.sink.refuse(reason, 1);
            }
        }
    }

    fn point(
        &mut self,
        metric: &Metric,
        kind: DataKind,
        scope: u64,
        value: Value<'_>,
    ) -> Result<(), Reason> {
        let message = value.bytes()?;
        self.buckets.clear();
        let mut point = Point {
            identity: scope,
            ..Point::default()
        };
        match kind {
            DataKind::Histogram => histogram(message, self.hasher, &mut point, &mut self.buckets)?,
            DataKind::ExponentialHistogram => {
                exponential(message, self.hasher, &mut point, &mut self.buckets)?;
            }
            _ => number(message, self.hasher, &mut point)?,
        }
        self.sink.point(metric, &point, &mut self.buckets)
    }
}

/// Whether the resource tells of requests by the stable name.
fn has_stable(message: &[u8]) -> bool {
    heads(message).any(|head| head.name == MetricName::RequestDuration)
}

/// Every metric of a resource that can be read.
fn heads(message: &[u8]) -> impl Iterator<Item = Head<'_>> {
    let scopes = Fields::new(message).flatten().filter(|(n, _)| *n == 2);
    let metrics = scopes
        .flat_map(|(_, scope)| Fields::new(scope.bytes().unwrap_or(&[])))
        .flatten()
        .filter(|(n, _)| *n == 2);
    metrics.filter_map(|(_, metric)| head(metric.bytes().ok()?).ok()?)
}

/// `None`: a metric that says nothing of routes, or has no data.
fn head(message: &[u8]) -> Result<Option<Head<'_>>, Fault> {
    let mut name: &[u8] = &[];
    let mut unit = "";
    let mut data = None;
    for field in Fields::new(message) {
        let (number, value) = field?;
        let kind = match number {
            1 => {
                name = value.bytes()?;
                continue;
            }
            3 => {
                unit = value.text()?;
                continue;
            }
            5 => DataKind::Gauge,
            7 => DataKind::Sum,
            9 => DataKind::Histogram,
            10 => DataKind::ExponentialHistogram,
            11 => DataKind::Summary,
            _ => continue,
        };
        data = Some((kind, value.bytes()?));
    }
    let name = MetricName::of(std::str::from_utf8(name).map_err(|_| Fault::Malformed)?);
    Ok(name.zip(data).map(|(name, (kind, data))| Head {
        name,
        unit,
        kind,
        data,
    }))
}

fn temporality(data: &[u8]) -> Result<Temporality, Fault> {
    let mut temporality = Temporality::Unspecified;
    for field in Fields::new(data) {
        if let (2, value) = field? {
            temporality = Temporality::of(value.small()?);
        }
    }
    Ok(temporality)
}

fn attribute<'a>(
    value: Value<'a>,
    hasher: &RandomState,
    point: &mut Point<'a>,
) -> Result<(), Fault> {
    let bytes = value.bytes()?;
    point.identity = point.identity.wrapping_add(hasher.hash_one(bytes));
    super::label(bytes, &mut point.labels)
}

/// `NumberDataPoint`: 2 start, 3 time, 4 double, 6 integer, 7 attributes,
/// 8 flags.
fn number<'a>(
    message: &'a [u8],
    hasher: &RandomState,
    point: &mut Point<'a>,
) -> Result<(), Reason> {
    let mut flags = 0;
    for field in Fields::new(message) {
        match field? {
            (2, value) => point.start = value.fixed64()?,
            (3, value) => point.time = value.fixed64()?,
            (4, value) => point.value = PointValue::Number(value.double()?),
            (6, value) => {
                point.value = PointValue::Number(value.fixed64()?.cast_signed() as f64);
            }
            (7, value) => attribute(value, hasher, point)?,
            (8, value) => flags = value.small()?,
            _ => {}
        }
    }
    if flags & NO_RECORDED_VALUE != 0 {
        point.value = PointValue::Nothing;
    } else if point.value == PointValue::Nothing {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// `HistogramDataPoint`: 2 start, 3 time, 4 count, 5 sum, 6 bucket counts,
/// 7 bounds, 9 attributes, 10 flags.
fn histogram<'a>(
    message: &'a [u8],
    hasher: &RandomState,
    point: &mut Point<'a>,
    buckets: &mut Distribution,
) -> Result<(), Reason> {
    let (mut count, mut sum, mut flags) = (0, None, 0);
    for field in Fields::new(message) {
        match field? {
            (2, value) => point.start = value.fixed64()?,
            (3, value) => point.time = value.fixed64()?,
            (4, value) => count = value.fixed64()?,
            (5, value) => sum = Some(value.double()?),
            (6, value) => value.push_fixed64(BUCKET_LIMIT, &mut buckets.counts, |count| count)?,
            (7, value) => value.push_fixed64(BUCKET_LIMIT, &mut buckets.bounds, f64::from_bits)?,
            (9, value) => attribute(value, hasher, point)?,
            (10, value) => flags = value.small()?,
            _ => {}
        }
    }
    point.value = PointValue::histogram(count, sum, flags, buckets)?;
    Ok(())
}

/// `ExponentialHistogramDataPoint`: 1 attributes, 2 start, 3 time, 4 count,
/// 5 sum, 6 scale, 7 zero count, 8 and 9 buckets, 10 flags.
fn exponential<'a>(
    message: &'a [u8],
    hasher: &RandomState,
    point: &mut Point<'a>,
    buckets: &mut Distribution,
) -> Result<(), Reason> {
    let (mut count, mut sum, mut flags) = (0, None, 0);
    let mut shape = Exponential::default();
    for field in Fields::new(message) {
        match field? {
            (1, value) => attribute(value, hasher, point)?,
            (2, value) => point.start = value.fixed64()?,
            (3, value) => point.time = value.fixed64()?,
            (4, value) => count = value.fixed64()?,
            (5, value) => sum = Some(value.double()?),
            (6, value) => shape.scale = value.sint32()?,
            (7, value) => shape.zero = value.fixed64()?,
            (8, value) => {
                buckets.counts.clear();
                shape.offset = exponential_buckets(value.bytes()?, &mut buckets.counts)?;
            }
            (9, value) => {
                let mut negative = Vec::new();
                exponential_buckets(value.bytes()?, &mut negative)?;
                shape.negative = negative.iter().fold(0, |a, b| a.saturating_add(*b));
            }
            (10, value) => flags = value.small()?,
            _ => {}
        }
    }
    buckets.exponential = Some(shape);
    point.value = PointValue::histogram(count, sum, flags, buckets)?;
    Ok(())
}

/// `Buckets`: 1 offset, 2 counts.
fn exponential_buckets(message: &[u8], counts: &mut Vec<u64>) -> Result<i32, Fault> {
    let mut offset = 0;
    for field in Fields::new(message) {
        match field? {
            (1, value) => offset = value.sint32()?,
            (2, value) => value.push_varints(BUCKET_LIMIT, counts)?,
            _ => {}
        }
    }
    Ok(offset)
}
