//! Pseudo-random bytes that can be made again from a seed: test data that needs no second copy to be
//! verified, and that no layer below can compress or deduplicate.

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{self, Write};
use std::path::Path;

/// `length` bytes that depend on `seed` only.
pub(crate) fn bytes(seed: u64, length: usize) -> Bytes {
    let mut data = vec![0; length];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut data);
    data.into()
}

/// Writes files of together `total` bytes to `dir`: a few large ones and many small ones, as a
/// directory of real data has.
pub(crate) fn tree(dir: &Path, total: u64, seed: u64) -> io::Result<()> {
    const LARGE: u64 = 64 << 20;
    const SMALL: u64 = 24 << 10;
    const SMALL_FILES: u64 = 200;
    let small_total = (SMALL * SMALL_FILES).min(total / 10);
    std::fs::create_dir_all(dir.join("small"))?;
    let (mut left, mut number) = (small_total, 0);
    while left > 0 {
        // Sizes on both sides of what is kept inline with the metadata.
        let size = (1 + number * 997 % (2 * SMALL)).min(left);
        file(&dir.join(format!("small/{number:04}")), seed ^ (1 << 32 | number), size)?;
        left -= size;
        number += 1;
    }
    let (mut left, mut number) = (total - small_total, 0);
    while left > 0 {
        let size = left.min(LARGE);
        file(&dir.join(format!("large-{number:03}")), seed ^ (2 << 32 | number), size)?;
        left -= size;
        number += 1;
    }
    Ok(())
}

fn file(path: &Path, seed: u64, length: u64) -> io::Result<()> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut chunk = vec![0; 1 << 20];
    let mut out = std::fs::File::create(path)?;
    let mut left = length;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        random.fill_bytes(&mut chunk[..piece]);
        out.write_all(&chunk[..piece])?;
        left -= piece as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_repeatable_and_has_the_size() {
        assert_eq!(bytes(1, 100), bytes(1, 100));
        assert_ne!(bytes(1, 100), bytes(2, 100));
        let dir = tempfile::tempdir().unwrap();
        tree(dir.path(), 3 << 20, 7).unwrap();
        let size = |path: &Path| -> u64 {
            let entries = std::fs::read_dir(path).unwrap().map(|e| e.unwrap());
            entries.filter(|e| e.path().is_file()).map(|e| e.metadata().unwrap().len()).sum()
        };
        assert_eq!(size(dir.path()) + size(&dir.path().join("small")), 3 << 20);
    }
}
