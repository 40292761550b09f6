//! Nodes: registration, states, maintenance, identities in Raft.

use crate::state::{self, conflict, event, invalid, put_node, raise_epoch, refused, unknown};
use crate::{reads, topology};
use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvResult, get_row};
use everhold_proto::limits::NODES_MAX;
use everhold_proto::map::{Labels, Node, NodeState};
use everhold_proto::tables::{self, Table};
use everhold_proto::{Kind, NodeId, RaftId};

/// Longest address or label: a DNS name with its port.
const TEXT_BYTES_MAX: usize = 300;
/// The one of the last registration and the one of the next.
const MARKS_MAX: usize = 2;

pub(crate) fn register(
    ctx: &mut Apply<'_>,
    uuid: [u8; 16],
    address: &str,
    labels: &Labels,
    marks: &[u64],
) -> KvResult<Answer> {
    if marks.len() > MARKS_MAX {
        return Ok(invalid(format!("a node has at most {MARKS_MAX} marks")));
    }
    if address.is_empty() || address.len() > TEXT_BYTES_MAX || !are_short(labels) {
        return Ok(invalid("an address is required, and it and the labels are short"));
    }
    if let Some(old) = get_row::<NodeId>(ctx.kv, &tables::removed(uuid))? {
        let text =
            format!("{old} was removed from the cluster; join it anew, with an empty directory");
        return Ok(refused(Kind::Foreign, text));
    }
    let nodes: Vec<Node> = state::all(ctx.kv, Table::Node)?;
    let known = nodes.iter().find(|node| node.uuid == uuid);
    if known.is_none() && nodes.len() >= NODES_MAX {
        return Ok(refused(Kind::Full, format!("the cluster has {NODES_MAX} nodes")));
    }
    if let Some(known) = known.filter(|node| node.mark != 0 && !marks.contains(&node.mark)) {
        let text = format!(
            "the data directory of {} is older than the one that registered last (boot {}): it was \
             restored from a copy, and what it acknowledged since is not in it; set the node up anew, \
             with an empty directory",
            known.id, known.boot
        );
        return Ok(refused(Kind::Foreign, text));
    }
    let id = known.map_or(NodeId(ctx.header.next_node), |node| node.id);
    let node = Node {
        id,
        uuid,
        address: address.into(),
        labels: known.filter(|node| node.labels_fixed).map_or(labels, |node| &node.labels).clone(),
        state: NodeState::Up,
        since_ms: ctx.stamp.log_ms,
        reason: "registered".into(),
        boot: known.map_or(1, |node| node.boot + 1),
        raft: known.and_then(|node| node.raft),
        maintenance: known.is_some_and(|node| node.maintenance),
        labels_fixed: known.is_some_and(|node| node.labels_fixed),
        mark: marks.last().copied().unwrap_or(0),
    };
    if known.is_none() {
        ctx.header.next_node += 1;
    }
    put_node(ctx, &node)?;
    raise_epoch(ctx);
    event(ctx, id, format!("registered at {address} (boot {})", node.boot))?;
    Ok(Answer::Node { node: id, boot: node.boot })
}

fn are_short(labels: &Labels) -> bool {
    let Labels { region, zone, rack, host } = labels;
    [region, zone, rack, host].iter().all(|text| text.len() <= TEXT_BYTES_MAX)
}

