//! TCP: the operating system's, or the simulator's behind the feature `sim`.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The port to the network.
#[derive(Clone, Copy, Debug)]
pub struct Net(Kind);

#[derive(Clone, Copy, Debug)]
enum Kind {
    Real,
    #[cfg(feature = "sim")]
    Simulated,
}

/// A bound socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// The operating system's.
    Real(tokio::net::TcpListener),
    /// The simulator's.
    #[cfg(feature = "sim")]
    Simulated(turmoil::net::TcpListener),
}

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// The operating system's.
    Real(tokio::net::TcpStream),
    /// The simulator's.
    #[cfg(feature = "sim")]
    Simulated(turmoil::net::TcpStream),
}

impl Net {
    /// The operating system's network.
    pub fn real() -> Self {
        Net(Kind::Real)
    }

    /// The simulator's network; only inside a turmoil host.
    #[cfg(feature = "sim")]
    pub fn simulated() -> Self {
        Net(Kind::Simulated)
    }

    /// Listens on `HOST:PORT`; port 0 takes a free one.
    pub async fn listen(&self, address: &str) -> io::Result<Listener> {
        match self.0 {
            Kind::Real => Ok(Listener::Real(tokio::net::TcpListener::bind(address).await?)),
            #[cfg(feature = "sim")]
            Kind::Simulated => {
                Ok(Listener::Simulated(turmoil::net::TcpListener::bind(address).await?))
            }
        }
    }

    /// Connects to `HOST:PORT` within `limit`, with Nagle's delay off.
    pub async fn connect(&self, address: &str, limit: Duration) -> io::Result<Stream> {
        let attempt = async {
            match self.0 {
                Kind::Real => {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    Ok(Stream::Real(stream))
                }
                #[cfg(feature = "sim")]
                Kind::Simulated => {
                    Ok(Stream::Simulated(turmoil::net::TcpStream::connect(address).await?))
                }
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
            #[cfg(feature = "sim")]
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
            #[cfg(feature = "sim")]
            Listener::Simulated(listener) => listener.local_addr(),
        }
    }
}

macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Real($stream) => $call,
            #[cfg(feature = "sim")]
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
            #[cfg(feature = "sim")]
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
