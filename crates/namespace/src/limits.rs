//! Caps of this crate, each with a line on how it was chosen; those that others need to know are in
//! `everhold_proto::limits`. Four are tiny in this crate's own tests, so that small files take the
//! paths of huge ones.

use everhold_proto::limits::CHANGES_KEPT_MAX;

/// Extents that one request drops at once; more become a doomed range. 4 GiB of full blocks, and
/// about 10 ms of work.
pub const DROP_EXTENTS_MAX: usize = if cfg!(test) { 5 } else { 1024 };
/// Extents of one range that are dropped at once although the request has used up
/// [`DROP_EXTENTS_MAX`]: a doomed range costs about as much as these.
pub const DROP_EXTENTS_MIN: usize = if cfg!(test) { 2 } else { 16 };
/// Segments of one file; beyond them ranges are dropped at once, however many extents they have. Only
/// cutting huge and fragmented files in the middle makes any.
pub const SEGMENTS_MAX: usize = 64;
/// Extended attributes of one inode: its names fit the 64 KiB that Linux's `listxattr` can return.
pub const XATTRS_MAX: u32 = 256;
/// Open handles and locks that the end of a session forgets at once; the rest is left to `reap`.
pub const END_HANDLES_MAX: usize = if cfg!(test) { 2 } else { 256 };
/// Longest description of a client that is kept.
pub const CLIENT_BYTES_MAX: usize = 256;
/// Inline bytes after which a page of extents ends, so that it fits an RPC with room.
pub const PAGE_INLINE_BYTES_MAX: usize = 4 << 20;
/// Records of the change feed that are kept.
pub const CHANGES_KEPT: u64 = if cfg!(test) { 24 } else { CHANGES_KEPT_MAX };
/// Rows that one entry reaps, whatever it was asked for.
pub const REAP_MAX: u32 = 4096;
