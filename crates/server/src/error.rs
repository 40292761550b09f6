//! Why a server does not start, and why a running one ends by itself.

use crate::config::BadConfig;
use everhold_consensus::ConsensusError;
use everhold_proto::{ClusterId, NodeId};
use everhold_store::StoreError;
use std::path::PathBuf;

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work.
    #[error("bad configuration: {0}")]
    Config(#[from] BadConfig),
    /// The data directory cannot be used.
    #[error("data directory {}: {reason}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Another server has the data directory open.
    #[error("data directory {} is in use by process {pid}", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The other process, as far as it is known.
        pid: String,
    },
    /// The data directory or a peer has another format version.
    #[error("{what} has format {theirs}, this program has format {ours}")]
    Format {
        /// What.
        what: String,
        /// Its version.
        theirs: u32,
        /// Our version.
        ours: u32,
    },
    /// The data directory belongs to another cluster than the one to join.
    #[error("the data directory belongs to cluster {ours}, but {address} is in cluster {theirs}")]
    Foreign {
        /// The peer.
        address: String,
        /// Its cluster.
        theirs: ClusterId,
        /// The directory's cluster.
        ours: ClusterId,
    },
    /// The data directory is an old copy.
    #[error(
        "the data directory of {node} is from boot {ours}, and it has registered as boot {boot} since: \
         it was restored from a copy, and what it acknowledged since is not in it"
    )]
    RolledBack {
        /// Which node.
        node: NodeId,
        /// Its newest boot.
        boot: u64,
        /// The directory's.
        ours: u64,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No node of the cluster to join answered.
    #[error("no node of the cluster answers at {}", addresses.join(", "))]
    NoContact {
        /// Whom we asked.
        addresses: Vec<String>,
    },
    /// The fresh data directory belongs to no cluster and none was named.
    #[error("data directory {} belongs to no cluster yet: bootstrap one or join one", path.display())]
    NoCluster {
        /// The directory.
        path: PathBuf,
    },
    /// The block store does not open.
    #[error("block store {} does not open: {source}", path.display())]
    Store {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The Raft log or the replicated state does not open.
    #[error("metadata in {} does not open: {source}", path.display())]
    Consensus {
        /// Its directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: ConsensusError,
    },
}

/// Why a running server ends by itself: it cannot keep its promises any longer, others go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The Raft log or the replicated state failed. A failed sync is never retried.
    #[error("metadata storage failed: {0}")]
    Metadata(String),
    /// The block store failed. A failed sync is never retried.
    #[error("block store failed: {0}")]
    Store(String),
    /// The cluster refuses this node.
    #[error("the cluster refuses this node: {0}")]
    Refused(String),
    /// The port no longer accepts connections.
    #[error("the listener failed: {0}")]
    Listener(String),
}
