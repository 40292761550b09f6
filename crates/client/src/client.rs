//! The client of one cluster: its parts, how it connects, and what it does in the background.

use crate::behind::{self, Behind};
use crate::blocks::{Choices, Window};
use crate::bound::Bound;
use crate::cache::{self, Cache};
use crate::error::{ClientError, Result};
use crate::file::Dirty;
use crate::health::{Budget, Peers};
use crate::losses::Losses;
use crate::meta::{Combiner, Doubt, View};
use crate::openings::{self, Openings};
use crate::presence::{self, Presence};
use crate::session::Session;
use crate::stats::{Stats, StatsSnapshot};
use crate::wire::{Identity, Wire};
use arc_swap::ArcSwap;
use everhold_env::{Env, Listener, Task};
use everhold_proto::fs::{FsAnswer, FsOp, FsQuery, FsReply, Owner};
use everhold_proto::map::ClusterMap;
use everhold_proto::rpc::{BreakerStatus, EndSession, Hello, OpenSession, ReportUnreachable, Rpc};
use everhold_proto::{Error, Kind, NodeId, SessionId};
use parking_lot::Mutex;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// How often the map is asked for; each answer says only "nothing new" most of the time.
const MAP_EVERY: Duration = Duration::from_secs(1);
/// How often it is checked whom to probe.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// A probe that takes longer has failed.
const PROBE_LIMIT: Duration = Duration::from_secs(1);
/// How often the leader hears whom this client cannot reach.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Limit of a background call.
const BACKGROUND_LIMIT: Duration = Duration::from_secs(2);
/// The session is renewed so many times per time to live.
const RENEWALS_PER_TTL: u32 = 5;
/// After a renewal that failed, and how often it is tried again before the next one is due anyway.
const RENEW_AGAIN: Duration = Duration::from_secs(1);
const RENEW_TRIES: u32 = 5;

/// What a client may be told.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// What it calls itself, for people.
    pub name: String,
    /// How long an operation of the tree tries before it gives up.
    pub deadline: Duration,
    /// How long operations try once the client is connected; `None`: as long as `deadline`.
    pub operation_deadline: Option<Duration>,
    /// User that new files belong to.
    pub uid: u32,
    /// Group that new files belong to.
    pub gid: u32,
    /// Blocks that one writer has under way.
    pub write_window: usize,
    /// Blocks that one reader reads ahead.
    pub read_window: usize,
    /// Blocks of 4 MiB that all writers of this client hold in memory until they are committed. It bounds
    /// how long a small write waits behind large ones: 32 blocks are a third of a second at 400 MiB/s.
    pub buffers: usize,
    /// Follow the change feed and keep a cache of attributes and names by it, for the questions
    /// `cached_…`. Changes of others then wait for this client to hear of them, for half a second at most if it
    /// falls silent.
    pub follow: bool,
    /// Make changes of directories that nobody else uses here, and tell the cluster soon after
    /// ([`Client::settle`] waits for that). Needs `follow`.
    pub write_behind: bool,
    /// Go round nodes that do not answer well, ask a second copy when the first is slow, and do not wait for
    /// the last copy of a write. Off only to show what that is worth.
    pub protected: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        ClientOptions {
            name: "client".into(),
            deadline: Duration::from_secs(30),
            operation_deadline: None,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            write_window: 10,
            read_window: 6,
            buffers: 32,
            follow: false,
            write_behind: false,
            protected: true,
        }
    }
}

