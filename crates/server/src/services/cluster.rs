//! Calls of nodes to the leader: registration, signs of life, work and reports of disks.

use super::{CallContext, Class, Serve};
use crate::metadata::{done, unexpected};
use crate::node::Node;
use everhold_cluster::reads;
use everhold_proto::command::{Answer, Command, MapCommand, TableCommand};
use everhold_proto::kv::get_row;
use everhold_proto::limits::{PAGE_ENTRIES_MAX, RPC_BYTES_MAX};
use everhold_proto::map::Pg;
use everhold_proto::rpc::{
    Compared, CountBlocks, GetWork, Heartbeat, HeartbeatReply, ListMissing, MayDelete,
    MayDeleteReply, RegisterDisk, RegisterNode, RegisteredDisk, RegisteredNode, ReportBad,
    ReportBadReply, ReportLost, ReportRepaired, ReportUnreachable, TablePage, TablePageReply,
};
use everhold_proto::table::{BlockEntry, Missing, PgWork};
use everhold_proto::{Error, Kind, PgId, tables};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries of one page of the block table: 40 bytes each at most, so a page fits an answer.
const TABLE_PAGE_MAX: usize = 64 << 10;
const _: () = assert!(TABLE_PAGE_MAX * 40 < RPC_BYTES_MAX);

impl Serve for RegisterNode {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<RegisteredNode, Error> {
        let RegisterNode { uuid, address, labels, raft, marks } = self;
        if uuid != node.uuid && node.founding.load(Ordering::Acquire) {
            return Err(Error::new(Kind::Retry, "the cluster is still being created"));
        }
        tracing::info!(%address, ?raft, "a node registers");
        let command = MapCommand::RegisterNode { uuid, address, labels, marks };
        match node.propose(Command::Map(command), call.deadline).await?.1 {
            Answer::Node { node: id, boot } => {
                Ok(RegisteredNode { cluster: node.cluster, node: id, boot })
            }
            Answer::Refused(e) => Err(e),
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for RegisterDisk {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<RegisteredDisk, Error> {
        let RegisterDisk { uuid, disk, node: of, capacity_bytes, used_bytes } = self;
        let command = MapCommand::RegisterDisk { uuid, disk, node: of, capacity_bytes, used_bytes };
        match node.propose(Command::Map(command), call.deadline).await?.1 {
            Answer::Disk { disk, session } => Ok(RegisteredDisk { disk, session }),
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for Heartbeat {
    const CLASS: Class = Class::Vital;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<HeartbeatReply, Error> {
        node.leading()?;
        if let Some(connection) = call.connection {
            node.heartbeats.carried(connection, self.node);
        }
        node.observations.heartbeat(&self, node.env.clock.now());
        Ok(node.observations.reply_for(&self))
    }
}

impl Serve for ReportUnreachable {
    const CLASS: Class = Class::Vital;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<(), Error> {
        node.leading()?;
        let now = node.env.clock.now();
        node.observations.unreachable(&self.nodes, self.reporter, now);
        node.observations.breakers_told(self.breakers, now);
        Ok(())
    }
}

impl Serve for GetWork {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Vec<PgWork>, Error> {
        node.read(call.deadline, |kv, _| reads::work(kv, self.disk, self.session)).await
    }
}

impl Serve for TablePage {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<TablePageReply, Error> {
        let limit = (self.limit as usize).clamp(1, TABLE_PAGE_MAX);
        node.read(call.deadline, |kv, at| {
            let (blocks, more) = reads::page(kv, self.pg, self.after, limit)?;
            Ok(TablePageReply { at, blocks, more })
        })
        .await
    }
}

impl Serve for ListMissing {
    const CLASS: Class = Class::Control;
    async fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> Result<Vec<(BlockEntry, Missing)>, Error> {
        let limit = (self.limit as usize).clamp(1, PAGE_ENTRIES_MAX);
        node.read(call.deadline, |kv, _| reads::missing(kv, self.pg, self.disk, self.after, limit))
            .await
    }
}

impl Serve for CountBlocks {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<Vec<(PgId, u64)>, Error> {
        check_page(self.pgs.len())?;
        node.leading()?.read(|kv, _| {
            let mut counts = Vec::with_capacity(self.pgs.len());
            for id in &self.pgs {
                let pg: Option<Pg> = get_row(kv, &tables::pg(*id))?;
                counts.extend(pg.map(|pg| (pg.id, pg.blocks)));
            }
            Ok(counts)
        })
    }
}

impl Serve for Compared {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let Compared { disk, session, pg, joined, table_read, missing } = self;
        let command = TableCommand::Compared { disk, session, pg, joined, table_read, missing };
        done(node.propose(Command::Table(command), call.deadline).await?)
    }
}

impl Serve for ReportRepaired {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        check_page(self.blocks.len())?;
        let ReportRepaired { disk, session, pg, blocks } = self;
        let command = TableCommand::Repaired { disk, session, pg, blocks };
        done(node.propose(Command::Table(command), call.deadline).await?)
    }
}

impl Serve for ReportBad {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<ReportBadReply, Error> {
        check_page(self.blocks.len())?;
        let ReportBad { disk, session, pg, blocks } = self;
        tracing::warn!(%disk, %pg, blocks = blocks.len(), "copies are bad");
        let command = TableCommand::Bad { disk, session, pg, blocks };
        match node.propose(Command::Table(command), call.deadline).await?.1 {
            Answer::Bad { session_ended } => Ok(ReportBadReply { session_ended }),
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for ReportLost {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        check_page(self.blocks.len())?;
        let ReportLost { pg, generation, blocks } = self;
        tracing::error!(%pg, blocks = blocks.len(), "no copy is left");
        let command = TableCommand::Lost { pg, generation, blocks };
        done(node.propose(Command::Table(command), call.deadline).await?)
    }
}

impl Serve for MayDelete {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<MayDeleteReply, Error> {
        check_page(self.blocks.len())?;
        node.read(call.deadline, |kv, at| {
            let may = reads::may_delete(kv, self.disk, self.session, self.pg, &self.blocks)?;
            Ok(MayDeleteReply { at, dead: may.dead, moved: may.moved })
        })
        .await
    }
}

fn check_page(entries: usize) -> Result<(), Error> {
    if entries <= PAGE_ENTRIES_MAX {
        return Ok(());
    }
    let message = format!("{entries} entries in one call, at most {PAGE_ENTRIES_MAX} are taken");
    Err(Error::new(Kind::Invalid, message))
}
