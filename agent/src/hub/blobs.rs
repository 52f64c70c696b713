//! Environment blobs by SHA-256: the launcher puts them, nodes get them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use herdsman_wire::{ApiError, Code, limits};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::io::AsyncWriteExt;

use crate::files::{self, io_error};

/// Longest pause within a blob.
const STALL: std::time::Duration = std::time::Duration::from_secs(30);

/// The folder of blobs.
#[derive(Clone, Debug)]
pub struct Blobs {
    folder: PathBuf,
}

impl Blobs {
    /// Uses this folder, which is made if need be.
    ///
    /// # Errors
    /// As the file system says.
    pub fn open(folder: &Path) -> Result<Self, ApiError> {
        files::make_dir(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Where a blob is; the name is checked, since it becomes a path.
    ///
    /// # Errors
    /// [`Code::Malformed`] when the text is no SHA-256 in lower-case hex,
    /// [`Code::NotFound`] when there is no such blob.
    pub fn find(&self, sha256: &str) -> Result<PathBuf, ApiError> {
        let path = self.path(sha256)?;
        if path.is_file() {
            Ok(path)
        } else {
            Err(ApiError::new(Code::NotFound, format!("no blob {sha256} here")))
        }
    }

    fn path(&self, sha256: &str) -> Result<PathBuf, ApiError> {
        let fine = sha256.len() == 64 && sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if fine {
            Ok(self.folder.join(sha256))
        } else {
            Err(ApiError::new(
                Code::Malformed,
                "a blob's name is its SHA-256 in lower-case hex",
            ))
        }
    }

    /// Takes a blob in; it appears only when it is whole and its hash is right.
    ///
    /// # Errors
    /// [`Code::TooLarge`], [`Code::Malformed`] when the hash differs,
    /// [`Code::Disk`].
    pub async fn put<B>(&self, sha256: &str, mut body: B) -> Result<(), ApiError>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::fmt::Display,
    {
        let path = self.path(sha256)?;
        if path.is_file() {
            return Ok(());
        }
        let beside = self.folder.join(format!("{sha256}.{:08x}.part", rand_u32()));
        let result = async {
            let mut file = tokio::fs::File::create(&beside)
                .await
                .map_err(|e| io_error("write", &beside, &e))?;
            let mut hash = ring::digest::Context::new(&ring::digest::SHA256);
            let mut total = 0_u64;
            let late = |_| ApiError::new(Code::Deadline, "the blob stopped coming");
            while let Some(frame) = tokio::time::timeout(STALL, body.frame()).await.map_err(late)? {
                let frame = frame.map_err(|e| ApiError::new(Code::Unreachable, format!("blob: {e}")))?;
                let Ok(data) = frame.into_data() else { continue };
                total += data.len() as u64;
                if total > limits::BLOB {
                    return Err(ApiError::new(
                        Code::TooLarge,
                        format!("a blob may have {} bytes", limits::BLOB),
                    ));
                }
                hash.update(&data);
                file.write_all(&data)
                    .await
                    .map_err(|e| io_error("write", &beside, &e))?;
            }
            file.sync_all().await.map_err(|e| io_error("write", &beside, &e))?;
            let got = hash
                .finish()
                .as_ref()
                .iter()
                .fold(String::new(), |s, b| s + &format!("{b:02x}"));
            if got != sha256 {
                return Err(ApiError::new(
                    Code::Malformed,
                    format!("blob {sha256} came with hash {got}"),
                ));
            }
            tokio::fs::rename(&beside, &path)
                .await
                .map_err(|e| io_error("write", &path, &e))
        }
        .await;
        if result.is_err() {
            let _ = tokio::fs::remove_file(&beside).await;
        }
        result
    }
}

fn rand_u32() -> u32 {
    use ring::rand::SecureRandom;
    let mut bytes = [0; 4];
    // Only two uploads of one blob at the same moment would collide without it.
    let _ = ring::rand::SystemRandom::new().fill(&mut bytes);
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn only_whole_and_right_blobs_appear() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(dir.path()).unwrap();
        let name = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; // of "hello"
        let put = |text: &'static str| blobs.put(name, Full::new(Bytes::from(text)));
        assert_eq!(put("hellO").await.unwrap_err().code, Code::Malformed);
        assert_eq!(blobs.find(name).unwrap_err().code, Code::NotFound);
        put("hello").await.unwrap();
        put("hello").await.unwrap();
        assert_eq!(std::fs::read(blobs.find(name).unwrap()).unwrap(), b"hello");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        for evil in ["../../etc/passwd", "", &"A".repeat(64), &"a".repeat(63)] {
            assert_eq!(blobs.find(evil).unwrap_err().code, Code::Malformed, "{evil}");
        }
    }
}
