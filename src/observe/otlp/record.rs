//! What the two encodings decode to: one span, one point of a metric, with the
//! few labels that anybody asks for.
//!
//! Everything borrows from the body. A record is valid by itself; whether it
//! fits to what was told before is for those who take it.

use std::borrow::Cow;

use super::distribution::Distribution;
use super::wire::Fault;

/// Longest text kept of one attribute, in bytes. Honest route templates stay
/// under two hundred; longer values of attributes nobody asks for are harmless,
/// for they are stepped over.
pub const LABEL_LIMIT: usize = 1024;

/// What told it: the attributes of the resource.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resource<'a> {
    /// `service.name`.
    pub service: Option<Cow<'a, str>>,
    /// All attributes as one number: tells one instance of a service from
    /// another, whatever attribute they differ in.
    pub identity: u64,
}

/// The attributes of a span or point that say something.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels<'a> {
    /// `http.route`, the template. Nothing else is ever taken for it.
    pub route: Option<Cow<'a, str>>,
    /// `http.request.method`.
    pub method: Option<Cow<'a, str>>,
    /// `http.method`, its name until 2023.
    pub old_method: Option<Cow<'a, str>>,
    /// `db.system.name`, or `db.system` of old, is PostgreSQL.
    pub postgresql: bool,
    /// One of those that are kept is longer than [`LABEL_LIMIT`].
    pub too_long: bool,
}

impl<'a> Labels<'a> {
    /// Whether a text of that name is wanted at all.
    pub fn wants(key: &[u8]) -> bool {
        matches!(
            key,
            b"http.route"
                | b"http.request.method"
                | b"http.method"
                | b"db.system.name"
                | b"db.system"
        )
    }

    /// Keeps the text when it is one of those asked for.
    pub fn take(&mut self, key: &[u8], text: Cow<'a, str>) {
        let place = match key {
            b"http.route" => &mut self.route,
            b"http.request.method" => &mut self.method,
            b"http.method" => &mut self.old_method,
            b"db.system.name" | b"db.system" => {
                self.postgresql |= text == "postgresql";
                return;
            }
            _ => return,
        };
        if text.len() > LABEL_LIMIT {
            self.too_long = true;
        } else {
            *place = Some(text);
        }
    }

    /// The method, by its new or its old name.
    pub fn method(&self) -> Option<&str> {
        self.method.as_deref().or(self.old_method.as_deref())
    }
}

/// The role of a span, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SpanKind {
    Server,
    Client,
    #[default]
    Other,
}

/// One span. Times in nanoseconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Span<'a> {
    pub trace: u128,
    pub id: u64,
    /// 0: the first of its trace.
    pub parent: u64,
    pub kind: SpanKind,
    pub start: u64,
    pub end: u64,
    pub labels: Labels<'a>,
}

/// How the points of a metric follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Temporality {
    #[default]
    Unspecified,
    Delta,
    Cumulative,
}

/// The metrics that say something of routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetricName {
    /// `http.server.request.duration`
    RequestDuration,
    /// `http.server.duration`, its name until 2023, in milliseconds.
    OldRequestDuration,
    /// `http.server.active_requests`
    ActiveRequests,
    /// `db.client.operation.duration`
    DatabaseDuration,
}

impl MetricName {
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "http.server.request.duration" => Some(Self::RequestDuration),
            "http.server.duration" => Some(Self::OldRequestDuration),
            "http.server.active_requests" => Some(Self::ActiveRequests),
            "db.client.operation.duration" => Some(Self::DatabaseDuration),
            _ => None,
        }
    }

    /// Seconds in one of the metric's units (UCUM codes); `None` when it is not
    /// a unit of time that is known.
    pub fn seconds(self, unit: &str) -> Option<f64> {
        match unit {
            "s" => Some(1.0),
            "ms" => Some(1e-3),
            "us" => Some(1e-6),
            "ns" => Some(1e-9),
            "" if self == Self::OldRequestDuration => Some(1e-3),
            "" => Some(1.0),
            _ => None,
        }
    }
}

/// The metric that a point belongs to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    pub name: MetricName,
    /// Of durations: seconds in one unit. 1 for counts.
    pub seconds: f64,
    pub temporality: Temporality,
}

/// One point of a metric. Times in nanoseconds since the epoch, 0 where absent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Point<'a> {
    pub start: u64,
    pub time: u64,
    pub labels: Labels<'a>,
    /// All attributes as one number.
    pub identity: u64,
    pub value: PointValue,
}

/// What a point says.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum PointValue {
    /// The application says that there was nothing to say.
    #[default]
    Nothing,
    Number(f64),
    /// Its buckets are in the [`Distribution`] handed over with it.
    Histogram {
        count: u64,
        sum: f64,
    },
}

