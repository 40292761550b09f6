//! A disk in memory that can lose power: content is durable only after `sync_data`, names only
//! after `sync_dir`, exactly as POSIX promises and not a bit more.
//!
//! **Invariant:** everything random in here follows from the seed given to [`SimDisk::crash`].

mod image;

use super::real::too_long;
use super::{Disk, File, OpenMode, RedbBackend};
use crate::{ALIGNMENT, AlignedBuf};
use async_trait::async_trait;
use image::Inode;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use redb::BackendError;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Something that goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Power fails at the n-th change from now (1 is the next): it may be half done, and it and
    /// everything later fails until [`SimDisk::crash`] restarts the disk.
    PowerAt(u64),
    /// The n-th change from now (write, sync, truncation, rename, removal) fails, without effect.
    WriteErrorAt(u64),
    /// The n-th read from now fails.
    ReadErrorAt(u64),
    /// One bit of a file decays, at rest.
    BitFlip {
        /// The file.
        path: PathBuf,
        /// The byte.
        offset: u64,
        /// The bit, 0 to 7.
        bit: u8,
    },
    /// The disk holds only this many bytes: what would make files longer fails with `StorageFull`.
    Capacity(u64),
    /// The n-th write from now to a file below this directory lands in another place of the file.
    MisdirectedAt(PathBuf, u64),
    /// Calls wait for the device as long as [`SimDisk::set_pace`] says.
    Stalled,
}

/// How long calls take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Each `sync_data` and `sync_dir`, so that a crash can fall into one.
    pub sync: Duration,
    /// Each read of a [`File`].
    pub read: Duration,
    /// Each write of a [`File`].
    pub write: Duration,
}

/// What was durable on a disk at some time; see [`SimDisk::durable_image`].
#[derive(Clone)]
pub struct DiskImage {
    names: BTreeMap<PathBuf, Arc<Mutex<Inode>>>,
    dirs: BTreeSet<PathBuf>,
}

/// Size of a simulated disk unless [`Fault::Capacity`] says otherwise.
const CAPACITY: u64 = 1 << 40;

/// A simulated disk. Clones are handles to the same disk.
#[derive(Clone)]
pub struct SimDisk {
    tree: Arc<Mutex<Tree>>,
}

type Names = BTreeMap<PathBuf, Arc<Mutex<Inode>>>;

struct Tree {
    live: Names,
    durable: Names,
    dirs: BTreeSet<PathBuf>,
    /// Raised by each crash; handles of an earlier life are dead.
    life: u64,
    power_lost: bool,
    power_at: Option<u64>,
    write_error_at: Option<u64>,
    read_error_at: Option<u64>,
    misdirected_at: Option<(PathBuf, u64)>,
    capacity: u64,
    changes: u64,
    pace: Pace,
    stalled: bool,
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk whose syncs take no time.
    pub fn new() -> Self {
        let tree = Tree {
            live: Names::new(),
            durable: Names::new(),
            dirs: BTreeSet::from([PathBuf::from("/"), PathBuf::new()]),
            life: 0,
            power_lost: false,
            power_at: None,
            write_error_at: None,
            read_error_at: None,
            misdirected_at: None,
            capacity: CAPACITY,
            changes: 0,
            pace: Pace::default(),
            stalled: false,
        };
        SimDisk { tree: Arc::new(Mutex::new(tree)) }
    }

    /// The same disk; from now on its syncs take `delay`, so that a crash can fall into one.
    pub fn with_sync_delay(self, delay: Duration) -> Self {
        self.set_pace(Pace { sync: delay, ..Pace::default() });
        self
    }

    /// From now on calls take so long.
    pub fn set_pace(&self, pace: Pace) {
        self.tree.lock().pace = pace;
    }

    /// Whether [`Fault::PowerAt`] has struck: the machine must be restarted with [`SimDisk::crash`].
    pub fn has_lost_power(&self) -> bool {
        self.tree.lock().power_lost
    }

    /// The process that used the disk was killed: open handles are dead, and nothing is lost.
    pub fn kill(&self) {
        let mut tree = self.tree.lock();
        tree.life += 1;
        (tree.power_at, tree.write_error_at, tree.read_error_at) = (None, None, None);
    }

    /// Everything below `dir` is gone, as if the device had been replaced by an empty one.
    pub fn wipe(&self, dir: &Path) {
        let mut tree = self.tree.lock();
        tree.life += 1;
        tree.live.retain(|path, _| !path.starts_with(dir));
        tree.durable.retain(|path, _| !path.starts_with(dir));
        tree.dirs.retain(|path| !path.starts_with(dir));
    }

