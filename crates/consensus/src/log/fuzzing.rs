//! Frames, records and the identity from foreign bytes, and recovery from a forged log.

use super::frame::{self, HEADER_BYTES, Header};
use super::identity::{IdentityFile, Mark};
use super::model::{DIR, Event, Trial, append, entry, env, existing, identity, log_id, open, run};
use super::record::{self, Base, Record};
use super::segment;
use crate::types::{Command, Entry, LeaderId, LogId, Membership, RaftNode, Vote};
use bytes::Bytes;
use everhold_env::disk::SimDisk;
use everhold_env::{Env, OpenMode};
use everhold_proto::checksum::crc32c;
use everhold_proto::fuzzing::found;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const SEGMENT: u64 = 7;
/// Bounds the time that one run takes.
const EVENTS_MAX: usize = 80;
const FRAMES_MAX: usize = 12;

/// A structure of the log; the first byte says which.
pub fn decode_record(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => decode_frame(rest, choice & 0x80 != 0),
        1 => decode_identity(rest),
        _ => decode_records(rest),
    }
}

/// With `is_sealed` the checksum of the header is put right first.
fn decode_frame(bytes: &[u8], is_sealed: bool) {
    let mut bytes = bytes.to_vec();
    if is_sealed && bytes.len() >= HEADER_BYTES {
        let crc = crc32c(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    }
    let Some(header) = Header::decode(&bytes, SEGMENT) else { return };
    assert!(header.frame_bytes() <= frame::frame_bytes(frame::PAYLOAD_BYTES_MAX));
    let end = HEADER_BYTES + header.payload_bytes as usize;
    let Some(payload) = bytes.get(HEADER_BYTES..end) else { return };
    if frame::payload_matches(&header, payload) {
        let again = frame::encode(SEGMENT, header.sequence, header.previous_end, payload, None);
        assert_eq!(Header::decode(&again, SEGMENT), Some(header));
        decode_records(payload);
    }
}

fn decode_identity(bytes: &[u8]) {
    for bytes in [bytes.to_vec(), [bytes, &crc32c(bytes).to_le_bytes()].concat()] {
        if let Some(file) = IdentityFile::decode(&bytes) {
            assert_eq!(IdentityFile::decode(&file.encode()), Some(file));
        }
    }
}

fn decode_records(payload: &[u8]) {
    let Ok(records) = record::decode_all(&Bytes::copy_from_slice(payload)) else { return };
    let encoded = encoded(&records);
    assert!(encoded.len() <= payload.len(), "decoding makes nothing up");
    assert_eq!(record::decode_all(&encoded.into()).ok(), Some(records));
}

fn encoded(records: &[Record]) -> Vec<u8> {
    let mut payload = Vec::new();
    records.iter().for_each(|record| record::encode(record, &mut payload));
    payload
}

/// Opens a log whose segments hold the frames that the input describes, all of them with valid
/// checksums. It is refused, or it is a log: it can be read, appended to and opened again.
pub fn recover(input: &[u8]) {
    run(async {
        let disk = SimDisk::new();
        let env = env(&disk);
        forge(&env, input).await;
        let Ok((mut log, _)) = open(&disk, existing()).await else { return };
        let state = log.get_log_state().await.expect("it is in memory");
        let entries = log.try_get_log_entries(0..u64::MAX).await.expect("they were recovered");
        let first = state.last_purged_log_id.map_or(0, |id| id.index + 1);
        let indexes = entries.iter().map(|entry| entry.log_id.index);
        assert!(indexes.eq(first..state.last_log_id.map_or(0, |id| id.index + 1)));
        let next = state.last_log_id.map_or(0, |id| id.index + 1);
        // As Raft does it: what is appended and purged has a term that is not older than what is there.
        let terms = [state.last_log_id, state.last_purged_log_id].map(|id| id.map_or(0, term_of));
        let Some(term) = terms[0].max(terms[1]).checked_add(1) else { return };
        append(&mut log, vec![entry(term, next, 100)]).await.expect("the disk works");
        log.save_vote(&Vote::new(9, 1)).await.expect("the disk works");
        log.purge(log_id(term, next)).await.expect("the disk works");
        log.close().await.expect("the disk works");
        let (mut again, _) = open(&disk, existing()).await.expect("it was closed");
        assert_eq!(again.read_vote().await.expect("it is in memory"), Some(Vote::new(9, 1)));
    });
}

fn term_of(id: LogId) -> u64 {
    id.leader_id.term
}

/// The input: where it was synced, then frames of `segment, sequence, length u16, payload`. A sequence
/// of 0 stands for the next one, so that the search need not keep count.
async fn forge(env: &Env, mut input: &[u8]) {
    let dir = Path::new(DIR);
    env.disk.create_dir_all(dir).await.expect("the disk works");
    let synced = Mark { segment: u64::from(take(&mut input, 1)[0] % 4), end: 0 };
    let file = IdentityFile { identity: identity(), synced };
    file.write(env, dir).await.expect("the disk works");
    let (mut ends, mut sequence) = (BTreeMap::<u64, u64>::new(), 0u64);
    for _ in 0..FRAMES_MAX {
        if input.is_empty() {
            break;
        }
        let head = take(&mut input, 4);
        let number = 1 + u64::from(head[0] % 3);
        sequence = match head[1] {
            0 => sequence.wrapping_add(1),
            0xff => u64::MAX,
            other => u64::from(other),
        };
        let length = usize::from(u16::from_le_bytes([head[2], head[3]]) % 2048);
        let length = length.min(input.len());
        let payload = take(&mut input, length);
        let previous_end = ends.get(&(number - 1)).copied().unwrap_or_default();
        let end = ends.entry(number).or_default();
        let bytes = frame::encode(number, sequence, previous_end, &payload, None);
        let (at, len) = (*end, bytes.len() as u64);
        let mode = OpenMode { create: true, direct: true };
        let file = env.disk.open(&segment::path(dir, number), mode).await.expect("the disk works");
        if at == 0 {
            file.set_len_zeroed(64 << 10).await.expect("the disk works");
        }
        file.write_at(at, bytes).await.expect("the disk works");
        *end += len;
    }
}

/// The next `count` bytes, zeroes when there are fewer.
fn take(input: &mut &[u8], count: usize) -> Vec<u8> {
    let (taken, rest) = input.split_at(count.min(input.len()));
    *input = rest;
    let mut taken = taken.to_vec();
    taken.resize(count, 0);
    taken
}

/// Events of the log's model, read from bytes.
pub fn run_model(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    run(async {
        let mut trial = Trial::new().await;
        for event in std::iter::from_fn(|| event(&mut bytes)).take(EVENTS_MAX) {
            trial.step(event).await;
        }
    });
}

fn event(bytes: &mut impl Iterator<Item = u8>) -> Option<Event> {
    let kind = bytes.next()?;
    let mut next = || u64::from(bytes.next().unwrap_or_default());
    Some(match kind % 9 {
        0 | 1 => {
            let sizes = (0..=next() % 5).map(|_| 1 + next() as usize * 35).collect();
            Event::Append { sizes, wait: kind % 9 == 0 }
        }
        2 => Event::Vote,
        3 => Event::Truncate(1 + next() % 5),
        4 => Event::Purge(1 + next() % 29),
        5 => Event::Skip(1 + next() % 8),
        6 => Event::Restart,
        7 => Event::PowerAt(1 + next() % 11),
        _ => Event::Crash(next()),
    })
}

/// Sequences of events that reach every kind.
pub fn samples_of_models() -> Vec<Vec<u8>> {
    vec![
        vec![0, 0, 9, 2, 6, 0, 1, 200, 250, 8, 3],
        vec![0, 4, 250, 250, 250, 250, 250, 0, 3, 200, 200, 200, 200, 4, 3, 6, 8, 1],
        vec![1, 3, 9, 9, 9, 9, 3, 2, 1, 0, 40, 8, 5, 0, 0, 9, 6],
        vec![7, 3, 0, 2, 90, 90, 90, 2, 5, 4, 0, 0, 9, 8, 4, 2, 6],
        (0..30).flat_map(|i: u8| [0, 1, 255, 255, 4 + i % 4, 1]).collect(),
    ]
}

fn sample_records() -> Vec<Record> {
    let vote = Vote { leader_id: LeaderId { term: 2, node_id: 1 }, committed: true };
    let membership =
        Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, RaftNode::default())]));
    let payloads = [
        EntryPayload::Blank,
        EntryPayload::Normal(Command(Bytes::from_static(b"command"))),
        EntryPayload::Membership(membership.expect("one member is a group")),
    ];
    let entry = |(index, payload)| Record::Entry(Entry { log_id: log_id(2, index), payload });
    let mut records = vec![
        Record::Vote(vote),
        Record::Committed(Some(log_id(1, 0))),
        Record::Committed(None),
        Record::Truncate(None),
    ];
    records.extend((0..).zip(payloads).map(entry));
    records
}

