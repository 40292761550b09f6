//! Does each operation on one of the mounts and on the local directory, and compares.
//!
//! What is compared is what `docs/posix.md` promises. On one mount everything is seen at once. Names and attributes are
//! seen on the other mount too; who asks may be a moment early, so a question is asked again for a while. Content
//! is seen by who opens after it was closed or synced: so what the other mount wrote is synced first, and a file that the
//! other mount changed is opened anew.
//!
//! **Invariant:** a mount that is stopped goes on before anything is asked of it, and before a failure is told.

use crate::common::PATIENCE;
use crate::draw::{self, draw};
use crate::op::{Handle, How, Op, Seen};
use crate::side::Side;
use crate::world::{Mount, World};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::process::Signal;
use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// One of so many operations stops a mount.
const STOP_EVERY: u32 = 25;
/// Operations of the other mount while one is stopped.
const STOPPED_OPS: u32 = 8;
/// An operation that waits longer waits for the mount that is stopped.
const BLOCKED: Duration = Duration::from_millis(300);
/// A mount stands still for less time than its session bears, and often for longer than a lease.
const STILL_MS: u64 = 1200;
/// Files that one mount has open.
const OPEN_MAX: usize = 8;
/// Operations that are told of when something differs.
const RECENT: usize = 40;
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// See the module's words. The mounts are 0 and 1.
pub(crate) struct Driver<'a> {
    rng: ChaCha8Rng,
    mounts: [&'a Mount; 2],
    workers: [Worker; 2],
    local: Side,
    open: BTreeMap<Handle, Opened>,
    inodes: BTreeMap<u64, Inode>,
    next: Handle,
    /// Changes so far.
    clock: u64,
    /// The mount that is stopped, and for how many operations more.
    stopped: Option<(usize, u32)>,
    /// The next read after so many operations expects a wrong byte.
    spoil_after: Option<u64>,
    recent: VecDeque<String>,
    done: u64,
    stops: u64,
    asked_again: u64,
    _directory: TempDir,
}

/// An open file.
#[derive(Clone, Copy, Debug)]
struct Opened {
    mount: usize,
    inode: u64,
    appends: bool,
    /// When it was opened, by [`Driver::clock`].
    since: u64,
}

/// A file, by its inode in the local directory.
#[derive(Clone, Copy, Debug, Default)]
struct Inode {
    /// Written by a mount, and neither closed nor synced.
    dirty: [bool; 2],
    /// When each mount changed it last.
    changed: [u64; 2],
}

/// The thread that asks one mount, so that nobody waits for one that is stopped.
struct Worker {
    ask: Sender<Op>,
    answers: Receiver<Seen>,
}

impl Worker {
    fn new(mut side: Side) -> Worker {
        let (ask, asked) = channel::<Op>();
        let (answer, answers) = channel();
        std::thread::spawn(move || {
            for op in asked {
                if answer.send(side.perform(&op)).is_err() {
                    return;
                }
            }
        });
        Worker { ask, answers }
    }
}

impl<'a> Driver<'a> {
    pub(crate) fn new(world: &'a World, seed: u64) -> Driver<'a> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let name = directory.path().file_name().expect("it has a name").to_owned();
        let mounts = [&world.a, &world.b];
        let roots = mounts.map(|mount| mount.path().join(&name));
        std::fs::create_dir(&roots[0]).expect("mkdir");
        for sub in draw::directories() {
            std::fs::create_dir(directory.path().join(sub)).expect("mkdir");
            std::fs::create_dir(roots[0].join(sub)).expect("mkdir");
        }
        Driver {
            rng: ChaCha8Rng::seed_from_u64(seed),
            mounts,
            workers: roots.map(|root| Worker::new(Side::new(root))),
            local: Side::new(directory.path().into()),
            open: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next: 0,
            clock: 0,
            stopped: None,
            spoil_after: None,
            recent: VecDeque::new(),
            done: 0,
            stops: 0,
            asked_again: 0,
            _directory: directory,
        }
    }

    /// Does so many operations, and compares all that there is in the end.
    pub(crate) fn run(&mut self, ops: u64) -> Result<(), String> {
        while self.done < ops {
            self.maybe_stop();
            let mount = match self.stopped {
                Some((stopped, _)) => 1 - stopped,
                None => self.rng.random_range(0..2),
            };
            let open: Vec<(Handle, bool)> = self.handles_of(mount);
            let op = draw(&mut self.rng, &open, self.next);
            self.next += 1;
            if matches!(op, Op::Open(..)) && open.len() >= OPEN_MAX {
                continue;
            }
            self.step(mount, op)?;
            self.count_down();
        }
        self.go_on();
        for (handle, opened) in self.open.clone() {
            self.both(opened.mount, &Op::Close(handle))?;
        }
        (0..2).try_for_each(|mount| self.compare_all(mount))
    }