/// A client of one cluster. Share it: concurrent operations share connections and log entries.
pub struct Client {
    pub(crate) env: Env,
    pub(crate) wire: Wire,
    pub(crate) identity: Arc<Identity>,
    pub(crate) options: ClientOptions,
    pub(crate) view: View,
    pub(crate) peers: Peers,
    pub(crate) budget: Budget,
    pub(crate) stats: Stats,
    pub(crate) choices: Choices,
    /// How many blocks are under way at once.
    pub(crate) window: Window,
    pub(crate) executes: Combiner<FsOp, FsReply>,
    pub(crate) queries: Combiner<FsQuery, FsAnswer>,
    /// With `follow`.
    pub(crate) cache: Option<Arc<Cache>>,
    /// With `write_behind`.
    pub(crate) behind: Option<Arc<Behind>>,
    /// When the leader answered last.
    pub(crate) answered: Mutex<Instant>,
    /// With `write_behind`.
    pub(crate) presence: Presence,
    /// What was lost after it had been answered.
    pub(crate) losses: Losses,
    /// Memory of blocks on their way, in blocks.
    pub(crate) memory: Arc<Semaphore>,
    /// Bytes in open files that are not committed.
    pub(crate) dirty: Dirty,
    session: ArcSwap<Session>,
    /// Held while a session is opened.
    opening: tokio::sync::Mutex<()>,
    /// Held while it is asked whether the session lives.
    pub(crate) confirming: tokio::sync::Mutex<()>,
    /// The current one.
    pub(crate) sessions: watch::Sender<SessionId>,
    /// Files that are changed in one session or not at all.
    pub(crate) bound: Bound,
    /// Files that are open here.
    pub(crate) openings: Arc<Openings>,
    renew_every: Duration,
    background: Mutex<Vec<Task<()>>>,
}

impl Client {
    /// Connects to the cluster that the `seeds` (`HOST:PORT` each) belong to and opens a session.
    pub async fn connect(
        env: Env,
        seeds: &[String],
        options: ClientOptions,
    ) -> Result<Arc<Client>> {
        if seeds.is_empty() {
            let text = "no address of the cluster was given; name at least one node as HOST:PORT";
            return Err(ClientError::new(Kind::Invalid, text));
        }
        let deadline = env.clock.now() + options.deadline;
        let identity = Arc::new(Identity::unknown());
        let wire = Wire::new(env.clone(), identity.clone());
        let mut client = Client {
            peers: Peers::new(env.entropy.clone(), options.protected),
            memory: Arc::new(Semaphore::new(options.buffers.max(1))),
            dirty: Dirty::default(),
            losses: Losses::default(),
            presence: Presence::default(),
            answered: Mutex::new(env.clock.now()),
            view: View::new(seeds.to_vec()),
            budget: Budget::default(),
            stats: Stats::default(),
            choices: Choices::default(),
            window: Window::new(&env, options.protected),
            cache: options.follow.then(|| Arc::new(Cache::new())),
            behind: (options.follow && options.write_behind).then(|| Arc::new(Behind::new())),
            executes: Combiner::default(),
            queries: Combiner::default(),
            session: ArcSwap::from_pointee(Session::new(Default::default())),
            opening: tokio::sync::Mutex::default(),
            confirming: tokio::sync::Mutex::default(),
            sessions: watch::Sender::new(SessionId::default()),
            bound: Bound::default(),
            openings: Arc::new(Openings::new()),
            renew_every: Duration::ZERO,
            background: Mutex::default(),
            env,
            wire,
            identity,
            options,
        };
        client.learn_cluster(deadline).await?;
        client.renew_every = client.open_session(deadline).await? / RENEWALS_PER_TTL;
        client.first_map(deadline).await?;
        let listener = match &client.behind {
            Some(_) => client.presence.begin(&client.env.net).await,
            None => None,
        };
        let client = Arc::new(client);
        client.start_background(listener);
        Ok(client)
    }

    /// Ends the session: locks, open handles and unfinished writes of this client end with it. Finish
    /// writers first; what they committed is durable already.
    pub async fn close(self: &Arc<Self>) -> Result<()> {
        let settled = self.settle_all().await;
        self.background.lock().clear();
        if let Some(cache) = &self.cache {
            cache.close(); // before the end of the session tells others that it is
        }
        let end = EndSession { session: self.session().id };
        let deadline = self.env.clock.now() + BACKGROUND_LIMIT;
        let mut doubt = Doubt::default();
        match self.ask_leader(&end, deadline, &mut doubt).await {
            // It ends by itself after its time.
            Err(e) if e.kind != Kind::NotFound => settled.and(Err(e.into())),
            _ => settled,
        }
    }