    /// Files below `dir` with their lengths, in order.
    pub fn files(&self, dir: &Path) -> Vec<(PathBuf, u64)> {
        let tree = self.tree.lock();
        let below = tree.live.iter().filter(|(path, _)| path.starts_with(dir));
        below.map(|(path, inode)| (path.clone(), inode.lock().live.len())).collect()
    }

    /// Bytes in all files.
    pub fn used(&self) -> u64 {
        self.tree.lock().used()
    }

    /// Offsets of the pages (of 4096 bytes) of a file that hold something.
    pub fn pages(&self, path: &Path) -> Vec<u64> {
        let tree = self.tree.lock();
        tree.live.get(path).map(|inode| inode.lock().live.pages()).unwrap_or_default()
    }

    /// A copy of what is durable now.
    pub fn durable_image(&self) -> DiskImage {
        let tree = self.tree.lock();
        DiskImage { names: copy_of(&tree.durable), dirs: tree.dirs.clone() }
    }

    /// The disk goes back to an earlier state, as if restored from a backup; open handles are dead.
    pub fn restore(&self, image: &DiskImage) {
        let mut tree = self.tree.lock();
        tree.life += 1;
        tree.live = copy_of(&image.names);
        tree.durable = tree.live.clone();
        tree.dirs = image.dirs.clone();
    }

    /// Lets something go wrong.
    pub fn inject(&self, fault: Fault) {
        let mut tree = self.tree.lock();
        match fault {
            Fault::PowerAt(n) => tree.power_at = Some(n),
            Fault::WriteErrorAt(n) => tree.write_error_at = Some(n),
            Fault::ReadErrorAt(n) => tree.read_error_at = Some(n),
            Fault::Capacity(bytes) => tree.capacity = bytes,
            Fault::MisdirectedAt(dir, n) => tree.misdirected_at = Some((dir, n)),
            Fault::Stalled => tree.stalled = true,
            Fault::BitFlip { path, offset, bit } => {
                if let Some(inode) = tree.live.get(&path) {
                    inode.lock().flip(offset, bit);
                }
            }
        }
    }

    /// Takes back all injected faults but decayed bits.
    pub fn heal(&self) {
        let mut tree = self.tree.lock();
        (tree.power_at, tree.write_error_at, tree.read_error_at) = (None, None, None);
        tree.misdirected_at = None;
        tree.capacity = CAPACITY;
        tree.stalled = false;
    }

    /// Power loss and restart: what was not synced is lost, open handles are dead, pending power and
    /// error faults are gone. With a seed each unsynced sector and name may or may not survive.
    pub fn crash(&self, seed: Option<u64>) {
        let mut rng = seed.map(ChaCha8Rng::seed_from_u64);
        let mut tree = self.tree.lock();
        tree.life += 1;
        tree.power_lost = false;
        (tree.power_at, tree.write_error_at, tree.read_error_at) = (None, None, None);
        let names = tree.names_after_crash(rng.as_mut());
        names.values().for_each(|inode| inode.lock().crash(rng.as_mut()));
        tree.live = names.clone();
        tree.durable = names;
    }

    /// How many changes were made so far: the range that [`Fault::PowerAt`] can be drawn from.
    pub fn changes(&self) -> u64 {
        self.tree.lock().changes
    }

