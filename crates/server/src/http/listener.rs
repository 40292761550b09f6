//! The accept loop and one task per connection. A connection stays on the worker that polls it;
//! handlers are called inline, so that a small call costs no wake-up across threads.

use super::Reply;
use super::patient::Patient;
use everhold_env::{Env, Listener, Stream};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// A connection that sends no complete request head for this long is closed, idle ones included:
/// longer than any client keeps an idle connection, short enough that slow senders do not pile up.
const HEAD_LIMIT: Duration = Duration::from_secs(60);
/// A peer that takes nothing of its answer for this long is cut off.
const SEND_LIMIT: Duration = Duration::from_secs(30);
/// After a stop, connections have this long to finish their call.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Without descriptors, the next connection is tried after so long.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);
/// Largest request head; ours are below 1 KiB. It also bounds one read of a body.
const READ_BUFFER_BYTES_MAX: usize = 1 << 20;
/// Most headers of a request; ours have under ten.
const HEADERS_MAX: usize = 64;

/// What is served.
pub(crate) trait Handler: Send + Sync + 'static {
    /// Answers one request.
    fn handle(
        self: Arc<Self>,
        connection: Arc<Connection>,
        request: hyper::Request<Incoming>,
    ) -> impl Future<Output = Reply> + Send;

    /// A connection ended, whatever the reason.
    fn closed(&self, connection: &Connection);
}

/// One connection; handlers use it to notice when a peer's connection goes away.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Counts up from the start of the server.
    pub(crate) number: u64,
    /// Who is at its other end.
    pub(crate) peer: IpAddr,
}

/// Bounds of the listener.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HttpLimits {
    /// Open connections; beyond it new ones are closed at once.
    pub(crate) connections_max: usize,
}

/// Accepts connections until `stop` turns true or its sender is gone.
pub(crate) async fn serve<H: Handler>(
    env: Env,
    listener: Listener,
    handler: Arc<H>,
    limits: HttpLimits,
    mut stop: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopped(&mut stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tracing::warn!(%peer, "too many connections: this one is closed");
                    continue;
                };
                number += 1;
                let connection = Arc::new(Connection { number, peer: peer.ip() });
                let served = connect(handler.clone(), stream, connection, place, stop.clone());
                env.tasks.detach(served);
            }
            // Nothing of this ends the server.
            Err(e) if is_of_the_peer(&e) => tracing::debug!(error = %e, "a peer is gone already"),
            Err(e) => {
                // Out of descriptors or memory: those who wait in the system's queue are taken when there are some again.
                tracing::warn!(error = %e, "no connection can be taken");
                env.clock.sleep(SHORTAGE_PAUSE).await;
            }
        }
    }
}

/// Whether a failed accept says something of that peer only: the next one is taken at once.
fn is_of_the_peer(e: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(e.kind(), ConnectionAborted | ConnectionReset | InvalidInput | NotConnected)
}

async fn connect<H: Handler>(
    handler: Arc<H>,
    stream: Stream,
    connection: Arc<Connection>,
    _place: OwnedSemaphorePermit,
    mut stop: watch::Receiver<bool>,
) {
    let _closing = Closing { handler: handler.clone(), connection: connection.clone() };
    let service = service_fn(move |request| {
        let (handler, connection) = (handler.clone(), connection.clone());
        async move { Ok::<_, Infallible>(handler.handle(connection, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(READ_BUFFER_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .auto_date_header(false)
        .half_close(false)
        .serve_connection(TokioIo::new(Patient::new(stream, SEND_LIMIT)), service);
    let mut served = std::pin::pin!(served);
    let ended = tokio::select! {
        ended = served.as_mut() => Some(ended),
        () = stopped(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            served.as_mut().graceful_shutdown();
            tokio::time::timeout(DRAIN_LIMIT, served).await.unwrap_or(Ok(()))
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection ended early");
    }
}

/// Resolves when the server stops, or is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _: Result<_, watch::error::RecvError> = stop.wait_for(|stop| *stop).await.map(|_| ());
}

/// Tells the handler, even when the task is aborted.
struct Closing<H: Handler> {
    handler: Arc<H>,
    connection: Arc<Connection>,
}

impl<H: Handler> Drop for Closing<H> {
    fn drop(&mut self) {
        self.handler.closed(&self.connection);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shortage of this process is waited out; what a peer did is not.
    #[test]
    fn only_a_shortage_makes_a_pause() {
        const ECONNABORTED: i32 = 103;
        const EMFILE: i32 = 24;
        assert!(is_of_the_peer(&io::Error::from_raw_os_error(ECONNABORTED)));
        assert!(!is_of_the_peer(&io::Error::from_raw_os_error(EMFILE)));
    }
}
