//! `everhold policy ls|set`.

use crate::args::{Global, PolicyCommand, SpreadArg};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{Table, json, line};
use everhold_proto::command::MapCommand;
use everhold_proto::map::Policy;
use everhold_proto::rpc::ChangeMap;

/// Runs one of them.
pub(crate) async fn run(command: PolicyCommand, global: &Global) -> CliResult {
    match command {
        PolicyCommand::Ls => list(global).await,
        PolicyCommand::Set { name, replicas, spread } => set(&name, replicas, spread, global).await,
    }
}

async fn list(global: &Global) -> CliResult {
    let map = Admin::new(&seeds(global)?).status(LEADER_LIMIT).await?.map;
    if global.json {
        return json(&map.policies.values().collect::<Vec<_>>());
    }
    let mut table = Table::new(&["POLICY", ">COPIES", "SPREAD OVER", ">WRITE QUORUM", ">GROUPS"]);
    for policy in map.policies.values() {
        let groups = map.pgs.values().filter(|pg| pg.policy == policy.id).count();
        table.row([
            policy.name.clone(),
            policy.copies.to_string(),
            format!("{}s", policy.spread),
            policy.write_quorum.to_string(),
            groups.to_string(),
        ]);
    }
    table.print()
}

async fn set(
    name: &str,
    replicas: Option<u8>,
    spread: Option<SpreadArg>,
    global: &Global,
) -> CliResult {
    if replicas.is_none() && spread.is_none() {
        return Err(CliError::usage(
            "nothing is to be changed",
            "name --replicas, --spread or both",
        ));
    }
    let admin = Admin::new(&seeds(global)?);
    let map = admin.status(LEADER_LIMIT).await?.map;
    let now = map.policies.values().find(|policy| policy.name == name).ok_or_else(|| {
        CliError::new(
            Exit::NotFound,
            format!("there is no policy {name}"),
            "see `everhold policy ls`",
        )
    })?;
    let policy = changed(now, replicas, spread);
    let order = ChangeMap(MapCommand::SetPolicy(policy.clone()));
    admin.leader(&order, LEADER_LIMIT).await.map_err(|mut error| {
        if error.exit == Exit::Conflict {
            error.hint =
                "add nodes, say where they stand (`everhold node label`), or ask for less".into();
        }
        error
    })?;
    if global.json {
        return json(&policy);
    }
    line(format!(
        "policy {name}: {} copies, spread over {}s, a write needs {}; what is stored follows by itself",
        policy.copies, policy.spread, policy.write_quorum
    ))
}

/// The policy with what was given; another number of copies means another majority of them.
fn changed(now: &Policy, replicas: Option<u8>, spread: Option<SpreadArg>) -> Policy {
    let mut policy = now.clone();
    if let Some(copies) = replicas.filter(|copies| *copies != now.copies) {
        let majority = Policy::replicated(now.id, &now.name, copies).write_quorum;
        policy = Policy { copies, write_quorum: majority, ..policy };
    }
    policy.spread = spread.map_or(now.spread, Into::into);
    policy
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::PolicyId;
    use everhold_proto::map::Spread;

    /// What is not given stays, and the quorum follows the copies.
    #[test]
    fn what_is_given_changes() {
        let now = Policy { spread: Spread::Rack, ..Policy::replicated(PolicyId(0), "default", 3) };
        let five = changed(&now, Some(5), None);
        assert_eq!((five.copies, five.write_quorum, five.spread), (5, 3, Spread::Rack));
        let host = changed(&now, None, Some(SpreadArg::Host));
        assert_eq!((host.copies, host.write_quorum, host.spread), (3, 2, Spread::Host));
    }
}
