//! The namespace against the model, event by event.

mod event;

use self::event::{Event, Piece, events};
use super::invariants;
use super::model::{LAST_BYTE, Model, Node};
use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

struct Run {
    world: World,
    model: Model,
    other_session: SessionId,
    next_byte: u8,
}

impl Run {
    fn new() -> Self {
        let mut world = World::new();
        let other_session = world.open_session();
        Run { world, model: Model::new(), other_session, next_byte: 0 }
    }

    fn pick(&self, n: u8, wanted: impl Fn(&Node) -> bool) -> InodeId {
        let ids: Vec<InodeId> =
            self.model.nodes.iter().filter(|(_, node)| wanted(node)).map(|(id, _)| *id).collect();
        // Where there is none of the wanted kind, the root gives an error to compare.
        ids.get(usize::from(n) % ids.len().max(1)).copied().unwrap_or(ROOT)
    }

    /// Mostly directories; some names are looked for in what is none.
    fn dir(&self, n: u8) -> InodeId {
        self.pick(n / 2, |node| node.is_directory() || n > 240)
    }

    fn file(&self, n: u8) -> InodeId {
        self.pick(n / 2, |node| node.kind == FileKind::File || n > 240)
    }

    fn inode(&self, n: u8) -> InodeId {
        self.pick(n, |_| true)
    }

    fn content(&mut self, from: u8, pieces: &[Piece]) -> Content {
        let (mut at, mut extents, mut block) = (u64::from(from), Vec::new(), vec![0xee; 3]);
        let mut in_block = Vec::new();
        for (gap, length, stored) in pieces {
            at += u64::from(*gap);
            let bytes: Vec<u8> = (0..*length).map(|i| self.next_byte.wrapping_add(i) | 1).collect();
            self.next_byte = self.next_byte.wrapping_add(*length);
            extents.push(inline(at, &bytes));
            if *stored {
                in_block.push((extents.len() - 1, block.len() as u32));
                block.extend(bytes);
            }
            at += u64::from(*length);
        }
        if in_block.is_empty() {
            return only(extents);
        }
        let block = self.world.store(block);
        for (i, start) in in_block {
            let (offset, length) = (extents[i].offset, extents[i].length as u32);
            extents[i] = block_extent(offset, &block, start, length);
        }
        Content { extents, blocks: vec![block] }
    }

    fn fold(&mut self, inode: InodeId) -> FsOp {
        let (mut extents, mut bytes) = (Vec::new(), Vec::new());
        for extent in self.world.extents(inode) {
            if let Source::Inline(inline) = &extent.source {
                extents.push((extent.offset, bytes.len() as u32, inline.len() as u32));
                bytes.extend_from_slice(inline);
            }
        }
        let expected_version = self.world.attr(inode).unwrap().version;
        if extents.is_empty() {
            return FsOp::Fold { inode, expected_version, content: Content::default() };
        }
        let block = self.world.store(bytes);
        let extents =
            extents.iter().map(|(at, start, len)| block_extent(*at, &block, *start, *len));
        let content = Content { extents: extents.collect(), blocks: vec![block] };
        FsOp::Fold { inode, expected_version, content }
    }

    fn reflink(&self, from: InodeId, to: InodeId, offset: u8) -> FsOp {
        let extents = self.world.extents(from).into_iter();
        let shared = extents
            .filter(|e| matches!(e.source, Source::Block { .. }))
            .take(1)
            .map(|e| Extent { offset: offset.into(), ..e });
        FsOp::Commit {
            inode: to,
            expected_version: None,
            content: only(shared.collect()),
            size_at_least: 0,
            append: false,
        }
    }

