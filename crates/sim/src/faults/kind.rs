//! What can go wrong.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Kinds of faults. A run draws some of them, with weights of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A server's process is killed; what it had written stays.
    Kill,
    /// The metadata leader's process is killed.
    KillLeader,
    /// A server is told to stop, and started again.
    Stop,
    /// A machine loses power: what was not synced is gone, or torn.
    PowerLoss,
    /// A machine loses power in the middle of its n-th change to the disk from now.
    PowerLossAtIo,
    /// All machines lose power at once.
    PowerLossEverywhere,
    /// A machine stays away for long enough to be declared Out and replaced as a voter.
    LongOutage,
    /// The block store's device is replaced by an empty one, under the old name.
    WipeDisk,
    /// A machine is set up anew from nothing, under its old address.
    WipeNode,
    /// A machine goes back to an earlier image of all its disks.
    Rollback,
    /// Two groups of hosts do not hear each other.
    Partition,
    /// A host is not heard by others, or does not hear them.
    PartitionOneWay,
    /// Two hosts do not hear each other; all others do.
    PartitionPair,
    /// A host is cut off from all others.
    Isolate,
    /// Messages between two hosts take long.
    SlowLink,
    /// Messages between two hosts are held and then delivered all at once.
    HoldLink,
    /// All connections between two hosts are reset.
    Reset,
    /// A disk takes far longer for everything.
    SlowDisk,
    /// A disk does nothing for a while.
    StallDisk,
    /// A read of a disk fails.
    ReadError,
    /// A write or a sync of a disk fails.
    WriteError,
    /// Bits decay in the block store of a machine.
    BitFlips,
    /// A write to the block store of a machine lands in the wrong place.
    Misdirected,
    /// A disk has no space left for a while.
    FullDisk,
    /// A wall clock is set forward or back.
    ClockJump,
    /// A client dies in the middle of its work.
    ClientCrash,
    /// A client's process stands still for less time than its session bears.
    ClientPause,
    /// A client's process stands still until its session has ended.
    ClientFreeze,
    /// A new machine joins the cluster.
    AddNode,
    /// A disk is drained, and later taken back.
    Drain,
    /// A machine is put into maintenance, and later taken out of it.
    Maintenance,
    /// More than half of the machines are off for a while, but not the majority of the voters; one of the
    /// others restarts. Only in runs that are made for it.
    MassOutage,
}

impl Kind {
    /// All kinds that any run may draw.
    pub const ALL: [Kind; 31] = [
        Kind::Kill,
        Kind::KillLeader,
        Kind::Stop,
        Kind::PowerLoss,
        Kind::PowerLossAtIo,
        Kind::PowerLossEverywhere,
        Kind::LongOutage,
        Kind::WipeDisk,
        Kind::WipeNode,
        Kind::Rollback,
        Kind::Partition,
        Kind::PartitionOneWay,
        Kind::PartitionPair,
        Kind::Isolate,
        Kind::SlowLink,
        Kind::HoldLink,
        Kind::Reset,
        Kind::SlowDisk,
        Kind::StallDisk,
        Kind::ReadError,
        Kind::WriteError,
        Kind::BitFlips,
        Kind::Misdirected,
        Kind::FullDisk,
        Kind::ClockJump,
        Kind::ClientCrash,
        Kind::ClientPause,
        Kind::ClientFreeze,
        Kind::AddNode,
        Kind::Drain,
        Kind::Maintenance,
    ];

    /// Whether it may destroy copies that were durable. Of these there is one machine at a time, and the
    /// next one only once the cluster has all its copies again.
    pub fn destroys(self) -> bool {
        matches!(
            self,
            Kind::WipeDisk | Kind::WipeNode | Kind::Rollback | Kind::BitFlips | Kind::Misdirected
        )
    }

    /// How often it is drawn beside the others.
    pub fn weight(self) -> u32 {
        match self {
            Kind::KillLeader | Kind::PowerLoss | Kind::PowerLossAtIo => 4,
            Kind::ClientPause => 4,
            Kind::Kill | Kind::WipeDisk | Kind::Partition | Kind::BitFlips | Kind::Isolate => 3,
            Kind::PowerLossEverywhere | Kind::AddNode | Kind::Maintenance => 1,
            _ => 2,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The derived name, as words: `PowerLoss` is "power loss".
        let name = format!("{self:?}");
        let mut words = String::new();
        for (at, letter) in name.char_indices() {
            if at > 0 && letter.is_uppercase() {
                words.push('-');
            }
            words.push(letter.to_ascii_lowercase());
        }
        f.pad(&words)
    }
}
