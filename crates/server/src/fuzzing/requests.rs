//! The bodies of requests, as the router decodes them.

use crate::http::Encoding;
use everhold_proto::codec;
use everhold_proto::fuzzing::{Form, decode_one_of, samples};
use everhold_proto::rpc::*;

/// Decoded as the router does it, and the same again when it was encoded.
fn check<R: Rpc>(encoding: Encoding, body: &[u8]) {
    if let Ok(request) = encoding.decode::<R>(body) {
        let again: R = encoding
            .decode(&encoding.encode(&request).expect("a request has both forms"))
            .expect("an encoded request decodes");
        assert_eq!(codec::encode(&again), codec::encode(&request));
    }
}

const fn postcard<R: Rpc>() -> Form {
    Form { check: |body| check::<R>(Encoding::Postcard, body), ..Form::message::<R>() }
}

const fn json<R: Rpc>() -> Form {
    Form { check: |body| check::<R>(Encoding::Json, body), ..Form::json::<R>() }
}

macro_rules! requests {
    ($($request:ty),* $(,)?) => { &[$(postcard::<$request>(), json::<$request>()),*] };
}

/// Every request that the router answers.
const REQUESTS: &[Form] = requests![
    OpenSession,
    RenewSession,
    EndSession,
    Announce,
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
    Compared,
    ReportRepaired,
    ReportBad,
    ReportLost,
    CountBlocks,
    MayDelete,
    ReportUnreachable,
    ChangeMap,
    GetStatus,
    GetEvents,
    Hello,
    PrepareLearner,
    RetireLearner,
    GetNodeStatus,
    StartScrub,
    Rebalance,
    AddDisk,
    RemoveDisk,
];

/// A request in postcard or JSON; the first byte says which.
pub fn decode_request(bytes: &[u8]) {
    decode_one_of(REQUESTS, bytes);
}

/// `each` valid requests of every kind.
pub fn samples_of_requests(each: u64) -> Vec<Vec<u8>> {
    samples(REQUESTS, each)
}
