//! `ExportMetricsServiceRequest` in JSON to points.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};

use serde_json::value::RawValue;

use super::super::distribution::{BUCKET_LIMIT, Distribution, Exponential};
use super::super::record::{
    DataKind, Metric, MetricName, NO_RECORDED_VALUE, Point, PointSink, PointValue, Reason,
    Temporality,
};
use super::{Double, Int, List, NotJson, read};

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    #[serde(borrow, default)]
    resource_metrics: List<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceMetrics<'a> {
    #[serde(borrow, default)]
    resource: Option<&'a RawValue>,
    #[serde(borrow, default)]
    scope_metrics: List<'a>,
}

#[derive(serde::Deserialize)]
struct ScopeMetrics<'a> {
    #[serde(borrow, default)]
    scope: Option<&'a RawValue>,
    #[serde(borrow, default)]
    metrics: List<'a>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricJson<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(default)]
    unit: Option<String>,
    #[serde(borrow, default)]
    gauge: Option<&'a RawValue>,
    #[serde(borrow, default)]
    sum: Option<&'a RawValue>,
    #[serde(borrow, default)]
    histogram: Option<&'a RawValue>,
    #[serde(borrow, default)]
    exponential_histogram: Option<&'a RawValue>,
    #[serde(borrow, default)]
    summary: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow, default)]
    data_points: List<'a>,
    #[serde(default)]
    aggregation_temporality: Int<u32>,
}

/// The points of every kind: what a kind does not have stays empty.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct PointJson<'a> {
    #[serde(borrow, default)]
    attributes: List<'a>,
    #[serde(default)]
    start_time_unix_nano: Int<u64>,
    #[serde(default)]
    time_unix_nano: Int<u64>,
    #[serde(default)]
    flags: Int<u32>,
    #[serde(default)]
    as_double: Option<Double>,
    #[serde(default)]
    as_int: Option<Int<i64>>,
    #[serde(default)]
    count: Int<u64>,
    #[serde(default)]
    sum: Option<Double>,
    #[serde(borrow, default)]
    bucket_counts: List<'a>,
    #[serde(borrow, default)]
    explicit_bounds: List<'a>,
    #[serde(default)]
    scale: Int<i32>,
    #[serde(default)]
    zero_count: Int<u64>,
    #[serde(borrow, default)]
    positive: Option<Buckets<'a>>,
    #[serde(borrow, default)]
    negative: Option<Buckets<'a>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Buckets<'a> {
    #[serde(default)]
    offset: Int<i32>,
    #[serde(borrow, default)]
    bucket_counts: List<'a>,
}

