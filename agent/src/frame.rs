//! Frames of sessions and command streams over any byte stream; their format is
//! [`herdsman_wire::session`]'s.

use herdsman_wire::session::{decode, encode, frame_length};
use herdsman_wire::{ApiError, Code};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Reads one frame; `None` at a clean end of the stream.
///
/// # Errors
/// [`Code::TooLarge`], [`Code::Malformed`], or [`Code::Unreachable`] when the
/// connection breaks.
pub async fn read<T: DeserializeOwned>(io: &mut (impl AsyncRead + Unpin)) -> Result<Option<T>, ApiError> {
    let mut head = [0; 4];
    match io.read_exact(&mut head).await {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(broken(&e)),
    }
    let mut body = vec![0; frame_length(head)?];
    io.read_exact(&mut body).await.map_err(|e| broken(&e))?;
    decode(&body).map(Some)
}

/// Writes one frame.
///
/// # Errors
/// [`Code::TooLarge`], or [`Code::Unreachable`] when the connection breaks.
pub async fn write<T: Serialize>(io: &mut (impl AsyncWrite + Unpin), message: &T) -> Result<(), ApiError> {
    io.write_all(&encode(message)?).await.map_err(|e| broken(&e))?;
    io.flush().await.map_err(|e| broken(&e))
}

fn broken(e: &std::io::Error) -> ApiError {
    ApiError::new(Code::Unreachable, format!("the connection broke: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn there_and_back_and_limits() {
        let (mut a, mut b) = tokio::io::duplex(1 << 20);
        write(&mut a, &"hello").await.unwrap();
        assert_eq!(read::<String>(&mut b).await.unwrap().as_deref(), Some("hello"));
        assert_eq!(
            write(&mut a, &"x".repeat(300_000)).await.unwrap_err().code,
            Code::TooLarge
        );
        a.write_all(&[0xff; 4]).await.unwrap();
        assert_eq!(read::<String>(&mut b).await.unwrap_err().code, Code::TooLarge);
        a.write_all(&[0, 0, 0, 3, b'n', b'o', b'!']).await.unwrap();
        assert_eq!(read::<String>(&mut b).await.unwrap_err().code, Code::Malformed);
        drop(a);
        assert_eq!(read::<String>(&mut b).await.unwrap(), None);
    }
}
