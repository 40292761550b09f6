//! The beginning of each fault.

use super::undo::Undo;
use super::{Damaged, Faults, Kind};
use crate::world::World;
use crate::world::admin::{Admin, Order};
use crate::world::host::DATA;
use everhold_env::disk::{Fault, Pace};
use everhold_server::Origin;
use rand::RngExt;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What of a machine is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wiped {
    /// The block store's device.
    Disk,
    /// Everything.
    Node,
}

/// Bits that decay at once.
const FLIPS_MAX: u32 = 6;
/// No other fault comes so soon after a machine was restored from an old image.
const QUIET_AFTER_ROLLBACK: Duration = Duration::from_secs(4);
/// Space that a full disk has left.
const ROOM_LEFT: u64 = 256 << 10;

impl Faults {
    pub(super) fn act(&mut self, world: &mut World, admin: &Admin, kind: Kind) {
        let now = world.elapsed();
        let node = match kind {
            Kind::KillLeader => match admin.leader(world) {
                Some(leader) => leader,
                None => return,
            },
            _ => self.rng.random_range(0..world.nodes.len()),
        };
        if !self.is_possible(world, admin, kind, node) {
            return;
        }
        *self.counts.entry(kind).or_default() += 1;
        let name = world.nodes[node].name().to_owned();
        crate::event!("FAULT {kind} {name}");
        if let Some((after, undo)) = self.begin(world, admin, kind, node) {
            self.undo.push((now + after, undo));
        }
    }

    fn is_possible(&mut self, world: &World, admin: &Admin, kind: Kind, node: usize) -> bool {
        let network = matches!(
            kind,
            Kind::Partition
                | Kind::PartitionOneWay
                | Kind::PartitionPair
                | Kind::Isolate
                | Kind::SlowLink
                | Kind::HoldLink
                | Kind::Reset
                | Kind::ClientCrash
                | Kind::ClientPause
                | Kind::ClientFreeze
                | Kind::AddNode
                | Kind::PowerLossEverywhere
                | Kind::MassOutage
        );
        if !network && !world.running[node] {
            return false;
        }
        match kind {
            // An image of the same boot cannot be told from a crash: that is not promised (ADR 0007).
            Kind::Rollback if !self.has_old_image(node) => false,
            // The refusal takes a peer that can be asked (ADR 0007).
            Kind::Rollback if !self.is_quiet(world, admin) => false,
            Kind::MassOutage => admin.is_settled() && world.running.iter().all(|running| *running),
            Kind::AddNode => world.nodes.len() < world.shape.nodes + world.shape.spares,
            kind if kind.destroys() => self.may_damage(world, admin, node),
            _ => true,
        }
    }

