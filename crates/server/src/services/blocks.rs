//! Blocks of this node's disks as raw bodies: `PUT`, `GET` with ranges, `HEAD`.
//!
//! **Invariant:** a block is acknowledged only after it is durable, only by a disk that this node
//! believes to be a member of the PG, and after every older permission to delete there has ended. The
//! acknowledgement names the session and the join that were known *before* the block was stored; the
//! commit judges them.

use crate::disk::DiskSeat;
use crate::http::{Encoding, Reply, bytes_reply, read_frames, value_reply};
use crate::node::Node;
use crate::repair::{Foreground, LocalDisk};
use crate::speed::Access;
use bytes::Bytes;
use everhold_proto::rpc::block;
use everhold_proto::table::Ack;
use everhold_proto::{
    BlockId, DiskId, Error, Generation, Kind, LogIndex, PgId, Priority, checksum,
    limits::BLOCK_BYTES_MAX,
};
use everhold_store::BlockBuf;
use http::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, RANGE};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How long a write waits for a map that is as new as the writer's.
const MAP_WAIT: Duration = Duration::from_secs(1);

/// Answers a request below `/blocks/`.
pub(crate) async fn serve_block(
    node: &Arc<Node>,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Reply, Error> {
    let path = BlockPath::parse(request.uri().path())?;
    match *request.method() {
        Method::PUT => {
            let ack = put(node, path, request, deadline).await?;
            Ok(value_reply(Encoding::Postcard, &ack))
        }
        Method::GET => get(node, path, request.headers(), deadline).await,
        Method::HEAD => head(node, path).await,
        _ => Err(Error::new(Kind::Invalid, "blocks take PUT, GET and HEAD")),
    }
}

/// `/blocks/{disk}/{pg}/{block}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BlockPath {
    disk: DiskId,
    pg: PgId,
    id: BlockId,
}

impl BlockPath {
    fn parse(path: &str) -> Result<Self, Error> {
        let bad = || Error::new(Kind::Invalid, format!("{path:?} is not /blocks/DISK/PG/BLOCK"));
        let mut parts = path.strip_prefix(block::PREFIX).ok_or_else(bad)?.split('/');
        let parsed = BlockPath {
            disk: part(parts.next()).ok_or_else(bad)?,
            pg: part(parts.next()).ok_or_else(bad)?,
            id: part(parts.next()).ok_or_else(bad)?,
        };
        if parts.next().is_some() { Err(bad()) } else { Ok(parsed) }
    }
}

fn part<T: FromStr>(text: Option<&str>) -> Option<T> {
    text?.parse().ok()
}

async fn put(
    node: &Arc<Node>,
    path: BlockPath,
    request: Request<Incoming>,
    deadline: Instant,
) -> Result<Ack, Error> {
    let began = node.env.clock.now();
    let (head, body) = request.into_parts();
    let crc = header(&head.headers, block::CRC, |text| u32::from_str_radix(text, 16).ok())?;
    let generation = header(&head.headers, block::GENERATION, |text| text.parse().ok())?;
    let length: usize = header(&head.headers, CONTENT_LENGTH.as_str(), |text| text.parse().ok())?;
    if length == 0 || length > BLOCK_BYTES_MAX {
        return Err(Error::new(Kind::Invalid, format!("a block of {length} bytes")));
    }
    let (disk, local) = in_service(node, path.disk)?;
    let joined = membership(node, path, Generation(generation), deadline).await?;
    let session = local.session();
    // The earliest refusal is the cheapest: before the bytes are read.
    node.gates.work.check(Priority::Foreground, deadline)?;
    let _memory = node.gates.blocks.take(&node.env, length.div_ceil(1024), deadline).await?;
    let mut buf = BlockBuf::with_capacity(length)?;
    let mut overrun = Ok(());
    read_frames(&node.env, body, length, deadline, |piece| {
        if overrun.is_ok() {
            overrun = buf.extend_from_slice(&piece);
        }
    })
    .await?;
    overrun?;
    if buf.remaining() != 0 {
        return Err(Error::new(Kind::Invalid, "the body is shorter than announced"));
    }
    let place = node.gates.work.enter(Priority::Foreground, deadline).await?;
    local.gate.enter(path.pg, joined).await;
    if node.env.clock.now() >= deadline {
        return Err(Error::new(Kind::Retry, "the writer has given up"));
    }
    let timing = disk.speed.start(Access::Write, node.env.clock);
    disk.store.put(path.id, path.pg, crc, buf).await?;
    let now = node.env.clock.now();
    timing.finish();
    place.ended();
    local.pace.served(Foreground::Write, now.saturating_duration_since(began), now);
    node.counters.blocks_put.add(1);
    node.counters.bytes_put.add(length as u64);
    Ok(Ack { disk: path.disk, session, joined })
}

