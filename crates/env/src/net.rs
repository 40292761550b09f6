//! TCP: the operating system's, or whatever network a simulator brings.

use async_trait::async_trait;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A network other than the operating system's.
#[async_trait]
pub trait Network: Send + Sync {
    /// Listens on `HOST:PORT`.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn NetworkListener>>;
    /// Connects to `HOST:PORT`. The caller bounds the wait.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn NetworkStream>>;
}

/// A bound socket of a [`Network`].
#[async_trait]
pub trait NetworkListener: Send + Sync {
    /// The next connection and its peer.
    async fn accept(&self) -> io::Result<(Box<dyn NetworkStream>, SocketAddr)>;
    /// The address it is bound to.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A connection of a [`Network`].
pub trait NetworkStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> NetworkStream for S {}

/// The port to the network. Cheap to clone.
#[derive(Clone)]
pub struct Net(Kind);

#[derive(Clone)]
enum Kind {
    Real,
    Simulated(Arc<dyn Network>),
}

/// A bound socket that accepts connections.
pub enum Listener {
    /// The operating system's.
    Real(tokio::net::TcpListener),
    /// A simulator's.
    Simulated(Box<dyn NetworkListener>),
}

/// A connection.
pub enum Stream {
    /// The operating system's.
    Real(tokio::net::TcpStream),
    /// A simulator's.
    Simulated(Box<dyn NetworkStream>),
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Real => "Net(real)",
            Kind::Simulated(_) => "Net(simulated)",
        })
    }
}

impl Net {
    /// The operating system's network.
    pub fn real() -> Self {
        Net(Kind::Real)
    }

    /// A simulator's network.
    pub fn simulated(network: Arc<dyn Network>) -> Self {
        Net(Kind::Simulated(network))
    }

    /// Listens on `HOST:PORT`; port 0 takes a free one.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match &self.0 {
            Kind::Real => Ok(Listener::Real(tokio::net::TcpListener::bind(address).await?)),
            Kind::Simulated(network) => Ok(Listener::Simulated(network.listen(address).await?)),
        }
    }

    /// Connects to `HOST:PORT` within `limit`, with Nagle's delay off.
    pub async fn connect(&self, address: &str, limit: Duration) -> io::Result<Stream> {
        let attempt = async {
            match &self.0 {
                Kind::Real => {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Real(stream))
                }
                Kind::Simulated(network) => Ok(Stream::Simulated(network.connect(address).await?)),
            }
        };
        tokio::time::timeout(limit, attempt)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Listener {
    /// The next connection and its peer, with Nagle's delay off.
    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Real(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Real(stream), peer))
            }
            Listener::Simulated(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Simulated(stream), peer))
            }
        }
    }

    /// The address it is bound to.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Listener::Real(listener) => listener.local_addr(),
            Listener::Simulated(listener) => listener.local_addr(),
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Real($stream) => $call,
            Stream::Simulated($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, s => Pin::new(s).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Stream::Real(s) => s.is_write_vectored(),
            Stream::Simulated(s) => s.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}