    /// The next read after so many operations expects another byte than there is.
    pub(crate) fn spoil_after(&mut self, ops: u64) {
        self.spoil_after = Some(ops);
    }

    pub(crate) fn summary(&self) -> String {
        let Driver { done, stops, asked_again, .. } = self;
        format!("{done} operations alike, {stops} stops, {asked_again} questions asked again")
    }

    /// No mount is stopped any more.
    pub(crate) fn let_go(&mut self) {
        self.go_on();
    }

    fn handles_of(&self, mount: usize) -> Vec<(Handle, bool)> {
        let of = self.open.iter().filter(|(_, opened)| opened.mount == mount);
        of.map(|(handle, opened)| (*handle, opened.appends)).collect()
    }

    fn maybe_stop(&mut self) {
        if self.stopped.is_some() || !self.rng.random_ratio(1, STOP_EVERY) {
            return;
        }
        let mount = self.rng.random_range(0..2);
        self.note(format!("mount {mount} is stopped"));
        self.mounts[mount].signal(Signal::STOP);
        self.stopped = Some((mount, self.rng.random_range(1..=STOPPED_OPS)));
        self.stops += 1;
        if self.rng.random_bool(0.3) {
            // It is the fault itself.
            std::thread::sleep(Duration::from_millis(self.rng.random_range(0..STILL_MS)));
        }
    }

    fn count_down(&mut self) {
        match &mut self.stopped {
            Some((_, 0)) => self.go_on(),
            Some((_, left)) => *left -= 1,
            None => {}
        }
    }

    fn go_on(&mut self) {
        if let Some((mount, _)) = self.stopped.take() {
            self.mounts[mount].signal(Signal::CONT);
            self.note(format!("mount {mount} goes on"));
        }
    }

