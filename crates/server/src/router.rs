//! From a request to the call that it is: checks who asks, finds the service by the path, bounds what
//! is under way, and turns whatever comes out into an answer.

use crate::http::{
    Connection, Encoding, Handler, Reply, bytes_reply, error_reply, read_body, value_reply,
};
use crate::node::Node;
use crate::raft::rpc_of;
use crate::services::{
    CallContext, Class, Held, Serve, health_page, metrics_page, ready_page, serve_block,
    status_page,
};
use everhold_consensus::RaftRpc;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::limits::RPC_BYTES_MAX;
use everhold_proto::rpc::{
    self, AddDisk, Announce, ChangeMap, Compared, CountBlocks, EndSession, Execute, Follow,
    GetEvents, GetMap, GetNodeStatus, GetStatus, GetWork, HEADER_CLUSTER, HEADER_FORMAT,
    HEADER_TIMEOUT, Heartbeat, Hello, ListMissing, MayDelete, OpenSession, PrepareLearner, Query,
    RAFT_PREFIX, ReadChanges, Rebalance, RegisterDisk, RegisterNode, RemoveDisk, RenewSession,
    ReportBad, ReportLost, ReportRepaired, ReportUnreachable, RetireLearner, Rpc, StartScrub,
    TablePage,
};
use everhold_proto::{ClusterId, Error, Kind, Priority};
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Without a wish of the caller.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);
/// Whatever the caller wishes.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// Handlers end by themselves at the deadline; this is the net below them.
const GRACE: Duration = Duration::from_secs(2);

impl Handler for Node {
    async fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: Request<Incoming>,
    ) -> Reply {
        self.counters.requests.add(1);
        let encoding = Encoding::of(request.headers());
        let result = match deadline(request.headers(), self.env.clock.now()) {
            Ok(deadline) => {
                let call = CallContext::over(&connection, deadline);
                let routed = route(&self, request, &call, encoding);
                self.env.clock.until(deadline + GRACE, routed).await.unwrap_or_else(|_| {
                    Err(Error::new(Kind::MaybeApplied, "the call did not end in time"))
                })
            }
            Err(e) => Err(e),
        };
        result.unwrap_or_else(|error| {
            self.counters.errors.add(1);
            if error.kind == Kind::Busy {
                self.counters.shed.add(1);
            }
            tracing::debug!(kind = ?error.kind, %error, "refused");
            error_reply(encoding, &error)
        })
    }

    fn closed(&self, connection: &Connection) {
        for node in self.heartbeats.closed(connection.number) {
            self.observations.connection_closed(node, self.env.clock.now());
        }
    }
}

async fn route(
    node: &Arc<Node>,
    request: Request<Incoming>,
    call: &CallContext,
    encoding: Encoding,
) -> Result<Reply, Error> {
    let path = request.uri().path();
    if request.method() == Method::GET {
        match path {
            "/health" => return health_page(node),
            "/readyz" => return ready_page(node),
            "/status" => return Ok(status_page(node)),
            "/metrics" => return Ok(metrics_page(node)),
            _ => {}
        }
    }
    if path != Hello::PATH {
        let curious = encoding == Encoding::Json && request.method() != Method::PUT;
        check_peer(node.cluster, request.headers(), curious && !path.starts_with(RAFT_PREFIX))?;
    }
    if path.starts_with(rpc::block::PREFIX) {
        return serve_block(node, request, call.deadline).await;
    }
    if request.method() != Method::POST {
        let message = format!("{} {path} is not served", request.method());
        return Err(Error::new(Kind::NotFound, message));
    }
    if let Some(what) = rpc_of(path) {
        return raft(node, what, request, call).await;
    }
    unary(node, request, call, encoding).await
}

/// Calls by path. Each line is one call that the node answers.
async fn unary(
    node: &Arc<Node>,
    request: Request<Incoming>,
    call: &CallContext,
    encoding: Encoding,
) -> Result<Reply, Error> {
    macro_rules! table {
        ($($call:ty),* $(,)?) => {
            match request.uri().path() {
                $(<$call as Rpc>::PATH => answer::<$call>(node, request, call, encoding).await,)*
                other => Err(Error::new(Kind::NotFound, format!("{other} is not served"))),
            }
        };
    }
    table![
        // Metadata.
        OpenSession,
        RenewSession,
        EndSession,
        Announce,
        Execute,
        Query,
        ReadChanges,
        Follow,
        GetMap,
        // Nodes to the leader.
        RegisterNode,
        RegisterDisk,
        Heartbeat,
        GetWork,
        TablePage,
        ListMissing,
        Compared,
        ReportRepaired,
        ReportBad,
        ReportLost,
        CountBlocks,
        MayDelete,
        ReportUnreachable,
        // Administration.
        ChangeMap,
        GetStatus,
        GetEvents,
        Rebalance,
        // The node itself.
        Hello,
        PrepareLearner,
        RetireLearner,
        GetNodeStatus,
        StartScrub,
        AddDisk,
        RemoveDisk,
    ]
}

