//! Delegations: a directory and its files belong to one session for a while, which may then change them and
//! tell later (ADR 0009).
//!
//! A delegation stands in the row of its directory. It covers the directory, its names, and every inode that is
//! no directory and has its only name there. Directories below have delegations of their own.
//!
//! **Invariant:** while a living session holds a directory, no other session changes it or is shown it.
//! **Invariant:** what was done behind a delegation takes effect only while the session still holds it.

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
        tree.inode_mut(inode)?.delegate = None;
        tree.record(ChangeKind::Delegate, inode, None, None)
    })?;
    debug_assert!(revoked.is_ok(), "ending a delegation answers no client: {revoked:?}");
    Ok(())
}

/// Whether a session may go on with an inode.
pub(crate) fn judge(
    kv: &(impl KvRead + ?Sized),
    inode: InodeId,
    row: &InodeRow,
    rule: Rule,
    session: SessionId,
) -> Outcome<()> {
    match rule {
        Rule::Ignore => Ok(()),
        Rule::Respect => respect(kv, inode, row, Some(session)),
        Rule::NeedName if !row.is_directory() && row.parent == InodeId::NONE => Ok(()),
        Rule::Need | Rule::NeedName => match holder(kv, inode, row)? {
            Some((_, holder)) if holder == session => Ok(()),
            _ if planted::has(Bug::TellUnfenced) => Ok(()),
            _ => Err(FsError::Fenced.into()),
        },
    }
}

/// `Delegated` when a living session other than `asker` holds the inode.
pub(crate) fn respect(
    kv: &(impl KvRead + ?Sized),
    inode: InodeId,
    row: &InodeRow,
    asker: Option<SessionId>,
) -> Outcome<()> {
    if planted::has(Bug::IgnoreDelegations) {
        return Ok(());
    }
    match holder(kv, inode, row)? {
        Some((inode, holder))
            if Some(holder) != asker && kv.get(&tables::session(holder))?.is_some() =>
        {
            Err(FsError::Delegated { inode, holder }.into())
        }
        _ => Ok(()),
    }
}

/// The directory that an inode is held with, and by whom.
fn holder(
    kv: &(impl KvRead + ?Sized),
    inode: InodeId,
    row: &InodeRow,
) -> KvResult<Option<(InodeId, SessionId)>> {
    let (directory, session) = match (row.is_directory(), row.parent) {
        (true, _) => (inode, row.delegate),
        (false, InodeId::NONE) => return Ok(None),
        (false, parent) => (parent, rows::get_inode(kv, parent)?.and_then(|row| row.delegate)),
    };
    Ok(session.map(|session| (directory, session)))
}
