//! System calls that the standard library has no word for.

use rustix::fd::{AsFd, AsRawFd};
use std::fs::File;
use std::io;

/// An `fcntl` lock of a range. `kind` is `F_RDLCK`, `F_WRLCK` or `F_UNLCK`; `waits` until it can be had.
pub(crate) fn lock(file: &File, kind: i32, range: (i64, i64), waits: bool) -> io::Result<()> {
    // SAFETY: all zeroes is a lock description, and it outlives the call.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    (lock.l_start, lock.l_len) = range;
    let command = if waits { libc::F_SETLKW } else { libc::F_SETLK };
    // SAFETY: the descriptor is open, and the pointer is to a lock description.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An exclusive lock of the whole file that belongs to the open file (`F_OFD_SETLK`), if it can be had at once.
pub(crate) fn lock_open_file(file: &File) -> io::Result<()> {
    // SAFETY: all zeroes is a lock description, of the whole file and with the pid 0 that the kernel wants.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the descriptor is open, and the pointer is to a lock description.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The kind of lock that is in the way of an exclusive one, `F_UNLCK` if none is.
pub(crate) fn lock_in_the_way(file: &File, range: (i64, i64)) -> io::Result<i32> {
    // SAFETY: as above; the kernel writes into it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    (lock.l_start, lock.l_len) = range;
    // SAFETY: as above.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &mut lock) } {
        0 => Ok(i32::from(lock.l_type)),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn nothing(_signal: i32) {}

/// Lets SIGUSR1 interrupt system calls of this process and do nothing else.
pub(crate) fn let_signals_interrupt() {
    // SAFETY: all zeroes is an action without flags, so without SA_RESTART; the handler does nothing.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut())
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// This thread, for [`interrupt`].
pub(crate) fn this_thread() -> libc::pthread_t {
    // SAFETY: it has no preconditions.
    unsafe { libc::pthread_self() }
}

/// Sends SIGUSR1 to a thread that has not been joined yet.
pub(crate) fn interrupt(thread: libc::pthread_t) {
    // SAFETY: the caller holds the thread's handle, so its id is valid.
    assert_eq!(unsafe { libc::pthread_kill(thread, libc::SIGUSR1) }, 0);
}

/// A piece of a file in memory, unmapped when it is dropped.
pub(crate) struct Mapped {
    at: *mut u8,
    length: usize,
}

impl Mapped {
    /// Maps the first `length` bytes, to be read and written.
    pub(crate) fn new(file: &impl AsFd, length: usize, shared: bool) -> Mapped {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let how = if shared { MapFlags::SHARED } else { MapFlags::PRIVATE };
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel chooses a free address.
        let at = unsafe { mmap(std::ptr::null_mut(), length, protection, how, file, 0) };
        Mapped { at: at.expect("mmap").cast(), length }
    }

    /// The bytes.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for reading and writing as long as this lives; the test does not truncate the file.
        unsafe { std::slice::from_raw_parts_mut(self.at, self.length) }
    }

    /// Writes what was changed to the file.
    pub(crate) fn sync(&self) {
        // SAFETY: the range is mapped.
        let synced =
            unsafe { rustix::mm::msync(self.at.cast(), self.length, rustix::mm::MsyncFlags::SYNC) };
        synced.expect("msync");
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range is mapped, and nothing borrows from it any more.
        let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.length) };
    }
}
