//! The listings: nodes, placement groups, repair, events.

use crate::args::Global;
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::CliResult;
use crate::output::{Table, json, line, size, time};
use crate::status::{node_views, print_nodes, redundancy};
use everhold_proto::map::{ClusterMap, Member};
use everhold_proto::{DiskId, rpc};

/// `everhold node ls`.
pub(crate) async fn nodes(global: &Global) -> CliResult {
    let seeds = seeds(global)?;
    let status = Admin::new(&seeds).status(LEADER_LIMIT).await?;
    let (nodes, _) = node_views(&seeds, &status).await;
    if global.json { json(&nodes) } else { print_nodes(&nodes) }
}

/// `everhold pg ls`.
pub(crate) async fn pgs(global: &Global) -> CliResult {
    let status = Admin::new(&seeds(global)?).status(LEADER_LIMIT).await?;
    let map = &status.map;
    if global.json {
        return json(&map.pgs.values().collect::<Vec<_>>());
    }
    let titles = ["PG", ">GENERATION", ">BLOCKS", ">BYTES", ">FULL", "MEMBERS", "FORMERS"];
    let mut table = Table::new(&titles);
    for pg in map.pgs.values() {
        let copies = map.policies.get(&pg.policy).map_or(0, |policy| policy.copies);
        let members: Vec<String> = pg.members.iter().map(|m| member(map, m)).collect();
        let formers: Vec<String> = pg.formers.iter().map(|d| place(map, *d)).collect();
        table.row([
            pg.id.to_string(),
            pg.generation.0.to_string(),
            pg.blocks.to_string(),
            size(pg.live_bytes, false),
            format!("{}/{copies}", pg.full_members()),
            members.join(" "),
            formers.join(" "),
        ]);
    }
    table.print()
}

/// `n2/d2`, and what is not full about it.
fn member(map: &ClusterMap, member: &Member) -> String {
    let mut text = place(map, member.disk);
    if !member.complete {
        text.push_str("(comparing)");
    } else if member.missing_blocks > 0 {
        text.push_str(&format!("(-{})", member.missing_blocks));
    }
    text
}

fn place(map: &ClusterMap, disk: DiskId) -> String {
    match map.node_of(disk) {
        Some(node) => format!("{}/{disk}", node.id),
        None => disk.to_string(),
    }
}

/// `everhold repair ls`.
pub(crate) async fn repair(global: &Global) -> CliResult {
    let status = Admin::new(&seeds(global)?).status(LEADER_LIMIT).await?;
    if global.json {
        return json(&status.repair);
    }
    line(redundancy(&status.repair, &status.map))?;
    let mut table = Table::new(&["PG", ">FULL", ">MISSING", "TARGETS"]);
    for item in &status.repair.queue {
        let targets: Vec<String> = item.targets.iter().map(|d| place(&status.map, *d)).collect();
        table.row([
            item.pg.to_string(),
            format!("{}/{}", item.full_members, item.copies),
            item.copies_missing.to_string(),
            targets.join(" "),
        ]);
    }
    if table.is_empty() { Ok(()) } else { table.print() }
}

/// `everhold events`: of placement groups only when they are asked for, because they hide everything else.
pub(crate) async fn events(global: &Global, limit: u32, of: &[String], all: bool) -> CliResult {
    // Filtered here, so that the limit counts what is shown.
    let ask = rpc::GetEvents { limit: if all { limit } else { u32::MAX } };
    let mut events = Admin::new(&seeds(global)?).leader(&ask, LEADER_LIMIT).await?;
    events.retain(|event| is_shown(&event.subject, of, all));
    let surplus = events.len().saturating_sub(limit as usize);
    events.drain(..surplus);
    if global.json {
        return json(&events);
    }
    let mut table = Table::new(&["TIME (UTC)", ">INDEX", "SUBJECT", "EVENT"]);
    for event in events {
        let index = event.index.0.to_string();
        table.row([time(event.wall), index, event.subject, event.text]);
    }
    table.print()
}

fn is_shown(subject: &str, of: &[String], all: bool) -> bool {
    let asked = of.iter().any(|wanted| wanted == subject);
    all || asked || (of.is_empty() && !subject.starts_with("pg"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Groups are shown when they are asked for, one by one or all.
    #[test]
    fn groups_do_not_hide_nodes() {
        let of = |subjects: &[&str]| subjects.iter().map(|s| String::from(*s)).collect::<Vec<_>>();
        assert!(is_shown("n3", &[], false) && is_shown("brake", &[], false));
        assert!(!is_shown("pg17", &[], false) && is_shown("pg17", &[], true));
        assert!(is_shown("pg17", &of(&["n3", "pg17"]), false));
        assert!(!is_shown("d3", &of(&["n3", "pg17"]), false));
    }
}
