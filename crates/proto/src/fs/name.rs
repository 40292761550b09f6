//! Names of directory entries.

use super::FsError;
use crate::limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A validated file name: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

impl Name {
    /// Checks and takes a name.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, FsError> {
        let bytes = bytes.into();
        if bytes.len() > limits::NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        let bad = bytes.is_empty()
            || bytes[..] == *b"."
            || bytes[..] == *b".."
            || bytes.iter().any(|b| matches!(b, 0 | b'/'));
        if bad { Err(FsError::Invalid) } else { Ok(Name(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Name {
    type Error = FsError;
    fn try_from(bytes: Bytes) -> Result<Self, FsError> {
        Name::new(bytes)
    }
}

impl From<Name> for Bytes {
    fn from(name: Name) -> Bytes {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
