//! The simulated network: turmoil's TCP behind the network port, with connections that can be reset.

use crate::trace;
use async_trait::async_trait;
use everhold_env::net::{Network, NetworkListener, NetworkStream};
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// All open connections of a simulation, each end by itself.
#[derive(Clone, Default)]
pub struct Connections(Arc<Mutex<Vec<Weak<End>>>>);

/// One end of a connection.
struct End {
    host: Arc<str>,
    peer: SocketAddr,
    reset: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl Connections {
    /// Resets every connection between two hosts; gives how many ends that were.
    pub fn reset(&self, a: &str, b: &str, address_of: impl Fn(&str) -> std::net::IpAddr) -> usize {
        let (of_a, of_b) = (address_of(a), address_of(b));
        let mut count = 0;
        self.0.lock().retain(|end| {
            let Some(end) = end.upgrade() else { return false };
            let between = (*end.host == *a && end.peer.ip() == of_b)
                || (*end.host == *b && end.peer.ip() == of_a);
            if between {
                count += 1;
                end.reset.store(true, Relaxed);
                end.waiting.lock().drain(..).for_each(Waker::wake);
            }
            !between
        });
        count
    }

    fn track(&self, host: &Arc<str>, peer: SocketAddr, inner: turmoil::net::TcpStream) -> Tracked {
        let (reset, waiting) = (AtomicBool::new(false), Mutex::default());
        let end = Arc::new(End { host: host.clone(), peer, reset, waiting });
        let mut all = self.0.lock();
        if all.len() > 64 && all.len().is_power_of_two() {
            all.retain(|end| end.strong_count() > 0);
        }
        all.push(Arc::downgrade(&end));
        Tracked { inner, end }
    }
}

/// The network as one host sees it.
pub struct SimNetwork {
    host: Arc<str>,
    connections: Connections,
}

impl SimNetwork {
    /// The network of `host`; to be used inside it only.
    pub fn of(host: &str, connections: &Connections) -> Arc<Self> {
        Arc::new(SimNetwork { host: host.into(), connections: connections.clone() })
    }
}

#[async_trait]
impl Network for SimNetwork {
    async fn listen(&self, address: &str) -> io::Result<Box<dyn NetworkListener>> {
        let inner = turmoil::net::TcpListener::bind(address).await?;
        let (host, connections) = (self.host.clone(), self.connections.clone());
        Ok(Box::new(SimListener { inner, host, connections }))
    }

    async fn connect(&self, address: &str) -> io::Result<Box<dyn NetworkStream>> {
        let inner = turmoil::net::TcpStream::connect(address).await?;
        let peer = inner.peer_addr()?;
        Ok(Box::new(self.connections.track(&self.host, peer, inner)))
    }
}

struct SimListener {
    inner: turmoil::net::TcpListener,
    host: Arc<str>,
    connections: Connections,
}

#[async_trait]
impl NetworkListener for SimListener {
    async fn accept(&self) -> io::Result<(Box<dyn NetworkStream>, SocketAddr)> {
        let (inner, peer) = self.inner.accept().await?;
        Ok((Box::new(self.connections.track(&self.host, peer, inner)), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

struct Tracked {
    inner: turmoil::net::TcpStream,
    end: Arc<End>,
}

impl Tracked {
    /// An error once the connection was reset; else whoever waits is woken when it is.
    fn check<T>(&self, cx: &Context<'_>, progress: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if self.end.reset.load(Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if progress.is_pending() {
            let mut waiting = self.end.waiting.lock();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
        }
        progress
    }
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let progress = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.check(cx, progress)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(n)) = &progress {
            trace::bytes("send", &self.end.host, &self.end.peer, &buf[..*n]);
        }
        self.check(cx, progress)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
