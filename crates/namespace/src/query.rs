//! Questions about the tree, answered from one consistent point of the store.

mod resolve;

use crate::delegations;
use crate::extents;
use crate::failure::{Outcome, split};
use crate::limits::PAGE_INLINE_BYTES_MAX;
use crate::locks::{self, Held, Holder, Range};
use crate::ops;
use crate::rows::{self, DentryRow, InodeRow};
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, scan_rows};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::tables::{self, Header};
use std::ops::ControlFlow;

/// Answers a question by the state as it stands. `Err` only when the store failed.
pub fn query(kv: &dyn KvRead, question: &FsQuery) -> KvResult<Result<FsAnswer, FsError>> {
    split(answer(View { kv, asker: Asker::Owner }, question))
}

/// Answers a question of a session, or of somebody without one: `Delegated` where the state may be behind what
/// another session did.
pub fn query_for(
    kv: &dyn KvRead,
    question: &FsQuery,
    asker: Option<SessionId>,
) -> KvResult<Result<FsAnswer, FsError>> {
    split(answer(View { kv, asker: Asker::Session(asker) }, question))
}

/// The state as somebody may see it.
#[derive(Clone, Copy)]
struct View<'a> {
    kv: &'a dyn KvRead,
    asker: Asker,
}

impl View<'_> {
    fn session(self) -> Option<SessionId> {
        match self.asker {
            Asker::Owner => None,
            Asker::Session(session) => session,
        }
    }
}

#[derive(Clone, Copy)]
enum Asker {
    /// Of the state itself.
    Owner,
    Session(Option<SessionId>),
}

/// Totals of the tree.
pub fn usage(kv: &dyn KvRead) -> KvResult<Usage> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    Ok(Usage { inodes: header.inodes, bytes: header.bytes })
}

fn answer(view: View<'_>, question: &FsQuery) -> Outcome<FsAnswer> {
    let kv = view.kv;
    match question {
        FsQuery::Attr { inode } => Ok(FsAnswer::Attr(load(view, *inode)?.attr(*inode))),
        FsQuery::Lookup { parent, name } => {
            directory(view, *parent)?;
            let found = rows::get_dentry(kv, *parent, name)?.ok_or(FsError::NotFound)?;
            Ok(FsAnswer::Attr(load(view, found.inode)?.attr(found.inode)))
        }
        FsQuery::Resolve { base, path, follow, read } => {
            resolve::resolve(view, *base, path, *follow, *read)
        }
        FsQuery::ReadDir { inode, after, limit } => {
            read_directory(view, *inode, after.as_ref(), page(*limit))
        }
        FsQuery::Extents { inode, from, to, limit } => {
            extents_page(view, *inode, *from, *to, page(*limit))
        }
        FsQuery::ReadLink { inode } => {
            let row = load(view, *inode)?;
            if row.kind != FileKind::Symlink {
                return Err(FsError::Invalid.into());
            }
            Ok(FsAnswer::Target(row.target))
        }
        FsQuery::GetXattr { inode, name } => {
            load(view, *inode)?;
            let value: Option<Bytes> = get_row(kv, &rows::xattr(*inode, name))?;
            Ok(FsAnswer::Value(value.ok_or(FsError::NoAttribute)?))
        }
        FsQuery::ListXattr { inode } => list_xattr(view, *inode),
        FsQuery::TestLock { inode, session, space, owner, kind, start, end } => {
            load(view, *inode)?;
            let range = Range::of(*space, *start, *end).ok_or(FsError::Invalid)?;
            let holder = Holder { session: *session, space: *space, owner: *owner };
            let (held, _ended) = ops::locks::read(kv, *inode)?;
            let conflict = locks::conflict(&held, holder, range, *kind);
            Ok(FsAnswer::Lock(conflict.map(Held::info)))
        }
        FsQuery::Usage => Ok(FsAnswer::Usage(usage(kv)?)),
    }
}

/// Entries in a page: as wanted, at least one so that every reader gets on, and no more than the cap.
fn page(limit: u32) -> usize {
    (limit as usize).clamp(1, PAGE_ENTRIES_MAX)
}

