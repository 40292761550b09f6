//! Calls over HTTP/1.1: unary RPCs, Raft messages and blocks, on pooled kept-alive connections.
//!
//! A call polls its connection itself instead of leaving that to a task of its own: no wake-up
//! crosses threads, and a call that is cancelled or late takes its connection with it, so that an
//! answer can never be mistaken for another call's.

mod connection;
mod error;
mod pool;
#[cfg(test)]
mod tests;

pub use error::{Transport, WireError};

use crate::buffers::Buffers;
use crate::wire::connection::{Call, Connection, Response, Sending};
use crate::wire::pool::Pool;
use bytes::Bytes;
use everhold_env::Env;
use everhold_proto::checksum::crc32c;
use everhold_proto::codec::{FORMAT_VERSION, decode, encode};
use everhold_proto::rpc::{self, Rpc, block};
use everhold_proto::table::Ack;
use everhold_proto::{BlockId, ClusterId, DiskId, Error, Generation, Kind, PgId, Priority, limits};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// A host that does not answer a connection attempt for this long counts as unreachable; a
/// handshake needs one round trip, so this is generous for any network that a cluster spans.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// What this process says of itself in each request: the cluster it belongs to, once it knows.
#[derive(Debug, Default)]
pub struct Identity(OnceLock<ClusterId>);

impl Identity {
    /// A process that does not know its cluster yet.
    pub fn unknown() -> Self {
        Identity::default()
    }

    /// A process of `cluster`.
    pub fn of(cluster: ClusterId) -> Self {
        let identity = Identity::default();
        identity.set(cluster);
        identity
    }

    /// Learns the cluster; `false` when another one was learned before, which stays.
    pub fn set(&self, cluster: ClusterId) -> bool {
        *self.0.get_or_init(|| cluster) == cluster
    }

    /// The cluster, once it is known.
    pub fn get(&self) -> Option<ClusterId> {
        self.0.get().copied()
    }
}

/// Calls to any address, over one pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Wire(Arc<Inner>);

struct Inner {
    env: Env,
    identity: Arc<Identity>,
    pool: Pool,
    buffers: Buffers,
}

impl Wire {
    /// A fresh pool.
    pub fn new(env: Env, identity: Arc<Identity>) -> Self {
        let (pool, buffers) = (Pool::default(), Buffers::default());
        Wire(Arc::new(Inner { env, identity, pool, buffers }))
    }