async fn answer<R: Serve>(
    node: &Arc<Node>,
    request: Request<Incoming>,
    call: &CallContext,
    encoding: Encoding,
) -> Result<Reply, Error> {
    let body = read_body(&node.env, request.into_body(), RPC_BYTES_MAX, call.deadline).await?;
    let gates = &node.gates;
    let held = match R::CLASS {
        Class::Metadata => {
            let place = gates.metadata.enter(Priority::Foreground, call.deadline).await?;
            Some(Held::Place(place))
        }
        Class::Control => Some(Held::Permit(gates.control.enter(&node.env, call.deadline).await?)),
        Class::Feed => Some(Held::Permit(gates.feed.enter(&node.env, call.deadline).await?)),
        Class::Vital => None,
    };
    held.into_iter().for_each(|held| call.admit(held));
    if node.env.clock.now() >= call.deadline {
        // Nothing is done for a caller who has given up.
        return Err(Error::new(Kind::Retry, "the deadline of the call is over"));
    }
    let question: R = encoding.decode(&body)?;
    drop(body);
    Ok(value_reply(encoding, &question.serve(node, call).await?))
}

async fn raft(
    node: &Arc<Node>,
    what: RaftRpc,
    request: Request<Incoming>,
    call: &CallContext,
) -> Result<Reply, Error> {
    let consensus = node.raft.current();
    let consensus =
        consensus.ok_or_else(|| Error::new(Kind::NotFound, "this node is not in raft"))?;
    let body = read_body(&node.env, request.into_body(), RPC_BYTES_MAX, call.deadline).await?;
    if matches!(what, RaftRpc::Append | RaftRpc::Snapshot) {
        node.signals.is_led(node.env.clock.now());
    }
    let answer = consensus.handle_rpc(what, body).await?;
    Ok(bytes_reply(StatusCode::OK, answer))
}

/// When the caller stops waiting.
fn deadline(headers: &HeaderMap, now: Instant) -> Result<Instant, Error> {
    let Some(value) = headers.get(HEADER_TIMEOUT) else {
        return Ok(now + TIMEOUT_DEFAULT);
    };
    let millis = value.to_str().ok().and_then(|text| text.parse().ok());
    let millis = millis.ok_or_else(|| {
        Error::new(Kind::Invalid, format!("header {HEADER_TIMEOUT} is not a number"))
    })?;
    Ok(now + Duration::from_millis(millis).min(TIMEOUT_MAX))
}

/// Refuses peers of other clusters and other formats, naming both. People with curl (JSON) need not
/// name theirs.
fn check_peer(ours: ClusterId, headers: &HeaderMap, optional: bool) -> Result<(), Error> {
    let foreign = |message| Err(Error::new(Kind::Foreign, message));
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text(HEADER_FORMAT) {
        None if optional => {}
        None => {
            return foreign(format!("no {HEADER_FORMAT} header; this is format {FORMAT_VERSION}"));
        }
        Some(theirs) if theirs == FORMAT_VERSION.to_string() => {}
        Some(theirs) => {
            return foreign(format!(
                "you speak format {theirs}, this node format {FORMAT_VERSION}"
            ));
        }
    }
    match text(HEADER_CLUSTER) {
        None if optional => Ok(()),
        None => foreign(format!("no {HEADER_CLUSTER} header; this is cluster {ours}")),
        Some(theirs) if theirs.parse() == Ok(ours) => Ok(()),
        Some(theirs) => foreign(format!("you are of cluster {theirs}, this node is of {ours}")),
    }
}

/// The headers that every request has, in both strictnesses.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_head(headers: &HeaderMap) {
    let cluster = ClusterId(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\xef");
    let strict = check_peer(cluster, headers, false);
    assert!(strict.is_err() || check_peer(cluster, headers, true).is_ok());
    let now = Instant::now();
    assert!(
        deadline(headers, now).is_ok_and(|at| at <= now + TIMEOUT_MAX)
            || deadline(headers, now).is_err()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), HeaderValue::from_str(value).expect("is ascii"))
        });
        pairs.collect()
    }

    /// A peer of another cluster or format is refused by a message that names both.
    #[test]
    fn foreign_peers_are_refused_by_name() {
        let (ours, theirs) = (ClusterId([1; 16]), ClusterId([2; 16]));
        let check = |cluster: &ClusterId, format: &str, optional| {
            let cluster = cluster.to_string();
            let headers = headers(&[(HEADER_CLUSTER, &cluster), (HEADER_FORMAT, format)]);
            check_peer(ours, &headers, optional)
        };
        assert_eq!(check(&ours, "2", false), Ok(()));
        for optional in [false, true] {
            let e = check(&theirs, "2", optional).expect_err("another cluster");
            assert_eq!(e.kind, Kind::Foreign);
            assert!(e.message.contains(&ours.to_string()), "{e}");
            assert!(e.message.contains(&theirs.to_string()), "{e}");
            let e = check(&ours, "9", optional).expect_err("another format");
            assert!(e.message.contains("format 9") && e.message.contains("format 2"), "{e}");
        }
        assert!(check_peer(ours, &HeaderMap::new(), true).is_ok());
        assert_eq!(
            check_peer(ours, &HeaderMap::new(), false).expect_err("none").kind,
            Kind::Foreign
        );
    }

    #[tokio::test(start_paused = true)]
    async fn deadlines_are_capped() {
        let now = Instant::now();
        let at = |text| deadline(&headers(&[(HEADER_TIMEOUT, text)]), now);
        assert_eq!(at("250"), Ok(now + Duration::from_millis(250)));
        assert_eq!(at("99999999999999"), Ok(now + TIMEOUT_MAX));
        assert_eq!(at("soon").expect_err("no number").kind, Kind::Invalid);
        assert_eq!(deadline(&HeaderMap::new(), now), Ok(now + TIMEOUT_DEFAULT));
    }
}
