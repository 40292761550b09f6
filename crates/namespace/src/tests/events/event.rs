//! What may happen, and how often.

use proptest::prelude::*;

/// One piece of a write: the gap before it, its length, and whether it is in a block.
pub(super) type Piece = (u8, u8, bool);

/// What happens next; numbers pick among what there is.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Create { dir: u8, name: u8, kind: u8, open: bool },
    Put { dir: u8, name: u8, pieces: Vec<Piece>, hole: u8, replace: bool },
    Commit { file: u8, from: u8, pieces: Vec<Piece>, size: u8, append: bool },
    Reflink { from: u8, to: u8, offset: u8 },
    Fold { file: u8 },
    Punch { file: u8, from: u8, length: u8 },
    Truncate { file: u8, size: u8 },
    Link { inode: u8, dir: u8, name: u8 },
    Unlink { dir: u8, name: u8, linger: bool },
    CreateUnnamed { dir: u8, linkable: bool },
    Clone { from: u8, to: u8, start: u8, length: u8, at: u8 },
    Lock { inode: u8, owner: u8, write: bool, start: u8, length: u8 },
    Unlock { inode: u8, owner: u8, start: u8, length: u8 },
    Wait { ms: u16 },
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

pub(super) fn events() -> impl Strategy<Value = Vec<Event>> {
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
        4 => (n(), n(), yes())
            .prop_map(|(dir, name, linger)| Event::Unlink { dir, name, linger }),
        2 => (n(), yes()).prop_map(|(dir, linkable)| Event::CreateUnnamed { dir, linkable }),
        5 => (n(), n(), n(), n(), n()).prop_map(|(from, to, start, length, at)| {
            Event::Clone { from, to, start, length, at }
        }),
        5 => (n(), n(), yes(), 0u8..16, 0u8..16).prop_map(
            |(inode, owner, write, start, length)| {
                Event::Lock { inode, owner, write, start, length }
            }
        ),
        2 => (n(), n(), 0u8..16, 0u8..16).prop_map(|(inode, owner, start, length)| {
            Event::Unlock { inode, owner, start, length }
        }),
        2 => (1u16..12_000).prop_map(|ms| Event::Wait { ms }),
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
