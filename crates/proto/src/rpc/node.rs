//! Any node, for itself.

use super::{RegisteredDisk, RepairProgress, Rpc};
use crate::command::DiskUsage;
use crate::ids::*;
use serde::{Deserialize, Serialize};

/// Who are you? Also the first contact of a joining node or client: needs no cluster id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {}
/// Who this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloReply {
    /// Its cluster; `None` while it is joining one.
    pub cluster: Option<ClusterId>,
    /// Its id.
    pub node: Option<NodeId>,
    /// Its format version.
    pub format: u32,
    /// The metadata leader's address, if known.
    pub leader: Option<String>,
    /// Its process id.
    pub pid: u32,
}
rpc!(Hello => HelloReply, "Node/Hello");

/// Become a learner with this id: opens an empty log for it, or continues the one with this id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareLearner {
    /// The id.
    pub raft: RaftId,
}
rpc!(PrepareLearner => (), "Node/PrepareLearner");

/// You are no longer in Raft: close the log of this id and remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetireLearner {
    /// The id.
    pub raft: RaftId,
}
rpc!(RetireLearner => (), "Node/RetireLearner");

/// The node takes one more disk into service, without a restart. Asked again for a directory that it serves already, it
/// tells that disk. Refused (`Invalid`) when the directory is not there, not empty and no disk of this node, or within
/// another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddDisk {
    /// Absolute path of the directory on the node, usually where the device is mounted.
    pub path: String,
    /// Bytes that it may hold; by default what the file system has.
    pub capacity_bytes: Option<u64>,
}
rpc!(AddDisk => RegisteredDisk, "Node/AddDisk");

/// A disk that was added, is drained and holds nothing leaves the cluster, and the node closes its files. Asked again
/// after that, it is done. Refused (`Conflict`) as by `MapCommand::RemoveDisk`, and for the disk beside the node's
/// metadata; `NotFound`: it is no disk of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveDisk {
    /// The disk.
    pub disk: DiskId,
}
rpc!(RemoveDisk => RemovedDisk, "Node/RemoveDisk");
/// Answer to [`RemoveDisk`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedDisk {
    /// The directory that it was added as: nothing in it is needed any more.
    pub path: String,
}

/// What a node knows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetNodeStatus {}
/// What a node knows of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: Option<NodeId>,
    /// Its process id.
    pub pid: u32,
    /// Role in Raft: leader, follower, candidate, learner, none.
    pub raft_role: String,
    /// The map it has.
    pub epoch: Epoch,
    /// Disks: usage and number of blocks.
    pub disks: Vec<DiskStatus>,
    /// Repair.
    pub repair: RepairProgress,
    /// CPU seconds used by the process (user and system).
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Background workers: name and what they do.
    pub workers: Vec<(String, String)>,
}
/// One disk of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// Its directory.
    pub path: String,
    /// Usage.
    pub usage: DiskUsage,
    /// Number of blocks.
    pub blocks: u64,
    /// Checksum errors found since the start.
    pub checksum_errors: u64,
    /// Why it does not work, if so.
    pub failed: Option<String>,
    /// Its scrub.
    pub scrub: ScrubStatus,
}
rpc!(GetNodeStatus => NodeStatus, "Node/GetStatus");

/// The pass of a scrub over a disk that is under way, and what the passes before it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// This pass was asked for: it reads as fast as the disk allows, instead of spreading over days.
    pub urgent: bool,
    /// Copies read in this pass.
    pub checked_blocks: u64,
    /// Bytes of these.
    pub checked_bytes: u64,
    /// Copies on the disk when the pass began.
    pub blocks: u64,
    /// Passes completed since the node started.
    pub passes: u64,
    /// Passes that were asked for and are completed, since the node started.
    pub urgent_passes: u64,
    /// Copies found bad since the node started, by scrubs and by readers.
    pub bad_blocks: u64,
}

/// Reads every block of the node's disks back, now: the passes under way end early, and urgent ones begin.
/// Asked again while one is under way, it begins anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartScrub {}
rpc!(StartScrub => (), "Node/StartScrub");