/// Payloads that follow each other in a log.
fn sample_payloads() -> Vec<Vec<u8>> {
    let entries: Vec<Record> =
        (3..9).map(|index| Record::Entry(self::entry(2, index, 40))).collect();
    let base = Base { last: Some(log_id(2, 8)), purged: Some(log_id(2, 4)), ..Default::default() };
    vec![
        encoded(&[Record::Base(Base::default())]),
        encoded(&sample_records()),
        encoded(&entries),
        encoded(&[Record::Purge(log_id(2, 4))]),
        encoded(&[Record::Truncate(Some(log_id(2, 7)))]),
        encoded(&[Record::Base(base)]),
        // What no log holds, although every checksum does.
        encoded(&[Record::Purge(log_id(2, u64::MAX))]),
        encoded(&[Record::Committed(Some(log_id(2, u64::MAX)))]),
        encoded(&[Record::Truncate(Some(log_id(9, 1)))]),
        encoded(&[Record::Purge(log_id(9, 1))]),
        encoded(&[Record::Base(Base { purged: Some(log_id(1, 5)), ..Default::default() })]),
        [encoded(&entries), encoded(&[Record::Base(Base::default())])].concat(),
    ]
}

/// Valid structures of each kind.
pub fn samples_of_records() -> Vec<Vec<u8>> {
    let mut samples = Vec::new();
    for payload in sample_payloads() {
        let frame = frame::encode(SEGMENT, 9, 4096, &payload, None);
        let used = HEADER_BYTES + payload.len();
        samples.push([&[0x81], &frame[..used]].concat());
        samples.push([&[2], &payload[..]].concat());
    }
    let file = IdentityFile { identity: identity(), synced: Mark { segment: 2, end: 8192 } };
    samples.push([&[1], &file.encode()[..]].concat());
    samples.extend(found::<IdentityFile>(3).map(|file| [&[1], &file.encode()[..]].concat()));
    samples
}

