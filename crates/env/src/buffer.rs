//! Memory aligned for direct I/O.

use bytes::Bytes;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment and granularity of direct I/O: the page size, which every disk we know accepts.
pub const ALIGNMENT: usize = 4096;

/// A byte buffer whose address and capacity are multiples of [`ALIGNMENT`]. `len` may be less than
/// the capacity; the rest is zero until written through [`AlignedBuf::set_len`].
pub struct AlignedBuf {
    start: NonNull<u8>,
    capacity: usize,
    len: usize,
}

// SAFETY: the buffer owns its memory exclusively; there is no interior mutability.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// An empty buffer that holds at least `bytes` without growing. Zero-filled.
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(ALIGNMENT);
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout));
        AlignedBuf { start, capacity, len: 0 }
    }

    /// A zero-filled buffer of `bytes`.
    pub fn zeroed(bytes: usize) -> Self {
        let mut buf = Self::with_capacity(bytes);
        buf.len = bytes;
        buf
    }

    /// A buffer with a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::with_capacity(bytes.len());
        buf.extend_from_slice(bytes);
        buf
    }

    /// How many bytes fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sets the length, up to the capacity. Bytes that were never written read as zero.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity, "length {len} exceeds capacity {}", self.capacity);
        self.len = len;
    }

    /// Appends; panics when it does not fit, because growing would break the alignment contract.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let old = self.len;
        self.set_len(old + bytes.len());
        self[old..].copy_from_slice(bytes);
    }

    /// The whole capacity rounded view `[0, len rounded up to ALIGNMENT)`, for a direct write.
    pub fn padded(&self) -> &[u8] {
        let len = self.len.next_multiple_of(ALIGNMENT).min(self.capacity);
        // SAFETY: `len` is within the allocation, which was zero-filled at birth.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), len) }
    }

    /// Shares the contents without copying.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn layout(capacity: usize) -> Layout {
        Layout::from_size_align(capacity, ALIGNMENT)
            .expect("buffer sizes are bounded far below isize::MAX")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated in `with_capacity` with this layout.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` is within the allocation.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` is within the allocation and we hold it exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_padded_with_zeroes() {
        let mut buf = AlignedBuf::with_capacity(5000);
        buf.extend_from_slice(&[7; 4097]);
        assert_eq!(buf.as_ptr() as usize % ALIGNMENT, 0);
        assert_eq!(buf.capacity(), 8192);
        assert_eq!(buf.padded().len(), 8192);
        assert!(buf.padded()[4097..].iter().all(|b| *b == 0));
        assert_eq!(buf.into_bytes().len(), 4097);
    }
}
