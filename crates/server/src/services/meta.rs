//! Metadata for clients: sessions, changes and questions of the tree, the map.

use super::{CallContext, Class, Serve};
use crate::metadata::{done, unexpected};
use crate::node::Node;
use everhold_namespace as namespace;
use everhold_proto::command::{Answer, Command};
use everhold_proto::fs::{ChangeRecord, FsAnswer, FsError, FsReply};
use everhold_proto::limits::{BATCH_OPS_MAX, PAGE_ENTRIES_MAX, SESSION_TTL_MS};
use everhold_proto::rpc::{
    EndSession, Execute, GetMap, GotMap, OpenSession, OpenedSession, Query, ReadChanges,
    RenewSession,
};
use everhold_proto::{Error, Kind, SessionId};
use std::sync::Arc;

/// Longest name that a client gives itself.
const CLIENT_NAME_BYTES_MAX: usize = 256;

impl Serve for OpenSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<OpenedSession, Error> {
        if self.client.len() > CLIENT_NAME_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, "the client's name is too long"));
        }
        let command = Command::OpenSession { client: self.client };
        match node.propose(command, call.deadline).await?.1 {
            Answer::Session(session) => {
                seen(node, session);
                Ok(OpenedSession { session, ttl_ms: SESSION_TTL_MS })
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for RenewSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let RenewSession { session, acked_below, floor } = self;
        let command = Command::RenewSession { session, acked_below, floor };
        done(node.propose(command, call.deadline).await?)?;
        seen(node, session);
        Ok(())
    }
}

impl Serve for EndSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let command = Command::EndSession { session: self.session };
        done(node.propose(command, call.deadline).await?)
    }
}

impl Serve for Execute {
    const CLASS: Class = Class::Metadata;
    async fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> Result<Vec<Result<FsReply, FsError>>, Error> {
        let (session, requests) = (self.0.session, self.0.requests.len());
        check_batch(requests)?;
        match node.propose(Command::Fs(self.0), call.deadline).await?.1 {
            Answer::Fs(replies) if replies.len() == requests => {
                seen(node, session);
                Ok(replies)
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for Query {
    const CLASS: Class = Class::Metadata;
    async fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> Result<Vec<Result<FsAnswer, FsError>>, Error> {
        check_batch(self.queries.len())?;
        node.read(call.deadline, |kv, _| {
            self.queries.iter().map(|query| namespace::query(kv, query)).collect()
        })
        .await
    }
}

impl Serve for ReadChanges {
    const CLASS: Class = Class::Metadata;
    async fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> Result<Vec<(u64, ChangeRecord)>, Error> {
        let limit = (self.limit as usize).min(PAGE_ENTRIES_MAX);
        node.read(call.deadline, |kv, _| namespace::changes::read(kv, self.from, limit)).await
    }
}

impl Serve for GetMap {
    const CLASS: Class = Class::Vital;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<GotMap, Error> {
        let map = node.local_map()?;
        let map = (map.epoch > self.known).then(|| (*map).clone());
        Ok(GotMap { map, leader: node.leader_address() })
    }
}

fn seen(node: &Node, session: SessionId) {
    node.observations.session_seen(session, node.env.clock.now());
}

fn check_batch(requests: usize) -> Result<(), Error> {
    if requests <= BATCH_OPS_MAX {
        return Ok(());
    }
    let message = format!("{requests} requests in one batch, at most {BATCH_OPS_MAX} are taken");
    Err(Error::new(Kind::Invalid, message))
}