fn load(view: View<'_>, inode: InodeId) -> Outcome<InodeRow> {
    let mut row = rows::get_inode(view.kv, inode)?.ok_or(FsError::NotFound)?;
    let held = delegations::held(view.kv, inode, &row, view.session())?;
    if let Asker::Session(asker) = view.asker {
        delegations::respect(&held, asker)?;
    }
    held.settle(&mut row);
    Ok(row)
}

/// What a directory that was looked at holds: only directories may be held by somebody else than it is.
fn load_child(
    view: View<'_>,
    (parent, in_parent): (InodeId, &delegations::Held),
    child: DentryRow,
) -> Outcome<InodeRow> {
    if child.kind == FileKind::Directory {
        return load(view, child.inode);
    }
    let mut row = rows::get_inode(view.kv, child.inode)?.ok_or(FsError::NotFound)?;
    if row.parent == parent {
        in_parent.settle(&mut row);
    }
    Ok(row)
}

fn directory(view: View<'_>, inode: InodeId) -> Outcome<InodeRow> {
    let row = load(view, inode)?;
    if row.is_directory() { Ok(row) } else { Err(FsError::NotDirectory.into()) }
}

fn read_directory(
    view: View<'_>,
    inode: InodeId,
    after: Option<&Name>,
    limit: usize,
) -> Outcome<FsAnswer> {
    let row = directory(view, inode)?;
    let held = delegations::held_in(view.kv, inode, &row, view.session())?;
    let prefix = rows::dentries_of(inode);
    let from = match after {
        Some(name) => [rows::dentry(inode, name), vec![0]].concat(),
        None => prefix.clone(),
    };
    let mut found: Vec<(Name, DentryRow)> =
        scan_rows(view.kv, &from, &prefix_end(&prefix), limit + 1, |key, row| {
            Some((Name::new(key.get(rows::NAME_AT..)?.to_vec()).ok()?, row))
        })?;
    let more = found.len() > limit;
    found.truncate(limit);
    let entries = found
        .into_iter()
        .map(|(name, row)| Ok((name, load_child(view, (inode, &held), row)?.attr(row.inode))))
        .collect::<Outcome<_>>()?;
    Ok(FsAnswer::Entries { entries, more })
}

fn extents_page(
    view: View<'_>,
    inode: InodeId,
    from: u64,
    to: u64,
    limit: usize,
) -> Outcome<FsAnswer> {
    let row = load(view, inode)?;
    let (extents, more) = extents_between(view.kv, inode, &row, (from, to), limit)?;
    Ok(FsAnswer::Extents { attr: row.attr(inode), extents, more })
}

/// Extents of a file that overlap a range, and whether there are more.
fn extents_between(
    kv: &dyn KvRead,
    inode: InodeId,
    row: &InodeRow,
    (from, to): (u64, u64),
    limit: usize,
) -> KvResult<(Vec<Extent>, bool)> {
    let (mut found, mut inline_bytes, mut more) = (Vec::new(), 0, false);
    for part in row.parts(inode, from, to) {
        extents::scan(kv, part, &mut |extent| {
            if found.len() >= limit || inline_bytes >= PAGE_INLINE_BYTES_MAX {
                more = true;
                return ControlFlow::Break(());
            }
            if let Source::Inline(bytes) = &extent.source {
                inline_bytes += bytes.len();
            }
            found.push(extent);
            ControlFlow::Continue(())
        })?;
        if more {
            break;
        }
    }
    Ok((found, more))
}

fn list_xattr(view: View<'_>, inode: InodeId) -> Outcome<FsAnswer> {
    load(view, inode)?;
    let prefix = rows::xattr(inode, &[]);
    let mut names = Vec::new();
    view.kv.scan(&prefix, &prefix_end(&prefix), &mut |key, _| {
        names.push(Bytes::copy_from_slice(&key[prefix.len()..]));
        ControlFlow::Continue(())
    })?;
    Ok(FsAnswer::Names(names))
}