    fn open_now(&self, path: &Path, create: bool) -> io::Result<SimFile> {
        let mut tree = self.tree.lock();
        tree.check_power()?;
        let inode = match tree.live.get(path) {
            Some(inode) => inode.clone(),
            None if create && tree.dirs.contains(parent(path)) => {
                tree.change()?;
                let inode = Arc::new(Mutex::new(Inode::default()));
                tree.live.insert(path.to_owned(), inode.clone());
                inode
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        let (life, tree, path) = (tree.life, self.tree.clone(), path.to_owned());
        Ok(SimFile { tree, inode, life, path, is_owner: AtomicBool::new(false) })
    }
}

fn copy_of(names: &Names) -> Names {
    let copy = |inode: &Arc<Mutex<Inode>>| Arc::new(Mutex::new(inode.lock().durable_copy()));
    names.iter().map(|(path, inode)| (path.clone(), copy(inode))).collect()
}

/// How often a call that waits for a stalled device looks whether it goes on.
const STALL_POLL: Duration = Duration::from_millis(20);

/// Waits as long as a call takes at the disk's pace, and while the disk is stalled.
async fn wait(tree: &Mutex<Tree>, takes: impl Fn(&Pace) -> Duration) {
    let delay = takes(&tree.lock().pace);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    while tree.lock().stalled {
        tokio::time::sleep(STALL_POLL).await;
    }
}

/// Nothing is wrong, or power fails in the middle of this change.
#[derive(PartialEq)]
enum Power {
    On,
    Lost,
}

impl Tree {
    fn check_power(&self) -> io::Result<()> {
        match self.power_lost {
            true => Err(io::Error::other("simulated power loss")),
            false => Ok(()),
        }
    }

    /// Counts a change and decides whether a fault hits it.
    fn count_change(&mut self) -> io::Result<Power> {
        self.check_power()?;
        self.changes += 1;
        if hit(&mut self.write_error_at) {
            return Err(io::Error::other("simulated write error"));
        }
        if hit(&mut self.power_at) {
            self.power_lost = true;
            return Ok(Power::Lost);
        }
        Ok(Power::On)
    }

    /// A change that power loss leaves undone.
    fn change(&mut self) -> io::Result<()> {
        self.count_change()?;
        self.check_power()
    }

    /// Whether a misdirected write strikes now.
    fn goes_astray(&mut self, path: &Path) -> bool {
        match &mut self.misdirected_at {
            Some((dir, n)) if path.starts_with(&*dir) => {
                *n -= 1;
                let strikes = *n == 0;
                if strikes {
                    self.misdirected_at = None;
                }
                strikes
            }
            _ => false,
        }
    }

    fn used(&self) -> u64 {
        self.live.values().map(|inode| inode.lock().live.len()).sum()
    }

    fn sync_names(&mut self, dir: &Path) {
        self.durable.retain(|path, _| parent(path) != dir);
        let entries = self.live.iter().filter(|(path, _)| parent(path) == dir);
        self.durable.extend(entries.map(|(path, inode)| (path.clone(), inode.clone())));
    }

    /// Each directory as it was synced; with `rng` perhaps as it was last seen.
    fn names_after_crash(&mut self, rng: Option<&mut ChaCha8Rng>) -> Names {
        if let Some(rng) = rng {
            for dir in self.dirs.clone() {
                if rng.random() {
                    self.sync_names(&dir);
                }
            }
        }
        self.durable.clone()
    }
}

/// Where a misdirected write lands: as far from the start as it should be from the end.
fn elsewhere(offset: u64, len: u64) -> u64 {
    let mirrored = len.saturating_sub(offset) / 2;
    mirrored / ALIGNMENT as u64 * ALIGNMENT as u64
}

/// Counts down a fault; true when it strikes now.
fn hit(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(n) if *n <= 1 => countdown.take().is_some(),
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[async_trait]
impl Disk for SimDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(self.open_now(path, mode.create)?))
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.change()?;
        tree.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let tree = self.tree.lock();
        tree.check_power()?;
        if !tree.dirs.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut entries: Vec<_> = tree.live.keys().chain(&tree.dirs).cloned().collect();
        entries.retain(|entry| entry.parent() == Some(path));
        entries.sort();
        Ok(entries)
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.change()?;
        tree.live.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut tree = self.tree.lock();
        tree.change()?;
        let inode = tree.live.remove(from).ok_or(io::ErrorKind::NotFound)?;
        tree.live.insert(to.to_owned(), inode);
        Ok(())
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let life = self.tree.lock().life;
        wait(&self.tree, |pace| pace.sync).await;
        let mut tree = self.tree.lock();
        if tree.life != life {
            return Err(io::Error::other("simulated power loss"));
        }
        tree.change()?;
        tree.sync_names(path);
        Ok(())
    }

    async fn space(&self, _path: &Path) -> io::Result<(u64, u64)> {
        let tree = self.tree.lock();
        tree.check_power()?;
        Ok((tree.capacity, tree.capacity.saturating_sub(tree.used())))
    }

    async fn write_atomic(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let temporary = path.with_extension("tmp");
        let file = self.open_now(&temporary, true)?;
        file.set_len(0)?;
        file.write(0, content)?;
        file.sync_data().await?;
        self.rename(&temporary, path).await?;
        self.sync_dir(parent(path)).await
    }

    async fn read_small(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let file = self.open_now(path, false)?;
        let len = file.inode.lock().live.len();
        if len > limit as u64 {
            return Err(too_long(path, limit));
        }
        let mut content = vec![0; len as usize];
        file.read(0, &mut content)?;
        Ok(content)
    }

    fn redb_backend(&self, path: &Path) -> io::Result<RedbBackend> {
        Ok(RedbBackend::new(self.open_now(path, true)?))
    }
}

