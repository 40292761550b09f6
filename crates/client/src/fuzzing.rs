//! What `fuzz/` and the tests drive: everything that a node may answer.

use crate::wire::{remote_error, verified};
use bytes::Bytes;
use everhold_proto::checksum::crc32c;
use everhold_proto::fuzzing::{Form, decode_one_of, samples};
use everhold_proto::rpc::*;
use everhold_proto::table::Ack;
use everhold_proto::{BlockId, Error};
use http::{HeaderMap, HeaderValue};

macro_rules! replies {
    ($($request:ty),* $(,)?) => { [$(Form::message::<<$request as Rpc>::Reply>()),*] };
}

const REPLIES: &[Form] = &replies![
    OpenSession,
    Execute,
    Query,
    ReadChanges,
    Follow,
    GetMap,
    RegisterNode,
    RegisterDisk,
    Heartbeat,
    GetWork,
    TablePage,
    ListMissing,
    CountBlocks,
    MayDelete,
    ReportBad,
    GetStatus,
    GetEvents,
    Hello,
    GetNodeStatus,
];

/// First bytes from here on choose one of `OTHERS`.
const OTHERS_FROM: u8 = 0x80;

const OTHERS: &[Form] = &[
    Form::message::<Ack>(),
    Form { check: check_error, sample: sample_error },
    Form { check: check_block, sample: sample_block },
];

/// An answer; the first byte says to what.
pub fn decode_reply(bytes: &[u8]) {
    match bytes.split_first() {
        Some((choice, body)) if *choice >= OTHERS_FROM => {
            (OTHERS[usize::from(choice - OTHERS_FROM) % OTHERS.len()].check)(body);
        }
        _ => decode_one_of(REPLIES, bytes),
    }
}

/// `each` valid answers of every kind.
pub fn samples_of_replies(each: u64) -> Vec<Vec<u8>> {
    let mut others = samples(OTHERS, each);
    others.iter_mut().for_each(|sample| sample[0] += OTHERS_FROM);
    [samples(REPLIES, each), others].concat()
}

/// An error of any status is an error that says who gave it, or the peer's own.
fn check_error(bytes: &[u8]) {
    let Some((status, body)) = bytes.split_first_chunk::<2>() else { return };
    let status = u16::from_le_bytes(*status);
    let error = remote_error("peer:1", status, body);
    assert!(
        everhold_proto::codec::decode::<Error>(body).is_ok() || error.message.contains("peer:1")
    );
}

fn sample_error(seed: u64) -> Option<Vec<u8>> {
    let body = (Form::message::<Error>().sample)(seed)?;
    Some([&503u16.to_le_bytes()[..], &body].concat())
}

/// The answer to a read of a block: a line with its checksum, then the bytes. What comes out has the
/// checksum and the length that it must have.
fn check_block(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b'\n');
    let (line, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(line) {
        headers.insert(block::CRC, value);
    }
    for range in [None, Some(5..9)] {
        let body = Bytes::copy_from_slice(body);
        if let Ok((data, crc)) = verified("peer:1", BlockId::MIN, range.clone(), &headers, body) {
            assert!(crc == crc32c(&data) && range.is_none_or(|range| range.len() == data.len()));
        }
    }
}

fn sample_block(seed: u64) -> Option<Vec<u8>> {
    let data = vec![seed as u8; 4 + seed as usize % 2];
    Some([format!("{:08x}\n", crc32c(&data)).into_bytes(), data].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::fuzzing::exercise;

    #[test]
    fn foreign_answers_are_values_or_errors() {
        exercise(decode_reply, &samples_of_replies(8), 4000);
    }
}
