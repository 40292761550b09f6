//! Randomness: the operating system's, or one seed's.

use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;

/// The port to randomness. Clones share one stream.
#[derive(Clone)]
pub struct Entropy(Arc<Mutex<ChaCha8Rng>>);

impl Entropy {
    /// Seeded by the operating system.
    pub fn real() -> Self {
        Entropy(Arc::new(Mutex::new(rand::make_rng())))
    }

    /// Everything follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Entropy(Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))))
    }

    /// 64 random bits.
    pub fn u64(&self) -> u64 {
        self.0.lock().random()
    }

    /// Uniform in `0..bound`; `bound` must not be 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.0.lock().random_range(0..bound)
    }

    /// Uniform in `0.0..1.0`.
    pub fn unit(&self) -> f64 {
        self.0.lock().random()
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill(bytes);
    }
}
