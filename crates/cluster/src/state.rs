//! Typed access to the rows of the replicated state, and the event log.

use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, put_row, scan_rows};
use everhold_proto::map::{Disk, Event, Member, Node, Pg, Policy};
use everhold_proto::tables::{self, Key, Table};
use everhold_proto::{DiskId, Epoch, Error, Kind, NodeId, PgId, PolicyId};
use std::fmt;

/// Events kept: enough for the story of a bad day, small enough to list.
pub(crate) const EVENTS_MAX: u64 = 1000;

pub(crate) fn node(kv: &dyn KvRead, id: NodeId) -> KvResult<Option<Node>> {
    get_row(kv, &tables::node(id))
}

pub(crate) fn disk(kv: &dyn KvRead, id: DiskId) -> KvResult<Option<Disk>> {
    get_row(kv, &tables::disk(id))
}

pub(crate) fn pg(kv: &dyn KvRead, id: PgId) -> KvResult<Option<Pg>> {
    get_row(kv, &tables::pg(id))
}

pub(crate) fn policy(kv: &dyn KvRead, id: PolicyId) -> KvResult<Option<Policy>> {
    get_row(kv, &tables::policy(id))
}

/// Every row of a table whose rows are few (nodes, disks, PGs, policies).
pub(crate) fn all<T: serde::de::DeserializeOwned>(
    kv: &dyn KvRead,
    table: Table,
) -> KvResult<Vec<T>> {
    let from = Key::new(table).done();
    scan_rows(kv, &from, &prefix_end(&from), usize::MAX, |_, row| Some(row))
}

pub(crate) fn put_node(ctx: &mut Apply<'_>, node: &Node) -> KvResult<()> {
    put_row(ctx.kv, &tables::node(node.id), node)
}

pub(crate) fn put_disk(ctx: &mut Apply<'_>, disk: &Disk) -> KvResult<()> {
    put_row(ctx.kv, &tables::disk(disk.id), disk)
}

pub(crate) fn put_pg(ctx: &mut Apply<'_>, pg: &Pg) -> KvResult<()> {
    put_row(ctx.kv, &tables::pg(pg.id), pg)
}

/// Which members are full, by their places.
pub(crate) fn full_members(pg: &Pg) -> Vec<bool> {
    pg.members.iter().map(Member::is_full).collect()
}

/// Writes a PG whose records changed. The map has a new version only when a member became full or
/// ceased to be: then there is something to plan or to do.
pub(crate) fn put_pg_since(ctx: &mut Apply<'_>, pg: &Pg, full_before: &[bool]) -> KvResult<()> {
    if full_members(pg) != full_before {
        raise_epoch(ctx);
    }
    put_pg(ctx, pg)
}

/// The map changed: its next version begins.
pub(crate) fn raise_epoch(ctx: &mut Apply<'_>) {
    ctx.header.epoch = Epoch(ctx.header.epoch.0 + 1);
}

/// Appends to the event log and drops the oldest beyond [`EVENTS_MAX`].
pub(crate) fn event(
    ctx: &mut Apply<'_>,
    subject: impl fmt::Display,
    text: impl Into<String>,
) -> KvResult<()> {
    let sequence = ctx.header.next_event;
    let event = Event {
        index: ctx.index,
        wall: ctx.stamp.wall,
        subject: subject.to_string(),
        text: text.into(),
    };
    put_row(ctx.kv, &tables::event(sequence), &event)?;
    ctx.header.next_event = sequence + 1;
    match sequence.checked_sub(EVENTS_MAX) {
        Some(old) => ctx.kv.delete(&tables::event(old)),
        None => Ok(()),
    }
}

pub(crate) fn refused(kind: Kind, message: impl Into<String>) -> Answer {
    Answer::Refused(Error::new(kind, message))
}

pub(crate) fn conflict(message: impl Into<String>) -> Answer {
    refused(Kind::Conflict, message)
}

pub(crate) fn invalid(message: impl Into<String>) -> Answer {
    refused(Kind::Invalid, message)
}

pub(crate) fn unknown(what: impl fmt::Display) -> Answer {
    refused(Kind::NotFound, format!("{what} is not in the cluster map"))
}
