//! What the targets share: an allocator that knows the largest allocation, because a decoder that
//! believes a length in foreign bytes costs memory long before it panics.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Serde reserves up to 1 MiB ahead for a sequence whose length is announced; what is decoded is at
/// most some hundred times as large in memory as it was on the wire (a list of one-byte variants).
const RESERVED_BYTES_MAX: usize = 2 << 20;
const GROWTH_MAX: usize = 512;

struct Watched;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        LARGEST.fetch_max(bytes, Ordering::Relaxed);
        unsafe { System.realloc(at, layout, bytes) }
    }
}

/// Runs a decoder, which must not allocate much more than it was given.
pub fn bounded(decode: fn(&[u8]), bytes: &[u8]) {
    LARGEST.store(0, Ordering::Relaxed);
    decode(bytes);
    let (largest, bound) =
        (LARGEST.load(Ordering::Relaxed), RESERVED_BYTES_MAX + GROWTH_MAX * bytes.len());
    assert!(largest <= bound, "{largest} bytes were allocated for {}", bytes.len());
}
