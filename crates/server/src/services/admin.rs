//! Administration, answered by the leader.

use super::{CallContext, Class, Serve};
use crate::metadata::done;
use crate::node::Node;
use everhold_cluster::reads;
use everhold_proto::command::{Command, MapCommand};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::map::Event;
use everhold_proto::rpc::{ChangeMap, ClusterStatus, GetEvents, GetStatus};
use everhold_proto::{Error, Kind};
use std::sync::Arc;

impl Serve for ChangeMap {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        // Everything else is for the leader's loops and for registrations.
        match &self.0 {
            MapCommand::SetMaintenance { .. }
            | MapCommand::SetDiskState { .. }
            | MapCommand::SetPolicy(_) => {}
            _ => return Err(Error::new(Kind::Invalid, "operators do not give this command")),
        }
        done(node.propose(Command::Map(self.0), call.deadline).await?)
    }
}

impl Serve for GetEvents {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Vec<Event>, Error> {
        let limit = (self.limit as usize).min(PAGE_ENTRIES_MAX);
        node.read(call.deadline, |kv, _| reads::events(kv, limit)).await
    }
}

impl Serve for GetStatus {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<ClusterStatus, Error> {
        crate::control::cluster_status(node, call.deadline).await
    }
}