/// The disk's join index in the PG, by a map that is not older than the writer's if it can be had.
async fn membership(
    node: &Arc<Node>,
    path: BlockPath,
    generation: Generation,
    deadline: Instant,
) -> Result<LogIndex, Error> {
    let known = |map: &everhold_proto::map::ClusterMap| {
        let pg = map.pgs.get(&path.pg)?;
        Some((pg.generation, pg.member(path.disk).map(|m| m.joined)))
    };
    let mut found = known(&node.map.current());
    if found.is_none_or(|(ours, member)| ours < generation || member.is_none()) {
        let limit = deadline.min(node.env.clock.now() + MAP_WAIT);
        node.refresh_map(limit).await?;
        found = known(&node.map.current());
    }
    found.and_then(|(_, member)| member).ok_or_else(|| {
        let message = format!("{} is not a member of {}", path.disk, path.pg);
        Error::new(Kind::Fenced, message)
    })
}

async fn get(
    node: &Arc<Node>,
    path: BlockPath,
    headers: &HeaderMap,
    deadline: Instant,
) -> Result<Reply, Error> {
    let disk = present(node, path.disk)?;
    let range = headers.get(RANGE).map(range_of).transpose()?;
    let length = range.as_ref().map_or(BLOCK_BYTES_MAX, |r| r.len());
    let priority = priority_of(headers)?;
    let repairs = priority < Priority::Foreground;
    let began = node.env.clock.now();
    // Repair has a budget of its own, a small one: it never takes what clients could have.
    let gate = if repairs { &node.gates.repair } else { &node.gates.blocks };
    let memory = gate.take(&node.env, length.div_ceil(1024), deadline).await?;
    let place = node.gates.work.enter(priority, deadline).await?;
    let timing = disk.speed.start(Access::Read, node.env.clock);
    let read = match range {
        None => disk.store.get_whole(path.id).await.map(|(stat, data)| (stat.crc, data)),
        Some(range) => {
            disk.store.get(path.id, range).await.map(|data| (checksum::crc32c(&data), data))
        }
    };
    let (crc, data) = read.inspect_err(|e| {
        if e.kind() == Kind::Corrupt {
            suspect(node, &disk, path);
        }
    })?;
    let now = node.env.clock.now();
    timing.finish();
    place.ended();
    if let Some(local) = disk.local().filter(|_| !repairs) {
        local.pace.served(Foreground::Read, now.saturating_duration_since(began), now);
    }
    node.counters.blocks_got.add(1);
    node.counters.bytes_got.add(data.len() as u64);
    let status =
        if headers.contains_key(RANGE) { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut reply = bytes_reply(status, Bytes::from_owner(Held { data, _memory: memory }));
    reply.headers_mut().insert(block::CRC, crc_value(crc));
    Ok(reply)
}

/// How important a read is. Nobody but the cluster itself is more important than the foreground.
fn priority_of(headers: &HeaderMap) -> Result<Priority, Error> {
    let Some(value) = headers.get(block::PRIORITY) else { return Ok(Priority::Foreground) };
    let named = value.to_str().ok().and_then(Priority::named);
    named.filter(|priority| *priority <= Priority::Foreground).ok_or_else(|| {
        Error::new(Kind::Invalid, format!("header {} names no priority of blocks", block::PRIORITY))
    })
}

async fn head(node: &Arc<Node>, path: BlockPath) -> Result<Reply, Error> {
    let disk = present(node, path.disk)?;
    let stat = disk.store.stat(path.id).await?;
    let stat =
        stat.ok_or_else(|| Error::new(Kind::NotFound, format!("{} is not here", path.id)))?;
    let mut reply = bytes_reply(StatusCode::OK, Bytes::new());
    reply.headers_mut().insert(block::CRC, crc_value(stat.crc));
    reply.headers_mut().insert(CONTENT_LENGTH, stat.length.into());
    Ok(reply)
}

/// The copy is bad: the disk's workers verify and report it.
fn suspect(node: &Node, disk: &DiskSeat, path: BlockPath) {
    tracing::warn!(block = %path.id, disk = %path.disk, "a read found a bad copy");
    node.counters.checksum_errors.add(1);
    if let Some(local) = disk.local() {
        local.suspect(path.pg, path.id);
    }
}

fn in_service(node: &Node, id: DiskId) -> Result<(Arc<DiskSeat>, Arc<LocalDisk>), Error> {
    let disk = node.disk(id).and_then(|disk| {
        let local = disk.local()?.clone();
        Some((disk, local))
    });
    disk.ok_or_else(|| Error::new(Kind::Fenced, format!("{id} is not in service here")))
}

fn present(node: &Node, id: DiskId) -> Result<Arc<DiskSeat>, Error> {
    node.disk(id).ok_or_else(|| Error::new(Kind::NotFound, format!("{id} is not on this node")))
}

/// Bytes whose memory stays accounted for until they were sent.
struct Held {
    data: Bytes,
    _memory: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

fn crc_value(crc: u32) -> HeaderValue {
    HeaderValue::from_str(&format!("{crc:08x}")).expect("hexadecimal is ascii")
}

fn header<T>(
    headers: &HeaderMap,
    name: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, Error> {
    let value = headers.get(name).and_then(|v| parse(v.to_str().ok()?));
    value.ok_or_else(|| Error::new(Kind::Invalid, format!("header {name} is missing or malformed")))
}

/// `bytes=A-B`, both ends included, as the half-open range of a block.
fn range_of(value: &HeaderValue) -> Result<Range<u32>, Error> {
    let parse = || {
        let (first, last) = value.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
        let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
        let end = last.checked_add(1)?;
        (first < end && end as usize <= BLOCK_BYTES_MAX).then_some(first..end)
    };
    parse().ok_or_else(|| Error::new(Kind::Invalid, "Range is not bytes=A-B within a block"))
}

/// What a request for a block says before its body: an accepted path has one spelling of the same
/// ids, and an accepted range lies within a block.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_block(path: &str, headers: &HeaderMap) {
    if let Ok(parsed) = BlockPath::parse(path) {
        let BlockPath { disk, pg, id } = parsed;
        assert_eq!(BlockPath::parse(&format!("{}{disk}/{pg}/{id}", block::PREFIX)), Ok(parsed));
    }
    if let Some(Ok(range)) = headers.get(RANGE).map(range_of) {
        assert!(range.start < range.end && range.end as usize <= BLOCK_BYTES_MAX);
    }
    let _ = header(headers, block::CRC, |text| u32::from_str_radix(text, 16).ok());
    let _ = header(headers, block::GENERATION, |text| text.parse::<u64>().ok());
    assert!(
        priority_of(headers).is_ok_and(|p| p <= Priority::Foreground)
            || priority_of(headers).is_err()
    );
    let _ = header(headers, CONTENT_LENGTH.as_str(), |text| text.parse::<usize>().ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::SessionId;

    #[test]
    fn paths_and_ranges_are_taken_apart() {
        let path = BlockPath::parse("/blocks/d3/pg7/b5-9").expect("is a path");
        let id = BlockId { session: SessionId(5), counter: 9 };
        assert_eq!(path, BlockPath { disk: DiskId(3), pg: PgId(7), id });
        for bad in ["/blocks/", "/blocks/d3/pg7", "/blocks/d3/pg7/b5-9/x", "/blocks/x/pg7/b5-9"] {
            assert_eq!(BlockPath::parse(bad).expect_err("is refused").kind, Kind::Invalid);
        }
        let range = |text| range_of(&HeaderValue::from_static(text)).ok();
        assert_eq!(range("bytes=0-0"), Some(0..1));
        assert_eq!(range("bytes=100-299"), Some(100..300));
        assert_eq!(range("bytes=0-4194303"), Some(0..4 << 20));
        for bad in [
            "bytes=0-4194304",
            "bytes=5-4",
            "bytes=-5",
            "bytes=5-",
            "lines=0-1",
            "bytes=0-4294967295",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
