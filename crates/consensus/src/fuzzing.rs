//! What `fuzz/` and the tests drive: the log's structures, its recovery and its model, and everything
//! that members send each other.

use crate::network::{SnapshotMessage, SnapshotReply};
use crate::state::parse_rows;
use crate::types::{Entry, Membership, Types, Vote, membership_is_sound};
use everhold_proto::fuzzing::{Form, decode_one_of, samples};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

pub use crate::log::fuzzing::{
    decode_record, recover, run_model, samples_of_logs, samples_of_models, samples_of_records,
};

const MESSAGES: &[Form] = &[
    Form::message::<AppendEntriesRequest<Types>>(),
    Form::message::<AppendEntriesResponse<Types>>(),
    Form::message::<VoteRequest<Types>>(),
    Form::message::<VoteResponse<Types>>(),
    Form::message::<TransferLeaderRequest<Types>>(),
    Form::message::<TransferLeaderResponse<Types>>(),
    Form::message::<SnapshotMessage>(),
    Form::message::<SnapshotReply>(),
    Form::message::<SnapshotResponse<Types>>(),
    Form::message::<Entry>(),
    Form::row::<Option<Vote>>(),
    Form { check: check_membership, sample: Form::message::<Membership>().sample },
    Form { check: check_rows, sample: sample_rows },
];

/// A message between members, its answer, or the rows of a snapshot.
pub fn decode_message(bytes: &[u8]) {
    decode_one_of(MESSAGES, bytes);
}

/// `each` valid messages of every kind.
pub fn samples_of_messages(each: u64) -> Vec<Vec<u8>> {
    samples(MESSAGES, each)
}

/// Whatever it says: it is told whether it can be used, without a panic.
fn check_membership(bytes: &[u8]) {
    everhold_proto::fuzzing::check_message::<Membership>(bytes);
    if let Ok(membership) = everhold_proto::codec::decode::<Membership>(bytes) {
        let _ = membership_is_sound(&membership);
    }
}

/// Rows take no more bytes than the chunk that they were in.
fn check_rows(chunk: &[u8]) {
    if let Ok(rows) = parse_rows(chunk) {
        let bytes: usize = rows.iter().map(|(key, value)| 8 + key.len() + value.len()).sum();
        assert_eq!(bytes, chunk.len());
    }
}

fn sample_rows(seed: u64) -> Option<Vec<u8>> {
    let part =
        |length: u8| [&u32::from(length).to_le_bytes()[..], &vec![length; length.into()]].concat();
    Some((1..=seed as u8 + 1).flat_map(|n| [part(n), part(3 * n)].concat()).collect())
}
