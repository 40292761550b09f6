//! What a node answers. Each call implements [`Serve`]; the router finds it by its path, and a node
//! that leads answers its own calls the same way without the network.

mod admin;
mod blocks;
mod cluster;
mod meta;
mod own;
mod pages;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use blocks::check_block;
pub(crate) use blocks::serve_block;
pub(crate) use pages::{health_page, metrics_page, status_page};

use crate::node::Node;
use everhold_proto::Error;
use everhold_proto::rpc::Rpc;
use std::future::Future;
use std::sync::Arc;
use tokio::time::Instant;

/// Calls that share a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Metadata calls of clients.
    Metadata,
    /// Calls of nodes and operators.
    Control,
    /// Calls that must never wait for others: signs of life and first contacts. They are quick and
    /// bounded by the number of connections.
    Vital,
}

/// How a call came.
pub(crate) struct CallContext {
    /// The caller waits until then.
    pub(crate) deadline: Instant,
    /// Number of the connection; `None` for this node's own calls.
    pub(crate) connection: Option<u64>,
}

impl CallContext {
    /// A call of this node to itself.
    pub(crate) fn local(deadline: Instant) -> Self {
        CallContext { deadline, connection: None }
    }
}

/// A call that this node answers.
pub(crate) trait Serve: Rpc {
    /// Whose bound it counts against.
    const CLASS: Class;

    /// Answers it.
    fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> impl Future<Output = Result<Self::Reply, Error>> + Send;
}
