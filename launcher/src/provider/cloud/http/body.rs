//! Bodies in JSON.

use bytes::Bytes;
use herdsman_wire::Code;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::{ProviderError, error};
use super::Reply;

/// A reply's body as a type. The vendor's new fields do no harm: types should not
/// refuse unknown ones.
///
/// # Errors
/// `E-PROVIDER` with where it does not fit.
pub fn json<T: DeserializeOwned>(call: &str, reply: &Reply) -> Result<T, ProviderError> {
    serde_json::from_slice(&reply.body).map_err(|e| {
        error(
            Code::Provider,
            format!("{call}: the answer is not what it should be: {e}"),
        )
    })
}

/// A body of JSON.
///
/// # Errors
/// `E-INTERNAL` when it cannot be written as JSON.
pub fn json_body<T: Serialize>(value: &T) -> Result<Bytes, ProviderError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|e| error(Code::Internal, format!("a request cannot be written: {e}")))
}