/// An open simulated file; dead after the crash of its disk.
struct SimFile {
    tree: Arc<Mutex<Tree>>,
    inode: Arc<Mutex<Inode>>,
    life: u64,
    path: PathBuf,
    /// Holds the lock of the whole file.
    is_owner: AtomicBool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.unlock();
    }
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile(life {})", self.life)
    }
}

impl SimFile {
    /// The disk, if this handle's life still lasts.
    fn tree(&self) -> io::Result<parking_lot::MutexGuard<'_, Tree>> {
        let tree = self.tree.lock();
        tree.check_power()?;
        match tree.life == self.life {
            true => Ok(tree),
            false => Err(io::Error::other("handle from before a simulated crash")),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut tree = self.tree()?;
        if hit(&mut tree.read_error_at) {
            return Err(io::Error::other("simulated read error"));
        }
        self.inode.lock().live.read(offset, out);
        Ok(())
    }

    /// Refuses to make the file longer than the disk allows.
    fn check_room(&self, tree: &Tree, end: u64) -> io::Result<()> {
        let len = self.inode.lock().live.len();
        match end > len && tree.used() + (end - len) > tree.capacity {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut tree = self.tree()?;
        self.check_room(&tree, offset + bytes.len() as u64)?;
        // A write that power loss hits stays in the list of unsynced ones: it may tear.
        tree.count_change()?;
        let mut inode = self.inode.lock();
        let astray = tree.goes_astray(&self.path).then(|| elsewhere(offset, inode.live.len()));
        inode.write(astray.unwrap_or(offset), bytes);
        tree.check_power()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut tree = self.tree()?;
        self.check_room(&tree, len)?;
        tree.count_change()?;
        self.inode.lock().set_len(len);
        tree.check_power()
    }

    /// Takes the lock of the whole file, unless another handle of this life has it.
    fn lock(&self) -> bool {
        let mut inode = self.inode.lock();
        match inode.locked_in {
            Some(life) if life == self.life => false,
            _ => {
                inode.locked_in = Some(self.life);
                self.is_owner.store(true, Ordering::Relaxed);
                true
            }
        }
    }

    fn unlock(&self) {
        let mut inode = self.inode.lock();
        if self.is_owner.swap(false, Ordering::Relaxed) && inode.locked_in == Some(self.life) {
            inode.locked_in = None;
        }
    }

    fn sync_up_to(&self, mark: u64) -> io::Result<()> {
        self.tree()?.change()?;
        self.inode.lock().sync(mark);
        Ok(())
    }
}

#[async_trait]
impl File for SimFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        assert!(offset.is_multiple_of(ALIGNMENT as u64), "offset {offset} is not aligned");
        wait(&self.tree, |pace| pace.read).await;
        let end = self.inode.lock().live.len();
        let wanted = len.next_multiple_of(ALIGNMENT) as u64;
        let mut buf = AlignedBuf::zeroed(wanted.min(end.saturating_sub(offset)) as usize);
        self.read(offset, &mut buf)?;
        Ok(buf)
    }

    async fn write_at(&self, offset: u64, buf: AlignedBuf) -> io::Result<AlignedBuf> {
        assert!(offset.is_multiple_of(ALIGNMENT as u64), "offset {offset} is not aligned");
        wait(&self.tree, |pace| pace.write).await;
        SimFile::write(self, offset, buf.padded())?;
        Ok(buf)
    }

    async fn sync_data(&self) -> io::Result<()> {
        let mark = self.inode.lock().mark();
        wait(&self.tree, |pace| pace.sync).await;
        self.sync_up_to(mark)
    }

    async fn len(&self) -> io::Result<u64> {
        drop(self.tree()?);
        Ok(self.inode.lock().live.len())
    }

    async fn set_len_zeroed(&self, len: u64) -> io::Result<()> {
        assert!(len.is_multiple_of(ALIGNMENT as u64), "length {len} is not aligned");
        self.set_len(len)?;
        self.sync_data().await
    }

    fn is_direct(&self) -> bool {
        false
    }
}

impl redb::StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        drop(self.tree()?);
        Ok(self.inode.lock().live.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        if offset + out.len() as u64 > self.inode.lock().live.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        SimFile::read(self, offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        SimFile::set_len(self, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mark = self.inode.lock().mark();
        self.sync_up_to(mark)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        SimFile::write(self, offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.unlock();
        Ok(())
    }

    // Only locks of the whole file, which is all that one writer needs.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        match (start, end) {
            (Bound::Unbounded | Bound::Included(0), Bound::Unbounded) => Ok(self.lock()),
            _ => Err(BackendError::Unsupported),
        }
    }

    fn unlock_range(&self, _start: Bound<u64>, _end: Bound<u64>) -> Result<(), BackendError> {
        self.unlock();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
