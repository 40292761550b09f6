//! What was lost after it had been answered, by inode: so that everybody who had it open hears of it once, and nobody
//! else does, as with the kernel's `errseq_t`.
//!
//! **Invariant:** a loss is recorded before anybody who waits for the change goes on.

use crate::error::{ClientError, Result};
use everhold_proto::InodeId;
use everhold_proto::planted::{self, Bug};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Inodes whose losses are kept apart. Beyond it, all that were lost so far count as one loss of every inode.
const INODES_MAX: usize = 65_536;

/// How much of the losses somebody has been told of. It belongs to one open file or directory.
#[derive(Debug)]
pub struct LossMark(AtomicU64);

/// The losses of one client.
#[derive(Debug, Default)]
pub struct Losses {
    /// Number of the newest; they count from 1.
    newest: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_inode: BTreeMap<InodeId, Loss>,
    /// Of any inode.
    of_all: Option<Loss>,
}

#[derive(Clone, Debug)]
struct Loss {
    number: u64,
    error: ClientError,
    /// Somebody was told.
    told: bool,
}

impl Losses {
    /// A mark of now: who opens something has lost nothing before.
    pub fn mark(&self) -> LossMark {
        LossMark(AtomicU64::new(self.newest.load(Ordering::Acquire)))
    }

    /// Whether anything was lost since `mark`, of whatever inode: without it [`Losses::check`] has nothing to tell.
    pub fn is_news(&self, mark: &LossMark) -> bool {
        self.newest.load(Ordering::Acquire) != mark.0.load(Ordering::Acquire)
    }

    /// Fails once for each mark when the inode has lost something since.
    pub fn check(&self, inode: InodeId, mark: &LossMark) -> Result<()> {
        if !self.is_news(mark) {
            return Ok(());
        }
        let mut inner = self.inner.lock();
        let newest = self.newest.load(Ordering::Acquire);
        let seen = mark.0.swap(newest, Ordering::AcqRel);
        inner.first(inode, |loss| loss.number > seen)
    }

    /// Fails when one of some inodes, or any inode, has lost something since `mark`. Nobody counts as told.
    pub(crate) fn since(&self, mark: &LossMark, inodes: Option<&[InodeId]>) -> Result<()> {
        if !self.is_news(mark) {
            return Ok(());
        }
        let inner = self.inner.lock();
        let seen = mark.0.load(Ordering::Acquire);
        let is_one = |inode: &InodeId| inodes.is_none_or(|inodes| inodes.contains(inode));
        let mut found = inner.by_inode.iter().filter(|(inode, _)| is_one(inode));
        let newer = |loss: &&Loss| loss.number > seen;
        let of_one = found.find_map(|(_, loss)| Some(loss).filter(newer));
        let loss = of_one.or_else(|| inner.of_all.as_ref().filter(newer));
        loss.map_or(Ok(()), |loss| Err(loss.error.clone()))
    }

    /// Fails once when the inode has lost something of which nobody was told: for who has no mark.
    pub(crate) fn take(&self, inode: InodeId) -> Result<()> {
        self.inner.lock().first(inode, |loss| !loss.told)
    }

    /// The same for any inode.
    pub(crate) fn take_any(&self) -> Result<()> {
        let mut inner = self.inner.lock();
        let Inner { by_inode, of_all } = &mut *inner;
        let mut found = Ok(());
        for loss in by_inode.values_mut().chain(of_all) {
            if !std::mem::replace(&mut loss.told, true) && found.is_ok() {
                found = Err(loss.error.clone());
            }
        }
        found
    }

    /// Records that inodes lost something.
    pub(crate) fn add(&self, inodes: impl IntoIterator<Item = InodeId>, error: &ClientError) {
        let mut inner = self.inner.lock();
        let number = self.newest.load(Ordering::Acquire) + 1;
        let loss = Loss { number, error: error.clone(), told: false };
        for inode in inodes {
            if inner.by_inode.len() >= INODES_MAX && !inner.by_inode.contains_key(&inode) {
                tracing::error!("too many files lost something: every open file is told of it");
                inner.by_inode.clear();
                inner.of_all = Some(loss.clone());
            }
            inner.by_inode.insert(inode, loss.clone());
        }
        self.newest.store(number, Ordering::Release);
    }
}

impl Inner {
    /// The newest loss of an inode that is wanted; it counts as told.
    fn first(&mut self, inode: InodeId, wanted: impl Fn(&Loss) -> bool) -> Result<()> {
        let Inner { by_inode, of_all } = self;
        let found = match planted::has(Bug::OneErrorForAll) {
            true => by_inode.values_mut().find(|loss| !loss.told),
            false => by_inode.get_mut(&inode).into_iter().chain(of_all).find(|loss| wanted(loss)),
        };
        let Some(loss) = found else { return Ok(()) };
        loss.told = true;
        let error = loss.error.clone();
        if planted::has(Bug::OneErrorForAll) {
            by_inode.clear();
        }
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::Kind;

    const A: InodeId = InodeId(7);
    const B: InodeId = InodeId(8);

    fn error() -> ClientError {
        ClientError::new(Kind::Fenced, "lost")
    }

    #[test]
    fn each_open_file_that_lost_something_hears_of_it_once() {
        let losses = Losses::default();
        let (first, second, other) = (losses.mark(), losses.mark(), losses.mark());
        assert!(losses.check(A, &first).is_ok());
        losses.add([A], &error());
        let later = losses.mark();
        assert!(losses.is_news(&first) && !losses.is_news(&later));
        for mark in [&first, &second] {
            assert!(losses.check(A, mark).is_err());
            assert!(losses.check(A, mark).is_ok(), "once");
        }
        assert!(losses.check(B, &other).is_ok(), "another file lost nothing");
        assert!(losses.check(A, &later).is_ok(), "it was opened after the loss");
        losses.add([A, B], &error());
        assert!(losses.check(A, &first).is_err(), "another loss");
        assert!(losses.check(B, &other).is_err());
    }

    #[test]
    fn who_has_no_mark_hears_of_what_nobody_was_told() {
        let losses = Losses::default();
        losses.add([A, B], &error());
        assert!(losses.take(A).is_err() && losses.take(A).is_ok());
        assert!(losses.take_any().is_err() && losses.take_any().is_ok());
        let mark = losses.mark();
        losses.add([A], &error());
        assert!(losses.check(A, &mark).is_err());
        assert!(losses.take(A).is_ok(), "somebody was told");
    }

    #[test]
    fn too_many_are_one_loss_of_all() {
        let losses = Losses::default();
        let mark = losses.mark();
        losses.add((0..=INODES_MAX as u64).map(InodeId), &error());
        assert!(losses.check(InodeId(u64::MAX), &mark).is_err());
        assert!(losses.inner.lock().by_inode.len() <= 1);
    }
}
