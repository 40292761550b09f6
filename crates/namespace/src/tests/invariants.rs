//! What must hold between the rows after every entry.

use super::world::World;
use crate::rows::{self, DentryRow, DoomedRow, ExtentRow, InodeRow};
use everhold_proto::fs::{ChangeRecord, Extent, FileKind, Source};
use everhold_proto::ids::*;
use everhold_proto::kv::{decode_at, get_row, prefix_end};
use everhold_proto::limits::SESSION_WINDOW;
use everhold_proto::table::BlockRow;
use everhold_proto::tables::{self, Header, Table};
use std::collections::{BTreeMap, BTreeSet};

/// All rows of the namespace, decoded.
pub(super) struct Rows {
    pub(super) inodes: BTreeMap<InodeId, InodeRow>,
    dentries: Vec<(InodeId, DentryRow)>,
    extents: Vec<(u64, Extent)>,
    pub(super) doomed: Vec<(u64, u64, DoomedRow)>,
    handles: BTreeSet<(InodeId, SessionId)>,
    session_handles: BTreeSet<(InodeId, SessionId)>,
    /// Log time and inode.
    unlinked: BTreeSet<(u64, InodeId)>,
    locks: BTreeSet<(InodeId, SessionId)>,
    session_locks: BTreeSet<(InodeId, SessionId)>,
    header: Header,
}

fn u64_at(key: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(key[at..at + 8].try_into().unwrap())
}

fn table<R>(world: &World, table: Table, mut row: impl FnMut(&[u8], &[u8]) -> R) -> Vec<R> {
    let prefix = rows::table(table);
    let range = prefix.clone()..prefix_end(&prefix);
    world.kv.0.range(range).map(|(key, value)| row(key, value)).collect()
}

pub(super) fn rows(world: &World) -> Rows {
    let pair = |a: usize, b: usize| {
        move |key: &[u8], _: &[u8]| (InodeId(u64_at(key, a)), SessionId(u64_at(key, b)))
    };
    Rows {
        inodes: table(world, Table::Inode, |key, value| {
            (InodeId(u64_at(key, 1)), decode_at(key, value).unwrap())
        })
        .into_iter()
        .collect(),
        dentries: table(world, Table::Dentry, |key, value| {
            (InodeId(u64_at(key, 1)), decode_at(key, value).unwrap())
        }),
        extents: table(world, Table::Extent, |key, value| {
            let row: ExtentRow = decode_at(key, value).unwrap();
            (u64_at(key, 1), row.at(key).unwrap())
        }),
        doomed: table(world, Table::Doomed, |key, value| {
            (u64_at(key, 1), u64_at(key, 9), decode_at(key, value).unwrap())
        }),
        handles: table(world, Table::OpenHandle, pair(1, 9)).into_iter().collect(),
        session_handles: table(world, Table::SessionHandle, pair(9, 1)).into_iter().collect(),
        unlinked: table(world, Table::Unlinked, |key, _| (u64_at(key, 1), InodeId(u64_at(key, 9))))
            .into_iter()
            .collect(),
        locks: table(world, Table::Lock, pair(1, 9)).into_iter().collect(),
        session_locks: table(world, Table::SessionLock, pair(9, 1)).into_iter().collect(),
        header: get_row(&world.kv, &tables::header()).unwrap().unwrap(),
    }
}

/// All invariants at once.
pub(super) fn check(world: &World) {
    let rows = rows(world);
    invariant_names_and_links_agree(&rows);
    invariant_every_inode_is_wanted(world, &rows);
    invariant_every_extent_has_its_place(&rows);
    invariant_totals_are_exact(&rows);
    invariant_references_are_counted(world, &rows);
    invariant_feed_has_no_gaps(world, &rows);
    invariant_answers_fit_the_window(world);
}

fn invariant_names_and_links_agree(rows: &Rows) {
    let mut links: BTreeMap<InodeId, u32> = BTreeMap::new();
    let mut entries: BTreeMap<InodeId, u64> = BTreeMap::new();
    for (parent, dentry) in &rows.dentries {
        let row = &rows.inodes[&dentry.inode];
        assert_eq!(row.kind, dentry.kind);
        assert!(rows.inodes[parent].is_directory());
        *entries.entry(*parent).or_default() += 1;
        *links.entry(dentry.inode).or_default() += 1;
        if row.is_directory() {
            assert_eq!(row.parent, *parent);
            *links.entry(*parent).or_default() += 1;
            *links.entry(dentry.inode).or_default() += 1;
        }
    }
    *links.entry(InodeId::ROOT).or_default() += 2;
    for (id, row) in &rows.inodes {
        assert_eq!(row.nlink, links.get(id).copied().unwrap_or(0), "nlink of {id}");
        if row.is_directory() {
            assert_eq!(row.size, entries.get(id).copied().unwrap_or(0), "entries of {id}");
        }
    }
}