    fn op(&mut self, event: &Event) -> Option<FsOp> {
        let name = |n: u8| name(["a", "b", "c", "d"][usize::from(n) % 4]);
        Some(match event {
            Event::Create { dir, name: n, kind, open } => FsOp::Create {
                parent: self.dir(*dir),
                name: name(*n),
                kind: match kind % 5 {
                    0 | 1 => NewKind::Directory,
                    2 => NewKind::Symlink(Bytes::from_static(b"target")),
                    _ => NewKind::File,
                },
                owner: OWNER,
                open: *open,
            },
            Event::Put { dir, name: n, pieces, hole, replace } => {
                let content = self.content(0, pieces);
                let end = content.extents.last().map_or(0, Extent::end);
                FsOp::PutFile {
                    parent: self.dir(*dir),
                    name: name(*n),
                    owner: OWNER,
                    size: end + u64::from(*hole),
                    content,
                    replace: *replace,
                    mtime: TimeOrNow::Now,
                }
            }
            Event::Commit { file, from, pieces, size, append } => FsOp::Commit {
                inode: self.file(*file),
                expected_version: None,
                content: self.content(if *append { 0 } else { *from }, pieces),
                size_at_least: u64::from(*size),
                append: *append,
            },
            Event::Reflink { from, to, offset } => {
                self.reflink(self.file(*from), self.file(*to), *offset)
            }
            Event::Fold { file } => {
                let inode = self.file(*file);
                self.fold(inode)
            }
            Event::Punch { file, from, length } => FsOp::Punch {
                inode: self.file(*file),
                offset: u64::from(*from),
                length: u64::from(*length),
            },
            Event::Truncate { file, size } => {
                let set = SetAttr { size: Some(u64::from(*size)), ..SetAttr::default() };
                FsOp::SetAttr { inode: self.file(*file), set }
            }
            Event::Link { inode, dir, name: n } => {
                FsOp::Link { inode: self.inode(*inode), parent: self.dir(*dir), name: name(*n) }
            }
            Event::Unlink { dir, name: n, linger } => {
                FsOp::Unlink { parent: self.dir(*dir), name: name(*n), linger: *linger }
            }
            Event::Rmdir { dir, name: n } => FsOp::Rmdir { parent: self.dir(*dir), name: name(*n) },
            Event::Rename { dir, name: n, to_dir, to_name, mode } => FsOp::Rename {
                parent: self.dir(*dir),
                name: name(*n),
                new_parent: self.dir(*to_dir),
                new_name: name(*to_name),
                mode: match mode % 4 {
                    0 => RenameMode::Exchange,
                    1 => RenameMode::NoReplace,
                    _ => RenameMode::Replace,
                },
            },
            Event::Chmod { inode, mode } => {
                let set = SetAttr { mode: Some(u32::from(*mode)), ..SetAttr::default() };
                FsOp::SetAttr { inode: self.inode(*inode), set }
            }
            Event::SetXattr { inode, name, mode } => FsOp::SetXattr {
                inode: self.inode(*inode),
                name: vec![b'x', 1 + name % 3].into(),
                value: vec![*name, *mode].into(),
                mode: [XattrMode::Set, XattrMode::Create, XattrMode::Replace]
                    [usize::from(mode % 3)],
            },
            Event::RemoveXattr { inode, name } => FsOp::RemoveXattr {
                inode: self.inode(*inode),
                name: vec![b'x', 1 + name % 3].into(),
            },
            Event::Open { inode } => FsOp::Open { inode: self.inode(*inode) },
            Event::Release { inode } => FsOp::Release { inode: self.inode(*inode) },
            Event::CreateUnnamed { dir, linkable } => {
                FsOp::CreateUnnamed { parent: self.dir(*dir), owner: OWNER, linkable: *linkable }
            }
            Event::Clone { from, to, start, length, at } => FsOp::CloneRange {
                source: self.file(*from),
                source_offset: (*start).into(),
                length: (*length).into(),
                target: self.file(*to),
                target_offset: (*at).into(),
            },
            Event::Lock { inode, owner, write, start, length } => {
                let (space, owner) = lock_owner(*owner);
                let kind = if *write { LockKind::Write } else { LockKind::Read };
                let (start, end) = lock_range(*start, *length);
                let inode = self.inode(*inode);
                FsOp::Lock { inode, space, owner, kind, start, end, pid: 1 }
            }
            Event::Unlock { inode, owner, start, length } => {
                let (space, owner) = lock_owner(*owner);
                let (start, end) = lock_range(*start, *length);
                FsOp::Unlock { inode: self.inode(*inode), space, owner, start, end }
            }
            Event::EndSession | Event::SwitchSession | Event::Reap { .. } | Event::Wait { .. } => {
                return None;
            }
        })
    }

    fn apply(&mut self, event: &Event) {
        if let Some(op) = self.op(event) {
            let answer = self.world.perform(op.clone());
            let made = match &answer {
                Ok(FsReply::Attr(attr)) => Some(attr.inode),
                _ => None,
            };
            let (session, blocks) = (self.world.session, &self.world.blocks);
            // The test world repeats each operation in an entry of its own.
            self.model.now_ms = self.world.log_ms() - 1;
            // A refused creation made nothing; the model then must refuse it before it asks.
            let expected = if answer.is_ok() || made.is_some() || !creates(&op) {
                self.model.perform(session, blocks, &op, made)
            } else {
                self.model.perform(session, blocks, &op, Some(InodeId(u64::MAX)))
            };
            assert_eq!(answer.clone().map(|_| ()), expected, "{op:?}");
            if let Ok(FsReply::Attr(attr)) = answer {
                assert_eq!(self.world.attr(attr.inode), Ok(attr));
            }
        }
        match event {
            Event::EndSession => {
                let session = self.world.session;
                self.world.end_session(session);
                self.model.end_session(session);
                // What is too much for one entry goes with the next sweeps.
                while self.world.reap(100) > 0 {}
                self.world.session = self.world.open_session();
            }
            Event::SwitchSession => {
                std::mem::swap(&mut self.world.session, &mut self.other_session);
            }
            Event::Reap { limit } => {
                self.world.reap(u32::from(*limit));
            }
            Event::Wait { ms } => self.world.waited_ms += u64::from(*ms),
            _ => {}
        }
        self.synchronize();
    }

