//! Bytes of values: a header that names the value, then bytes that follow from it.

use super::plan::VALUE_BYTES_MIN;
use crate::history::{Tag, Value};
use bytes::Bytes;

const MAGIC: [u8; 4] = *b"EvHo";

/// The bytes of a value.
pub(crate) fn make(value: Value) -> Bytes {
    let mut bytes = Vec::new();
    extend(&mut bytes, value);
    bytes.into()
}

/// The bytes of several values, one after the other.
pub(crate) fn make_all(values: impl Iterator<Item = Value>) -> Bytes {
    let mut bytes = Vec::new();
    values.for_each(|value| extend(&mut bytes, value));
    bytes.into()
}

/// The value that the bytes are, every one of them; else what is wrong with them.
pub(crate) fn read(bytes: &[u8]) -> Result<Value, String> {
    match &read_all(bytes)?[..] {
        [value] => Ok(*value),
        values => Err(format!("{} values in place of one", values.len())),
    }
}

/// The size of the value whose header the bytes begin with, if they do.
pub(crate) fn size(bytes: &[u8]) -> Option<u32> {
    let size = bytes.strip_prefix(&MAGIC)?.first_chunk()?;
    Some(u32::from_le_bytes(*size)).filter(|size| *size >= VALUE_BYTES_MIN)
}

/// The values that the bytes are, one after the other.
pub(crate) fn read_all(bytes: &[u8]) -> Result<Vec<Value>, String> {
    let (mut values, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let value = read_first(&bytes[at..]).map_err(|e| {
            format!("of {} bytes, at {at}, after {} values: {e}", bytes.len(), values.len())
        })?;
        at += value.size as usize;
        values.push(value);
    }
    Ok(values)
}

fn read_first(bytes: &[u8]) -> Result<Value, String> {
    let header = bytes.get(..VALUE_BYTES_MIN as usize).ok_or("too short for a value")?;
    if header[..4] != MAGIC {
        return Err(format!("no value begins with {:02x?}", &header[..8]));
    }
    let size = u32::from_le_bytes(header[4..8].try_into().expect("four bytes"));
    let tag = Tag(u64::from_le_bytes(header[8..16].try_into().expect("eight bytes")));
    let value = Value { tag, size };
    if size < VALUE_BYTES_MIN {
        return Err(format!("{value} is impossibly short"));
    }
    let shown = bytes.get(..size as usize);
    let shown = shown.ok_or_else(|| format!("{value} ends after {} bytes", bytes.len()))?;
    let right = make(value);
    match shown.iter().zip(&right[..]).position(|(shown, right)| shown != right) {
        None => Ok(value),
        Some(at) => Err(format!(
            "{value} differs from offset {at} on: {:02x?} in place of {:02x?}",
            &shown[at..shown.len().min(at + 8)],
            &right[at..right.len().min(at + 8)]
        )),
    }
}

fn extend(bytes: &mut Vec<u8>, value: Value) {
    let start = bytes.len();
    bytes.extend(MAGIC);
    bytes.extend(value.size.to_le_bytes());
    bytes.extend(value.tag.0.to_le_bytes());
    let mut state = value.tag.0 ^ (u64::from(value.size) << 40);
    let end = start + value.size.max(VALUE_BYTES_MIN) as usize;
    while bytes.len() < end {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((word ^ (word >> 31)).to_le_bytes());
    }
    bytes.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values are read back; a changed byte, a cut end and zeroes are not.
    #[test]
    fn only_whole_values_are_values() {
        for size in [16, 17, 100, 5000] {
            let value = Value { tag: Tag(7), size };
            let bytes = make(value);
            assert_eq!(bytes.len(), size as usize);
            assert_eq!(read(&bytes), Ok(value));
            assert!(read(&bytes[..bytes.len() - 1]).is_err());
        }
        let values = [Value { tag: Tag(1), size: 30 }, Value { tag: Tag(2), size: 40 }];
        let mut bytes = make_all(values.into_iter()).to_vec();
        assert_eq!(read_all(&bytes), Ok(values.to_vec()));
        bytes[60] ^= 1;
        assert!(read_all(&bytes).unwrap_err().contains("offset 30"));
        assert!(read(&[0; 64]).is_err());
    }
}
