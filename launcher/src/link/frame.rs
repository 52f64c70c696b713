//! Frames of command streams; their format is [`herdsman_wire::session`]'s.

use herdsman_wire::session::{decode, encode, frame_length};
use herdsman_wire::{ApiError, Code};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame; `None` at the end of the stream.
///
/// # Errors
/// [`Code::TooLarge`], [`Code::Malformed`], or [`Code::Unreachable`].
pub async fn read<T: DeserializeOwned>(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, ApiError> {
    let mut head = [0; 4];
    if let Err(e) = io.read_exact(&mut head).await {
        return if e.kind() == std::io::ErrorKind::UnexpectedEof {
            Ok(None)
        } else {
            Err(broken(&e))
        };
    }
    let mut body = vec![0; frame_length(head)?];
    io.read_exact(&mut body).await.map_err(|e| broken(&e))?;
    decode(&body).map(Some)
}

/// Writes one frame.
///
/// # Errors
/// [`Code::TooLarge`] or [`Code::Unreachable`].
pub async fn write<T: Serialize>(io: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), ApiError> {
    io.write_all(&encode(message)?).await.map_err(|e| broken(&e))?;
    io.flush().await.map_err(|e| broken(&e))
}

fn broken(e: &std::io::Error) -> ApiError {
    ApiError::new(Code::Unreachable, format!("the connection to the hub broke: {e}"))
}
