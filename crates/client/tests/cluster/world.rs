//! A cluster in one process: the real state machine over a map in memory, and nodes that serve it over
//! HTTP and misbehave when told to.

use bytes::Bytes;
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use everhold_proto::apply::Apply;
use everhold_proto::checksum::crc32c;
use everhold_proto::codec::{decode, encode};
use everhold_proto::command::{Answer, MapCommand};
use everhold_proto::fs::SessionBatch;
use everhold_proto::kv::{self, KvRead, MemKv};
use everhold_proto::limits::UNLINKED_LINGER_MS;
use everhold_proto::map::{ClusterMap, Labels, NodeState, Policy};
use everhold_proto::rpc::{self, block};
use everhold_proto::table::Ack;
use everhold_proto::*;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

const CLUSTER: ClusterId = ClusterId([9; 16]);

/// How a node behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Takes requests and never answers, as a stopped process does.
    Silent,
    /// Closes every connection, as a dead process does.
    Dead,
    /// Gives blocks with a flipped bit, with the checksum of the flipped bytes.
    Lying,
}

pub(crate) struct State {
    kv: MemKv,
    index: u64,
    /// Log time that passed without entries.
    waited_ms: u64,
    pub(crate) leader: usize,
    pub(crate) moods: Vec<Mood>,
    pub(crate) addresses: Vec<String>,
    /// Blocks by disk.
    pub(crate) disks: BTreeMap<DiskId, BTreeMap<BlockId, Bytes>>,
    /// Every so many-th batch is applied and its answer lost.
    pub(crate) lose_answers: Option<u64>,
    /// A reply answers at most so many questions.
    pub(crate) answers_max: usize,
    batches: u64,
    pub(crate) puts: u64,
}

/// The cluster; its servers end with it.
pub(crate) struct World {
    pub(crate) state: Arc<Mutex<State>>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.servers.iter().for_each(|server| server.abort());
    }
}

impl World {
    /// So many nodes, each a zone with one disk; as many PGs of three copies.
    pub(crate) async fn new(nodes: usize) -> World {
        let mut state = State {
            kv: MemKv::default(),
            index: 0,
            waited_ms: 0,
            leader: 0,
            moods: vec![Mood::Well; nodes],
            addresses: Vec::new(),
            disks: BTreeMap::new(),
            lose_answers: None,
            answers_max: usize::MAX,
            batches: 0,
            puts: 0,
        };
        let policy = Policy::replicated(PolicyId(0), "test", 3);
        state.entry(|ctx| {
            everhold_cluster::create(ctx, CLUSTER, &policy).unwrap();
            everhold_namespace::create_root(ctx).unwrap();
        });
        let mut listeners = Vec::new();
        for n in 0..nodes {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (uuid, labels) = ([n as u8 + 1; 16], Labels::default());
            state.addresses.push(address.clone());
            state.map_command(MapCommand::RegisterNode {
                uuid,
                address,
                labels,
                marks: Vec::new(),
            });
            state.register_disk(n, None);
            listeners.push(listener);
        }
        let member = |pg: usize, i: usize| DiskId(((pg + i) % nodes) as u32 + 1);
        let members = (0..nodes).map(|pg| (0..3).map(|i| member(pg, i)).collect()).collect();
        state.map_command(MapCommand::CreatePgs { policy: PolicyId(0), members, existing: 0 });
        let state = Arc::new(Mutex::new(state));
        let serve = |(node, listener)| tokio::spawn(accept(state.clone(), node, listener));
        let servers = listeners.into_iter().enumerate().map(serve).collect();
        World { state, servers }
    }

    pub(crate) async fn client(&self) -> Arc<Client> {
        self.client_with(ClientOptions::default()).await
    }

    pub(crate) async fn client_with(&self, options: ClientOptions) -> Arc<Client> {
        let seeds = self.state.lock().addresses.clone();
        Client::connect(Env::real(), &seeds, options).await.unwrap()
    }

    pub(crate) fn set_mood(&self, node: usize, mood: Mood) {
        self.state.lock().moods[node] = mood;
    }
}