    fn begin(
        &mut self,
        world: &mut World,
        admin: &Admin,
        kind: Kind,
        node: usize,
    ) -> Option<(Duration, Undo)> {
        let short = self.millis(200, 4_000);
        let start = |after| Some((after, Undo::Start(node)));
        match kind {
            Kind::Kill | Kind::KillLeader => {
                world.kill(node, self.rng.random());
                start(short)
            }
            Kind::LongOutage => {
                world.kill(node, self.rng.random());
                start(self.millis(11_000, 30_000))
            }
            Kind::Stop => {
                world.nodes[node].stop.notify_one();
                None
            }
            Kind::PowerLoss => {
                world.power_off(node, self.rng.random(), self.rng.random());
                start(short)
            }
            Kind::PowerLossAtIo => {
                let n = self.rng.random_range(1..60);
                world.nodes[node].host.disk.inject(Fault::PowerAt(n));
                None
            }
            Kind::PowerLossEverywhere => {
                self.everywhere(world);
                None
            }
            Kind::WipeDisk => {
                world.kill(node, self.rng.random());
                self.wipe(world, node, Wiped::Disk);
                start(short)
            }
            Kind::WipeNode => {
                world.kill(node, self.rng.random());
                self.wipe(world, node, Wiped::Node);
                start(short)
            }
            Kind::Rollback => {
                world.kill(node, self.rng.random());
                self.roll_back(world, node);
                self.next = world.elapsed() + QUIET_AFTER_ROLLBACK;
                start(Duration::ZERO)
            }
            Kind::Partition
            | Kind::PartitionOneWay
            | Kind::PartitionPair
            | Kind::Isolate
            | Kind::SlowLink
            | Kind::HoldLink
            | Kind::Reset => self.cut(world, kind, node),
            Kind::SlowDisk
            | Kind::StallDisk
            | Kind::ReadError
            | Kind::WriteError
            | Kind::FullDisk
            | Kind::BitFlips
            | Kind::Misdirected => self.hurt(world, kind, node),
            Kind::ClockJump => {
                let by = self.rng.random_range(-3_600_000_000_000i64..3_600_000_000_000);
                world.nodes[node].host.clock.fetch_add(by, Relaxed);
                Some((self.millis(5_000, 40_000), Undo::Clock(node)))
            }
            Kind::ClientCrash => {
                let client = self.rng.random_range(0..world.clients().max(1));
                world.crash_client(client);
                Some((short, Undo::Client(client)))
            }
            Kind::ClientPause | Kind::ClientFreeze => {
                let client = self.rng.random_range(0..world.clients().max(1));
                if world.is_paused(client) {
                    return None;
                }
                world.pause_client(client, true);
                let lasts = match kind {
                    Kind::ClientPause => self.millis(100, 19_000),
                    _ => self.millis(24_000, 45_000),
                };
                Some((lasts, Undo::Resume(client)))
            }
            Kind::AddNode => {
                world.add_node(world.nodes.len() + 1);
                None
            }
            Kind::MassOutage => {
                self.mass_outage(world, admin);
                None
            }
            Kind::Drain => {
                admin.order(Order::Drain(node, true));
                Some((self.millis(8_000, 25_000), Undo::Order(Order::Drain(node, false))))
            }
            Kind::Maintenance => {
                admin.order(Order::Maintenance(node, true));
                Some((self.millis(3_000, 20_000), Undo::Order(Order::Maintenance(node, false))))
            }
        }
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.rng.random_range(from..to))
    }

    fn everywhere(&mut self, world: &mut World) {
        for node in 0..world.nodes.len() {
            if world.running[node] {
                world.power_off(node, self.rng.random(), false);
                let after = self.millis(200, 3_000);
                self.undo.push((world.elapsed() + after, Undo::Start(node)));
            }
        }
    }

    /// As many machines as it takes for more than half are off, those that do not vote first; a moment later
    /// one of the others is killed and comes back, so that it has to compare itself.
    fn mass_outage(&mut self, world: &mut World, admin: &Admin) {
        let voters = admin.voters(world);
        let mut order: Vec<usize> = (0..world.nodes.len()).collect();
        order.sort_by_key(|node| (voters.contains(node), Some(*node) == admin.leader(world)));
        let off = world.nodes.len() / 2 + 1;
        for node in &order[..off] {
            world.kill(*node, true);
            let after = self.millis(45_000, 60_000);
            self.undo.push((world.elapsed() + after, Undo::Start(*node)));
        }
        let restarted = order[off];
        let after = self.millis(7_000, 9_000);
        self.undo.push((world.elapsed() + after, Undo::Restart(restarted)));
    }

    /// The machine loses what it had on stable storage; it must not be running.
    pub(super) fn wipe(&mut self, world: &mut World, node: usize, what: Wiped) {
        self.damaged = Some(Damaged { node, since: world.elapsed() });
        let host = &world.nodes[node];
        let name = host.name();
        match what {
            Wiped::Disk => host.host.disk.wipe(&Path::new(DATA).join("disk0")),
            Wiped::Node => {
                host.host.disk.wipe(Path::new(DATA));
                // Whoever founded the cluster must not found another one.
                *host.origin.borrow_mut() = Origin::Join(world.addresses_but(name));
                self.images.remove(&node);
            }
        }
        world.oracle.emptied(name);
    }

    /// Whether everybody runs and hears everybody, and the cluster has its leader.
    fn is_quiet(&self, world: &World, admin: &Admin) -> bool {
        self.undo.is_empty() && admin.is_settled() && world.running.iter().all(|running| *running)
    }

    /// Whether there is an image from before the last boot that registered. It may hold the mark of the boot
    /// that it was taken in, registered or not: two newer ones make it old.
    fn has_old_image(&self, node: usize) -> bool {
        self.images.get(&node).is_some_and(|(_, then)| self.marks_of(node) >= then + 2)
    }

    fn roll_back(&mut self, world: &mut World, node: usize) {
        let Some((image, _)) = self.images.get(&node) else { return };
        let host = &world.nodes[node];
        host.host.disk.restore(image);
        world.oracle.rolled_back(host.name());
    }

    fn cut(&mut self, world: &mut World, kind: Kind, node: usize) -> Option<(Duration, Undo)> {
        let lasts = self.millis(500, 12_000);
        let hosts = world.host_names();
        let me = world.nodes[node].name().to_owned();
        let others: Vec<String> = hosts.iter().filter(|host| **host != me).cloned().collect();
        let other = others[self.rng.random_range(0..others.len())].clone();
        let connect = |pairs| Some((lasts, Undo::Connect(pairs)));
        match kind {
            Kind::Partition => {
                let side: Vec<bool> = hosts.iter().map(|_| self.rng.random()).collect();
                let pairs: Vec<(String, String)> = pairs(&hosts)
                    .filter(|(a, b)| side[*a] != side[*b])
                    .map(|(a, b)| (hosts[a].clone(), hosts[b].clone()))
                    .collect();
                world.part(&pairs);
                connect(pairs)
            }
            Kind::Isolate => {
                let pairs: Vec<_> = others.iter().map(|o| (me.clone(), o.clone())).collect();
                world.part(&pairs);
                connect(pairs)
            }
            Kind::PartitionPair => {
                let pairs = vec![(me, other)];
                world.part(&pairs);
                connect(pairs)
            }
            Kind::PartitionOneWay => {
                let to_all: bool = self.rng.random();
                let inbound: bool = self.rng.random();
                let whom = if to_all { others } else { vec![other] };
                for other in &whom {
                    let (from, to) = if inbound { (other, &me) } else { (&me, other) };
                    world.sim.partition_oneway(from.as_str(), to.as_str());
                }
                connect(whom.into_iter().map(|other| (me.clone(), other)).collect())
            }
            Kind::SlowLink => {
                let latency = self.millis(20, 400);
                world.sim.set_link_latency(me.as_str(), other.as_str(), latency);
                Some((lasts, Undo::Latency(me, other)))
            }
            Kind::HoldLink => {
                world.sim.hold(me.as_str(), other.as_str());
                Some((lasts, Undo::Release(me, other)))
            }
            _ => {
                let ends = world.reset(&me, &other);
                crate::event!("{ends} ends of connections between {me} and {other} are reset");
                None
            }
        }
    }

    fn hurt(&mut self, world: &mut World, kind: Kind, node: usize) -> Option<(Duration, Undo)> {
        let lasts = self.millis(1_000, 10_000);
        let usual = crate::world::host::usual_pace(world.shape.sync_ms);
        let host = world.nodes[node].clone();
        let disk = &host.host.disk;
        let blocks = Path::new(DATA).join("disk0");
        match kind {
            Kind::SlowDisk => {
                let by = self.rng.random_range(5..60);
                let slow = Duration::from_millis(by);
                disk.set_pace(Pace { sync: usual.sync * by as u32, read: slow, write: slow });
                Some((lasts, Undo::Pace(node, usual)))
            }
            Kind::StallDisk => {
                disk.inject(Fault::Stalled);
                Some((lasts, Undo::Disk(node)))
            }
            Kind::ReadError => {
                disk.inject(Fault::ReadErrorAt(self.rng.random_range(1..40)));
                None
            }
            Kind::WriteError => {
                disk.inject(Fault::WriteErrorAt(self.rng.random_range(1..40)));
                None
            }
            Kind::FullDisk => {
                disk.inject(Fault::Capacity(disk.used() + ROOM_LEFT));
                Some((lasts, Undo::Disk(node)))
            }
            Kind::Misdirected => {
                let n = self.rng.random_range(1..10);
                disk.inject(Fault::MisdirectedAt(blocks, n));
                world.oracle.damaged(host.name());
                None
            }
            _ => {
                world.oracle.damaged(host.name());
                let segments = disk.files(&blocks.join("segments"));
                for _ in 0..self.rng.random_range(1..=FLIPS_MAX) {
                    let Some(at) = self.written(world, node, &segments) else { break };
                    let bit = self.rng.random_range(0..8);
                    disk.inject(Fault::BitFlip { path: at.0, offset: at.1, bit });
                }
                None
            }
        }
    }

    /// A place in the segments that something was written to.
    fn written(
        &mut self,
        world: &World,
        node: usize,
        segments: &[(std::path::PathBuf, u64)],
    ) -> Option<(std::path::PathBuf, u64)> {
        for _ in 0..64 {
            let (path, _) = segments.get(self.rng.random_range(0..segments.len().max(1)))?;
            let pages = world.nodes[node].host.disk.pages(path);
            if !pages.is_empty() {
                let page = pages[self.rng.random_range(0..pages.len())];
                return Some((path.clone(), page + self.rng.random_range(0..4096)));
            }
        }
        None
    }
}

/// All pairs of different places.
fn pairs(hosts: &[String]) -> impl Iterator<Item = (usize, usize)> {
    let count = hosts.len();
    (0..count).flat_map(move |a| (a + 1..count).map(move |b| (a, b)))
}
