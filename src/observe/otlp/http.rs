//! OTLP over HTTP: `/v1/metrics` and `/v1/traces`, in protobuf and JSON, plain
//! or gzip.
//!
//! Answers are in the encoding of the request; an error is a `google.rpc.Status`
//! as the specification has it.

use std::time::Duration;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prost::Message;

use super::answer::{self, Status};
use super::outcome::Outcome;
use super::receiver::{Encoding, Signal};
use super::worker::{self, BODY_LIMIT, Body, Failure, Intake};
use crate::listen::Door;

/// How long a body may take to come. Exporters give up after ten seconds.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Every path of the listener.
pub fn router(intake: Intake, door: Door) -> Router {
    Router::new()
        .route("/v1/metrics", post(metrics))
        .route("/v1/traces", post(traces))
        .fallback(|| async { (StatusCode::NOT_FOUND, "POST to /v1/metrics or /v1/traces\n") })
        .layer(middleware::from_fn_with_state(door, admit))
        .with_state(intake)
}

/// Lets in who has the right user, password or token.
async fn admit(State(door): State<Door>, request: Request, next: Next) -> Response {
    let admitted = door.admit(request.headers(), request.extensions());
    let Err(denied) = admitted.await else {
        return next.run(request).await;
    };
    let encoding = encoding(request.headers()).unwrap_or(Encoding::Protobuf);
    let mut response = refuse(encoding, denied.status(), &denied.to_string());
    for (name, value) in denied.headers() {
        response.headers_mut().append(name, value);
    }
    response
}

async fn metrics(State(intake): State<Intake>, request: Request) -> Response {
    handle(&intake, Signal::Metrics, request).await
}

async fn traces(State(intake): State<Intake>, request: Request) -> Response {
    handle(&intake, Signal::Traces, request).await
}

async fn handle(intake: &Intake, signal: Signal, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let Some(encoding) = encoding(&head.headers) else {
        intake.count("unsupported_content_type");
        let message = "the content type must be application/x-protobuf or application/json\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    };
    let Some(gzip) = gzip(&head.headers) else {
        intake.count("unsupported_content_encoding");
        let message = "the content encoding must be gzip or identity";
        return refuse(encoding, StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    };
    // Who announces too much need not send it.
    let announced = head.headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let outcome = if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
        Err(intake.refused(Failure::TooLarge))
    } else {
        take(intake, signal, encoding, gzip, body).await
    };
    match outcome {
        Ok(outcome) => accept(signal, encoding, &outcome),
        Err(failure) => failed(encoding, &failure),
    }
}

async fn take(
    intake: &Intake,
    signal: Signal,
    encoding: Encoding,
    gzip: bool,
    body: HttpBody,
) -> Result<Outcome, Failure> {
    let place = intake.place().await?;
    let read = axum::body::to_bytes(body, BODY_LIMIT);
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(bytes)) => bytes,
        // Too long, or the sender went away and hears no answer anyway.
        Ok(Err(_)) => return Err(intake.refused(Failure::TooLarge)),
        Err(_) => return Err(intake.refused(Failure::Overload)),
    };
    let body = Body {
        signal,
        encoding,
        gzip,
        bytes,
    };
    intake.take(body, &place).await
}

fn encoding(headers: &HeaderMap) -> Option<Encoding> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/x-protobuf") {
        Some(Encoding::Protobuf)
    } else if essence.eq_ignore_ascii_case("application/json") {
        Some(Encoding::Json)
    } else {
        None
    }
}

/// `None`: packed in a way that cannot be unpacked here.
fn gzip(headers: &HeaderMap) -> Option<bool> {
    let mut values = headers.get_all(CONTENT_ENCODING).iter();
    let value = values
        .next()
        .map_or(b"identity".as_slice(), |v| v.as_bytes());
    if values.next().is_some() {
        None
    } else if value.eq_ignore_ascii_case(b"gzip") {
        Some(true)
    } else {
        value.eq_ignore_ascii_case(b"identity").then_some(false)
    }
}

fn accept(signal: Signal, encoding: Encoding, outcome: &Outcome) -> Response {
    match encoding {
        Encoding::Protobuf => {
            let body = answer::protobuf(signal, outcome);
            ([(CONTENT_TYPE, "application/x-protobuf")], body).into_response()
        }
        Encoding::Json => {
            let body = answer::json(signal, outcome).to_string();
            ([(CONTENT_TYPE, "application/json")], body).into_response()
        }
    }
}

fn failed(encoding: Encoding, failure: &Failure) -> Response {
    let status = match failure {
        Failure::Bad(_) => StatusCode::BAD_REQUEST,
        Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::Overload => StatusCode::TOO_MANY_REQUESTS,
        Failure::Fault => StatusCode::INTERNAL_SERVER_ERROR,
        Failure::Stopping => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = refuse(encoding, status, &failure.to_string());
    if matches!(failure, Failure::Overload | Failure::Stopping) {
        response
            .headers_mut()
            .insert(RETRY_AFTER, worker::RETRY_AFTER.into());
    }
    response
}

fn refuse(encoding: Encoding, status: StatusCode, message: &str) -> Response {
    let body = Status::new(answer::code_of(status), message);
    match encoding {
        Encoding::Protobuf => {
            let headers = [(CONTENT_TYPE, "application/x-protobuf")];
            (status, headers, body.encode_to_vec()).into_response()
        }
        Encoding::Json => {
            let body = serde_json::json!({"code": body.code, "message": body.message});
            let headers = [(CONTENT_TYPE, "application/json")];
            (status, headers, body.to_string()).into_response()
        }
    }
}