impl State {
    fn entry<T>(&mut self, work: impl FnOnce(&mut Apply<'_>) -> T) -> T {
        self.index += 1;
        let stamp =
            Stamp { log_ms: self.index + self.waited_ms, wall: Timestamp(self.index as i64) };
        let mut ctx = Apply::begin(&mut self.kv, LogIndex(self.index), stamp).unwrap();
        let answer = work(&mut ctx);
        ctx.finish().unwrap();
        answer
    }

    pub(crate) fn map_command(&mut self, command: MapCommand) -> Answer {
        let answer = self.entry(|ctx| everhold_cluster::map::apply(ctx, &command).unwrap());
        assert!(!matches!(answer, Answer::Refused(_)), "{command:?}: {answer:?}");
        answer
    }

    /// A disk starts (again): acknowledgements of its earlier session no longer count.
    pub(crate) fn register_disk(&mut self, node: usize, disk: Option<DiskId>) {
        let answer = self.map_command(MapCommand::RegisterDisk {
            uuid: [node as u8 + 1; 16],
            disk,
            node: NodeId(node as u32 + 1),
            capacity_bytes: 1 << 40,
            used_bytes: 0,
        });
        let Answer::Disk { disk, .. } = answer else { panic!("{answer:?}") };
        self.disks.entry(disk).or_default();
    }

    pub(crate) fn set_node(&mut self, node: usize, state: NodeState) {
        let id = NodeId(node as u32 + 1);
        let boot = self.map().nodes[&id].boot;
        let reason = "test".into();
        self.map_command(MapCommand::SetNodeState { node: id, boot, state, reason });
    }

    pub(crate) fn map(&self) -> ClusterMap {
        everhold_cluster::reads::load_map(&self.kv).unwrap()
    }

    /// Lets files that lost their names go.
    pub(crate) fn end_lingering(&mut self) {
        self.waited_ms += UNLINKED_LINGER_MS;
        while self.entry(|ctx| everhold_namespace::reap(ctx, 1000).unwrap()) > 0 {}
    }

    /// Rows of open handles, of all sessions.
    pub(crate) fn open_handles(&self) -> usize {
        let from = tables::Key::new(tables::Table::OpenHandle).done();
        let mut count = 0;
        let counted = self.kv.scan(&from, &kv::prefix_end(&from), &mut |_, _| {
            count += 1;
            std::ops::ControlFlow::Continue(())
        });
        counted.unwrap();
        count
    }

    pub(crate) fn end_sessions(&mut self) {
        let sessions = everhold_namespace::sessions::list(&self.kv, None, 100).unwrap();
        for (session, _) in sessions {
            self.entry(|ctx| everhold_namespace::sessions::end(ctx, session).unwrap());
        }
    }

    /// An answer of the metadata leader; `None`: it is lost.
    fn meta(&mut self, path: &str, body: &[u8]) -> Option<Result<Vec<u8>, Error>> {
        let ask = |what: &str| path == format!("/everhold.v1.Meta/{what}");
        Some(Ok(if ask("OpenSession") {
            let open: rpc::OpenSession = decode(body).unwrap();
            let session = self.entry(|ctx| {
                everhold_namespace::sessions::open(ctx, &open.client, open.follows, 0).unwrap()
            });
            encode(&rpc::OpenedSession { session, ttl_ms: 5000 })
        } else if ask("RenewSession") {
            let rpc::RenewSession { session, acked_below, floor } = decode(body).unwrap();
            let renewed = self.entry(|ctx| {
                everhold_namespace::sessions::renew(ctx, session, acked_below, floor).unwrap()
            });
            match renewed {
                Ok(()) => encode(&()),
                Err(e) => return Some(Err(Error::new(Kind::NotFound, e.to_string()))),
            }
        } else if ask("EndSession") {
            let rpc::EndSession { session } = decode(body).unwrap();
            self.entry(|ctx| everhold_namespace::sessions::end(ctx, session).unwrap());
            encode(&())
        } else if ask("Execute") {
            let batch: SessionBatch = decode::<rpc::Execute>(body).unwrap().0;
            let executed = self.entry(|ctx| {
                let first = ctx.header.next_change;
                let executed = everhold_namespace::apply(ctx, &batch).unwrap();
                let next = ctx.header.next_change;
                let first = if executed.has_repeated { next } else { first };
                rpc::Executed { results: executed.results, first, next }
            });
            self.batches += 1;
            if self.lose_answers.is_some_and(|every| self.batches.is_multiple_of(every)) {
                return None;
            }
            encode(&executed)
        } else if ask("Query") {
            let query: rpc::Query = decode(body).unwrap();
            let answer = |q| everhold_namespace::query(&self.kv, q).unwrap();
            let answers = query.queries.iter().map(answer).take(self.answers_max).collect();
            encode(&rpc::Queried { answers, next: 1 })
        } else {
            encode(&()) // reports
        }))
    }

    fn put(&mut self, path: &[&str], crc: u32, body: Bytes) -> Result<Vec<u8>, Error> {
        let [disk, pg, id] = path else { panic!("{path:?}") };
        let (disk, pg, id): (DiskId, PgId, BlockId) =
            (disk.parse().unwrap(), pg.parse().unwrap(), id.parse().unwrap());
        if crc32c(&body) != crc {
            return Err(Error::new(Kind::Corrupt, "the body does not match its checksum"));
        }
        self.puts += 1;
        let map = self.map();
        let fenced = || Error::new(Kind::Fenced, "not a member");
        let joined = map.pgs[&pg].member(disk).ok_or_else(fenced)?.joined;
        self.disks.get_mut(&disk).unwrap().insert(id, body);
        Ok(encode(&Ack { disk, session: map.disks[&disk].session, joined }))
    }

    fn get(&self, path: &[&str]) -> Result<Bytes, Error> {
        let (disk, id): (DiskId, BlockId) = (path[0].parse().unwrap(), path[2].parse().unwrap());
        let found = self.disks.get(&disk).and_then(|blocks| blocks.get(&id)).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, "no such block"))
    }
}

