//! CRC32C, the one checksum of Everhold (`crc-fast`: 47 GB/s in cache on the reference machine).

use crc_fast::CrcAlgorithm::Crc32Iscsi;

/// CRC32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32Iscsi, bytes) as u32
}

/// CRC32C of `a ++ b` from the checksums of both and the length of `b` in bytes.
pub fn combine(crc_a: u32, crc_b: u32, b_bytes: u64) -> u32 {
    crc_fast::checksum_combine(Crc32Iscsi, crc_a.into(), crc_b.into(), b_bytes) as u32
}

/// Running CRC32C over pieces.
pub struct Digest(crc_fast::Digest);

impl Default for Digest {
    fn default() -> Self {
        Digest(crc_fast::Digest::new(Crc32Iscsi))
    }
}

impl Digest {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes added.
    pub fn finish(&self) -> u32 {
        self.0.finalize() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_value_and_combination() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(combine(crc32c(b"12345"), crc32c(b"6789"), 4), 0xe306_9283);
        let mut digest = Digest::default();
        digest.update(b"1234");
        digest.update(b"56789");
        assert_eq!(digest.finish(), 0xe306_9283);
    }
}
