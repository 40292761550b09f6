//! The caps of the system in one place, each with a line on how it was chosen.

/// Largest block. Big enough that per-block costs vanish at disk speed, small enough to gather in memory.
pub const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Unit of checksums at rest; a range read verifies whole pages. See docs/performance.md for the choice.
pub const PAGE_BYTES: usize = 16 << 10;
/// Data up to this size lives in the inode's extents: one Raft commit and no storage node.
pub const INLINE_BYTES_MAX: usize = 8 << 10;
/// Longest file name in bytes, as on every Linux file system.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link, as Linux has it.
pub const SYMLINK_BYTES_MAX: usize = 4095;
/// Deepest path that is resolved, and most symbolic links followed on the way (Linux has 40).
pub const PATH_DEPTH_MAX: usize = 1024;
/// Symbolic links followed in one resolution, as Linux has it.
pub const SYMLINK_FOLLOW_MAX: usize = 40;
/// Largest extended attribute value, as Linux has it.
pub const XATTR_BYTES_MAX: usize = 64 << 10;
/// Most hard links to one inode, as ext4 has it.
pub const LINKS_MAX: u32 = 65_000;
/// Largest file: signed 64-bit offsets.
pub const FILE_BYTES_MAX: u64 = i64::MAX as u64;
/// Unacknowledged requests of a session; the answers kept for it are bounded by the same number.
pub const SESSION_WINDOW: u64 = 1024;
/// A session that was not renewed for this long ends. Long enough to survive a failover and a pause.
pub const SESSION_TTL_MS: u64 = 30_000;

/// The same while another client waits for something that the session holds: longer than the pauses of a machine that is
/// moved or overloaded, and shorter than most programs wait.
pub const SESSION_SILENCE_MS: u64 = 21_000;
/// Largest command that is proposed to Raft: below it an entry syncs in about a millisecond.
pub const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Requests in one batch: enough to amortise a sync, small enough to keep latency flat.
pub const BATCH_OPS_MAX: usize = 256;
/// Extents in one commit: 1 GiB of full blocks, about 16 KiB encoded.
pub const COMMIT_EXTENTS_MAX: usize = 256;
/// Missing copies kept one by one for a disk in one placement group; beyond it, a range to compare.
pub const MISSING_PER_MEMBER_MAX: u64 = 1024;
/// Entries of one page of a listing (directory, block table, missing copies).
pub const PAGE_ENTRIES_MAX: usize = 1000;
/// Members of a placement group, formers included: 2 policies' worth of copies in motion.
pub const PG_MEMBERS_MAX: usize = 16;
/// Nodes in a cluster: "three to some hundred machines", with room.
pub const NODES_MAX: usize = 1024;
/// Largest body of a control RPC: a page of the block table or a batch, with room.
pub const RPC_BYTES_MAX: usize = 8 << 20;
/// Longest lease of a cache that follows the change feed: what one that fell silent costs a change.
pub const FEED_LEASE_MS: u64 = 500;
/// Longest wait of a `Follow` for a record: two renewals and more fit into a lease.
pub const FEED_WAIT_MS_MAX: u32 = 200;
/// Sessions that follow the change feed at one leader: as many as there may be nodes, one mount each.
pub const FOLLOWERS_MAX: usize = 1024;
/// Inode numbers set aside at once for a session that creates behind delegations: some seconds of work.
pub const NUMBERS_RESERVED_MAX: u32 = 16384;
/// Ranges of numbers set aside that a session may hold: one in use and the next ones.
pub const NUMBERS_RANGES_MAX: usize = 8;
/// A session that still follows gets so long to tell what it did behind a delegation that is called back; then
/// the delegation ends without it.
pub const RECALL_MS: u64 = 5_000;
/// A dead block stays in the table this long so that readers of the old version can finish.
pub const DEAD_GRACE_MS: u64 = 30_000;
/// An inode without its last name stays this long in log time, so that a mount that has it open can still say so. A
/// mount says so half a second after it opened a file. It may stand still meanwhile, until its session ends: so this is
/// [`SESSION_TTL_MS`], a tenth of it for clocks that drift, and some seconds for the call.
pub const UNLINKED_LINGER_MS: u64 = 40_000;
/// Ranges that are locked on one inode: more than a database locks, and a scan of them takes
/// about a millisecond.
pub const LOCKS_PER_INODE_MAX: usize = 4096;
/// Records of the change feed that are kept: some hundred megabytes, and about an hour of a busy cluster.
pub const CHANGES_KEPT_MAX: u64 = 1 << 20;
/// Entries of one access control list: twice what ext4 has room for in its blocks of 4 KiB.
pub const ACL_ENTRIES_MAX: usize = 1024;