    fn note(&mut self, text: String) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(text);
    }

    /// One operation of a mount, after what makes it comparable.
    fn step(&mut self, mount: usize, op: Op) -> Result<(), String> {
        for handle in op.handles() {
            let is_free = matches!(op, Op::Close(_) | Op::Sync(_));
            if !is_free && !self.is_current(mount, handle)? {
                return Ok(());
            }
        }
        let paths: Vec<String> = op.paths().into_iter().map(str::to_owned).collect();
        for path in &paths {
            if let Some(inode) = self.local.inode_at(path) {
                self.sync_other(mount, inode)?;
            }
            if !op.only_asks() {
                self.both(mount, &Op::Stat(path.clone()))?; // until this mount knows
            }
        }
        self.done += 1;
        let truncated = match &op {
            Op::Truncate(path, _) => self.local.inode_at(path),
            _ => None,
        };
        let seen = self.both(mount, &op)?;
        if !matches!(seen, Seen::Error(_)) {
            self.remember(mount, &op, truncated);
        }
        Ok(())
    }

    fn remember(&mut self, mount: usize, op: &Op, truncated: Option<u64>) {
        let changed = match op {
            Op::Open(handle, _, how) => {
                let Some(inode) = self.local.inode(*handle) else { return };
                let (since, appends) = (self.clock, how.append);
                self.open.insert(*handle, Opened { mount, inode, appends, since });
                how.truncate.then_some(inode)
            }
            _ => truncated.or(op.changes().and_then(|handle| Some(self.open.get(&handle)?.inode))),
        };
        let settled = match op {
            Op::Close(handle) => self.open.remove(handle),
            Op::Sync(handle) | Op::WriteMapped(handle, ..) => self.open.get(handle).copied(),
            _ => None,
        };
        if let Some(inode) = changed {
            self.clock += 1;
            let inode = self.inodes.entry(inode).or_default();
            inode.changed[mount] = self.clock;
            inode.dirty[mount] |= op.changes().is_some();
        }
        if let Some(opened) = settled {
            self.inodes.entry(opened.inode).or_default().dirty[mount] = false;
        }
    }

    /// Whether a handle may be compared: what the other mount wrote is synced, and was so when it was opened. If not
    /// it is closed, and the file is opened anew.
    fn is_current(&mut self, mount: usize, handle: Handle) -> Result<bool, String> {
        let Some(opened) = self.open.get(&handle).copied() else { return Ok(false) };
        self.sync_other(mount, opened.inode)?;
        let inode = self.inodes.entry(opened.inode).or_default();
        if inode.changed[1 - mount] <= opened.since {
            return Ok(true);
        }
        let path = self.path_of(opened.inode);
        self.both(mount, &Op::Close(handle))?;
        self.remember(mount, &Op::Close(handle), None);
        if let Some(path) = path {
            self.both(mount, &Op::Stat(path.clone()))?;
            let (append, again) = (opened.appends, self.next);
            let how = How { create: false, exclusive: false, truncate: false, append };
            let open = Op::Open(again, path, how);
            self.next += 1;
            self.both(mount, &open)?;
            self.remember(mount, &open, None);
        }
        Ok(false)
    }

    fn path_of(&self, inode: u64) -> Option<String> {
        let listed = draw::directories().into_iter().flat_map(draw::names);
        listed.into_iter().find(|path| self.local.inode_at(path) == Some(inode))
    }

    /// Syncs what the other mount wrote to a file.
    fn sync_other(&mut self, mount: usize, inode: u64) -> Result<(), String> {
        let other = 1 - mount;
        let state = self.inodes.entry(inode).or_default();
        if !std::mem::take(&mut state.dirty[other]) {
            return Ok(());
        }
        let of = |opened: &Opened| opened.mount == other && opened.inode == inode;
        let handle = self.open.iter().find(|(_, opened)| of(opened)).map(|(handle, _)| *handle);
        match handle {
            Some(handle) => self.both(other, &Op::Sync(handle)).map(drop),
            None => Ok(()),
        }
    }

    /// The same operation here and there. An answer that is not the same is an error, unless asking again mends it.
    fn both(&mut self, mount: usize, op: &Op) -> Result<Seen, String> {
        self.note(format!("{} mount {mount}: {}", self.done, short(op)));
        let mut expected = self.local.perform(op);
        if let (Some(after), Op::Read(..), Seen::Bytes(bytes)) =
            (self.spoil_after, op, &mut expected)
            && self.done >= after
            && let Some(first) = bytes.first_mut()
        {
            *first ^= 1;
            self.spoil_after = None;
        }
        let end = Instant::now() + PATIENCE / 12;
        let mut asked = 0;
        loop {
            let seen = self.ask(mount, op)?;
            if seen == expected {
                self.asked_again += u64::from(asked > 0);
                return Ok(seen);
            }
            // What was opened after it was written is right at once.
            if !op.only_asks() || !op.handles().is_empty() || Instant::now() >= end {
                return Err(self.difference(mount, op, &seen, &expected));
            }
            asked += 1;
            std::thread::sleep(PAUSE);
        }
    }

    fn ask(&mut self, mount: usize, op: &Op) -> Result<Seen, String> {
        if self.stopped.is_some_and(|(stopped, _)| stopped == mount) {
            self.go_on();
        }
        if self.workers[mount].ask.send(op.clone()).is_err() {
            return Err(format!("the thread of mount {mount} ended"));
        }
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.workers[mount].answers.recv_timeout(BLOCKED) {
                Ok(seen) => return Ok(seen),
                // It may wait for the other mount.
                Err(RecvTimeoutError::Timeout) => self.go_on(),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the thread of mount {mount} panicked at {}", short(op)));
                }
            }
        }
        Err(format!("mount {mount} does not answer {}\n{}", short(op), self.story()))
    }

    /// All names, and all that they lead to.
    fn compare_all(&mut self, mount: usize) -> Result<(), String> {
        for directory in draw::directories() {
            self.both(mount, &Op::List(directory.into()))?;
            for path in draw::names(directory) {
                self.both(mount, &Op::Stat(path.clone()))?;
                self.both(mount, &Op::ListXattr(path.clone()))?;
                let how = How { create: false, exclusive: false, truncate: false, append: false };
                let handle = self.next;
                self.next += 1;
                if self.both(mount, &Op::Open(handle, path, how))? == Seen::Done {
                    self.both(mount, &Op::Read(handle, 0, draw::READ_ALL))?;
                    self.both(mount, &Op::ReadMapped(handle))?;
                    self.both(mount, &Op::Close(handle))?;
                }
            }
        }
        Ok(())
    }

    fn difference(&self, mount: usize, op: &Op, seen: &Seen, expected: &Seen) -> String {
        let what = match (seen, expected) {
            (Seen::Bytes(seen), Seen::Bytes(expected)) => {
                let at = seen.iter().zip(expected).take_while(|(a, b)| a == b).count();
                let from = |bytes: &[u8]| format!("{:02x?}", &bytes[at..bytes.len().min(at + 8)]);
                format!(
                    "{} bytes in place of {}, different from {at} on: {} in place of {}",
                    seen.len(),
                    expected.len(),
                    from(seen),
                    from(expected)
                )
            }
            _ => format!("{seen:?} in place of {expected:?}"),
        };
        format!("operation {} on mount {mount}, {}: {what}\n{}", self.done, short(op), self.story())
    }

    fn story(&self) -> String {
        self.recent.iter().map(|line| format!("  {line}\n")).collect()
    }
}

impl Drop for Driver<'_> {
    fn drop(&mut self) {
        self.go_on();
    }
}

/// An operation without the bytes that it writes.
fn short(op: &Op) -> String {
    match op {
        Op::Write(handle, offset, bytes) => {
            format!("Write({handle}, {offset}, {} x {})", bytes.len(), bytes[0])
        }
        Op::WriteMapped(handle, offset, bytes) => {
            format!("WriteMapped({handle}, {offset}, {} x {})", bytes.len(), bytes[0])
        }
        other => format!("{other:?}"),
    }
}
