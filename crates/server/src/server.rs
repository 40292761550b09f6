//! One running server: it puts the parts of a node together, starts them in the order in which they
//! need each other, and ends them in the reverse order.

use crate::attach::{Opened, open_all};
use crate::config::{Origin, ServerConfig};
use crate::contact::{check_age, check_seeds, find_cluster};
use crate::counters::Counters;
use crate::directory::DataDirectory;
use crate::disk::DiskSeat;
use crate::disks::Disks;
use crate::error::{Fatal, StartError};
use crate::feed::Feed;
use crate::http::{HttpLimits, serve};
use crate::leader::LeaderHint;
use crate::log_time::LogTime;
use crate::map_cache::MapCache;
use crate::membership::{self, FIRST_NODE, FIRST_RAFT};
use crate::node::{Gates, HeartbeatConnections, Node, Registration, Signals};
use crate::raft::{RaftSeat, WireTransport};
use crate::reach::{self, Reach};
use crate::{BadConfig, control, speed};
use everhold_client::{Identity, Wire};
use everhold_consensus::{RaftNode, Role};
use everhold_env::{Env, Listener, Task};
use everhold_proto::{ClusterId, Epoch};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// A stopping leader waits this long for another one.
const HANDOVER_LIMIT: Duration = Duration::from_secs(2);
/// How often a store is looked at for a failure.
const DISK_CHECK_EVERY: Duration = Duration::from_millis(500);

/// A running server. Dropping it ends it at once, as a crash would; [`Server::shutdown`] ends it well.
pub struct Server {
    node: Arc<Node>,
    stop: watch::Sender<bool>,
    tasks: Vec<Task<()>>,
    fatal: mpsc::Receiver<Fatal>,
}

impl Server {
    /// Starts a server. When this returns it serves its port; it registers with its cluster in the
    /// background, because there may be no leader before others have started too.
    pub async fn start(env: Env, config: ServerConfig) -> Result<Server, StartError> {
        config.validate()?;
        let directory = Arc::new(DataDirectory::open(&env, &config.data_dir).await?);
        let listener = env.net.listen(&config.listen).await;
        let listener = listener
            .map_err(|source| StartError::Listen { address: config.listen.clone(), source })?;
        let address = advertised(&config, &listener)?;
        let identity = Arc::new(Identity::unknown());
        let wire = Wire::new(env.clone(), identity.clone());
        let cluster = settle_cluster(&env, &config, &directory, &wire).await?;
        identity.set(cluster);
        let fresh = env.entropy.u64().max(1);
        let marked = directory.change(|file| {
            if file.marks.len() < 2 {
                file.marks.push(fresh);
            }
        });
        marked.await.map_err(|e| directory.error(e))?;
        check_age(&env, &wire, &directory.file().await).await?;
        let (fatal_tx, fatal) = mpsc::channel(4);
        let (added_tx, added) = mpsc::channel(1);
        let parts = (fatal_tx, added_tx);
        let node = assemble(env, config, directory, address, cluster, wire, parts).await?;
        take_raft_seat(&node).await?;
        let (stop, tasks) = spawn(&node, listener, added);
        tracing::info!(address = %node.address, cluster = %node.cluster, "serving");
        Ok(Server { node, stop, tasks, fatal })
    }

    /// `HOST:PORT` under which others reach it.
    pub fn address(&self) -> &str {
        &self.node.address
    }

    /// The cluster that it is part of.
    pub fn cluster(&self) -> ClusterId {
        self.node.cluster
    }

