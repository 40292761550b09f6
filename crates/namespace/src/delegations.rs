//! Delegations: a directory and its files belong to one session for a while, which may then change them and
//! tell later (ADR 0009).
//!
//! A delegation stands in the row of its directory. It covers the directory, its names, and every inode that is
//! no directory and has its only name there. Directories below have delegations of their own.
//!
//! **Invariant:** while a living session holds a directory, no other session changes it or is shown it.
//! **Invariant:** what was done behind a delegation takes effect only while the session still holds it.
//! **Invariant:** a version that was given behind a delegation and never told is not given again (`Held`).

use crate::failure::Outcome;
use crate::rows::{self, InodeRow};
use crate::tree::{self, Grant};
use everhold_proto::apply::Apply;
use everhold_proto::fs::{ChangeKind, FsError};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult};
use everhold_proto::planted::{self, Bug};
use everhold_proto::tables;

/// How a request goes by delegations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// The cluster's own work: nobody's view of a file changes by it.
    Ignore,
    /// Other sessions' delegations are respected.
    Respect,
    /// It was done behind delegations, and must be within them.
    Need,
    /// The same for an inode that gets, or loses, a name in a held directory: one that had several names belongs to
    /// no directory, but each of its names to one.
    NeedName,
}

/// Ends a delegation that was called back in vain; who held it hears of that by the change feed. Another session's
/// stays.
pub fn revoke(ctx: &mut Apply<'_>, inode: InodeId, session: SessionId) -> KvResult<()> {
    match rows::get_inode(&*ctx.kv, inode)? {
        Some(row) if row.delegate == Some(session) => {}
        _ => return Ok(()),
    }
    let grant = Grant { rule: Rule::Ignore, ..Grant::of(SessionId(0), u64::MAX) };
    let revoked = tree::run(ctx, grant, |tree| {
        let row = tree.inode_mut(inode)?;
        // The session of the holder may have ended already: then loading the row has done both.
        if row.delegate.take().is_some() {
            row.fence();
        }
        tree.record(ChangeKind::Delegate, inode, None, None)
    })?;
    debug_assert!(revoked.is_ok(), "ending a delegation answers no client: {revoked:?}");
    Ok(())
}

/// Who holds an inode, and how that bears on its version.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// The directory that it is held with, and the living session that holds it.
    holder: Option<(InodeId, SessionId)>,
    /// The session that holds the directory itself has ended.
    is_orphan: bool,
    /// For an inode that is no directory and has its name in one: how many delegations of that ended irregularly.
    fences: Option<u32>,
}

impl Held {
    /// Brings a row that was read up to date: versions that may be lost are skipped, and a delegation of a session
    /// that has ended is none.
    pub(crate) fn settle(&self, row: &mut InodeRow) {
        if self.is_orphan {
            row.delegate = None;
            row.fence();
        }
        if let Some(fences) = self.fences {
            row.skip_versions(fences.wrapping_sub(row.fences));
            row.fences = fences;
        }
    }
}

/// Looks at who holds an inode of this row. The session `asker` lives: it asks.
pub(crate) fn held(
    kv: &(impl KvRead + ?Sized),
    inode: InodeId,
    row: &InodeRow,
    asker: Option<SessionId>,
) -> KvResult<Held> {
    match (row.is_directory(), row.parent) {
        (true, _) => {
            let (session, is_orphan) = living(kv, row.delegate, asker)?;
            Ok(Held { holder: session.map(|session| (inode, session)), is_orphan, fences: None })
        }
        (false, InodeId::NONE) => Ok(Held::default()),
        (false, parent) => match rows::get_inode(kv, parent)? {
            None => Ok(Held::default()),
            Some(directory) => held_in(kv, parent, &directory, asker),
        },
    }
}

/// The same for what has its only name in a directory, and is none.
pub(crate) fn held_in(
    kv: &(impl KvRead + ?Sized),
    parent: InodeId,
    directory: &InodeRow,
    asker: Option<SessionId>,
) -> KvResult<Held> {
    let (session, is_orphan) = living(kv, directory.delegate, asker)?;
    let fences = directory.fences.wrapping_add(u32::from(is_orphan));
    let holder = session.map(|session| (parent, session));
    Ok(Held { holder, is_orphan: false, fences: Some(fences) })
}

/// A session that holds something, if it has not ended; and whether it has.
fn living(
    kv: &(impl KvRead + ?Sized),
    delegate: Option<SessionId>,
    asker: Option<SessionId>,
) -> KvResult<(Option<SessionId>, bool)> {
    let Some(session) = delegate else { return Ok((None, false)) };
    match delegate == asker || kv.get(&tables::session(session))?.is_some() {
        true => Ok((Some(session), false)),
        false => Ok((None, true)),
    }
}

/// Whether a session may go on with an inode.
pub(crate) fn judge(row: &InodeRow, held: &Held, rule: Rule, session: SessionId) -> Outcome<()> {
    match rule {
        Rule::Ignore => Ok(()),
        Rule::Respect => respect(held, Some(session)),
        Rule::NeedName if !row.is_directory() && row.parent == InodeId::NONE => Ok(()),
        Rule::Need | Rule::NeedName => match held.holder {
            Some((_, holder)) if holder == session => Ok(()),
            _ if planted::has(Bug::TellUnfenced) => Ok(()),
            _ => Err(FsError::Fenced.into()),
        },
    }
}

/// `Delegated` when a living session other than `asker` holds the inode.
pub(crate) fn respect(held: &Held, asker: Option<SessionId>) -> Outcome<()> {
    if planted::has(Bug::IgnoreDelegations) {
        return Ok(());
    }
    match held.holder {
        Some((inode, holder)) if Some(holder) != asker => {
            Err(FsError::Delegated { inode, holder }.into())
        }
        _ => Ok(()),
    }
}