/// The input for a log of frames, each of (segment, sequence, number of a sample payload).
fn log(synced: u8, frames: &[(u8, u8, usize)]) -> Vec<u8> {
    let payloads = sample_payloads();
    let frame = |(segment, sequence, payload): &(u8, u8, usize)| {
        let payload = &payloads[*payload];
        let length = (payload.len() as u16).to_le_bytes();
        [&[*segment, *sequence][..], &length, payload].concat()
    };
    [vec![synced], frames.iter().flat_map(frame).collect()].concat()
}

/// The second frame is not the second, a later one stands behind it, and the next segment was begun.
pub(crate) fn damage_before_a_half_made_segment() -> Vec<u8> {
    log(1, &[(0, 1, 0), (0, 7, 1), (0, 4, 2), (1, 1, 5)])
}

/// Logs of one and of two segments, whole and out of order.
pub fn samples_of_logs() -> Vec<Vec<u8>> {
    vec![
        log(0, &[(0, 0, 0)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 2)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4)]),
        log(2, &[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (1, 0, 5)]),
        log(0, &[(0, 0, 0), (1, 0, 5), (1, 0, 3)]),
        log(1, &[(0, 1, 0), (0, 3, 1), (0, 2, 2)]),
        log(3, &[(0, 0, 0), (2, 0, 5)]),
        damage_before_a_half_made_segment(),
        log(1, &[(0, 255, 0), (0, 0, 1)]),
        log(1, &[(0, 0, 0), (0, 0, 6)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 7)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 8)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 9), (0, 0, 4)]),
        log(1, &[(0, 0, 10), (0, 0, 1)]),
        log(1, &[(0, 0, 0), (0, 0, 1), (0, 0, 11), (0, 0, 2)]),
    ]
}

/// Whether recovery takes the log for one.
#[cfg(test)]
pub(crate) fn opens(input: &[u8]) -> bool {
    run(async {
        let disk = SimDisk::new();
        forge(&env(&disk), input).await;
        open(&disk, existing()).await.is_ok()
    })
}
