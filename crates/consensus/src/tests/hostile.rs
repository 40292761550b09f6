//! Bytes that no correct member sends.

use super::*;
use crate::network::{SnapshotMessage, SnapshotReply, addressed};
use crate::types::{
    Command, Entry, LeaderId, LogId, Membership, SnapshotMeta, StoredMembership, Types, Vote,
};
use everhold_proto::codec;
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, VoteRequest};

const ALL: [RaftRpc; 5] =
    [RaftRpc::Append, RaftRpc::Vote, RaftRpc::PreVote, RaftRpc::Snapshot, RaftRpc::Transfer];

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 2 }, index }
}

fn append(entries: Vec<Entry>, prev_log_id: Option<LogId>) -> Bytes {
    let request = AppendEntriesRequest::<Types> {
        vote: Vote::new_committed(1, 2),
        prev_log_id,
        entries,
        leader_commit: None,
    };
    addressed(1, &request)
}

#[test]
fn garbage_is_an_error_and_harms_nothing() {
    run(async {
        let group = Group::of(1, small(), 600).await;
        let replica = group.replica(1);
        let entropy = Entropy::seeded(1);
        for round in 0..400 {
            let mut body = vec![0; entropy.below(120) as usize];
            entropy.fill(&mut body);
            // Bytes with the high bit run on in this encoding, so no short garbage decodes by chance.
            body.iter_mut().for_each(|b| *b |= 0x80);
            let what = ALL[round % ALL.len()];
            let refused = replica.handle_rpc(what, body.into()).await.unwrap_err();
            assert_eq!(refused.kind, Kind::Invalid);
        }
        group.propose("still here").await;
    });
}

#[test]
fn entries_that_do_not_make_a_log_are_refused() {
    run(async {
        let mut group = Group::new(small(), 601);
        let replica = group.create(1).await;
        let blank = |index| Entry { log_id: log_id(1, index), payload: EntryPayload::Blank };
        let huge = EntryPayload::Normal(Command(Bytes::from(vec![0; 1 << 20])));
        let empty: Membership =
            codec::decode(&codec::encode(&(Vec::<u8>::new(), Vec::<u8>::new()))).unwrap();
        let bodies = [
            append(vec![blank(0), blank(2)], None),
            append(vec![blank(7)], Some(log_id(1, 3))),
            append(vec![blank(u64::MAX)], Some(log_id(1, u64::MAX - 1))),
            append(vec![], Some(log_id(1, u64::MAX))),
            append(vec![Entry { log_id: log_id(1, 0), payload: huge }], None),
            append(
                vec![Entry { log_id: log_id(1, 0), payload: EntryPayload::Membership(empty) }],
                None,
            ),
        ];
        for (number, body) in bodies.into_iter().enumerate() {
            let refused = replica.handle_rpc(RaftRpc::Append, body).await;
            assert_eq!(refused.unwrap_err().kind, Kind::Invalid, "request {number}");
        }
        let vote = VoteRequest::<Types> {
            vote: Vote::new(1, 2),
            last_log_id: Some(log_id(1, u64::MAX)),
            leadership_transfer: false,
        };
        let refused = replica.handle_rpc(RaftRpc::Vote, addressed(1, &vote)).await;
        assert_eq!(refused.unwrap_err().kind, Kind::Invalid);
        replica.initialize(raft_node(1)).await.unwrap();
        group.propose("still here").await;
    });
}

/// A member that lost its disk is followed by a new one at its address, which must not vote or acknowledge
/// in its name: it remembers nothing of what the old one promised.
#[test]
fn a_message_for_another_member_at_this_address_is_refused() {
    run(async {
        let mut group = Group::new(small(), 603);
        let replica = group.create(1).await;
        let vote = VoteRequest::<Types> {
            vote: Vote::new(7, 2),
            last_log_id: Some(log_id(6, 9)),
            leadership_transfer: false,
        };
        for (what, body) in [
            (RaftRpc::Vote, addressed(3, &vote)),
            (RaftRpc::PreVote, addressed(3, &vote)),
            (RaftRpc::Snapshot, addressed(3, &begin(Vote::new_committed(1, 2), None))),
        ] {
            let refused = replica.handle_rpc(what, body).await.unwrap_err();
            assert_eq!(refused.kind, Kind::NotFound, "{what:?}");
        }
        assert_eq!(replica.status().term, 0, "the vote of another member was not taken for ours");
    });
}

