//! What a frame's payload is made of: log entries, and the few other facts Raft must not forget. All of
//! them share one log, so they become durable in the order in which Raft decided them.

use crate::types::{Command, Entry, LeaderId, LogId, Membership, Vote, membership_is_sound};
use bytes::Bytes;
use everhold_proto::codec;
use openraft::EntryPayload;
use serde::{Deserialize, Serialize};

/// Bytes of an entry's record besides its payload: kind, length, index, term, node, payload kind.
pub(crate) const ENTRY_OVERHEAD: usize = 1 + 4 + 24 + 1;
/// Entries with a greater index are refused, so that index arithmetic cannot overflow.
pub(crate) const INDEX_MAX: u64 = u64::MAX / 4;

/// First record of each segment: all that the segments before it said, besides their entries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// The last saved vote.
    pub vote: Option<Vote>,
    /// The last saved commit point.
    pub committed: Option<LogId>,
    /// Entries up to it are gone.
    pub purged: Option<LogId>,
    /// The last entry before this segment.
    pub last: Option<LogId>,
}

/// One fact of the log.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// State at the start of a segment.
    Base(Base),
    /// A vote was saved.
    Vote(Vote),
    /// Entries up to it are committed. Only a hint: what is not known is learned from the leader.
    Committed(Option<LogId>),
    /// Entries up to it are gone; the log may begin anew after it.
    Purge(LogId),
    /// Entries behind it are void (all of them when `None`).
    Truncate(Option<LogId>),
    /// An entry follows the one before.
    Entry(Entry),
}

const BASE: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const PURGE: u8 = 4;
const TRUNCATE: u8 = 5;
const ENTRY: u8 = 6;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// Why a payload does not decode although its checksum holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bad log record: {0}")]
pub(crate) struct BadRecord(&'static str);

/// Appends the record of `entry` to `out`.
pub(crate) fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    let start = begin(ENTRY, out);
    out.extend_from_slice(&entry.log_id.index.to_le_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.term.to_le_bytes());
    out.extend_from_slice(&entry.log_id.leader_id.node_id.to_le_bytes());
    match &entry.payload {
        EntryPayload::Blank => out.push(BLANK),
        EntryPayload::Normal(command) => {
            out.push(NORMAL);
            out.extend_from_slice(&command.0);
        }
        EntryPayload::Membership(membership) => {
            out.push(MEMBERSHIP);
            out.extend_from_slice(&codec::encode(membership));
        }
    }
    end(start, out);
}

/// Bytes that [`encode_entry`] appends.
pub(crate) fn encoded_bytes(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(command) => command.0.len(),
            EntryPayload::Membership(membership) => codec::encode(membership).len(),
        }
}

/// Appends `record` to `out`.
pub(crate) fn encode(record: &Record, out: &mut Vec<u8>) {
    let (kind, body) = match record {
        Record::Base(base) => (BASE, codec::encode(base)),
        Record::Vote(vote) => (VOTE, codec::encode(vote)),
        Record::Committed(committed) => (COMMITTED, codec::encode(committed)),
        Record::Purge(upto) => (PURGE, codec::encode(upto)),
        Record::Truncate(after) => (TRUNCATE, codec::encode(after)),
        Record::Entry(entry) => return encode_entry(entry, out),
    };
    let start = begin(kind, out);
    out.extend_from_slice(&body);
    end(start, out);
}

fn begin(kind: u8, out: &mut Vec<u8>) -> usize {
    out.push(kind);
    out.extend_from_slice(&[0; 4]);
    out.len()
}

fn end(start: usize, out: &mut [u8]) {
    let len = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&len.to_le_bytes());
}

/// The records of a payload. Commands share its memory.
pub(crate) fn decode_all(payload: &Bytes) -> Result<Vec<Record>, BadRecord> {
    let mut records = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let head = payload.get(at..at + 5).ok_or(BadRecord("cut short"))?;
        let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (start, kind) = (at + 5, head[0]);
        at = start
            .checked_add(len)
            .filter(|end| *end <= payload.len())
            .ok_or(BadRecord("length"))?;
        records.push(decode(kind, payload.slice(start..at))?);
    }
    Ok(records)
}

