//! The unit of durability: everything that one group commit wrote. A frame is written with one
//! write, made durable with one sync, and the next frame is written only after that, so
//! **a valid frame proves that all frames before it were durable**. Recovery rests on it: an invalid
//! frame with a valid one behind it is damage, an invalid one at the end is a torn write.
//!
//! Frames start on [`ALIGNMENT`] boundaries. Each names its segment, so what a recycled file still
//! holds from its former life is never taken for a frame. Layout: `docs/format/log.md`.

use super::record::INDEX_MAX;
use everhold_env::{ALIGNMENT, AlignedBuf};
use everhold_proto::checksum::crc32c;

const MAGIC: u32 = u32::from_le_bytes(*b"EHWL");
const VERSION: u32 = 1;
pub(crate) const HEADER_BYTES: usize = 48;
/// Largest payload of a frame: bounds memory at recovery, and how long one write takes.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4 << 20;

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// Number of the segment it was written into.
    pub segment: u64,
    /// Counts the frames of the whole log.
    pub sequence: u64,
    /// In the first frame of a segment: where the frames of the segment before it end.
    pub previous_end: u64,
    /// Length of the payload in bytes.
    pub payload_bytes: u32,
    /// CRC32C of the payload.
    pub payload_crc: u32,
}

impl Header {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.previous_end.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c(&bytes[..44]);
        bytes[44..48].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, if it is one of `segment`.
    pub(crate) fn decode(bytes: &[u8], segment: u64) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let header = Header {
            segment: u64_at(8),
            sequence: u64_at(16),
            previous_end: u64_at(24),
            payload_bytes: u32_at(32),
            payload_crc: u32_at(36),
        };
        let sound = u32_at(0) == MAGIC
            && u32_at(4) == VERSION
            && u32_at(44) == crc32c(&bytes[..44])
            && header.segment == segment
            && header.payload_bytes as usize <= PAYLOAD_BYTES_MAX
            // The next frame's number is counted on from it.
            && header.sequence <= INDEX_MAX;
        sound.then_some(header)
    }

    /// Bytes that the frame takes in the file.
    pub(crate) fn frame_bytes(&self) -> usize {
        frame_bytes(self.payload_bytes as usize)
    }
}

/// Bytes that a frame with this payload takes in the file.
pub(crate) fn frame_bytes(payload_bytes: usize) -> usize {
    (HEADER_BYTES + payload_bytes).next_multiple_of(ALIGNMENT)
}

/// Builds a frame in `buf`, which is reused when it is big enough.
pub(crate) fn encode(
    segment: u64,
    sequence: u64,
    previous_end: u64,
    payload: &[u8],
    buf: Option<AlignedBuf>,
) -> AlignedBuf {
    assert!(payload.len() <= PAYLOAD_BYTES_MAX, "frame payload of {} bytes", payload.len());
    let total = frame_bytes(payload.len());
    let mut buf = match buf {
        Some(buf) if buf.capacity() >= total => buf,
        _ => AlignedBuf::with_capacity(total),
    };
    let header = Header {
        segment,
        sequence,
        previous_end,
        payload_bytes: payload.len() as u32,
        payload_crc: crc32c(payload),
    };
    buf.set_len(total);
    let used = HEADER_BYTES + payload.len();
    buf[..HEADER_BYTES].copy_from_slice(&header.encode());
    buf[HEADER_BYTES..used].copy_from_slice(payload);
    // A reused buffer holds an older frame behind this one.
    buf[used..].fill(0);
    buf
}

/// Whether `payload` is what `header` says.
pub(crate) fn payload_matches(header: &Header, payload: &[u8]) -> bool {
    payload.len() == header.payload_bytes as usize && crc32c(payload) == header.payload_crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses_what_is_not_its_own() {
        let frame = encode(7, 9, 8192, b"hello", None);
        assert_eq!(frame.len(), ALIGNMENT);
        let header = Header::decode(&frame, 7).unwrap();
        assert_eq!(
            (header.sequence, header.previous_end, header.frame_bytes()),
            (9, 8192, ALIGNMENT)
        );
        assert!(payload_matches(&header, &frame[HEADER_BYTES..HEADER_BYTES + 5]));
        assert!(Header::decode(&frame, 6).is_none(), "stale bytes of a recycled segment");
        assert!(Header::decode(&frame[..20], 7).is_none());
        for at in 0..HEADER_BYTES {
            let mut bad = frame.to_vec();
            bad[at] ^= 1;
            assert!(Header::decode(&bad, 7).is_none(), "flipped bit in header byte {at}");
        }
    }

    #[test]
    fn a_reused_buffer_leaks_nothing_of_the_frame_before() {
        let first = encode(1, 1, 0, &[0xff; 6000], None);
        let second = encode(1, 2, 0, b"x", Some(first));
        assert_eq!(second.padded().len(), ALIGNMENT);
        assert!(second[HEADER_BYTES + 1..].iter().all(|b| *b == 0));
    }
}