/// Who is no member neither leads nor is voted for, and nobody moves a group to a term that has no successors.
#[test]
fn strangers_and_impossible_terms_are_refused() {
    run(async {
        let group = Group::of(1, small(), 604).await;
        let replica = group.replica(1);
        let term = replica.status().term;
        let vote = |term, of| VoteRequest::<Types> {
            vote: Vote::new(term, of),
            last_log_id: Some(log_id(term, 1 << 20)),
            leadership_transfer: true,
        };
        let append = |term, of| AppendEntriesRequest::<Types> {
            vote: Vote::new_committed(term, of),
            prev_log_id: None,
            entries: Vec::new(),
            leader_commit: None,
        };
        for (from, term, kind) in [(9, term + 1, Kind::Conflict), (1, u64::MAX, Kind::Invalid)] {
            for (what, body) in [
                (RaftRpc::Vote, addressed(1, &vote(term, from))),
                (RaftRpc::PreVote, addressed(1, &vote(term, from))),
                (RaftRpc::Append, addressed(1, &append(term, from))),
                (RaftRpc::Snapshot, {
                    let begins = begin(Vote::new_committed(term, from), Some(log_id(1, 9)));
                    addressed(1, &begins)
                }),
            ] {
                let refused = replica.handle_rpc(what, body).await.unwrap_err();
                assert_eq!(refused.kind, kind, "{what:?} of {from} in term {term}");
            }
        }
        assert_eq!(replica.status().term, term);
        group.propose("still here").await;
    });
}

async fn send(replica: &Consensus, message: SnapshotMessage) -> SnapshotReply {
    let body = addressed(1, &message);
    codec::decode(&replica.handle_rpc(RaftRpc::Snapshot, body).await.unwrap()).unwrap()
}

fn begin(vote: Vote, last_log_id: Option<LogId>) -> SnapshotMessage {
    let members = BTreeMap::from([(2, raft_node(2))]);
    let membership = Membership::new(vec![BTreeSet::from([2])], members).unwrap();
    let meta = SnapshotMeta {
        last_log_id,
        last_membership: StoredMembership::new(Some(log_id(1, 0)), membership),
    };
    SnapshotMessage::Begin { transfer: 1, vote, meta }
}

#[test]
fn a_snapshot_that_is_not_whole_is_never_installed() {
    run(async {
        let mut group = Group::new(small(), 602);
        let replica = group.create(1).await;
        let rows = |number, crc, rows: &'static [u8]| SnapshotMessage::Rows {
            transfer: 1,
            number,
            crc,
            rows: Bytes::from_static(rows),
        };
        let row: &[u8] = b"\x01\0\0\0a\x01\0\0\0x";
        let crc = everhold_proto::checksum::crc32c(row);
        let good = || begin(Vote::new_committed(1, 2), Some(log_id(1, 9)));
        let refused =
            |reply: SnapshotReply| assert!(matches!(reply, SnapshotReply::Restart(_)), "{reply:?}");
        refused(send(&replica, rows(0, crc, row)).await);
        refused(send(&replica, begin(Vote::new_committed(1, 2), None)).await);
        refused(send(&replica, begin(Vote::new_committed(1, 2), Some(log_id(2, 9)))).await);
        refused(send(&replica, begin(Vote::new(1, 2), Some(log_id(1, 9)))).await);
        for bad in [
            rows(1, crc, row),
            rows(0, crc ^ 1, row),
            rows(0, everhold_proto::checksum::crc32c(&row[..7]), &row[..7]),
            SnapshotMessage::End { transfer: 1, rows: 1, digest: crc },
            SnapshotMessage::End { transfer: 2, rows: 0, digest: 0 },
        ] {
            assert!(matches!(send(&replica, good()).await, SnapshotReply::Continue));
            refused(send(&replica, bad).await);
        }
        assert!(matches!(send(&replica, good()).await, SnapshotReply::Continue));
        assert!(matches!(send(&replica, rows(0, crc, row)).await, SnapshotReply::Continue));
        assert!(
            matches!(send(&replica, rows(0, crc, row)).await, SnapshotReply::Continue),
            "a repetition"
        );
        refused(send(&replica, rows(1, crc, row)).await); // keys must ascend
        assert_eq!(contents(&replica).len(), 0);
        assert!(matches!(send(&replica, good()).await, SnapshotReply::Continue));
        assert!(matches!(send(&replica, rows(0, crc, row)).await, SnapshotReply::Continue));
        let mut reply = SnapshotReply::Installing;
        while matches!(reply, SnapshotReply::Installing) {
            reply =
                send(&replica, SnapshotMessage::End { transfer: 1, rows: 1, digest: crc }).await;
        }
        assert!(matches!(reply, SnapshotReply::Done(_)), "{reply:?}");
        wait_until(&replica, |s| s.applied == LogIndex(9)).await;
        assert_eq!(contents(&replica).len(), 1);
    });
}