async fn accept(state: Arc<Mutex<State>>, node: usize, listener: TcpListener) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(state.clone(), node, stream));
    }
}

async fn serve(state: Arc<Mutex<State>>, node: usize, stream: TcpStream) {
    let service = service_fn(|request| answer(state.clone(), node, request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // An error is a connection that a test or a client cut.
    let _ = connection.await;
}

type Answered = Result<Response<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>>;

async fn answer(state: Arc<Mutex<State>>, node: usize, request: Request<Incoming>) -> Answered {
    let mood = || state.lock().moods[node];
    if mood() == Mood::Dead {
        return Err("dead".into());
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    while mood() == Mood::Silent {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let path = head.uri.path().to_string();
    let header = |name: &str| head.headers.get(name).map(|v| v.to_str().unwrap().to_string());
    if let Some(rest) = path.strip_prefix(block::PREFIX) {
        let parts: Vec<&str> = rest.split('/').collect();
        if head.method == Method::PUT {
            let crc = u32::from_str_radix(&header(block::CRC).unwrap(), 16).unwrap();
            return finish(state.lock().put(&parts, crc, body).map(Bytes::from));
        }
        let bytes = state.lock().get(&parts);
        let lying = mood() == Mood::Lying;
        let part = bytes.map(|bytes| {
            let mut part = cut(&bytes, header("range"));
            if lying {
                part[0] ^= 1;
            }
            Bytes::from(part)
        });
        return finish(part);
    }
    if path == "/everhold.v1.Node/Hello" {
        let reply = rpc::HelloReply {
            cluster: Some(CLUSTER),
            node: Some(NodeId(node as u32 + 1)),
            format: 1,
            leader: None,
            pid: 1,
        };
        return finish(Ok(encode(&reply).into()));
    }
    let mut state = state.lock();
    let leader = state.addresses[state.leader].clone();
    if path == "/everhold.v1.Meta/GetMap" {
        let known = decode::<rpc::GetMap>(&body)?.known;
        let map = Some(state.map()).filter(|map| map.epoch > known);
        return finish(Ok(encode(&rpc::GotMap { map, leader: Some(leader) }).into()));
    }
    if state.leader != node {
        return finish(Err(Error::not_leader(Some(leader))));
    }
    match state.meta(&path, &body) {
        Some(result) => finish(result.map(Bytes::from)),
        None => Err("the answer is lost".into()),
    }
}

fn cut(bytes: &Bytes, range: Option<String>) -> Vec<u8> {
    let Some(range) = range else { return bytes.to_vec() };
    let (from, to) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    bytes[from.parse().unwrap()..=to.parse().unwrap()].to_vec()
}

fn finish(result: Result<Bytes, Error>) -> Answered {
    let response = match result {
        Ok(bytes) => {
            let crc = format!("{:08x}", crc32c(&bytes));
            Response::builder().header(block::CRC, crc).body(Full::new(bytes))
        }
        Err(e) => {
            Response::builder().status(e.kind.http_status()).body(Full::new(encode(&e).into()))
        }
    };
    Ok(response?)
}

/// Bytes that differ everywhere, by a seed.
pub(crate) fn content(seed: u64, length: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}
