//! This node as a member of its cluster: it registers itself and its disks, gives signs of life, and
//! keeps its map fresh.
//!
//! It works when all nodes restart at once: Raft runs before anybody is registered, and whoever finds
//! no leader tries again until there is one.

use crate::detach;
use crate::directory::NodeFile;
use crate::disk::DiskSeat;
use crate::error::Fatal;
use crate::metadata::done;
use crate::node::Node;
use crate::repair::{DiskWorkers, LocalDisk, REPAIR_BYTES_MAX, ScrubPace, ports};
use crate::{cluster_port::ClusterPort, store_port::StorePort};
use everhold_proto::command::{Answer, Command, MapCommand};
use everhold_proto::map::{NodeState, Policy};
use everhold_proto::rpc::{
    DiskSpeed, GetMap, GotMap, Heartbeat, HeartbeatReply, RegisterDisk, RegisterNode,
    RegisteredDisk,
};
use everhold_proto::{Epoch, Error, Kind, NodeId, PolicyId, RaftId};
use futures_util::FutureExt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Signs of life are this far apart: five a second, so that the detector has a rhythm to judge.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(200);
/// A sign of life that is not answered by then is given up for the next one.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(1);
/// One registration; it is repeated until it succeeds.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);
/// Pause between failed registrations, with as much again as jitter.
const REGISTER_PAUSE_MS: u64 = 200;
/// The map is asked for again after a failure.
const MAP_LIMIT: Duration = Duration::from_secs(2);
/// Each of those who are asked for it gets so long, and so many peers are asked when the leader does not answer.
const MAP_TRY: Duration = Duration::from_millis(500);
const MAP_PEERS_MAX: usize = 3;
/// The node that creates a cluster.
pub(crate) const FIRST_NODE: NodeId = NodeId(1);
/// Its identity in Raft.
pub(crate) const FIRST_RAFT: RaftId = RaftId(1);

/// Registers, starts the disks' workers, and then gives signs of life for ever.
pub(crate) async fn run(
    node: Arc<Node>,
    wanted: watch::Sender<Epoch>,
    mut added: mpsc::Receiver<Arc<DiskSeat>>,
) {
    if let Err(e) = join(&node).await {
        return node.fail(Fatal::Refused(e.to_string()));
    }
    let memory = Arc::new(Semaphore::new(REPAIR_BYTES_MAX));
    let cluster: Arc<dyn ports::Cluster> = Arc::new(ClusterPort::new(node.clone()));
    let mut running = Vec::new();
    for seat in node.disks.all().iter() {
        if let Err(e) = take_in(&node, seat, &cluster, &memory, &mut running).await {
            return node.fail(Fatal::Refused(e.to_string()));
        }
    }
    loop {
        let round = async {
            while let Ok(seat) = added.try_recv() {
                take_in(&node, &seat, &cluster, &memory, &mut running).await?;
            }
            look_after(&node, &mut running).await?;
            match beat(&node).await {
                Ok(reply) => heard(&node, &reply, &wanted).await,
                Err(e) => {
                    tracing::debug!(error = %e, "the leader does not hear this node");
                    Ok(())
                }
            }
        };
        if let Err(e) = round.await {
            return node.fail(Fatal::Refused(e.to_string()));
        }
        node.env.clock.sleep(HEARTBEAT_EVERY).await;
    }
}

/// The disks in service, with what works on each.
type Running = Vec<(Arc<DiskSeat>, DiskWorkers)>;

/// Brings a disk into service, unless the cluster has let it go meanwhile.
async fn take_in(
    node: &Arc<Node>,
    seat: &Arc<DiskSeat>,
    cluster: &Arc<dyn ports::Cluster>,
    memory: &Arc<Semaphore>,
    running: &mut Running,
) -> Result<(), Error> {
    if let Some(workers) =
        unless_removed(node, seat, commission(node, seat, cluster, memory)).await?
    {
        running.push((seat.clone(), workers));
    }
    Ok(())
}

/// Ends the work on disks that are gone, and registers anew those whose sessions have ended.
async fn look_after(node: &Arc<Node>, running: &mut Running) -> Result<(), Error> {
    let disks = node.disks.all();
    running.retain(|(seat, workers)| {
        let stays = disks.iter().any(|disk| Arc::ptr_eq(disk, seat));
        for (name, status) in workers.statuses() {
            node.signals.set_worker(&name, stays.then_some(status));
        }
        stays
    });
    for (seat, _) in running.iter() {
        unless_removed(node, seat, register_again(node, seat)).await?;
    }
    Ok(())
}

