//! HTTP/1.1 over the network port: accepts connections, bounds them, reads bodies within their
//! limits and writes answers. Knows nothing of what is served; see [`Handler`].
//!
//! **Invariant:** whatever a peer sends, it costs at most one connection's buffers and a bounded
//! time; malformed input is an answer or a closed connection, never a panic.

mod body;
mod gate;
mod listener;
mod patient;
mod reply;

pub(crate) use body::{read_body, read_frames};
pub(crate) use gate::{Budget, Gate, WAIT_MAX};
pub(crate) use listener::{Connection, Handler, HttpLimits, serve};
pub(crate) use reply::{Encoding, Reply, bytes_reply, error_reply, text_reply, value_reply};
