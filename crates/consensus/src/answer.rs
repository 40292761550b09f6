//! openraft's errors as what a caller must do.

use crate::types::Types;
use everhold_proto::{Error, Kind};
use openraft::error::{
    ChangeMembershipError, ClientWriteError, Fatal, ForwardToLeader, InitializeError,
    LinearizableReadError, RaftError,
};

fn not_leader(to: ForwardToLeader<Types>) -> Error {
    Error::not_leader(to.leader_node.map(|node| node.address))
}

/// The replica has stopped; whether a proposal that was under way is applied is not known.
pub(crate) fn stopped(e: &Fatal<Types>, kind: Kind) -> Error {
    Error::new(kind, format!("the metadata replica has stopped: {e}"))
}

pub(crate) fn write_error(e: RaftError<Types, ClientWriteError<Types>>) -> Error {
    match e {
        RaftError::Fatal(e) => stopped(&e, Kind::MaybeApplied),
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => not_leader(to),
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(to)) => Error {
            kind: Kind::MaybeApplied,
            message: "leadership was lost before the outcome was known".into(),
            leader: to.leader_node.map(|node| node.address),
            retry_after_ms: None,
        },
        RaftError::APIError(ClientWriteError::ChangeMembershipError(e)) => {
            Error::new(membership_kind(&e), e.to_string())
        }
        RaftError::APIError(ClientWriteError::PreconditionFailed(e)) => {
            Error::new(Kind::Conflict, e.to_string())
        }
    }
}

fn membership_kind<L: openraft::vote::RaftCommittedLeaderId>(
    e: &ChangeMembershipError<L, u64>,
) -> Kind {
    match e {
        ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_) => {
            Kind::Retry
        }
        ChangeMembershipError::LearnerNotFound(_) => Kind::NotFound,
        ChangeMembershipError::EmptyMembership(_) => Kind::Invalid,
        ChangeMembershipError::UnsupportedMembershipTransition(_)
        | ChangeMembershipError::NodeMetadataChanged(_) => Kind::Conflict,
    }
}

pub(crate) fn read_error(e: RaftError<Types, LinearizableReadError<Types>>) -> Error {
    match e {
        RaftError::Fatal(e) => stopped(&e, Kind::Retry),
        RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => not_leader(to),
        RaftError::APIError(LinearizableReadError::QuorumNotEnough(e)) => {
            Error::new(Kind::Retry, e.to_string())
        }
    }
}

pub(crate) fn initialize_error(e: RaftError<Types, InitializeError<Types>>) -> Error {
    match e {
        RaftError::Fatal(e) => stopped(&e, Kind::Retry),
        RaftError::APIError(e) => Error::new(Kind::Conflict, e.to_string()),
    }
}
