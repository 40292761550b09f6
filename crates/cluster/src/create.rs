//! The cluster's part of its first entry.

use crate::state;
use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvResult, put_row};
use everhold_proto::map::Policy;
use everhold_proto::{ClusterId, Epoch, PolicyId, tables};

/// Applies the cluster's part of `Command::Create`: the header, the default policy, epoch 1. Refused
/// when there is a cluster already, or when the policy is impossible; then nothing was changed.
pub fn create(ctx: &mut Apply<'_>, cluster: ClusterId, policy: &Policy) -> KvResult<Answer> {
    if ctx.header.epoch != Epoch(0) {
        return Ok(state::conflict(format!("cluster {} exists already", ctx.header.cluster)));
    }
    if policy.id != PolicyId(0) {
        return Ok(state::invalid("the default policy must have id 0"));
    }
    if let Err(why) = crate::map::check_policy(policy) {
        return Ok(state::invalid(why));
    }
    let header = &mut ctx.header;
    header.cluster = cluster;
    header.epoch = Epoch(1);
    header.next_node = 1;
    header.next_disk = 1;
    header.next_pg = 1;
    header.next_raft = 1;
    put_row(ctx.kv, &tables::policy(policy.id), policy)?;
    state::event(ctx, "cluster", format!("created with {} copies of each block", policy.copies))?;
    Ok(Answer::Done)
}