fn invariant_every_inode_is_wanted(world: &World, rows: &Rows) {
    assert_eq!(rows.handles, rows.session_handles);
    for (id, row) in &rows.inodes {
        let open = rows.handles.iter().any(|(inode, _)| inode == id);
        assert!(row.nlink > 0 || open || row.unlinked_ms.is_some(), "{id} is an orphan");
        let xattrs = rows::xattr(*id, &[]);
        let count = world.kv.0.range(xattrs.clone()..prefix_end(&xattrs)).count();
        assert_eq!(row.xattrs as usize, count);
    }
    let lingering = rows.inodes.iter().filter_map(|(id, row)| Some((row.unlinked_ms?, *id)));
    assert_eq!(rows.unlinked, lingering.collect());
    assert_eq!(rows.locks, rows.session_locks);
    assert!(rows.locks.iter().all(|(id, _)| rows.inodes.contains_key(id)));
    let xattrs = table(world, Table::Xattr, |key, _| InodeId(u64_at(key, 1)));
    assert!(xattrs.iter().all(|id| rows.inodes.contains_key(id)));
    assert!(rows.handles.iter().all(|(id, _)| rows.inodes.contains_key(id)));
}

/// Each extent is in exactly one live part of one file or in one doomed range, and overlaps no other.
fn invariant_every_extent_has_its_place(rows: &Rows) {
    let mut places: Vec<(u64, u64, u64)> =
        rows.doomed.iter().map(|(fork, from, row)| (*fork, *from, row.to)).collect();
    for (id, row) in &rows.inodes {
        if row.kind == FileKind::File {
            let parts = row.parts(*id, 0, u64::MAX);
            places.extend(parts.iter().map(|p| (p.fork, p.from, p.to)));
            assert!(parts.windows(2).all(|p| p[0].to == p[1].from && p[0].fork != p[1].fork));
            assert_eq!((parts[0].from, parts.last().unwrap().to), (0, u64::MAX));
            let beyond = rows.extents.iter().any(|(fork, e)| {
                parts.iter().any(|p| p.fork == *fork && p.from <= e.offset && e.end() <= p.to)
                    && e.end() > row.size
            });
            assert!(!beyond, "{id} has an extent beyond its end");
        }
    }
    for (fork, extent) in &rows.extents {
        let homes = places
            .iter()
            .filter(|(f, from, to)| f == fork && *from <= extent.offset && extent.end() <= *to);
        assert_eq!(homes.count(), 1, "fork {fork}, {extent:?}, places {places:?}");
    }
    for pair in rows.extents.windows(2) {
        assert!(pair[0].0 != pair[1].0 || pair[0].1.end() <= pair[1].1.offset);
    }
}

fn invariant_totals_are_exact(rows: &Rows) {
    assert_eq!(rows.header.inodes, rows.inodes.len() as u64);
    let allocated: u64 = rows.inodes.values().map(|row| row.allocated).sum();
    assert_eq!(rows.header.bytes, allocated);
    for (id, row) in rows.inodes.iter().filter(|(_, row)| row.kind == FileKind::File) {
        let parts = row.parts(*id, 0, u64::MAX).into_iter().map(|p| (p.fork, p.from, p.to));
        let counted = rows
            .doomed
            .iter()
            .filter(|(_, _, doomed)| doomed.counted_in == Some(*id))
            .map(|(fork, from, doomed)| (*fork, *from, doomed.to));
        let bytes: u64 = parts.chain(counted).map(|place| bytes_in(rows, place)).sum();
        assert_eq!(row.allocated, bytes, "allocated bytes of {id}");
    }
}

fn bytes_in(rows: &Rows, (fork, from, to): (u64, u64, u64)) -> u64 {
    let inside = |e: &Extent| from <= e.offset && e.end() <= to;
    rows.extents.iter().filter(|(f, e)| *f == fork && inside(e)).map(|(_, e)| e.length).sum()
}

fn invariant_references_are_counted(world: &World, rows: &Rows) {
    let mut counted: BTreeMap<BlockId, (u32, u64)> = BTreeMap::new();
    for (_, extent) in &rows.extents {
        if let Source::Block { id, .. } = &extent.source {
            let count = counted.entry(*id).or_default();
            *count = (count.0 + 1, count.1 + extent.length);
        }
    }
    let in_table: BTreeMap<BlockId, (u32, u64)> = table(world, Table::Block, |key, value| {
        let row: BlockRow = decode_at(key, value).unwrap();
        (tables::block_id_of(key).unwrap(), (row.references, row.live_bytes))
    })
    .into_iter()
    .collect();
    for (id, count) in &counted {
        assert_eq!(in_table.get(id), Some(count), "{id}");
    }
    for (id, count) in &in_table {
        assert_eq!(counted.get(id).copied().unwrap_or((0, 0)), *count, "{id}");
    }
}

fn invariant_feed_has_no_gaps(world: &World, rows: &Rows) {
    let sequences = table(world, Table::Change, |key, value| {
        let _: ChangeRecord = decode_at(key, value).unwrap();
        u64_at(key, 1)
    });
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]));
    assert_eq!(sequences.last().map_or(1, |last| last + 1), rows.header.next_change);
}

fn invariant_answers_fit_the_window(world: &World) {
    let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
    for session in table(world, Table::KeptAnswer, |key, _| u64_at(key, 1)) {
        *kept.entry(session).or_default() += 1;
    }
    for (session, count) in kept {
        assert!(count <= SESSION_WINDOW);
        assert!(world.kv.0.contains_key(&tables::session(SessionId(session))));
    }
}
