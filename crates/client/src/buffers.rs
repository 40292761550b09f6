//! Recycled memory of one block each. Memory that the kernel has just handed out must be filled with
//! zeroes page by page, which costs more than the copy into it; recycled memory does not.

use bytes::Bytes;
use everhold_env::AlignedBuf;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use parking_lot::Mutex;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

/// Buffers kept for reuse: what one stream of writes and one of reads have under way (128 MiB).
const KEPT_MAX: usize = 32;

/// A pool of block buffers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<AlignedBuf>>>);

/// A buffer of [`BLOCK_BYTES_MAX`] bytes that returns to its pool when it, or the last [`Bytes`]
/// made of it, is dropped. Its length is what was set or added; old content is never exposed,
/// because the length starts at 0 and only grows by copying or by [`Buffer::fill_from`].
pub struct Buffer {
    memory: Option<AlignedBuf>,
    len: usize,
    pool: Buffers,
}

impl Buffers {
    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let recycled = self.0.lock().pop();
        let memory = recycled.unwrap_or_else(|| AlignedBuf::zeroed(BLOCK_BYTES_MAX));
        Buffer { memory: Some(memory), len: 0, pool: self.clone() }
    }
}

impl Buffer {
    /// How many bytes still fit.
    pub fn room(&self) -> usize {
        BLOCK_BYTES_MAX - self.len
    }

    /// Appends as many of `bytes` as fit and says how many that were.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        let start = self.len;
        self.memory_mut()[start..start + count].copy_from_slice(&bytes[..count]);
        self.len += count;
        count
    }

    /// Lets `read` fill the room, up to `limit` bytes, until it is full or `read` gives 0.
    pub fn fill_from(
        &mut self,
        limit: usize,
        mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
    ) -> std::io::Result<()> {
        let end = self.len + limit.min(self.room());
        while self.len < end {
            let start = self.len;
            match read(&mut self.memory_mut()[start..end]) {
                Ok(0) => break,
                Ok(count) => {
                    assert!(count <= end - start, "a read cannot give more than was asked for");
                    self.len += count;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Shares the content without copying; the memory returns to the pool with the last clone.
    pub fn into_bytes(self) -> Bytes {
        Bytes::from_owner(self)
    }

    fn memory_mut(&mut self) -> &mut AlignedBuf {
        self.memory.as_mut().expect("memory leaves only in drop")
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory.as_ref().expect("memory leaves only in drop")[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.memory_mut()[..len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(memory) = self.memory.take() {
            let mut kept = self.pool.0.lock();
            if kept.len() < KEPT_MAX {
                kept.push(memory);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_returns_to_the_pool_without_its_content() {
        let pool = Buffers::default();
        let mut buffer = pool.take();
        assert_eq!(buffer.append(b"secret"), 6);
        let address = buffer.as_ptr();
        let shared = buffer.into_bytes();
        drop(shared.clone());
        assert!(pool.0.lock().is_empty(), "still shared");
        drop(shared);
        let again = pool.take();
        assert_eq!(again.as_ptr(), address);
        assert_eq!(again.len(), 0);
    }

    #[test]
    fn filling_stops_at_the_limit_and_at_the_end() {
        let pool = Buffers::default();
        let mut buffer = pool.take();
        let mut source: &[u8] = b"abcdef";
        buffer.fill_from(4, |to| std::io::Read::read(&mut source, to)).unwrap();
        assert_eq!(&*buffer, b"abcd");
        buffer.fill_from(100, |to| std::io::Read::read(&mut source, to)).unwrap();
        assert_eq!(&*buffer, b"abcdef");
    }
}
