//! Faults done to a cluster, and undone.

use crate::real::cluster::Cluster;
use crate::real::faults::{Companion, Fault, FaultKind, Victim};
use crate::real::hosts::{CLIENTS, Cut, ip};
use crate::real::load::Load;
use crate::real::vanish::Vanishing;
use anyhow::Result;
use rustix::process::Signal;

/// A fault that is there now; [`Wound::heal`] undoes it.
pub(crate) struct Wound {
    fault: Fault,
    /// The node that it hit; 0 when it hit no particular one.
    victim: u32,
    /// What was done exactly.
    pub(crate) detail: String,
    vanishing: Option<Vanishing>,
}

impl Wound {
    /// Does it. A client that is to vanish takes part in the load before.
    pub(crate) async fn inflict(
        cluster: &mut Cluster,
        load: &mut Load,
        fault: Fault,
    ) -> Result<Self> {
        let victim = match fault.victim {
            Victim::Leader => cluster.leader().await?,
            Victim::Node(number) => number,
            Victim::Nobody => 0,
        };
        let mut wound = Wound { fault, victim, detail: String::new(), vanishing: None };
        if let Some(companion) = fault.companion {
            wound.accompany(cluster, companion)?;
        }
        let detail = wound.hit(cluster, load)?;
        wound.detail = match (wound.detail.as_str(), fault.victim) {
            (companion, Victim::Leader) => format!("{detail}, the leader{companion}"),
            (companion, _) => format!("{detail}{companion}"),
        };
        Ok(wound)
    }

    /// The node that it hit, if it hit one.
    pub(crate) fn node(&self) -> Option<u32> {
        (self.victim > 0).then_some(self.victim)
    }

    /// Whether servers may end by it.
    pub(crate) fn excuses(&self, node: u32) -> bool {
        self.fault.kind == FaultKind::FillDisk && self.victim == node
    }

    fn hit(&mut self, cluster: &mut Cluster, load: &mut Load) -> Result<String> {
        let (fault, victim) = (self.fault, self.victim);
        match fault.kind {
            FaultKind::KillNode | FaultKind::KillLeader => {
                cluster.nodes.kill(&[victim]);
                Ok(format!("SIGKILL of node {victim}"))
            }
            FaultKind::LoseDisk => {
                cluster.lose_disk(victim)?;
                Ok(format!("SIGKILL of node {victim} and an empty disk"))
            }
            FaultKind::KillAll => {
                cluster.nodes.kill(&(1..=cluster.count).collect::<Vec<_>>());
                Ok("SIGKILL of all nodes".into())
            }
            FaultKind::PauseNode | FaultKind::PauseLeader => {
                cluster.nodes.signal(victim, Signal::STOP);
                Ok(format!("SIGSTOP of node {victim}"))
            }
            FaultKind::Isolate => self.cut_off(cluster, Cut::Both),
            FaultKind::Deaf => self.cut_off(cluster, Cut::Arriving),
            FaultKind::Mute => self.cut_off(cluster, Cut::Leaving),
            FaultKind::CutPair => {
                let other = Fault::other(victim, fault.others[0], cluster.count);
                cluster.hosts.cut(victim, &[ip(other)], Cut::Both)?;
                Ok(format!("no packets between nodes {victim} and {other}"))
            }
            FaultKind::SlowLink => {
                cluster.hosts.slow(victim, fault.kilobits)?;
                Ok(format!("node {victim} at {} kbit/s", fault.kilobits))
            }
            FaultKind::FillDisk => {
                let left = cluster.disks.fill(victim, fault.leave_bytes)?;
                Ok(format!("{} KiB left on the disk of node {victim}", left >> 10))
            }
            FaultKind::FlipBits => {
                let places = cluster.disks.flip(victim, fault.flips, fault.salt)?;
                Ok(format!("{} bits of node {victim}: {}", places.len(), places.join(", ")))
            }
            FaultKind::LoseClient => {
                let guest = load.guest(fault.salt);
                self.vanishing = Some(Vanishing::start(cluster.addresses(), fault.salt, guest)?);
                Ok(format!("a client that writes {}", Vanishing::path(fault.salt)))
            }
        }
    }

    /// Cuts the victim off from the other hosts, and from the clients if the fault says so.
    fn cut_off(&self, cluster: &Cluster, cut: Cut) -> Result<String> {
        let others = (1..=cluster.count).filter(|other| *other != self.victim);
        let mut peers: Vec<String> = others.map(ip).collect();
        if self.fault.from_clients {
            peers.push(CLIENTS.into());
        }
        cluster.hosts.cut(self.victim, &peers, cut)?;
        let what = match cut {
            Cut::Both => "no packets from or to",
            Cut::Arriving => "no packets to",
            Cut::Leaving => "no packets from",
        };
        let clients = if self.fault.from_clients { ", clients too" } else { "" };
        Ok(format!("{what} node {}{clients}", self.victim))
    }

    fn accompany(&mut self, cluster: &Cluster, companion: Companion) -> Result<()> {
        let [first, second] =
            self.fault.others.map(|steps| Fault::other(self.victim, steps, cluster.count));
        match companion {
            Companion::SlowLink => {
                cluster.hosts.slow(first, self.fault.kilobits)?;
                self.detail = format!("; node {first} at {} kbit/s", self.fault.kilobits);
            }
            Companion::CutPair => {
                cluster.hosts.cut(first, &[ip(second)], Cut::Both)?;
                self.detail = format!("; no packets between nodes {first} and {second}");
            }
        }
        Ok(())
    }

    /// Undoes it, its companion included. The cluster then has to converge by itself.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        match self.fault.companion {
            Some(Companion::SlowLink) => cluster.hosts.unslow(self.companion(cluster))?,
            Some(Companion::CutPair) => cluster.hosts.mend(self.companion(cluster))?,
            None => {}
        }
        match self.fault.kind {
            FaultKind::KillNode
            | FaultKind::KillLeader
            | FaultKind::KillAll
            | FaultKind::LoseDisk => cluster.start_missing(),
            FaultKind::PauseNode | FaultKind::PauseLeader => {
                cluster.nodes.signal(self.victim, Signal::CONT);
                Ok(())
            }
            FaultKind::Isolate | FaultKind::Deaf | FaultKind::Mute | FaultKind::CutPair => {
                cluster.hosts.mend(self.victim)
            }
            FaultKind::SlowLink => cluster.hosts.unslow(self.victim),
            FaultKind::FillDisk => cluster.disks.empty(self.victim),
            FaultKind::FlipBits => Ok(()),
            FaultKind::LoseClient => {
                self.vanishing.take().map_or(Ok(()), |vanishing| vanishing.vanish())
            }
        }
    }

    fn companion(&self, cluster: &Cluster) -> u32 {
        Fault::other(self.victim, self.fault.others[0], cluster.count)
    }
}
