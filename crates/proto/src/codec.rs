//! The encoding of everything that is stored as a row or sent between our own processes: postcard.
//! Rows carry a leading format version; see `docs/format.md`.

use serde::{Serialize, de::DeserializeOwned};

/// Version of the encodings in this crate. Raised when a stored row or a message changes its shape;
/// nodes of different versions refuse each other by name instead of misreading.
pub const FORMAT_VERSION: u32 = 2;

/// Bytes that do not decode, or have more after the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("bytes do not decode as {what}: {reason}")]
pub struct DecodeError {
    /// The type that was expected.
    pub what: &'static str,
    /// What the decoder found.
    pub reason: String,
}

/// Encodes a message. Never fails for the types of this crate, which have no unsized or unencodable parts.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data encodes")
}

/// Decodes a message; trailing bytes are an error. Safe on hostile bytes: no panic, and allocations
/// are bounded by the input's length.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let bad = |reason: String| DecodeError { what: std::any::type_name::<T>(), reason };
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(bad(format!("{} bytes too many", rest.len()))),
        Err(e) => Err(bad(e.to_string())),
    }
}

/// Encodes a stored row: one byte of row version, then the value.
pub fn encode_row<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT_VERSION as u8]).expect("plain data encodes")
}

/// Decodes a stored row.
pub fn decode_row<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match bytes.split_first() {
        Some((version, rest)) if u32::from(*version) == FORMAT_VERSION => decode(rest),
        Some((version, _)) => Err(DecodeError {
            what: std::any::type_name::<T>(),
            reason: format!("row version {version}, this program reads {FORMAT_VERSION}"),
        }),
        None => Err(DecodeError { what: std::any::type_name::<T>(), reason: "empty row".into() }),
    }
}
