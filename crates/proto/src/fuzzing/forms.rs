//! The rows, commands and answers of this crate, and the texts that stand for ids and sizes.

use super::{Form, decode_one_of, samples};
use crate::command::{Answer, Command, Stamped};
use crate::fs::{ChangeRecord, FsAnswer, FsError, FsReply, Name};
use crate::map::{ClusterMap, Disk, Event, Node, Pg, Policy};
use crate::table::{Ack, BlockRow, Missing, SessionRow};
use crate::tables::{self, Header};
use crate::*;
use std::fmt::{Debug, Display};
use std::str::FromStr;

pub(super) const ROWS: &[Form] = &[
    Form::row::<Header>(),
    Form::row::<Node>(),
    Form::row::<Disk>(),
    Form::row::<Pg>(),
    Form::row::<Policy>(),
    Form::row::<BlockRow>(),
    Form::row::<Missing>(),
    Form::row::<LogIndex>(),
    Form::row::<Event>(),
    Form::row::<SessionRow>(),
    Form::row::<Result<FsReply, FsError>>(),
    Form::row::<ChangeRecord>(),
    Form::row::<()>(),
    Form::row::<u32>(),
];

pub(super) const ANSWERS: &[Form] = &[
    Form::message::<Stamped>(),
    Form::message::<Command>(),
    Form::message::<Answer>(),
    Form::message::<ClusterMap>(),
    Form::message::<Name>(),
    Form::message::<Error>(),
    Form::message::<Ack>(),
    Form::message::<Result<FsAnswer, FsError>>(),
];

/// A row of the replicated state, and the block id in a key.
pub fn decode_row(bytes: &[u8]) {
    decode_one_of(ROWS, bytes);
    if let Some(id) = tables::block_id_of(bytes) {
        assert!(bytes.ends_with(&id.to_bytes()));
    }
}

/// `each` valid rows of every kind.
pub fn samples_of_rows(each: u64) -> Vec<Vec<u8>> {
    samples(ROWS, each)
}

/// A command, what it is answered, or another message that is neither row nor request.
pub fn decode_answer(bytes: &[u8]) {
    decode_one_of(ANSWERS, bytes);
}

/// `each` valid messages of every kind.
pub fn samples_of_answers(each: u64) -> Vec<Vec<u8>> {
    samples(ANSWERS, each)
}

/// A text that may be an id or a size.
pub fn decode_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    round_trip::<NodeId>(&text);
    round_trip::<DiskId>(&text);
    round_trip::<DiskSession>(&text);
    round_trip::<PgId>(&text);
    round_trip::<PolicyId>(&text);
    round_trip::<ClusterId>(&text);
    round_trip::<BlockId>(&text);
    // Its text is rounded to one decimal, so it is not the same again; but it is a size.
    if let Ok(size) = text.parse::<ByteSize>() {
        assert!(size.0 > 1 << 60 || size.to_string().parse::<ByteSize>().is_ok());
    }
}

fn round_trip<T: FromStr + Display + PartialEq + Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().ok(), Some(value));
    }
}