impl PointValue {
    /// Of a histogram, when its parts agree.
    ///
    /// # Errors
    /// The reason to refuse the point.
    pub fn histogram(
        count: u64,
        sum: Option<f64>,
        flags: u32,
        buckets: &Distribution,
    ) -> Result<Self, Reason> {
        if flags & NO_RECORDED_VALUE != 0 {
            return Ok(Self::Nothing);
        }
        // A sum is left out where there can be negative values, which a
        // duration cannot be.
        let sum = sum.or((count == 0).then_some(0.0));
        match sum {
            Some(sum) if sum.is_finite() && sum >= 0.0 => {
                buckets.check(count)?;
                Ok(Self::Histogram { count, sum })
            }
            _ => Err(Reason::BadValue),
        }
    }
}

/// Why a span or point was refused. The words are label values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    Malformed,
    NoService,
    LabelTooLong,
    TooManyBuckets,
    /// A count, sum or duration that is negative, infinite or no number.
    BadValue,
    InconsistentHistogram,
    WrongType,
    NoTemporality,
    UnknownUnit,
    /// A time stamp that is no time, or far from now.
    BadTime,
    OutOfOrder,
    TooManySeries,
    TooManyServices,
    TooManyInstances,
    UnjoinedDatabaseSpan,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoService => "no_service",
            Self::LabelTooLong => "label_too_long",
            Self::TooManyBuckets => "too_many_buckets",
            Self::BadValue => "bad_value",
            Self::InconsistentHistogram => "inconsistent_histogram",
            Self::WrongType => "wrong_type",
            Self::NoTemporality => "no_temporality",
            Self::UnknownUnit => "unknown_unit",
            Self::BadTime => "bad_time",
            Self::OutOfOrder => "out_of_order",
            Self::TooManySeries => "too_many_series",
            Self::TooManyServices => "too_many_services",
            Self::TooManyInstances => "too_many_instances",
            Self::UnjoinedDatabaseSpan => "unjoined_database_span",
        }
    }
}

impl SpanKind {
    /// From the number in both encodings.
    pub fn of(number: u32) -> Self {
        match number {
            2 => Self::Server,
            3 => Self::Client,
            _ => Self::Other,
        }
    }
}

impl Temporality {
    /// From the number in both encodings.
    pub fn of(number: u32) -> Self {
        match number {
            1 => Self::Delta,
            2 => Self::Cumulative,
            _ => Self::Unspecified,
        }
    }
}

/// What the data of a metric are, as both encodings name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataKind {
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

impl Metric {
    /// A metric whose name is known, if its unit and kind are what they should
    /// be.
    ///
    /// # Errors
    /// The reason to refuse all its points.
    pub fn new(
        name: MetricName,
        unit: &str,
        kind: DataKind,
        temporality: Temporality,
    ) -> Result<Self, Reason> {
        let seconds = if name == MetricName::ActiveRequests {
            match (kind, temporality) {
                (DataKind::Gauge, _) | (DataKind::Sum, Temporality::Cumulative) => 1.0,
                _ => return Err(Reason::WrongType),
            }
        } else {
            if !matches!(kind, DataKind::Histogram | DataKind::ExponentialHistogram) {
                return Err(Reason::WrongType);
            }
            if temporality == Temporality::Unspecified {
                return Err(Reason::NoTemporality);
            }
            name.seconds(unit).ok_or(Reason::UnknownUnit)?
        };
        Ok(Self {
            name,
            seconds,
            temporality,
        })
    }
}

/// The lowest bit of a point's flags: there is no value.
pub const NO_RECORDED_VALUE: u32 = 1;

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Malformed => Self::Malformed,
            Fault::TooMany => Self::TooManyBuckets,
        }
    }
}

/// Takes spans as they are decoded.
pub trait SpanSink {
    /// What comes now is of this resource.
    fn resource(&mut self, resource: &Resource<'_>);
    fn span(&mut self, span: &Span<'_>) -> Result<(), Reason>;
    fn refuse(&mut self, reason: Reason, spans: u64);
}

/// Takes points as they are decoded.
pub trait PointSink {
    /// What comes now is of this resource. `stable`: the request has
    /// `http.server.request.duration` of it.
    fn resource(&mut self, resource: &Resource<'_>, stable: bool);
    fn point(
        &mut self,
        metric: &Metric,
        point: &Point<'_>,
        buckets: &mut Distribution,
    ) -> Result<(), Reason>;
    fn refuse(&mut self, reason: Reason, points: u64);
}