/// What `work` for a disk comes to; `None`, and the disk is let go, if it was removed from the cluster.
async fn unless_removed<T>(
    node: &Arc<Node>,
    seat: &DiskSeat,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<Option<T>, Error> {
    match (work.await, seat.id()) {
        (Ok(value), _) => Ok(Some(value)),
        (Err(e), Some(disk)) if e.kind == Kind::NotFound => {
            tracing::info!(%disk, error = %e, "the cluster has this disk no more");
            detach::forget(node, disk).await.map(|()| None)
        }
        (Err(e), _) => Err(e),
    }
}

/// Fetches the map whenever a newer one is known to exist, and remembers the peers in it.
pub(crate) async fn follow_map(node: Arc<Node>, mut wanted: watch::Receiver<Epoch>) {
    loop {
        let deadline = node.env.clock.now() + MAP_LIMIT;
        if let Err(e) = node.refresh_map(deadline).await {
            tracing::debug!(error = %e, "no newer map yet");
            node.env.clock.sleep(HEARTBEAT_EVERY).await;
        } else if node.map.epoch() < *wanted.borrow() {
            // The leader that answered has not applied it yet.
            node.env.clock.sleep(HEARTBEAT_EVERY / 4).await;
        }
        remember_peers(&node).await;
        let known = node.map.epoch();
        if wanted.wait_for(|epoch| *epoch > known).await.is_err() {
            return;
        }
    }
}

/// One heartbeat that says that the node stops on purpose.
pub(crate) async fn say_goodbye(node: &Arc<Node>) {
    node.signals.leaving.store(true, Ordering::Relaxed);
    if let Err(e) = beat(node).await {
        tracing::debug!(error = %e, "the leader was not told that this node stops");
    }
}

impl Node {
    /// Gets a newer map if there is one: from the replica here, else from the leader. Callers at the
    /// same time share one question.
    pub(crate) async fn refresh_map(self: &Arc<Self>, deadline: Instant) -> Result<(), Error> {
        let before = self.map.epoch();
        let late = || Error::new(Kind::Retry, "no newer map in time");
        let asking = self.env.clock.until(deadline, self.map_question.lock()).await;
        let _asking = asking.map_err(|_| late())?;
        if self.map.epoch() > before || self.local_map()?.epoch > before || self.is_leader() {
            return Ok(());
        }
        let unknown = || Error::new(Kind::Retry, "no metadata leader is known");
        let leader = self.leader_address().ok_or_else(unknown)?;
        let ask = GetMap { known: before };
        let until = deadline.min(self.env.clock.now() + MAP_TRY);
        let got = match self.wire.call_idempotent(&leader, &ask, until).await {
            Ok(got) => got,
            // A node that the leader does not reach is not cut off from the map: any other one has it too.
            Err(e) => self.map_of_a_peer(&ask, &leader, deadline).await.ok_or(e)?,
        };
        if let Some(map) = got.map.filter(|map| map.cluster == self.cluster) {
            self.map.install(Arc::new(map));
        }
        Ok(())
    }

    /// The first newer map that one of some peers has.
    async fn map_of_a_peer(&self, ask: &GetMap, leader: &str, deadline: Instant) -> Option<GotMap> {
        let map = self.map.current();
        let others = map.nodes.values().filter(|other| {
            other.state == NodeState::Up && other.address != leader && other.address != self.address
        });
        for other in others.take(MAP_PEERS_MAX) {
            let until = deadline.min(self.env.clock.now() + MAP_TRY);
            match self.wire.call_idempotent(&other.address, ask, until).await {
                Ok(got) if got.map.is_some() => return Some(got),
                Ok(_) => {}
                Err(e) => tracing::debug!(peer = %other.id, error = %e, "no map from this peer"),
            }
        }
        None
    }
}

/// Registers the node, after creating the cluster if that is its part.
async fn join(node: &Arc<Node>) -> Result<(), Error> {
    let bootstrap = node.directory.file().await.bootstrap;
    if let Some(copies) = bootstrap {
        persist(node, || create_cluster(node, copies)).await?;
    }
    persist(node, || register_node(node)).await?;
    if bootstrap.is_some() {
        persist(node, || claim_raft_id(node)).await?;
        change_file(node, |file| file.bootstrap = None).await;
        node.founding.store(false, Ordering::Release);
    }
    Ok(())
}

/// Tries again until it succeeds or the cluster refuses this node for good.
async fn persist<T, F: Future<Output = Result<T, Error>>>(
    node: &Node,
    mut attempt: impl FnMut() -> F,
) -> Result<T, Error> {
    loop {
        match attempt().await {
            Err(e) if e.kind != Kind::Foreign => {
                tracing::info!(error = %e, "not registered yet");
                let jitter = node.env.entropy.below(REGISTER_PAUSE_MS);
                node.env.clock.sleep(Duration::from_millis(REGISTER_PAUSE_MS + jitter)).await;
            }
            other => return other,
        }
    }
}

async fn create_cluster(node: &Arc<Node>, copies: u8) -> Result<(), Error> {
    let policy = Policy::replicated(PolicyId(0), "default", copies);
    let command = Command::Create { cluster: node.cluster, policy };
    match node.propose(command, limit(node)).await.and_then(done) {
        // It was created before a crash; nobody else can have done it.
        Err(e) if e.kind == Kind::Conflict => Ok(()),
        other => other,
    }
}

async fn register_node(node: &Arc<Node>) -> Result<(), Error> {
    let raft = node.raft.current().map(|c| c.identity().raft_id);
    let request = RegisterNode {
        uuid: node.uuid,
        address: node.address.clone(),
        labels: node.config.labels.clone(),
        raft,
        marks: node.directory.file().await.marks,
    };
    let mark = request.marks.last().copied();
    let reply = node.call_leader(&request, limit(node)).await?;
    if reply.cluster != node.cluster || !node.registration.set_node(reply.node) {
        let message = format!("it is {} of cluster {} there", reply.node, reply.cluster);
        return Err(Error::new(Kind::Foreign, message));
    }
    change_file(node, |file| {
        file.node = Some(reply.node);
        file.boot = reply.boot;
        file.marks = mark.into_iter().collect();
    })
    .await;
    node.registration.set_boot(reply.boot);
    tracing::info!(node = %reply.node, boot = reply.boot, "registered");
    Ok(())
}

/// The first node votes under the first Raft id; the map must say so.
async fn claim_raft_id(node: &Arc<Node>) -> Result<(), Error> {
    if node.local_map()?.nodes.get(&FIRST_NODE).is_some_and(|n| n.raft == Some(FIRST_RAFT)) {
        return Ok(());
    }
    let command = Command::Map(MapCommand::AllocateRaftId { node: FIRST_NODE });
    match node.propose(command, limit(node)).await?.1 {
        Answer::Raft(FIRST_RAFT) => Ok(()),
        other => Err(crate::metadata::unexpected(&other)),
    }
}

/// Brings a disk into service for the first time in this process.
async fn commission(
    node: &Arc<Node>,
    seat: &Arc<DiskSeat>,
    cluster: &Arc<dyn ports::Cluster>,
    memory: &Arc<Semaphore>,
) -> Result<DiskWorkers, Error> {
    let reply = register_disk(node, seat).await?;
    change_file(node, |file| {
        match file.more_disks.iter_mut().find(|more| more.uuid() == Some(seat.uuid)) {
            Some(more) => more.disk = Some(reply.disk),
            None => file.disk = Some(reply.disk),
        }
    })
    .await;
    seat.store.set_disk(reply.disk).await?;
    let of = node.registration.node().expect("the node registered before its disks");
    let store: Arc<dyn ports::Store> =
        Arc::new(StorePort::new(node.env.clock, seat.store.clone(), node.gates.work.clone()));
    let local = seat.set_local(LocalDisk::new(of, reply.disk, reply.session, store));
    let watching = Arc::downgrade(local);
    node.map.before_install(move |map| {
        if let Some(disk) = watching.upgrade() {
            disk.map_changed(map);
        }
    });
    local.map_changed(&node.map.current());
    tracing::info!(disk = %reply.disk, session = %reply.session, "disk in service");
    Ok(DiskWorkers::start(&node.env, local, cluster, memory, ScrubPace::default()))
}

/// Registers the disk anew when its session has ended: by its own report, or as the map shows.
async fn register_again(node: &Arc<Node>, seat: &Arc<DiskSeat>) -> Result<(), Error> {
    let Some(local) = seat.local() else { return Ok(()) };
    let session = local.session();
    let map = node.map.current();
    let in_map = map.disks.get(&local.disk).map(|disk| disk.session);
    if in_map.is_some_and(|newest| newest > session)
        || local.session_ended().now_or_never().is_some()
    {
        let reply = register_disk(node, seat).await?;
        tracing::info!(disk = %reply.disk, session = %reply.session, "disk in service again");
        local.set_session(reply.session);
    }
    Ok(())
}

/// Tries again until it succeeds, the cluster refuses this node for good, or (`NotFound`) has let the disk go.
async fn register_disk(node: &Arc<Node>, seat: &DiskSeat) -> Result<RegisteredDisk, Error> {
    let attempt = || async {
        match (try_register_disk(node, seat).await, seat.id()) {
            (Err(e), Some(disk)) if e.kind == Kind::NotFound => {
                if detach::is_removed(node, disk, limit(node)).await { Ok(Err(e)) } else { Err(e) }
            }
            (other, _) => other.map(Ok),
        }
    };
    persist(node, attempt).await?
}

async fn try_register_disk(node: &Arc<Node>, seat: &DiskSeat) -> Result<RegisteredDisk, Error> {
    let of = node.registration.node();
    let of = of.ok_or_else(|| Error::new(Kind::Retry, "the node has not registered yet"))?;
    let space = seat.store.space();
    let request = RegisterDisk {
        uuid: seat.uuid,
        disk: seat.id(),
        node: of,
        capacity_bytes: space.capacity,
        used_bytes: space.live,
    };
    node.call_leader(&request, limit(node)).await
}

async fn beat(node: &Arc<Node>) -> Result<HeartbeatReply, Error> {
    let now = node.env.clock.now();
    let current = node.registration.current();
    let (id, boot) =
        current.ok_or_else(|| Error::new(Kind::Retry, "the node has not registered yet"))?;
    let heartbeat = Heartbeat {
        node: id,
        boot,
        epoch: node.map.epoch(),
        disks: node.disks.all().iter().filter_map(|disk| disk.usage()).collect(),
        unreachable: node.signals.unreachable_lately(now),
        reached: node.reach.reached_lately(now),
        repair: node.repair_progress(),
        leaving: node.signals.leaving.load(Ordering::Relaxed),
        speeds: speeds(node, now),
        failed: node.disks.failed(),
    };
    let reply = node.call_leader(&heartbeat, now + HEARTBEAT_LIMIT).await;
    let answered = node.env.clock.now();
    // While nobody leads, everybody's calls are late, and this tells nothing.
    if reply.is_ok() && !node.is_leader() {
        node.reach.called(answered.saturating_duration_since(now), answered);
    }
    reply
}

/// How fast this node's disks, and the node itself, answered lately.
fn speeds(node: &Node, now: Instant) -> Vec<DiskSpeed> {
    let answer_micros = node.reach.answer_micros(now);
    let speed = |disk: &Arc<DiskSeat>| {
        Some(DiskSpeed { answer_micros, ..disk.speed.speed(disk.id()?, now) })
    };
    node.disks.all().iter().filter_map(speed).collect()
}

/// Acts on the answer to a sign of life.
async fn heard(
    node: &Arc<Node>,
    reply: &HeartbeatReply,
    wanted: &watch::Sender<Epoch>,
) -> Result<(), Error> {
    wanted.send_if_modified(|epoch| {
        let newer = reply.epoch > *epoch;
        *epoch = reply.epoch.max(*epoch);
        newer
    });
    for local in node.disks.all().iter().filter_map(|seat| seat.local()) {
        local.heartbeat_answered(reply.work, reply.brake);
    }
    let of_map = node.map.current();
    let id = node.registration.current();
    let outdated =
        id.is_some_and(|(id, boot)| of_map.nodes.get(&id).is_some_and(|n| n.boot > boot));
    if reply.register || outdated {
        persist(node, || register_node(node)).await?;
    }
    for seat in node.disks.all().iter() {
        let Some(local) = seat.local() else { continue };
        if reply.register_disks.contains(&local.disk)
            && let Some(registered) = unless_removed(node, seat, register_disk(node, seat)).await?
        {
            local.set_session(registered.session);
        }
    }
    Ok(())
}

/// Whom to ask after a restart, when no leader is known.
async fn remember_peers(node: &Node) {
    let map = node.map.current();
    let peers: Vec<String> = map.nodes.values().map(|n| n.address.clone()).collect();
    let peers: Vec<String> = peers.into_iter().filter(|a| *a != node.address).collect();
    if !peers.is_empty() {
        change_file(node, |file| file.peers = peers).await;
    }
}

/// Changes `node.json`. A failure is logged: the file is written again with the next change, and what
/// is changed here can be learned anew.
async fn change_file(node: &Node, change: impl FnOnce(&mut NodeFile)) {
    if let Err(e) = node.directory.change(change).await {
        tracing::error!(error = %e, "node.json cannot be written");
    }
}

fn limit(node: &Node) -> Instant {
    node.env.clock.now() + REGISTER_LIMIT
}
