//! Checks of the copies: at a commit, at a deletion, at a change of members, and of everything now and
//! then.

use super::{Inner, Oracle, host_of};
use everhold_cluster::reads;
use everhold_proto::kv::{KvRead, get_row, prefix_end, scan_rows};
use everhold_proto::map::{ClusterMap, NodeState, Pg};
use everhold_proto::table::{BlockRow, SessionRow};
use everhold_proto::tables::{self, Key, Table};
use everhold_proto::{BlockId, DiskId, LogIndex, PgId};

/// Why the cluster is not what it should be once faults have stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Convergence(pub Vec<String>);

impl Oracle {
    /// **Invariants 1, 5 and 6**, of everything: a member that the metadata takes for whole has each live
    /// block, unless that copy is recorded as missing; and each live block that is not recorded as lost is
    /// on some disk.
    pub fn audit(&self) {
        let mut inner = self.0.lock();
        let pgs: Vec<PgId> = inner.replica.map().pgs.keys().copied().collect();
        for pg in pgs {
            inner.check_pg_keeps_copies(pg);
        }
        inner.check_brake();
        inner.check_sessions();
    }

    /// Whether every placement group has all its copies, on disks that have registered since they were
    /// emptied.
    pub fn is_redundant(&self, nodes: usize) -> bool {
        let inner = self.0.lock();
        let map = inner.replica.map();
        // No placement group counts on a disk as it was before it was emptied.
        let registered = |host: &String, copies: &super::Copies| {
            let Some(since) = copies.emptied_in else { return true };
            let before = map.disks.values().filter(|disk| disk.session <= since);
            let node = |disk: &everhold_proto::map::Disk| map.nodes.get(&disk.node);
            let mut here =
                before.filter(|disk| node(disk).is_some_and(|n| host_of(&n.address) == host));
            here.all(|disk| map.pgs.values().all(|pg| pg.holders().all(|holder| holder != disk.id)))
        };
        map.nodes.values().filter(|node| node.state == NodeState::Up).count() >= nodes
            && !map.pgs.is_empty()
            && map.pgs.values().all(|pg| inner.lack(&map, pg).is_none())
            && inner.hosts.iter().all(|(host, copies)| registered(host, copies))
            && !map.pgs.values().flat_map(Pg::holders).any(|disk| inner.was_emptied(&map, disk))
    }

    /// **Invariant 10**: what is left to do before the cluster is whole again.
    pub fn convergence(&self, nodes: usize) -> Convergence {
        self.0.lock().convergence(nodes)
    }
}

impl Inner {
    /// Live blocks of a PG.
    pub(super) fn live(&self, pg: PgId) -> Vec<BlockId> {
        let prefix = Key::new(Table::Block).u32(pg.0).done();
        let rows =
            scan_rows(&self.replica.kv, &prefix, &prefix_end(&prefix), usize::MAX, |key, row| {
                let row: BlockRow = row;
                tables::block_id_of(key).filter(|_| row.references > 0)
            });
        rows.expect("the rows of the oracle decode")
    }

    pub(super) fn is_live(&self, pg: PgId, id: BlockId) -> bool {
        let row: Option<BlockRow> = get_row(&self.replica.kv, &tables::block(pg, id))
            .expect("the rows of the oracle decode");
        row.is_some_and(|row| row.references > 0)
    }

    /// Whether a block that is not in the table may yet be put there.
    pub(super) fn may_still_be_committed(&self, id: BlockId) -> bool {
        let row: Option<SessionRow> = get_row(&self.replica.kv, &tables::session(id.session))
            .expect("the rows of the oracle decode");
        let in_table = self.replica.map().pgs.keys().any(|pg| {
            let row: Option<BlockRow> = get_row(&self.replica.kv, &tables::block(*pg, id))
                .expect("the rows of the oracle decode");
            row.is_some()
        });
        !in_table && row.is_some_and(|row| id.counter >= row.floor)
    }

    pub(super) fn is_lost(&self, pg: PgId, id: BlockId) -> bool {
        let lost: Option<LogIndex> = get_row(&self.replica.kv, &tables::lost(pg, id))
            .expect("the rows of the oracle decode");
        lost.is_some()
    }

