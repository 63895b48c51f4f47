//! OTLP over gRPC: the two Export calls, plain or gzip.
//!
//! tonic frames, unpacks and bounds the message; it comes here as bytes, for
//! the decoding is ours.

use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, UnaryService};
use tonic::{Code, Status};

use super::answer;
use super::receiver::{Encoding, Signal};
use super::worker::{BODY_LIMIT, Body, Failure, Intake, Place};
use crate::listen::{Denied, Door};

/// How long a call may take, its message included. Exporters give up after ten
/// seconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Every method of the listener.
pub fn router(intake: Intake, door: Door) -> Router {
    const SERVICES: &str = "/opentelemetry.proto.collector";
    Router::new()
        .route(
            &format!("{SERVICES}.metrics.v1.MetricsService/Export"),
            post(metrics),
        )
        .route(
            &format!("{SERVICES}.trace.v1.TraceService/Export"),
            post(traces),
        )
        .fallback(|| async {
            let message = "only MetricsService/Export and TraceService/Export of OTLP are here";
            Status::unimplemented(message).into_http::<tonic::body::Body>()
        })
        .layer(middleware::from_fn_with_state(door, admit))
        .with_state(intake)
}

/// Lets in who has the right user, password or token.
async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let admitted = door.admit(request.headers(), request.extensions());
    let Err(denied) = admitted.await else {
        return next.run(request).await;
    };
    let code = match denied {
        Denied::Missing(_) | Denied::Wrong(_) => Code::Unauthenticated,
        // With the word that tells an exporter to try again.
        Denied::Slowed(_) | Denied::Busy => Code::Unavailable,
    };
    let status = Status::new(code, denied.to_string());
    status.into_http::<tonic::body::Body>().into_response()
}

async fn metrics(State(intake): State<Intake>, request: Request) -> Response {
    handle(intake, Signal::Metrics, request).await
}

async fn traces(State(intake): State<Intake>, request: Request) -> Response {
    handle(intake, Signal::Traces, request).await
}

async fn handle(intake: Intake, signal: Signal, request: Request) -> Response {
    let place = match intake.place().await {
        Ok(place) => place,
        Err(failure) => {
            return status(&failure)
                .into_http::<tonic::body::Body>()
                .into_response();
        }
    };
    let counted = intake.clone();
    let mut grpc = Grpc::new(Raw)
        .accept_compressed(CompressionEncoding::Gzip)
        .max_decoding_message_size(BODY_LIMIT);
    let call = grpc.unary(
        Export {
            intake,
            signal,
            place: Some(place),
        },
        request,
    );
    let response = match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(response) => response,
        Err(_) => Status::deadline_exceeded("the message did not come in time").into_http(),
    };
    count_refused(&counted, response.headers());
    response.into_response()
}

/// Counts what tonic refused before it came to us; what we refuse ourselves is
/// counted already, and marked.
fn count_refused(intake: &Intake, headers: &axum::http::HeaderMap) {
    if headers.contains_key(COUNTED) {
        return;
    }
    let Some(status) = headers.get("grpc-status") else {
        return;
    };
    match Code::from_bytes(status.as_bytes()) {
        Code::Ok => {}
        // The length in its head, or what came out of gzip.
        Code::OutOfRange | Code::ResourceExhausted => intake.count("body_too_large"),
        Code::Unimplemented => intake.count("unsupported_content_encoding"),
        Code::DeadlineExceeded => intake.count("overload"),
        _ => intake.count("malformed_body"),
    }
}

/// In the metadata of an error that was counted.
const COUNTED: &str = "x-snowpit-counted";

/// One Export call.
struct Export {
    intake: Intake,
    signal: Signal,
    place: Option<Place>,
}

impl UnaryService<Bytes> for Export {
    type Response = Bytes;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<tonic::Response<Bytes>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Bytes>) -> Self::Future {
        let (intake, signal) = (self.intake.clone(), self.signal);
        let place = self.place.take();
        let body = Body {
            signal,
            encoding: Encoding::Protobuf,
            // Unpacked already.
            gzip: false,
            bytes: request.into_inner(),
        };
        Box::pin(async move {
            let Some(place) = place else {
                return Err(Status::internal("called twice"));
            };
            let outcome = intake.take(body, &place).await;
            let outcome = outcome.map_err(|failure| status(&failure))?;
            Ok(tonic::Response::new(
                answer::protobuf(signal, &outcome).into(),
            ))
        })
    }
}

fn status(failure: &Failure) -> Status {
    let code = match failure {
        Failure::Bad(_) => Code::InvalidArgument,
        Failure::TooLarge | Failure::Overload => Code::ResourceExhausted,
        Failure::Fault => Code::Internal,
        Failure::Stopping => Code::Unavailable,
    };
    let message = failure.to_string();
    let mut status = if matches!(failure, Failure::Overload) {
        let details = answer::Status::new(code, &message).retry().encode_to_vec();
        Status::with_details(code, message, details.into())
    } else {
        Status::new(code, message)
    };
    status
        .metadata_mut()
        .insert(COUNTED, tonic::metadata::MetadataValue::from_static("1"));
    status
}

/// Messages as bytes, both ways.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