    /// Resolves once the node is in service: registered, with its disks. The caller bounds the wait.
    pub async fn in_service(&self) {
        while self.node.registration.current().is_none()
            || self.node.disks.all().iter().any(|disk| disk.local().is_none())
        {
            self.node.env.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    /// Serves until `shutdown` resolves, and then ends well; or until the server has to end by itself.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Fatal> {
        let reason = tokio::select! {
            reason = self.fatal.recv() => reason,
            () = shutdown => None,
        };
        match reason {
            Some(fatal) => {
                self.end().await;
                Err(fatal)
            }
            None => self.shutdown().await,
        }
    }

    /// Ends well: hands leadership over, tells the leader, finishes calls under way, makes everything
    /// durable.
    pub async fn shutdown(mut self) -> Result<(), Fatal> {
        tracing::info!("stopping");
        hand_over(&self.node).await;
        membership::say_goodbye(&self.node).await;
        self.end().await;
        self.node.directory.leave();
        self.fatal.try_recv().map_or(Ok(()), Err)
    }

    async fn end(&mut self) {
        self.stop.send_replace(true);
        self.tasks.clear();
        if let Err(e) = self.node.raft.close().await {
            tracing::warn!(error = %e, "raft did not close cleanly");
        }
        for disk in self.node.disks.all().iter() {
            if let Err(e) = disk.store.close().await {
                tracing::warn!(error = %e, "a block store did not close cleanly");
            }
        }
    }
}

/// The address that others are told.
fn advertised(config: &ServerConfig, listener: &Listener) -> Result<String, StartError> {
    if let Some(address) = &config.advertise {
        return Ok(address.clone());
    }
    let failed = |source| StartError::Listen { address: config.listen.clone(), source };
    let bound = listener.local_addr().map_err(failed)?;
    if bound.ip().is_unspecified() {
        let why = format!("{bound} is no address that others can reach; name one");
        return Err(BadConfig { what: "advertise", why }.into());
    }
    // The host as it was given, because a name may outlive an address.
    let host = config.listen.rsplit_once(':').map_or("", |(host, _)| host);
    Ok(format!("{host}:{}", bound.port()))
}

/// Which cluster this is: the one the directory belongs to, a new one, or the one to join.
async fn settle_cluster(
    env: &Env,
    config: &ServerConfig,
    directory: &DataDirectory,
    wire: &Wire,
) -> Result<ClusterId, StartError> {
    let file = directory.file().await;
    if let Some(ours) = file.cluster() {
        if let Origin::Join(addresses) = &config.origin {
            check_seeds(env, wire, addresses, ours).await?;
        }
        return Ok(ours);
    }
    let mut copies = None;
    let cluster = match &config.origin {
        Origin::Bootstrap { copies: wanted } => {
            let mut id = [0; 16];
            env.entropy.fill(&mut id);
            copies = Some(*wanted);
            ClusterId(id)
        }
        Origin::Join(addresses) => find_cluster(env, wire, addresses, config.join_limit()).await?,
        Origin::Existing => {
            return Err(StartError::NoCluster { path: config.data_dir.clone() });
        }
    };
    let saved = directory.change(|file| {
        file.cluster = Some(cluster.to_string());
        file.bootstrap = copies;
        file.node = copies.map(|_| FIRST_NODE);
    });
    saved.await.map_err(|e| directory.error(e))?;
    Ok(cluster)
}

async fn assemble(
    env: Env,
    config: ServerConfig,
    directory: Arc<DataDirectory>,
    address: String,
    cluster: ClusterId,
    wire: Wire,
    (fatal, added): (mpsc::Sender<Fatal>, mpsc::Sender<Arc<DiskSeat>>),
) -> Result<Arc<Node>, StartError> {
    let file = directory.file().await;
    let Opened { disks, failed } = open_all(&env, &config, &directory, cluster).await?;
    let map = Arc::new(MapCache::new());
    let transport = Arc::new(WireTransport { wire: wire.clone(), map: map.clone() });
    let raft = RaftSeat::new(
        env.clone(),
        directory.clone(),
        cluster,
        config.consensus(),
        transport,
        fatal.clone(),
    );
    let mut known = file.peers.clone();
    if let Origin::Join(addresses) = &config.origin {
        known.extend(addresses.iter().cloned());
    }
    let registration = Registration::default();
    if let Some(node) = file.node {
        registration.set_node(node);
    }
    let uuid = file.uuid().ok_or_else(|| directory.error("node.json: uuid is malformed"))?;
    let feed = Feed::new(env.clock.now());
    Ok(Arc::new(Node {
        gates: Gates::new(&env, &config),
        env,
        config,
        address,
        uuid,
        cluster,
        founding: AtomicBool::new(file.bootstrap.is_some()),
        directory,
        wire,
        map,
        map_question: tokio::sync::Mutex::new(()),
        disks: Disks::new(disks, failed),
        added,
        adding: tokio::sync::Mutex::new(()),
        raft,
        observations: control::Observations::new(),
        leader: LeaderHint::knowing(known),
        log_time: LogTime::default(),
        feed,
        registration,
        signals: Signals::default(),
        reach: Reach::default(),
        counters: Counters::default(),
        heartbeats: HeartbeatConnections::default(),
        fatal,
    }))
}

async fn take_raft_seat(node: &Arc<Node>) -> Result<(), StartError> {
    node.raft.resume().await?;
    if node.directory.file().await.bootstrap.is_some() {
        let me = RaftNode { node: FIRST_NODE, address: node.address.clone() };
        node.raft.found(me, FIRST_RAFT).await?;
    }
    Ok(())
}

fn spawn(
    node: &Arc<Node>,
    listener: Listener,
    added: mpsc::Receiver<Arc<DiskSeat>>,
) -> (watch::Sender<bool>, Vec<Task<()>>) {
    let (stop, stopping) = watch::channel(false);
    let limits = HttpLimits { connections_max: node.config.load.connections_max };
    let (wanted, following) = watch::channel(Epoch(0));
    let spawn = &node.env.tasks;
    let tasks = vec![
        spawn.spawn(serve(node.env.clone(), listener, node.clone(), limits, stopping)),
        spawn.spawn(membership::follow_map(node.clone(), following)),
        spawn.spawn(membership::run(node.clone(), wanted, added)),
        spawn.spawn(control::run(node.clone())),
        spawn.spawn(watch_disks(node.clone())),
        spawn.spawn(speed::watch(node.clone())),
        spawn.spawn(reach::run(node.clone())),
    ];
    (stop, tasks)
}

/// A store that failed cannot know what is on its disk. If it is the one beside the metadata, the process ends and opens
/// it anew; without another one, the node goes on: the leader is told, and the copies are made anew elsewhere.
async fn watch_disks(node: Arc<Node>) {
    loop {
        let disks = node.disks.all();
        if let Some(reason) = disks.first().and_then(|disk| disk.store.failure()) {
            return node.fail(Fatal::Store(reason));
        }
        node.env.clock.sleep(DISK_CHECK_EVERY).await;
    }
}

/// A leader that stops makes another voter lead first, so that nobody has to notice its absence.
async fn hand_over(node: &Node) {
    let Some(consensus) = node.raft.current() else { return };
    let status = consensus.status();
    if status.role != Role::Leader || status.voters().count() < 2 {
        return;
    }
    let mut changes = consensus.watch();
    let handed = async {
        let to = consensus.step_down().await?;
        tracing::info!(%to, "leadership handed over");
        // The sender is gone only when the replica has stopped, and then nobody leads here.
        let _ended = changes.wait_for(|now| now.role != Role::Leader).await.is_err();
        Ok::<(), everhold_proto::Error>(())
    };
    match node.env.clock.within(HANDOVER_LIMIT, handed).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => tracing::warn!(error = %e, "leadership was not handed over"),
        Err(e) => tracing::warn!(error = %e, "leadership was not handed over"),
    }
}
