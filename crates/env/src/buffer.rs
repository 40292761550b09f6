//! Memory aligned for direct I/O.
//!
//! Large buffers are recycled: memory that is fresh from the operating system costs up to ten times
//! as much as memory that was used before (`docs/performance.md`).

use bytes::Bytes;
use parking_lot::Mutex;
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Alignment and granularity of direct I/O: the page size, which every disk we know accepts.
pub const ALIGNMENT: usize = 4096;

/// Size of a huge page on the machines we know.
const HUGE_PAGE: usize = 2 << 20;
/// Buffers from this size on are recycled: below it the allocator keeps the memory by itself.
const RECYCLED_BYTES_MIN: usize = 128 << 10;
/// Memory that waits to be used again, in the process. Sixteen of the largest blocks.
const POOL_BYTES_MAX: usize = 66 << 20;

/// Large buffers live in huge pages where the system has them: one fault instead of 512, and direct I/O
/// pins one page instead of 512.
fn advise_huge(start: NonNull<u8>, capacity: usize) {
    let bytes = capacity / HUGE_PAGE * HUGE_PAGE;
    if bytes == 0 {
        return;
    }
    // SAFETY: the range is within an allocation of ours; the advice changes no content.
    let advised = unsafe {
        rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxHugepage)
    };
    if let Err(e) = advised {
        tracing::trace!(error = %e, "no huge pages");
    }
}

/// A byte buffer whose address and capacity are multiples of [`ALIGNMENT`]. `len` may be less than
/// the capacity; the rest is zero until written through [`AlignedBuf::set_len`].
pub struct AlignedBuf {
    memory: Memory,
    len: usize,
}

/// An allocation. **Invariant:** all bytes are initialised, and from `dirty` on they are zero.
struct Memory {
    start: NonNull<u8>,
    capacity: usize,
    dirty: usize,
}

// SAFETY: the memory is owned exclusively; there is no interior mutability.
unsafe impl Send for Memory {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Memory {}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), bytes: 0 });

struct Pool {
    free: Vec<Memory>,
    bytes: usize,
}

impl Pool {
    /// The smallest that fits without wasting more than a quarter.
    fn take(&mut self, capacity: usize) -> Option<Memory> {
        let fits =
            |memory: &Memory| (capacity..=capacity + capacity / 4).contains(&memory.capacity);
        let (at, _) = self
            .free
            .iter()
            .enumerate()
            .filter(|(_, memory)| fits(memory))
            .min_by_key(|(_, memory)| memory.capacity)?;
        let memory = self.free.swap_remove(at);
        self.bytes -= memory.capacity;
        Some(memory)
    }

    /// Keeps the memory, or gives it back to be freed.
    fn put(&mut self, memory: Memory) -> Option<Memory> {
        if self.bytes + memory.capacity > POOL_BYTES_MAX {
            return Some(memory);
        }
        self.bytes += memory.capacity;
        self.free.push(memory);
        None
    }
}

impl Memory {
    fn new(capacity: usize) -> Self {
        if capacity >= RECYCLED_BYTES_MIN
            && let Some(memory) = POOL.lock().take(capacity)
        {
            return memory;
        }
        let layout = Self::layout(capacity);
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc(layout) };
        let start = NonNull::new(raw).unwrap_or_else(|| handle_alloc_error(layout));
        advise_huge(start, capacity);
        // SAFETY: the allocation is ours and has this size. It is touched only now, after the advice.
        unsafe { start.as_ptr().write_bytes(0, capacity) };
        Memory { start, capacity, dirty: 0 }
    }

    fn layout(capacity: usize) -> Layout {
        let alignment = if capacity >= HUGE_PAGE { HUGE_PAGE } else { ALIGNMENT };
        Layout::from_size_align(capacity, alignment)
            .expect("buffer sizes are bounded far below isize::MAX")
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: all of the allocation is initialised.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.capacity) }
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: all of the allocation is initialised, and we hold it exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.capacity) }
    }

    /// Makes `from..to` zero.
    fn clear(&mut self, from: usize, to: usize) {
        let to = to.min(self.dirty);
        if from < to {
            self.bytes_mut()[from..to].fill(0);
        }
    }

    fn free(self) {
        // SAFETY: allocated in `new` with this layout; `self` is gone after this.
        unsafe { dealloc(self.start.as_ptr(), Self::layout(self.capacity)) }
    }
}

