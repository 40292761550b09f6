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
pub(crate) use pages::{health_page, metrics_page, ready_page, status_page};

use crate::http::Connection;
use crate::node::Node;
use everhold_client::Place;
use everhold_proto::Error;
use everhold_proto::rpc::Rpc;
use parking_lot::Mutex;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// Calls that share a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Metadata calls of clients.
    Metadata,
    /// Calls of nodes and operators.
    Control,
    /// Calls for the change feed: they carry the acknowledgements that held-back answers wait for, so they
    /// must not wait for places that those hold.
    Feed,
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
    /// Who calls; `None` for this node's own calls.
    pub(crate) peer: Option<IpAddr>,
    /// Its place among the calls that are admitted.
    place: Mutex<Option<Held>>,
}

/// A place among the calls of a class.
pub(crate) enum Held {
    /// Among so many.
    Permit(#[expect(dead_code, reason = "it is held")] OwnedSemaphorePermit),
    /// Among as many as end in time.
    Place(Place),
}

impl CallContext {
    /// A call of this node to itself.
    pub(crate) fn local(deadline: Instant) -> Self {
        CallContext { deadline, connection: None, peer: None, place: Mutex::default() }
    }

    /// A call that came over a connection.
    pub(crate) fn over(connection: &Connection, deadline: Instant) -> Self {
        let (number, peer) = (Some(connection.number), Some(connection.peer));
        CallContext { connection: number, peer, ..CallContext::local(deadline) }
    }

    /// It was admitted: it keeps the place to its end, or until it gives it back.
    pub(crate) fn admit(&self, place: Held) {
        *self.place.lock() = Some(place);
    }

    /// Its work is done; what is left is to wait with a small answer. Such calls are bounded by the number of
    /// connections, and others may work meanwhile.
    pub(crate) fn give_place_back(&self) {
        self.worked();
        // Dropped outside of the lock: somebody else may begin at once.
        let place = self.place.lock().take();
        drop(place);
    }

    /// Its work is done; what is left is to wait for others. How long that takes says nothing about this node.
    pub(crate) fn worked(&self) {
        if let Some(Held::Place(place)) = &*self.place.lock() {
            place.measure();
        }
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