    pub(super) fn is_recorded_missing(&self, pg: PgId, disk: DiskId, id: BlockId) -> bool {
        self.replica
            .kv
            .get(&tables::missing(pg, disk, id))
            .expect("the rows of the oracle decode")
            .is_some()
    }

    pub(super) fn check_pg_keeps_copies(&mut self, pg: PgId) {
        for id in self.live(pg) {
            self.check_block(pg, id);
        }
    }

    /// The copies of one live block are where the metadata takes them to be.
    pub(super) fn check_block(&mut self, pg: PgId, id: BlockId) {
        if !self.is_live(pg, id) {
            return;
        }
        let map = self.replica.map();
        let Some(group) = map.pgs.get(&pg) else { return };
        for member in group.members.iter().filter(|member| member.complete) {
            let disk = member.disk;
            if self.holds(&map, disk, id) == Some(false) && !self.is_recorded_missing(pg, disk, id)
            {
                if self.is_lost(pg, id) {
                    continue;
                }
                let detail = format!(
                    "{disk} is a complete member of {pg} and has neither block {id} nor a record \
                     that it lacks it"
                );
                self.violate("invariant_6_missing_copies_are_recorded", detail, Some(id));
            }
        }
        if !self.is_lost(pg, id) && !self.is_anywhere(id) {
            let detail = format!("no disk has block {id} of {pg}, which is live");
            self.violate("invariant_5_last_copy_is_kept", detail, Some(id));
        }
    }

    /// Whether a disk holds a copy; `None` if the oracle cannot know.
    pub(super) fn holds(&self, map: &ClusterMap, disk: DiskId, id: BlockId) -> Option<bool> {
        let row = map.disks.get(&disk)?;
        let host = host_of(&map.nodes.get(&row.node)?.address);
        let copies = self.hosts.get(host)?;
        let uncertain =
            copies.damaged || copies.emptied_in.is_some_and(|since| row.session <= since);
        if uncertain { None } else { Some(copies.blocks.contains_key(&id)) }
    }

    fn is_anywhere(&self, id: BlockId) -> bool {
        self.hosts.values().any(|copies| copies.blocks.contains_key(&id))
    }

    /// **Invariant 5**: a copy that is needed is not deleted.
    pub(super) fn check_deletion(&mut self, host: &str, pg: PgId, id: BlockId) {
        if self.hosts.get(host).is_some_and(|copies| copies.damaged) {
            return; // a damaged copy is deleted to make room for a good one
        }
        self.check_block(pg, id);
    }

    fn convergence(&self, nodes: usize) -> Convergence {
        let map = self.replica.map();
        let mut left = Vec::new();
        let up = map.nodes.values().filter(|node| node.state == NodeState::Up).count();
        if up < nodes {
            left.push(format!("{up} of {nodes} nodes are up"));
        }
        for pg in map.pgs.values() {
            left.extend(self.lack(&map, pg));
        }
        let status = reads::repair_status(&self.replica.kv, &map);
        let status = status.expect("the rows of the oracle decode");
        if !status.redundant {
            left.push(format!(
                "{} placement groups are degraded, {} blocks are lost",
                status.pgs_degraded, status.blocks_lost
            ));
        }
        left.extend(self.orphans(&map));
        left.truncate(12);
        Convergence(left)
    }

    fn lack(&self, map: &ClusterMap, pg: &Pg) -> Option<String> {
        let copies = map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies));
        let (full, members) = (pg.full_members(), pg.members.len());
        let settled = full >= copies && members == copies && pg.formers.is_empty();
        (!settled).then(|| {
            format!(
                "{} has {full} full of {members} members and {} formers",
                pg.id,
                pg.formers.len()
            )
        })
    }

    /// Blocks on disks that nothing needs any more.
    fn orphans(&self, map: &ClusterMap) -> Vec<String> {
        let mut orphans = Vec::new();
        for (host, copies) in self.hosts.iter().filter(|(_, copies)| !copies.damaged) {
            let Some((disk, _)) = self.disk_of(host) else { continue };
            for (id, (pg, _)) in &copies.blocks {
                let belongs = map.pgs.get(pg).is_some_and(|pg| pg.holders().any(|d| d == disk));
                if !belongs || !self.is_live(*pg, *id) {
                    orphans.push(format!("{host} holds block {id} of {pg}, which it need not"));
                }
            }
        }
        orphans
    }
}