    /// The newest map seen.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.view.map()
    }

    /// What the client did so far.
    pub fn stats(&self) -> StatsSnapshot {
        self.stats.snapshot()
    }

    /// Bytes in open files that are not committed.
    pub fn uncommitted_bytes(&self) -> usize {
        self.dirty.bytes()
    }

    /// Changes that were made behind delegations and are not told to the cluster.
    pub fn untold_changes(&self) -> usize {
        self.behind.as_ref().map_or(0, |behind| behind.untold())
    }

    /// How long ago the leader answered a call of this client last, whatever it was.
    pub fn silent_for(&self) -> Duration {
        let answered = *self.answered.lock();
        self.env.clock.now().saturating_duration_since(answered)
    }

    /// Its circuit breakers that are not closed.
    pub fn breakers(&self) -> Vec<BreakerStatus> {
        self.peers.breakers(&self.options.name, self.env.clock.now())
    }

    /// The wire that it uses, for calls to particular nodes.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The ports to the world that it uses.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Any call to the leader that is safe to repeat (status, events, administration), within the
    /// client's default deadline.
    pub async fn call_leader<R: Rpc>(&self, request: &R) -> Result<R::Reply> {
        let mut doubt = Doubt::default();
        Ok(self.ask_leader(request, self.deadline(), &mut doubt).await?)
    }

    /// Owner and mode of something new; the mode is taken as it is.
    pub fn owner(&self, mode: u32) -> Owner {
        Owner { uid: self.options.uid, gid: self.options.gid, mode, umask: 0 }
    }

    /// The deadline of an operation that starts now.
    pub fn deadline(&self) -> Instant {
        self.env.clock.now() + self.options.operation_deadline.unwrap_or(self.options.deadline)
    }

    pub(crate) fn session(&self) -> Arc<Session> {
        self.session.load_full()
    }

    /// Opens another session unless somebody else has replaced `old` meanwhile.
    pub(crate) async fn replace_session(
        &self,
        old: &Session,
        deadline: Instant,
    ) -> Result<(), Error> {
        let opening = self.env.clock.until(deadline, self.opening.lock()).await;
        let _opening =
            opening.map_err(|_| Error::new(Kind::Retry, "no session could be opened in time"))?;
        if self.session.load().id != old.id {
            return Ok(());
        }
        tracing::info!(session = %old.id, "the session has ended; opening another one");
        self.open_session(deadline).await.map(|_ttl| ())
    }

    async fn open_session(&self, deadline: Instant) -> Result<Duration, Error> {
        let open = OpenSession { client: self.options.name.clone(), follows: self.options.follow };
        let sent = self.env.clock.now();
        // Opened twice, the first one is never used and ends by itself.
        let opened = self.ask_leader(&open, deadline, &mut Doubt::default()).await?;
        let ttl = Duration::from_millis(opened.ttl_ms.max(1000));
        self.session.store(Arc::new(Session::opened(opened.session, ttl, sent)));
        if let Some(behind) = &self.behind {
            let lost = behind.session_opened(opened.session, &self.losses);
            self.forget_lost(lost);
        }
        self.openings.session_opened();
        self.sessions.send_replace(opened.session);
        self.stats.sessions.fetch_add(1, Ordering::Relaxed);
        Ok(ttl)
    }

    async fn learn_cluster(&self, deadline: Instant) -> Result<()> {
        loop {
            let address = self.view.whom_to_ask(self.env.clock.now()).address;
            let now = self.env.clock.now();
            let until = deadline.min(now + BACKGROUND_LIMIT);
            let error = match self.wire.try_call(&address, &Hello {}, until, true).await {
                Ok(hello) => match hello.cluster {
                    Some(cluster) => {
                        self.identity.set(cluster);
                        let _named = self.view.redirected(&address, hello.leader, now);
                        return Ok(());
                    }
                    None => {
                        Error::new(Kind::Retry, format!("{address} is still joining a cluster"))
                    }
                },
                Err(error) => error.into(),
            };
            let wait = Duration::from_millis(50 + self.env.entropy.below(100));
            if self.env.clock.now() + wait >= deadline || error.kind == Kind::Foreign {
                return Err(error.into());
            }
            self.env.clock.sleep(wait).await;
        }
    }

    async fn first_map(&self, deadline: Instant) -> Result<()> {
        while self.view.epoch().0 == 0 {
            let refreshed = self.refresh_map(deadline).await;
            let wait = Duration::from_millis(50);
            if self.view.epoch().0 > 0 {
                return Ok(());
            }
            if self.env.clock.now() + wait >= deadline {
                let none = || Error::new(Kind::Retry, "the cluster has no map yet");
                return Err(refreshed.err().unwrap_or_else(none).into());
            }
            self.env.clock.sleep(wait).await;
        }
        Ok(())
    }

    fn start_background(self: &Arc<Self>, listener: Option<Listener>) {
        let every = |period: Duration, work: fn(Arc<Client>) -> Work| {
            let (weak, clock) = (Arc::downgrade(self), self.env.clock);
            self.env.tasks.spawn(async move {
                loop {
                    clock.sleep(period).await;
                    let Some(client) = Weak::upgrade(&weak) else { return };
                    work(client).await;
                }
            })
        };
        let mut background = vec![
            every(self.renew_every, |client| Box::pin(client.renew())),
            every(MAP_EVERY, |client| Box::pin(client.follow_map())),
            every(PROBE_EVERY, |client| Box::pin(client.probe())),
            every(REPORT_EVERY, |client| Box::pin(client.report())),
        ];
        if let Some(cache) = &self.cache {
            let followed = cache::run(Arc::downgrade(self), cache.clone());
            background.push(self.env.tasks.spawn(followed));
        }
        if let Some(behind) = &self.behind {
            let told = behind::run(Arc::downgrade(self), behind.clone());
            background.push(self.env.tasks.spawn(told));
        }
        if let Some(listener) = listener {
            background.push(self.env.tasks.spawn(presence::run(listener, self.env.clock)));
        }
        let registered = openings::run(Arc::downgrade(self), self.openings.clone());
        background.push(self.env.tasks.spawn(registered));
        *self.background.lock() = background;
    }

    async fn renew(self: Arc<Self>) {
        for _ in 0..RENEW_TRIES {
            let session = self.session();
            let deadline = self.env.clock.now() + self.renew_every;
            match self.renew_by(&session, deadline).await {
                Ok(()) => return,
                Err(e) => {
                    tracing::info!(session = %session.id, error = %e, "the session was not renewed")
                }
            }
            self.env.clock.sleep(RENEW_AGAIN).await;
        }
    }

    async fn follow_map(self: Arc<Self>) {
        let deadline = self.env.clock.now() + BACKGROUND_LIMIT;
        if let Err(e) = self.refresh_map(deadline).await {
            tracing::debug!(error = %e, "the map was not refreshed");
        }
    }

    /// Asks the nodes that were left alone whether they answer again, all at once.
    async fn probe(self: Arc<Self>) {
        let now = self.env.clock.now();
        let map = self.view.map();
        for node in self.peers.begin_probes(now, PROBE_LIMIT) {
            let Some(address) = map.nodes.get(&node).map(|n| n.address.clone()) else { continue };
            let client = self.clone();
            self.env.tasks.detach(async move { client.probe_one(node, &address).await });
        }
    }

    async fn probe_one(&self, node: NodeId, address: &str) {
        let deadline = self.env.clock.now() + PROBE_LIMIT;
        let answer = self.wire.try_call(address, &Hello {}, deadline, true).await;
        self.peers.probed(node, answer.is_ok(), self.env.clock.now());
    }

    async fn report(self: Arc<Self>) {
        let nodes = self.peers.unreachable();
        let breakers = self.peers.breakers(&self.options.name, self.env.clock.now());
        if nodes.is_empty() && breakers.is_empty() {
            return;
        }
        let deadline = self.env.clock.now() + BACKGROUND_LIMIT;
        let report = ReportUnreachable { nodes, reporter: None, breakers };
        if let Err(e) = self.ask_leader(&report, deadline, &mut Doubt::default()).await {
            tracing::debug!(error = %e, "unreachable nodes were not reported");
        }
    }
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
