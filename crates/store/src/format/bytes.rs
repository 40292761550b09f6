//! Fixed fields in a slice of bytes whose length was checked before.

/// The `N` bytes at `at`.
pub(super) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// Copies `field` to `at`.
pub(super) fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// Takes the checksum of `bytes` with the four bytes at `at` as zero, and stores it there.
pub(super) fn seal(bytes: &mut [u8], at: usize) {
    put(bytes, at, &[0; 4]);
    let crc = everhold_proto::checksum::crc32c(bytes);
    put(bytes, at, &crc.to_le_bytes());
}

/// Whether the checksum stored at `at` is that of the rest.
pub(super) fn is_sealed(bytes: &[u8], at: usize) -> bool {
    let mut digest = everhold_proto::checksum::Digest::default();
    digest.update(&bytes[..at]);
    digest.update(&[0; 4]);
    digest.update(&bytes[at + 4..]);
    digest.finish() == u32_at(bytes, at)
}
