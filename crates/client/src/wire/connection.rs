//! One HTTP/1.1 connection, polled by the call that uses it.

use super::error::WireError;
use crate::buffers::{Buffer, Buffers};
use bytes::{Bytes, BytesMut};
use everhold_env::Stream;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

/// Bound of the read buffer: with 1 MiB a block of 4 MiB arrives in a few reads.
const READ_BUFFER_BYTES_MAX: usize = 1 << 20;

/// A request, before the headers that all requests share.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Longest answer that is taken.
    pub(super) limit: usize,
    pub(super) idempotent: bool,
}

/// A whole answer.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why a call failed on this connection.
pub(super) enum Sending {
    /// No byte of an answer came: on a kept-alive connection, the peer had probably closed it before.
    Stale(WireError),
    /// Anything else.
    Failed(WireError),
}

/// An open connection and the state machine that moves its bytes.
pub(super) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
}

struct Driver {
    connection: Pin<Box<http1::Connection<TokioIo<Stream>, Full<Bytes>>>>,
    ended: bool,
}

impl Connection {
    /// Starts HTTP on a fresh stream.
    pub(super) async fn open(address: &str, stream: Stream) -> Result<Self, WireError> {
        let opened = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = opened.map_err(|e| WireError::broken(address, false, e))?;
        Ok(Connection { sender, driver: Driver { connection: Box::pin(connection), ended: false } })
    }

    /// Whether the peer has not closed it, as far as is known here.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let _ = self.driver.poll(&mut cx);
        self.is_reusable()
    }

    /// Whether another call may follow.
    pub(super) fn is_reusable(&self) -> bool {
        !self.driver.ended && !self.sender.is_closed()
    }

    /// Sends a call and reads the whole answer. `sent` becomes true before the first byte leaves.
    pub(super) async fn send(
        &mut self,
        address: &str,
        call: &Call,
        sent: &AtomicBool,
        buffers: &Buffers,
    ) -> Result<Response, Sending> {
        let Connection { sender, driver } = self;
        let unsent = |e| Sending::Stale(WireError::broken(address, false, e));
        driver.run(sender.ready()).await.map_err(unsent)?;
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = call.method.clone();
        *request.headers_mut() = call.headers.clone();
        *request.uri_mut() = call.path.parse().map_err(|e| {
            Sending::Failed(WireError::malformed(address, format_args!("{}: {e}", call.path)))
        })?;
        sent.store(true, Ordering::Relaxed);
        let answer = driver.run(sender.try_send_request(request)).await;
        let answer = answer.map_err(|mut e| {
            let was_sent = e.take_message().is_none();
            Sending::Stale(WireError::broken(address, was_sent, e.into_error()))
        })?;
        let (head, body) = answer.into_parts();
        let body = gather(address, driver, body, call.limit, buffers).await;
        let body = body.map_err(Sending::Failed)?;
        if let Poll::Ready(()) = driver.poll(&mut Context::from_waker(Waker::noop())) {
            tracing::trace!(peer = address, "closed by the peer after its answer");
        }
        Ok(Response { status: head.status, headers: head.headers, body })
    }
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended && self.connection.as_mut().poll(cx).is_ready() {
            self.ended = true; // its error, if any, reaches the call that waits
        }
        if self.ended { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Runs `work`, which waits for this connection, and the connection with it.
    async fn run<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = pin!(work);
        std::future::poll_fn(|cx| {
            // Driving may make `work` ready at once, so that it is asked again on the spot.
            if let Poll::Ready(output) = work.as_mut().poll(cx) {
                return Poll::Ready(output);
            }
            let _ = self.poll(cx);
            work.as_mut().poll(cx)
        })
        .await
    }
}

/// From this length on a body is gathered in recycled memory.
const RECYCLED_BYTES_MIN: usize = 256 << 10;

/// The whole body in one piece. An announced length above `limit` is refused before a byte is kept.
async fn gather(
    address: &str,
    driver: &mut Driver,
    mut body: Incoming,
    limit: usize,
    buffers: &Buffers,
) -> Result<Bytes, WireError> {
    let too_long = || WireError::malformed(address, format_args!("more than {limit} bytes"));
    let hint = body.size_hint();
    if hint.lower() > limit as u64 {
        return Err(too_long());
    }
    let expected = hint.exact().map_or(0, |bytes| bytes as usize);
    let mut whole = Gathered::new(expected, buffers);
    while let Some(frame) = driver.run(body.frame()).await {
        let frame = frame.map_err(|e| WireError::broken(address, true, e))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > limit {
            return Err(too_long());
        }
        whole.add(data);
    }
    Ok(whole.finish())
}

/// The bytes of a body so far.
enum Gathered {
    /// At most one frame: not copied.
    One(Bytes),
    /// In recycled memory: the length is known and fits.
    Recycled(Buffer),
    /// Anything else.
    Grown(BytesMut),
}

impl Gathered {
    fn new(expected: usize, buffers: &Buffers) -> Self {
        if (RECYCLED_BYTES_MIN..=BLOCK_BYTES_MAX).contains(&expected) {
            Gathered::Recycled(buffers.take())
        } else {
            Gathered::One(Bytes::new())
        }
    }

    fn len(&self) -> usize {
        match self {
            Gathered::One(bytes) => bytes.len(),
            Gathered::Recycled(buffer) => buffer.len(),
            Gathered::Grown(bytes) => bytes.len(),
        }
    }

    fn add(&mut self, data: Bytes) {
        match self {
            Gathered::One(bytes) if bytes.is_empty() => *bytes = data,
            Gathered::One(bytes) => {
                let mut grown = BytesMut::with_capacity(2 * (bytes.len() + data.len()));
                grown.extend_from_slice(bytes);
                grown.extend_from_slice(&data);
                *self = Gathered::Grown(grown);
            }
            Gathered::Recycled(buffer) => {
                let count = buffer.append(&data);
                assert_eq!(count, data.len(), "a body is no longer than it announced");
            }
            Gathered::Grown(bytes) => bytes.extend_from_slice(&data),
        }
    }

    fn finish(self) -> Bytes {
        match self {
            Gathered::One(bytes) => bytes,
            Gathered::Recycled(buffer) => buffer.into_bytes(),
            Gathered::Grown(bytes) => bytes.freeze(),
        }
    }
}