fn decode(kind: u8, body: Bytes) -> Result<Record, BadRecord> {
    fn value<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, BadRecord> {
        codec::decode(body).map_err(|_| BadRecord("body"))
    }
    let record = match kind {
        BASE => Record::Base(value(&body)?),
        VOTE => Record::Vote(value(&body)?),
        COMMITTED => Record::Committed(value(&body)?),
        PURGE => Record::Purge(value(&body)?),
        TRUNCATE => Record::Truncate(value(&body)?),
        ENTRY => Record::Entry(decode_entry(body)?),
        _ => return Err(BadRecord("kind")),
    };
    match indexes(&record).into_iter().flatten().all(|id| id.index <= INDEX_MAX) {
        true => Ok(record),
        false => Err(BadRecord("index")),
    }
}

/// The log ids that a record names besides an entry's own.
fn indexes(record: &Record) -> [Option<LogId>; 3] {
    match record {
        Record::Base(base) => [base.committed, base.purged, base.last],
        Record::Committed(id) | Record::Truncate(id) => [*id, None, None],
        Record::Purge(id) => [Some(*id), None, None],
        Record::Vote(_) | Record::Entry(_) => [None; 3],
    }
}

fn decode_entry(body: Bytes) -> Result<Entry, BadRecord> {
    let head: &[u8; 25] =
        body.get(..25).and_then(|h| h.try_into().ok()).ok_or(BadRecord("entry cut short"))?;
    let u64_at =
        |at: usize| head[at..at + 8].iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let (index, term, node_id) = (u64_at(0), u64_at(8), u64_at(16));
    if index > INDEX_MAX {
        return Err(BadRecord("index"));
    }
    let payload = match head[24] {
        BLANK if body.len() == 25 => EntryPayload::Blank,
        NORMAL => EntryPayload::Normal(Command(body.slice(25..))),
        MEMBERSHIP => {
            let membership: Membership =
                codec::decode(&body[25..]).map_err(|_| BadRecord("membership"))?;
            if !membership_is_sound(&membership) {
                return Err(BadRecord("membership"));
            }
            EntryPayload::Membership(membership)
        }
        _ => return Err(BadRecord("payload kind")),
    };
    Ok(Entry { log_id: LogId { leader_id: LeaderId { term, node_id }, index }, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RaftNode;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn log_id(term: u64, index: u64) -> LogId {
        LogId { leader_id: LeaderId { term, node_id: 3 }, index }
    }

    #[test]
    fn every_record_round_trips() {
        let membership =
            Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, RaftNode::default())]))
                .unwrap();
        let vote = Vote { leader_id: LeaderId { term: 2, node_id: 3 }, committed: true };
        let records = vec![
            Record::Base(Base { vote: Some(vote), last: Some(log_id(1, 4)), ..Default::default() }),
            Record::Vote(vote),
            Record::Committed(Some(log_id(1, 2))),
            Record::Purge(log_id(1, 1)),
            Record::Truncate(None),
            Record::Entry(Entry { log_id: log_id(2, 5), payload: EntryPayload::Blank }),
            Record::Entry(Entry {
                log_id: log_id(2, 6),
                payload: EntryPayload::Normal(Command(Bytes::from_static(b"command"))),
            }),
            Record::Entry(Entry {
                log_id: log_id(2, 7),
                payload: EntryPayload::Membership(membership),
            }),
        ];
        let mut out = Vec::new();
        for record in &records {
            let before = out.len();
            encode(record, &mut out);
            if let Record::Entry(entry) = record {
                assert_eq!(encoded_bytes(entry), out.len() - before);
            }
        }
        assert_eq!(decode_all(&Bytes::from(out)).unwrap(), records);
    }

    proptest! {
        #[test]
        fn hostile_bytes_are_an_error_or_records(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0u8..8) {
            let _ = decode_all(&Bytes::from(bytes.clone()));
            let mut framed = vec![kind];
            framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            framed.extend_from_slice(&bytes);
            let _ = decode_all(&Bytes::from(framed));
        }
    }
}