    /// Who this process says it is.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.0.identity
    }

    /// The ports to the world that it uses.
    pub fn env(&self) -> &Env {
        &self.0.env
    }

    /// Memory for blocks on their way in or out.
    pub fn buffers(&self) -> &Buffers {
        &self.0.buffers
    }

    /// One RPC, sent at most once. `Retry`: it was not sent; `MaybeApplied`: it was, and no answer came.
    pub async fn call<R: Rpc>(
        &self,
        address: &str,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, Error> {
        self.try_call(address, request, deadline, false).await.map_err(Error::from)
    }

    /// One RPC that may be repeated safely (a question, or numbered requests): a kept-alive
    /// connection that turns out to be dead is replaced once.
    pub async fn call_idempotent<R: Rpc>(
        &self,
        address: &str,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, Error> {
        self.try_call(address, request, deadline, true).await.map_err(Error::from)
    }

    /// As [`Wire::call`], telling a failed transport from an answer.
    pub async fn try_call<R: Rpc>(
        &self,
        address: &str,
        request: &R,
        deadline: Instant,
        idempotent: bool,
    ) -> Result<R::Reply, WireError> {
        let body = Bytes::from(encode(request));
        let call = Call {
            method: Method::POST,
            path: R::PATH.into(),
            headers: typed(rpc::POSTCARD),
            body,
            limit: limits::RPC_BYTES_MAX,
            idempotent,
        };
        let response = self.answered(address, call, deadline).await?;
        decode(&response.body).map_err(|e| WireError::malformed(address, e))
    }

    /// A raw body to a path and the raw answer, sent at most once per connection (Raft messages:
    /// repeating one is safe by the protocol).
    pub async fn post_raw(
        &self,
        address: &str,
        path: &str,
        body: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let call = Call {
            method: Method::POST,
            path: path.into(),
            headers: typed("application/octet-stream"),
            body,
            limit: limits::RPC_BYTES_MAX,
            idempotent: true,
        };
        Ok(self.answered(address, call, deadline).await?.body)
    }

    /// The text at a path (metrics, health).
    pub async fn get_text(
        &self,
        address: &str,
        path: &str,
        deadline: Instant,
    ) -> Result<String, Error> {
        let call = Call {
            method: Method::GET,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
            limit: limits::RPC_BYTES_MAX,
            idempotent: true,
        };
        let response = self.answered(address, call, deadline).await?;
        String::from_utf8(response.body.into()).map_err(|e| WireError::malformed(address, e).into())
    }

    /// Stores a block on one disk; the acknowledgement means that it is durable there.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one address and its data")]
    pub async fn put_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        generation: Generation,
        crc: u32,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Ack, Error> {
        let sent = self.try_put_block(address, disk, pg, id, generation, crc, data, deadline);
        sent.await.map_err(Error::from)
    }

    /// As [`Wire::put_block`], telling a failed transport from an answer.
    #[expect(clippy::too_many_arguments, reason = "they are the parts of one address and its data")]
    pub async fn try_put_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        generation: Generation,
        crc: u32,
        data: Bytes,
        deadline: Instant,
    ) -> Result<Ack, WireError> {
        let mut headers = typed("application/octet-stream");
        let crc = HeaderValue::from_str(&format!("{crc:08x}")).expect("hexadecimal is ascii");
        headers.insert(HeaderName::from_static(block::CRC), crc);
        headers.insert(HeaderName::from_static(block::GENERATION), generation.0.into());
        let call = Call {
            method: Method::PUT,
            path: block_path(disk, pg, id),
            headers,
            body: data,
            limit: limits::RPC_BYTES_MAX,
            idempotent: true,
        };
        let response = self.answered(address, call, deadline).await?;
        decode(&response.body).map_err(|e| WireError::malformed(address, e))
    }

    /// Reads a block or a part of it from one disk. The bytes match the checksum that the node sent
    /// with them, and there are exactly as many as asked for.
    pub async fn get_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        range: Option<Range<u32>>,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let read = self.try_get_block(address, disk, pg, id, range, deadline);
        Ok(read.await?.0)
    }

    /// As [`Wire::get_block`], telling a failed transport from an answer; with the CRC32C of the bytes.
    pub async fn try_get_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        range: Option<Range<u32>>,
        deadline: Instant,
    ) -> Result<(Bytes, u32), WireError> {
        self.read_block(address, disk, pg, id, range, HeaderMap::new(), deadline).await
    }

    /// A whole block for another disk, with the CRC32C of its bytes: whoever has it serves more important work first.
    pub async fn fetch_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        priority: Priority,
        deadline: Instant,
    ) -> Result<(Bytes, u32), WireError> {
        let mut headers = HeaderMap::new();
        let name = HeaderValue::from_static(priority.name());
        headers.insert(HeaderName::from_static(block::PRIORITY), name);
        self.read_block(address, disk, pg, id, None, headers, deadline).await
    }

    #[expect(clippy::too_many_arguments, reason = "a block has an address of many parts")]
    async fn read_block(
        &self,
        address: &str,
        disk: DiskId,
        pg: PgId,
        id: BlockId,
        range: Option<Range<u32>>,
        mut headers: HeaderMap,
        deadline: Instant,
    ) -> Result<(Bytes, u32), WireError> {
        if let Some(range) = &range {
            assert!(range.start < range.end, "an empty range of a block has no meaning");
            let text = format!("bytes={}-{}", range.start, range.end - 1);
            headers.insert(header::RANGE, HeaderValue::from_str(&text).expect("digits are ascii"));
        }
        let call = Call {
            method: Method::GET,
            path: block_path(disk, pg, id),
            headers,
            body: Bytes::new(),
            limit: limits::BLOCK_BYTES_MAX,
            idempotent: true,
        };
        let response = self.answered(address, call, deadline).await?;
        verified(address, id, range, &response.headers, response.body)
    }

    /// Sends a call and takes an answer other than success as an error.
    async fn answered(
        &self,
        address: &str,
        mut call: Call,
        deadline: Instant,
    ) -> Result<Response, WireError> {
        self.add_headers(address, &mut call.headers, deadline)?;
        let sent = AtomicBool::new(false);
        let exchange = self.exchange(address, &call, deadline, &sent);
        let response = match self.0.env.clock.until(deadline, exchange).await {
            Ok(result) => result?,
            Err(_) => return Err(WireError::late(address, sent.load(Ordering::Relaxed))),
        };
        match response.status.as_u16() {
            200 | 206 => Ok(response),
            status => Err(WireError::Remote(remote_error(address, status, &response.body))),
        }
    }

    fn add_headers(
        &self,
        address: &str,
        headers: &mut HeaderMap,
        deadline: Instant,
    ) -> Result<(), WireError> {
        let host = HeaderValue::from_str(address).map_err(|_| {
            let message = format!("{address:?} is not an address; write HOST:PORT");
            WireError::Remote(Error::new(Kind::Invalid, message))
        })?;
        headers.insert(header::HOST, host);
        if let Some(cluster) = self.0.identity.get() {
            let value = HeaderValue::from_str(&cluster.to_string()).expect("hexadecimal is ascii");
            headers.insert(HeaderName::from_static(rpc::HEADER_CLUSTER), value);
        }
        headers.insert(HeaderName::from_static(rpc::HEADER_FORMAT), FORMAT_VERSION.into());
        let left = deadline.saturating_duration_since(self.0.env.clock.now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        headers.insert(HeaderName::from_static(rpc::HEADER_TIMEOUT), left_ms.into());
        Ok(())
    }

    async fn exchange(
        &self,
        address: &str,
        call: &Call,
        deadline: Instant,
        sent: &AtomicBool,
    ) -> Result<Response, WireError> {
        let clock = &self.0.env.clock;
        let mut was_sent = false;
        if let Some(connection) = self.0.pool.take(address, clock.now()) {
            match self.send(address, connection, call, sent).await {
                Err(Sending::Stale(e)) if call.idempotent || !e.was_sent() => {
                    was_sent = e.was_sent();
                }
                Err(Sending::Stale(e) | Sending::Failed(e)) => return Err(e),
                Ok(response) => return Ok(response),
            }
        }
        // Whatever comes of the second try: the first one may have reached the peer.
        self.exchange_anew(address, call, deadline, sent).await.map_err(|e| e.after(was_sent))
    }

    async fn exchange_anew(
        &self,
        address: &str,
        call: &Call,
        deadline: Instant,
        sent: &AtomicBool,
    ) -> Result<Response, WireError> {
        let clock = &self.0.env.clock;
        let limit = deadline.saturating_duration_since(clock.now()).min(CONNECT_LIMIT);
        let stream = self.0.env.net.connect(address, limit).await;
        let stream = stream.map_err(|e| WireError::unconnected(address, e))?;
        let connection = Connection::open(address, stream).await?;
        match self.send(address, connection, call, sent).await {
            Err(Sending::Stale(e) | Sending::Failed(e)) => Err(e),
            Ok(response) => Ok(response),
        }
    }

    async fn send(
        &self,
        address: &str,
        mut connection: Connection,
        call: &Call,
        sent: &AtomicBool,
    ) -> Result<Response, Sending> {
        let response = connection.send(address, call, sent, &self.0.buffers).await?;
        if connection.is_reusable() {
            self.0.pool.give_back(address, connection, self.0.env.clock.now());
        }
        Ok(response)
    }
}

