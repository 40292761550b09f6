//! The replicated state machine: commands decoded, handed to the cluster or the namespace, answers
//! encoded. A pure function of the state, the log index and the bytes.
//!
//! **Invariant:** a command that does not decode is refused, on every replica alike; only a failed
//! store is an error, and ends the process.

use everhold_cluster as cluster;
use everhold_consensus::StateMachine;
use everhold_namespace as namespace;
use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, Command, Stamped, TableCommand};
use everhold_proto::kv::{KvResult, KvTxn};
use everhold_proto::{Error, Kind, LogIndex, codec};

/// The state machine of the first metadata shard.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterState;

impl StateMachine for ClusterState {
    fn apply(&self, txn: &mut dyn KvTxn, index: LogIndex, command: &[u8]) -> KvResult<Vec<u8>> {
        Ok(codec::encode(&apply(txn, index, command)?))
    }
}

fn apply(txn: &mut dyn KvTxn, index: LogIndex, command: &[u8]) -> KvResult<Answer> {
    let Stamped { stamp, command } = match codec::decode(command) {
        Ok(stamped) => stamped,
        Err(e) => return Ok(Answer::Refused(Error::new(Kind::Invalid, e.to_string()))),
    };
    let mut ctx = Apply::begin(txn, index, stamp)?;
    let answer = dispatch(&mut ctx, command)?;
    ctx.finish()?;
    Ok(answer)
}

fn dispatch(ctx: &mut Apply<'_>, command: Command) -> KvResult<Answer> {
    match command {
        Command::Create { cluster: id, policy } => {
            let answer = cluster::create(ctx, id, &policy)?;
            if answer == Answer::Done {
                namespace::create_root(ctx)?;
            }
            Ok(answer)
        }
        Command::OpenSession { client, follows, nonce } => {
            Ok(Answer::Session(namespace::sessions::open(ctx, &client, follows, nonce)?))
        }
        Command::RenewSession { session, acked_below, floor } => {
            let renewed = namespace::sessions::renew(ctx, session, acked_below, floor)?;
            Ok(match renewed {
                Ok(()) => Answer::Done,
                Err(e) => Answer::Refused(Error::new(Kind::NotFound, e.to_string())),
            })
        }
        Command::EndSession { session } => {
            namespace::sessions::end(ctx, session)?;
            Ok(Answer::Done)
        }
        Command::Revoke { inode, session } => {
            namespace::delegations::revoke(ctx, inode, session)?;
            Ok(Answer::Done)
        }
        Command::Fs(batch) => {
            let first = ctx.header.next_change;
            let namespace::Executed { results, has_repeated } = namespace::apply(ctx, &batch)?;
            let next = ctx.header.next_change;
            // The records of an answer that is repeated are somewhere before: none is said to be the batch's.
            let first = if has_repeated { next } else { first };
            Ok(Answer::Fs { results, first, next })
        }
        Command::Map(command) => cluster::map::apply(ctx, &command),
        Command::Table(TableCommand::Sweep { limit }) => sweep(ctx, limit),
        Command::Table(command) => cluster::table::apply(ctx, &command),
    }
}

/// Dead blocks leave the table, and what deleted files left behind is dropped: both within `limit`.
fn sweep(ctx: &mut Apply<'_>, limit: u32) -> KvResult<Answer> {
    let reaped = namespace::reap(ctx, limit)?;
    match cluster::table::apply(ctx, &TableCommand::Sweep { limit })? {
        Answer::Swept(swept) => Ok(Answer::Swept(swept.saturating_add(reaped))),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