impl AlignedBuf {
    /// An empty buffer that holds at least `bytes` without growing. Zero-filled.
    pub fn with_capacity(bytes: usize) -> Self {
        let capacity = bytes.max(1).next_multiple_of(ALIGNMENT);
        AlignedBuf { memory: Memory::new(capacity), len: 0 }
    }

    /// A zero-filled buffer of `bytes`.
    pub fn zeroed(bytes: usize) -> Self {
        let mut buf = Self::with_capacity(bytes);
        buf.set_len(bytes);
        buf
    }

    /// A buffer of `bytes` to be filled by a read; what is in it before may be anything.
    pub(crate) fn to_fill(bytes: usize) -> Self {
        let mut buf = Self::with_capacity(bytes);
        buf.memory.dirty = buf.memory.dirty.max(bytes);
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
        self.memory.capacity
    }

    /// Sets the length, up to the capacity. Bytes that were never written read as zero.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "length {len} exceeds capacity {}", self.capacity());
        // What lies behind the old length is what an earlier user left, up to `dirty`.
        self.memory.clear(self.len, len);
        self.end_at(len);
    }

    /// Appends; panics when it does not fit, because growing would break the alignment contract.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let (old, len) = (self.len, self.len + bytes.len());
        assert!(len <= self.capacity(), "length {len} exceeds capacity {}", self.capacity());
        self.memory.bytes_mut()[old..len].copy_from_slice(bytes);
        self.end_at(len);
    }

    /// Sets the length to that of what is valid, and zeroes the rest of the last unit.
    fn end_at(&mut self, len: usize) {
        self.memory.clear(len, len.next_multiple_of(ALIGNMENT));
        self.memory.dirty = self.memory.dirty.max(len);
        self.len = len;
    }

    /// The whole capacity rounded view `[0, len rounded up to ALIGNMENT)`, for a direct write.
    pub fn padded(&self) -> &[u8] {
        &self.memory.bytes()[..self.len.next_multiple_of(ALIGNMENT)]
    }

    /// Shares the contents without copying.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        let none = Memory { start: NonNull::dangling(), capacity: 0, dirty: 0 };
        let memory = std::mem::replace(&mut self.memory, none);
        let surplus = match memory.capacity >= RECYCLED_BYTES_MIN {
            true => POOL.lock().put(memory),
            false => Some(memory),
        };
        if let Some(memory) = surplus {
            memory.free();
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[..self.len]
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.memory.bytes_mut()[..len]
    }
}

impl AsRef<[u8]> for AlignedBuf {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuf({} of {} bytes)", self.len, self.capacity())
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

    /// What an earlier user wrote is never seen by a later one, in whatever way the length grows.
    #[test]
    fn recycled_memory_reads_as_zero() {
        const SIZE: usize = 300_000;
        for _ in 0..4 {
            drop(AlignedBuf::copy_of(&[9; SIZE]));
            assert!(AlignedBuf::zeroed(SIZE).iter().all(|b| *b == 0));
            drop(AlignedBuf::copy_of(&[9; SIZE]));
            let mut buf = AlignedBuf::with_capacity(SIZE);
            buf.extend_from_slice(&[1; 10]);
            assert!(buf.padded()[10..].iter().all(|b| *b == 0));
            buf.set_len(5000);
            assert!(buf.padded()[10..].iter().all(|b| *b == 0));
            buf[..5000].fill(3);
            buf.set_len(20);
            assert!(buf.padded()[20..].iter().all(|b| *b == 0));
            buf.set_len(SIZE);
            assert!(buf[20..].iter().all(|b| *b == 0));
        }
    }
}