/// Labels that an operator gives; `None` gives the choice back to the process.
pub(crate) fn set_labels(
    ctx: &mut Apply<'_>,
    id: NodeId,
    labels: Option<&Labels>,
) -> KvResult<Answer> {
    let before = reads::load_map(ctx.kv)?;
    let Some(mut node) = before.nodes.get(&id).cloned() else {
        return Ok(unknown(id));
    };
    if labels.is_some_and(|labels| !are_short(labels)) {
        return Ok(invalid("labels are short"));
    }
    let old = node.clone();
    node.labels_fixed = labels.is_some();
    node.labels = labels.unwrap_or(&old.labels).clone();
    if node == old {
        return Ok(Answer::Done);
    }
    let mut after = before.clone();
    after.nodes.insert(id, node.clone());
    if let Err(why) = topology::check_change(&before, &after) {
        return Ok(conflict(why));
    }
    put_node(ctx, &node)?;
    raise_epoch(ctx);
    let text = match labels {
        Some(Labels { region, zone, rack, host }) => format!(
            "stands in region {region:?}, zone {zone:?}, rack {rack:?}, host {host:?}, says an operator"
        ),
        None => "stands where its process says, from its next start on".into(),
    };
    event(ctx, id, text)?;
    Ok(Answer::Done)
}

pub(crate) fn set_state(
    ctx: &mut Apply<'_>,
    id: NodeId,
    boot: u64,
    to: NodeState,
    reason: &str,
) -> KvResult<Answer> {
    let Some(mut node) = state::node(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    if node.boot != boot {
        return Ok(conflict(format!("{id} registered again since boot {boot}")));
    }
    if node.state == to && (to != NodeState::Suspect || node.reason == reason) {
        return Ok(Answer::Done);
    }
    if node.state == to {
        // Doubted for another reason than at first, which an operator should know.
        node.reason = reason.into();
        put_node(ctx, &node)?;
        raise_epoch(ctx);
        event(ctx, id, format!("{to}: {reason}"))?;
        return Ok(Answer::Done);
    }
    if !may_become(&node, to) {
        let held = if node.maintenance { " in maintenance" } else { "" };
        return Ok(conflict(format!("{id} is {}{held} and does not become {to}", node.state)));
    }
    let from = node.state;
    node.state = to;
    node.since_ms = ctx.stamp.log_ms;
    node.reason = reason.into();
    put_node(ctx, &node)?;
    raise_epoch(ctx);
    event(ctx, id, format!("{from} -> {to}: {reason}"))?;
    Ok(Answer::Done)
}

/// The transitions there are; what is not listed is prohibited. Out comes only after Down, and not in
/// maintenance.
fn may_become(node: &Node, to: NodeState) -> bool {
    use NodeState::{Down, Out, Suspect, Up};
    match (node.state, to) {
        (Up, Suspect | Down) | (Suspect, Up | Down) | (Down, Up | Suspect) | (Out, Up) => true,
        (Down, Out) => !node.maintenance,
        _ => false,
    }
}

pub(crate) fn set_maintenance(ctx: &mut Apply<'_>, id: NodeId, on: bool) -> KvResult<Answer> {
    let Some(mut node) = state::node(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    if node.maintenance != on {
        node.maintenance = on;
        put_node(ctx, &node)?;
        raise_epoch(ctx);
        event(ctx, id, if on { "maintenance begins" } else { "maintenance ends" })?;
    }
    Ok(Answer::Done)
}

/// A fresh Raft id. Never handed out twice, not even after a lost answer: an identity that might be in
/// use somewhere must not get a second, empty log.
pub(crate) fn allocate_raft_id(ctx: &mut Apply<'_>, id: NodeId) -> KvResult<Answer> {
    let Some(mut node) = state::node(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    let raft = RaftId(ctx.header.next_raft);
    ctx.header.next_raft += 1;
    node.raft = Some(raft);
    put_node(ctx, &node)?;
    raise_epoch(ctx);
    event(ctx, id, format!("becomes {raft} in Raft"))?;
    Ok(Answer::Raft(raft))
}

pub(crate) fn clear_raft_id(ctx: &mut Apply<'_>, id: NodeId, raft: RaftId) -> KvResult<Answer> {
    let Some(mut node) = state::node(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    if node.raft == Some(raft) {
        node.raft = None;
        put_node(ctx, &node)?;
        raise_epoch(ctx);
        event(ctx, id, format!("is no longer {raft} in Raft"))?;
    }
    Ok(Answer::Done)
}