/// The bytes of a block, if they are those that were announced and asked for; with their checksum.
pub(crate) fn verified(
    address: &str,
    id: BlockId,
    range: Option<Range<u32>>,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<(Bytes, u32), WireError> {
    let sent = headers.get(block::CRC).and_then(|v| v.to_str().ok());
    let sent = sent
        .and_then(|text| u32::from_str_radix(text, 16).ok())
        .ok_or_else(|| WireError::malformed(address, format_args!("no {} header", block::CRC)))?;
    let crc = crc32c(&body);
    if crc != sent {
        return Err(WireError::corrupt(address, id, sent, crc));
    }
    match range {
        Some(range) if body.len() != range.len() => Err(WireError::malformed(
            address,
            format_args!("{} bytes of {} asked for", body.len(), range.len()),
        )),
        _ => Ok((body, crc)),
    }
}

fn typed(content_type: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers
}

fn block_path(disk: DiskId, pg: PgId, id: BlockId) -> String {
    format!("{}{disk}/{pg}/{id}", block::PREFIX)
}

/// The error that an answer carries, or one made from its status when the body is none of ours.
pub(crate) fn remote_error(address: &str, status: u16, body: &[u8]) -> Error {
    if let Ok(error) = decode::<Error>(body) {
        return error;
    }
    let kind = match status {
        400 | 405 | 413 | 416 => Kind::Invalid,
        404 => Kind::NotFound,
        409 => Kind::Conflict,
        412 => Kind::Fenced,
        421 => Kind::Foreign,
        429 => Kind::Busy,
        503 => Kind::Retry,
        507 => Kind::Full,
        _ => Kind::Internal,
    };
    Error::new(kind, format!("{address} answered with status {status}"))
}