    /// When exactly something that lingers is reaped is left to the reaper.
    fn synchronize(&mut self) {
        self.model.now_ms = self.world.log_ms();
        let world = &self.world;
        self.model.forget_gone(|id| world.attr(id).is_ok());
    }

    /// The tree that clients see is the model's.
    fn compare(&self) {
        let rows = invariants::rows(&self.world);
        let ids = |keys: Vec<&InodeId>| keys.into_iter().copied().collect::<Vec<_>>();
        assert_eq!(ids(rows.inodes.keys().collect()), ids(self.model.nodes.keys().collect()));
        for (id, node) in &self.model.nodes {
            let attr = self.world.attr(*id).unwrap();
            assert_eq!((attr.kind, attr.nlink), (node.kind, node.nlink), "{id}");
            assert_eq!(attr.mode, node.mode, "{id}");
            match node.kind {
                FileKind::Directory => self.compare_entries(*id, node),
                FileKind::File => assert_eq!(self.world.read(*id), node.bytes, "{id}"),
                _ => assert_eq!(
                    self.world.ask(FsQuery::ReadLink { inode: *id }),
                    Ok(FsAnswer::Target(node.bytes.clone().into()))
                ),
            }
            let covered = node.covered.iter().filter(|c| **c).count() as u64;
            let settled = rows.doomed.iter().all(|(.., row)| row.counted_in != Some(*id));
            assert!(attr.allocated == covered || (!settled && attr.allocated > covered), "{id}");
            for (name, value) in &node.xattrs {
                let question = FsQuery::GetXattr { inode: *id, name: name.clone() };
                assert_eq!(self.world.ask(question), Ok(FsAnswer::Value(value.clone())));
            }
            for (space, at) in [LockSpace::Posix, LockSpace::Flock]
                .into_iter()
                .flat_map(|space| (0..=LAST_BYTE).map(move |at| (space, at)))
            {
                let question = FsQuery::TestLock {
                    inode: *id,
                    session: SessionId(u64::MAX),
                    space,
                    owner: LockOwner(0),
                    kind: LockKind::Write,
                    start: at,
                    end: at,
                };
                let answer = self.world.ask(question);
                let Ok(FsAnswer::Lock(found)) = answer else { panic!("{answer:?}") };
                assert_eq!(found.is_some(), node.is_locked_at(space, at), "{id} {space:?} {at}");
            }
            let names = node.xattrs.keys().cloned().collect();
            let question = FsQuery::ListXattr { inode: *id };
            assert_eq!(self.world.ask(question), Ok(FsAnswer::Names(names)));
        }
    }

    fn compare_entries(&self, inode: InodeId, node: &Node) {
        let (mut found, mut after) = (BTreeMap::new(), None);
        loop {
            let question = FsQuery::ReadDir { inode, after, limit: 2 };
            let Ok(FsAnswer::Entries { entries, more }) = self.world.ask(question) else {
                panic!("{inode} does not list")
            };
            after = entries.last().map(|(name, _)| name.clone());
            found.extend(entries.into_iter().map(|(name, attr)| (name, attr.inode)));
            if !more {
                break;
            }
        }
        assert_eq!(found, node.entries, "{inode}");
    }
}

fn creates(op: &FsOp) -> bool {
    matches!(op, FsOp::Create { .. } | FsOp::PutFile { .. } | FsOp::CreateUnnamed { .. })
}

fn lock_owner(n: u8) -> (LockSpace, LockOwner) {
    let space = if n.is_multiple_of(3) { LockSpace::Flock } else { LockSpace::Posix };
    (space, LockOwner(u64::from(n % 2)))
}

/// Ranges up to the model's last byte; one that reaches it reaches the end.
fn lock_range(start: u8, length: u8) -> (u64, u64) {
    let end = u64::from(start) + u64::from(length);
    (start.into(), if end >= LAST_BYTE { u64::MAX } else { end })
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whatever happens, the namespace shows what the model shows and its rows keep their invariants;
    /// every request, repeated, gives the same answer and changes nothing; when all is deleted and
    /// reaped, nothing is left.
    #[test]
    fn namespace_is_the_model(events in events()) {
        let mut run = Run::new();
        for event in &events {
            run.apply(event);
            invariants::check(&run.world);
        }
        run.compare();
        while run.world.reap(3) > 0 {}
        run.synchronize();
        assert!(!run.model.is_overdue(), "something lingers for too long");
        invariants::check(&run.world);
        run.compare();
    }
}