/// Hands every point of a metric that matters to the sink.
///
/// # Errors
/// When the body is no JSON object of that kind; the sink has then seen nothing.
pub fn metrics(
    body: &[u8],
    hasher: &RandomState,
    sink: &mut impl PointSink,
) -> Result<(), NotJson> {
    let request: Request<'_> = serde_json::from_slice(body)?;
    let mut decoder = Decoder {
        hasher,
        buckets: Distribution::default(),
        sink,
    };
    for json in request.resource_metrics.unwrap_or_default() {
        if let Err(reason) = decoder.resource_metrics(json) {
            decoder.sink.refuse(reason, 1);
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

impl<S: PointSink> Decoder<'_, S> {
    fn resource_metrics(&mut self, json: &RawValue) -> Result<(), Reason> {
        let part: ResourceMetrics<'_> = read(json)?;
        let mut scopes: Vec<ScopeMetrics<'_>> = Vec::new();
        for json in part.scope_metrics.unwrap_or_default() {
            match read(json) {
                Ok(scope) => scopes.push(scope),
                Err(reason) => self.sink.refuse(reason, 1),
            }
        }
        let resource = match super::resource(part.resource, self.hasher) {
            Ok(resource) => resource,
            Err(reason) => {
                let metrics = scopes
                    .iter()
                    .flat_map(|scope| scope.metrics.iter().flatten());
                let points =
                    metrics.map(|json| read(json).map_or(1, |m: MetricJson<'_>| m.points()));
                self.sink.refuse(reason, points.sum::<u64>().max(1));
                return Ok(());
            }
        };
        let names = scopes
            .iter()
            .flat_map(|scope| scope.metrics.iter().flatten());
        let stable = names
            .filter_map(|json| read(json).ok())
            .any(|metric: MetricJson<'_>| {
                MetricName::of(&metric.name) == Some(MetricName::RequestDuration)
            });
        self.sink.resource(&resource, stable);
        for scope in scopes {
            // Two libraries may have metrics of one name.
            let identity = self.hasher.hash_one(scope.scope.map(RawValue::get));
            for json in scope.metrics.unwrap_or_default() {
                if let Err(reason) = self.metric(json, identity) {
                    self.sink.refuse(reason, 1);
                }
            }
        }
        Ok(())
    }

    fn metric(&mut self, json: &RawValue, scope: u64) -> Result<(), Reason> {
        let json: MetricJson<'_> = read(json)?;
        let Some((name, (kind, data))) = MetricName::of(&json.name).zip(json.data()) else {
            return Ok(());
        };
        let data: Data<'_> = read(data)?;
        let points = data.data_points.unwrap_or_default();
        let temporality = Temporality::of(data.aggregation_temporality.0);
        let unit = json.unit.as_deref().unwrap_or_default();
        let metric = match Metric::new(name, unit, kind, temporality) {
            Ok(metric) => metric,
            Err(reason) => {
                self.sink.refuse(reason, points.len() as u64);
                return Ok(());
            }
        };
        for json in points {
            if let Err(reason) = self.point(&metric, kind, scope, json) {
                self.sink.refuse(reason, 1);
            }
        }
        Ok(())
    }

    fn point(
        &mut self,
        metric: &Metric,
        kind: DataKind,
        scope: u64,
        json: &RawValue,
    ) -> Result<(), Reason> {
        let json: PointJson<'_> = read(json)?;
        let mut point = Point {
            start: json.start_time_unix_nano.0,
            time: json.time_unix_nano.0,
            identity: scope,
            ..Point::default()
        };
        for attribute in json.attributes.iter().flatten() {
            let hash = self.hasher.hash_one(attribute.get());
            point.identity = point.identity.wrapping_add(hash);
            super::label(attribute, &mut point.labels)?;
        }
        self.buckets.clear();
        let buckets = &mut self.buckets;
        let sum = json.sum.map(|sum| sum.0);
        let flags = json.flags.0;
        point.value = match kind {
            DataKind::Histogram => {
                list(json.bucket_counts, &mut buckets.counts, |n: Int<u64>| n.0)?;
                list(json.explicit_bounds, &mut buckets.bounds, |n: Double| n.0)?;
                PointValue::histogram(json.count.0, sum, flags, buckets)?
            }
            DataKind::ExponentialHistogram => {
                let mut shape = Exponential {
                    scale: json.scale.0,
                    zero: json.zero_count.0,
                    ..Exponential::default()
                };
                if let Some(positive) = json.positive {
                    shape.offset = positive.offset.0;
                    list(
                        positive.bucket_counts,
                        &mut buckets.counts,
                        |n: Int<u64>| n.0,
                    )?;
                }
                if let Some(negative) = json.negative {
                    let mut counts = Vec::new();
                    list(negative.bucket_counts, &mut counts, |n: Int<u64>| n.0)?;
                    shape.negative = counts.iter().fold(0, |a: u64, b| a.saturating_add(*b));
                }
                buckets.exponential = Some(shape);
                PointValue::histogram(json.count.0, sum, flags, buckets)?
            }
            _ if flags & NO_RECORDED_VALUE != 0 => PointValue::Nothing,
            _ => match (json.as_double, json.as_int) {
                (Some(number), None) => PointValue::Number(number.0),
                (None, Some(number)) => PointValue::Number(number.0 as f64),
                _ => return Err(Reason::Malformed),
            },
        };
        self.sink.point(metric, &point, &mut self.buckets)
    }
}

impl<'a> MetricJson<'a> {
    fn data(&self) -> Option<(DataKind, &'a RawValue)> {
        let kinds = [
            (DataKind::Gauge, self.gauge),
            (DataKind::Sum, self.sum),
            (DataKind::Histogram, self.histogram),
            (DataKind::ExponentialHistogram, self.exponential_histogram),
            (DataKind::Summary, self.summary),
        ];
        kinds
            .iter()
            .find_map(|(kind, data)| data.map(|data| (*kind, data)))
    }

    /// How many points stand in it.
    fn points(&self) -> u64 {
        let data = self.data().and_then(|(_, data)| read(data).ok());
        let points = data.and_then(|data: Data<'_>| data.data_points);
        points.map_or(0, |points| points.len() as u64)
    }
}

fn list<'a, T, N>(json: List<'a>, into: &mut Vec<N>, number: impl Fn(T) -> N) -> Result<(), Reason>
where
    T: serde::Deserialize<'a>,
{
    let json = json.unwrap_or_default();
    if json.len() > BUCKET_LIMIT {
        return Err(Reason::TooManyBuckets);
    }
    for element in json {
        into.push(number(read(element)?));
    }
    Ok(())
}
