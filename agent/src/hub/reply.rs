//! Bodies of requests and answers: JSON with a limit and a deadline.

use bytes::Bytes;
use herdsman_wire::{ApiError, Code, limits};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Any body.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;
/// An answer, or the error that becomes one.
pub(super) type Answer = Result<Response<Body>, ApiError>;

pub(super) async fn body<T: DeserializeOwned>(request: Request<Incoming>, limit: usize) -> Result<T, ApiError> {
    let read = Limited::new(request.into_body(), limit).collect();
    let within = if limit > limits::SMALL_BODY {
        limits::OPERATOR_BODY_WITHIN
    } else {
        limits::HANDSHAKE
    };
    let bytes = match tokio::time::timeout(within, read).await {
        Ok(Ok(all)) => all.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            return Err(ApiError::new(
                Code::TooLarge,
                format!("the body has more than {limit} bytes"),
            ));
        }
        Ok(Err(e)) => return Err(ApiError::new(Code::Malformed, format!("the body broke off: {e}"))),
        Err(_) => {
            return Err(ApiError::new(
                Code::Deadline,
                format!("the body did not arrive within {} s", within.as_secs()),
            ));
        }
    };
    serde_json::from_slice(&bytes).map_err(|e| ApiError::new(Code::Malformed, e.to_string()))
}

pub(super) fn empty() -> Body {
    full(Bytes::new())
}

pub(super) fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub(super) fn plain(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(kind));
    response
}

pub(super) fn json_body<T: Serialize>(status: StatusCode, value: &T) -> Response<Body> {
    plain(
        status,
        "application/json",
        serde_json::to_vec(value).unwrap_or_default().into(),
    )
}

pub(super) fn json<T: Serialize>(value: &T) -> Answer {
    Ok(json_body(StatusCode::OK, value))
}
