//! What senders are told: partial success, and errors.

use axum::http::StatusCode;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceResponse,
};
use prost::Message;
use tonic::Code;

use super::outcome::Outcome;
use super::receiver::Signal;
use super::worker::RETRY_AFTER;

/// `google.rpc.Status`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo`, without which an exporter does not come again after
/// RESOURCE_EXHAUSTED.
#[derive(Clone, PartialEq, prost::Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<Delay>,
}

/// `google.protobuf.Duration`
#[derive(Clone, PartialEq, prost::Message)]
struct Delay {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

impl Status {
    pub fn new(code: Code, message: &str) -> Self {
        Self {
            code: code.into(),
            message: message.to_owned(),
            details: Vec::new(),
        }
    }

    /// Says when to come again.
    pub fn retry(mut self) -> Self {
        let delay = Delay {
            seconds: RETRY_AFTER.cast_signed(),
        };
        let info = RetryInfo {
            retry_delay: Some(delay),
        };
        self.details.push(Any {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: info.encode_to_vec(),
        });
        self
    }
}

/// The gRPC code beside an HTTP status.
pub fn code_of(status: StatusCode) -> Code {
    match status {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::TOO_MANY_REQUESTS => Code::ResourceExhausted,
        StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
        StatusCode::INTERNAL_SERVER_ERROR => Code::Internal,
        _ => Code::InvalidArgument,
    }
}

/// The response in protobuf.
pub fn protobuf(signal: Signal, outcome: &Outcome) -> Vec<u8> {
    let (rejected, error_message) = parts(outcome);
    let is_partial = rejected > 0;
    match signal {
        Signal::Metrics => ExportMetricsServiceResponse {
            partial_success: is_partial.then_some(ExportMetricsPartialSuccess {
                rejected_data_points: rejected,
                error_message,
            }),
        }
        .encode_to_vec(),
        Signal::Traces => ExportTraceServiceResponse {
            partial_success: is_partial.then_some(ExportTracePartialSuccess {
                rejected_spans: rejected,
                error_message,
            }),
        }
        .encode_to_vec(),
    }
}

/// The response in JSON: 64-bit integers are strings.
pub fn json(signal: Signal, outcome: &Outcome) -> serde_json::Value {
    let (rejected, message) = parts(outcome);
    if rejected == 0 {
        return serde_json::json!({});
    }
    let key = match signal {
        Signal::Metrics => "rejectedDataPoints",
        Signal::Traces => "rejectedSpans",
    };
    serde_json::json!({"partialSuccess": {key: rejected.to_string(), "errorMessage": message}})
}

fn parts(outcome: &Outcome) -> (i64, String) {
    let rejected = i64::try_from(outcome.refused.total()).unwrap_or(i64::MAX);
    (rejected, outcome.message())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::otlp::record::Reason;

    #[test]
    fn nothing_refused_is_an_empty_answer_and_else_both_encodings_agree() {
        let mut outcome = Outcome::default();
        assert_eq!(protobuf(Signal::Traces, &outcome), b"");
        assert_eq!(json(Signal::Metrics, &outcome).to_string(), "{}");
        outcome.refuse(Reason::BadTime, 3);
        let answer = ExportTraceServiceResponse::decode(&*protobuf(Signal::Traces, &outcome));
        let partial = answer.unwrap().partial_success.unwrap();
        assert_eq!(partial.rejected_spans, 3);
        assert_eq!(partial.error_message, "refused: 3 bad_time");
        let json = json(Signal::Metrics, &outcome);
        assert_eq!(json["partialSuccess"]["rejectedDataPoints"], "3");
    }
}
