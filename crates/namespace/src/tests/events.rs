//! The namespace against the model, event by event.

use super::invariants;
use super::model::{Model, Node};
use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// One piece of a write: the gap before it, its length, and whether it is in a block.
type Piece = (u8, u8, bool);

/// What happens next; numbers pick among what there is.
#[derive(Clone, Debug)]
enum Event {
    Create { dir: u8, name: u8, kind: u8, open: bool },
    Put { dir: u8, name: u8, pieces: Vec<Piece>, hole: u8, replace: bool },
    Commit { file: u8, from: u8, pieces: Vec<Piece>, size: u8, append: bool },
    Reflink { from: u8, to: u8, offset: u8 },
    Fold { file: u8 },
    Punch { file: u8, from: u8, length: u8 },
    Truncate { file: u8, size: u8 },
    Link { inode: u8, dir: u8, name: u8 },
    Unlink { dir: u8, name: u8 },
    Rmdir { dir: u8, name: u8 },
    Rename { dir: u8, name: u8, to_dir: u8, to_name: u8, mode: u8 },
    Chmod { inode: u8, mode: u8 },
    SetXattr { inode: u8, name: u8, mode: u8 },
    RemoveXattr { inode: u8, name: u8 },
    Open { inode: u8 },
    Release { inode: u8 },
    EndSession,
    SwitchSession,
    Reap { limit: u8 },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let n = any::<u8>;
    let yes = any::<bool>;
    let piece = || (0u8..12, 1u8..16, yes());
    let pieces = || prop::collection::vec(piece(), 0..8);
    let event = prop_oneof![
        6 => (n(), n(), n(), yes())
            .prop_map(|(dir, name, kind, open)| Event::Create { dir, name, kind, open }),
        5 => (n(), n(), pieces(), 0u8..20, yes()).prop_map(
            |(dir, name, pieces, hole, replace)| Event::Put { dir, name, pieces, hole, replace }
        ),
        12 => (n(), n(), pieces(), n(), yes()).prop_map(
            |(file, from, pieces, size, append)| {
                Event::Commit { file, from, pieces, size, append }
            }
        ),
        3 => (n(), n(), n())
            .prop_map(|(from, to, offset)| Event::Reflink { from, to, offset }),
        2 => n().prop_map(|file| Event::Fold { file }),
        4 => (n(), n(), n())
            .prop_map(|(file, from, length)| Event::Punch { file, from, length }),
        4 => (n(), n()).prop_map(|(file, size)| Event::Truncate { file, size }),
        3 => (n(), n(), n()).prop_map(|(inode, dir, name)| Event::Link { inode, dir, name }),
        4 => (n(), n()).prop_map(|(dir, name)| Event::Unlink { dir, name }),
        2 => (n(), n()).prop_map(|(dir, name)| Event::Rmdir { dir, name }),
        6 => (n(), n(), n(), n(), n()).prop_map(|(dir, name, to_dir, to_name, mode)| {
            Event::Rename { dir, name, to_dir, to_name, mode }
        }),
        1 => (n(), n()).prop_map(|(inode, mode)| Event::Chmod { inode, mode }),
        2 => (n(), n(), n())
            .prop_map(|(inode, name, mode)| Event::SetXattr { inode, name, mode }),
        1 => (n(), n()).prop_map(|(inode, name)| Event::RemoveXattr { inode, name }),
        3 => n().prop_map(|inode| Event::Open { inode }),
        3 => n().prop_map(|inode| Event::Release { inode }),
        1 => Just(Event::EndSession),
        1 => Just(Event::SwitchSession),
        2 => (1u8..6).prop_map(|limit| Event::Reap { limit }),
    ];
    prop::collection::vec(event, 1..80)
}

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
            Event::Unlink { dir, name: n } => {
                FsOp::Unlink { parent: self.dir(*dir), name: name(*n), linger: false }
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
            Event::EndSession | Event::SwitchSession | Event::Reap { .. } => return None,
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
            _ => {}
        }
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
    matches!(op, FsOp::Create { .. } | FsOp::PutFile { .. })
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
        invariants::check(&run.world);
        run.compare();
    }
}
