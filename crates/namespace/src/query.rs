//! Questions about the tree, answered from one consistent point of the store.

mod resolve;

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

/// Answers a question. `Err` only when the store failed.
pub fn query(kv: &dyn KvRead, question: &FsQuery) -> KvResult<Result<FsAnswer, FsError>> {
    split(answer(kv, question))
}

/// Totals of the tree.
pub fn usage(kv: &dyn KvRead) -> KvResult<Usage> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    Ok(Usage { inodes: header.inodes, bytes: header.bytes })
}

fn answer(kv: &dyn KvRead, question: &FsQuery) -> Outcome<FsAnswer> {
    match question {
        FsQuery::Attr { inode } => Ok(FsAnswer::Attr(load(kv, *inode)?.attr(*inode))),
        FsQuery::Lookup { parent, name } => {
            directory(kv, *parent)?;
            let found = rows::get_dentry(kv, *parent, name)?.ok_or(FsError::NotFound)?;
            Ok(FsAnswer::Attr(load(kv, found.inode)?.attr(found.inode)))
        }
        FsQuery::Resolve { base, path, follow, read } => {
            resolve::resolve(kv, *base, path, *follow, *read)
        }
        FsQuery::ReadDir { inode, after, limit } => {
            read_directory(kv, *inode, after.as_ref(), page(*limit))
        }
        FsQuery::Extents { inode, from, to, limit } => {
            extents_page(kv, *inode, *from, *to, page(*limit))
        }
        FsQuery::ReadLink { inode } => {
            let row = load(kv, *inode)?;
            if row.kind != FileKind::Symlink {
                return Err(FsError::Invalid.into());
            }
            Ok(FsAnswer::Target(row.target))
        }
        FsQuery::GetXattr { inode, name } => {
            load(kv, *inode)?;
            let value: Option<Bytes> = get_row(kv, &rows::xattr(*inode, name))?;
            Ok(FsAnswer::Value(value.ok_or(FsError::NoAttribute)?))
        }
        FsQuery::ListXattr { inode } => list_xattr(kv, *inode),
        FsQuery::TestLock { inode, session, space, owner, kind, start, end } => {
            load(kv, *inode)?;
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

fn load(kv: &dyn KvRead, inode: InodeId) -> Outcome<InodeRow> {
    Ok(rows::get_inode(kv, inode)?.ok_or(FsError::NotFound)?)
}

fn directory(kv: &dyn KvRead, inode: InodeId) -> Outcome<InodeRow> {
    let row = load(kv, inode)?;
    if row.is_directory() { Ok(row) } else { Err(FsError::NotDirectory.into()) }
}

fn read_directory(
    kv: &dyn KvRead,
    inode: InodeId,
    after: Option<&Name>,
    limit: usize,
) -> Outcome<FsAnswer> {
    directory(kv, inode)?;
    let prefix = rows::dentries_of(inode);
    let from = match after {
        Some(name) => [rows::dentry(inode, name), vec![0]].concat(),
        None => prefix.clone(),
    };
    let mut found: Vec<(Name, DentryRow)> =
        scan_rows(kv, &from, &prefix_end(&prefix), limit + 1, |key, row| {
            Some((Name::new(key.get(rows::NAME_AT..)?.to_vec()).ok()?, row))
        })?;
    let more = found.len() > limit;
    found.truncate(limit);
    let entries = found
        .into_iter()
        .map(|(name, row)| Ok((name, load(kv, row.inode)?.attr(row.inode))))
        .collect::<Outcome<_>>()?;
    Ok(FsAnswer::Entries { entries, more })
}

fn extents_page(
    kv: &dyn KvRead,
    inode: InodeId,
    from: u64,
    to: u64,
    limit: usize,
) -> Outcome<FsAnswer> {
    let row = load(kv, inode)?;
    let (extents, more) = extents_between(kv, inode, &row, (from, to), limit)?;
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

fn list_xattr(kv: &dyn KvRead, inode: InodeId) -> Outcome<FsAnswer> {
    load(kv, inode)?;
    let prefix = rows::xattr(inode, &[]);
    let mut names = Vec::new();
    kv.scan(&prefix, &prefix_end(&prefix), &mut |key, _| {
        names.push(Bytes::copy_from_slice(&key[prefix.len()..]));
        ControlFlow::Continue(())
    })?;
    Ok(FsAnswer::Names(names))
}
