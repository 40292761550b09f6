//! A fingerprint of a set of blocks.

use everhold_proto::checksum::crc32c;
use everhold_proto::table::BlockEntry;

/// Fingerprint of the blocks of a PG within a range of ids. Two sets with the same (id, length,
/// checksum) have the same one, in whatever order they were added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    /// How many blocks.
    pub count: u64,
    /// Sum of a 64-bit hash of each.
    pub sum: u64,
}

impl Digest {
    /// Adds a block.
    pub fn add(&mut self, block: &BlockEntry) {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&block.id.to_bytes());
        bytes[16..20].copy_from_slice(&block.length.to_be_bytes());
        bytes[20..].copy_from_slice(&block.crc.to_be_bytes());
        let words = bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word));
        let hash = words.fold(u64::from(crc32c(&bytes)), |hash, word| mix(hash ^ word));
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// The finaliser of SplitMix64: a bijection in which each input bit moves half of the output.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
