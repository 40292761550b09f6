//! Calls between processes. Each is a unary `POST` over HTTP/1.1 to `/everhold.v1.SERVICE/METHOD`, as the
//! Connect protocol has it: bodies are postcard between our own programs (`application/x-postcard`)
//! and JSON for everyone else (`application/json`). Errors are the HTTP status of their kind, with an
//! [`crate::Error`] as body. Blocks travel as raw bodies; see [`block`].
//!
//! Every request carries the cluster id and the format version in headers; a mismatch is refused with a
//! message that names both.

use crate::error::Error;
use serde::{Serialize, de::DeserializeOwned};

/// A call: its path and its answer.
pub trait Rpc: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `/everhold.v1.Service/Method`.
    const PATH: &'static str;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! rpc {
    ($request:ty => $reply:ty, $path:literal) => {
        impl Rpc for $request {
            const PATH: &'static str = concat!("/everhold.v1.", $path);
            type Reply = $reply;
        }
    };
}

// After the macro that they use.
mod admin;
mod cluster;
mod meta;
mod node;

pub use admin::*;
pub use cluster::*;
pub use meta::*;
pub use node::*;

/// HTTP header with the caller's cluster id in hexadecimal; absent in a first contact.
pub const HEADER_CLUSTER: &str = "everhold-cluster";
/// HTTP header with the caller's format version in decimal; always present.
pub const HEADER_FORMAT: &str = "everhold-format";
/// HTTP header with the milliseconds that the caller will wait.
pub const HEADER_TIMEOUT: &str = "everhold-timeout-ms";
/// Body type between our own programs.
pub const POSTCARD: &str = "application/x-postcard";
/// Body type for everyone else.
pub const JSON: &str = "application/json";

/// Raft messages: `POST /everhold.v1.Raft/{append,vote,prevote,snapshot}` with the bodies of the
/// `consensus` crate.
pub const RAFT_PREFIX: &str = "/everhold.v1.Raft/";

/// Blocks as raw HTTP bodies.
///
/// `PUT /blocks/{disk}/{pg}/{block}` stores the body on one disk: request headers
/// [`CRC`](block::CRC), [`GENERATION`](block::GENERATION); answer 200 with a postcard
/// [`crate::table::Ack`] once it is durable.
/// `GET /blocks/{disk}/{pg}/{block}` reads it; `Range: bytes=A-B` for a part; the answer has
/// [`CRC`](block::CRC) of the bytes sent, computed over verified bytes.
pub mod block {
    /// Path prefix.
    pub const PREFIX: &str = "/blocks/";
    /// CRC32C of the body, 8 hexadecimal digits.
    pub const CRC: &str = "everhold-crc32c";
    /// A [`crate::Priority`] by name; absent: `foreground`. Reads for the repair of other disks, and moves, say so:
    /// clients are served before them.
    pub const PRIORITY: &str = "everhold-priority";
    /// Generation of the PG that the writer goes by; the node refreshes its map when it has an older one.
    pub const GENERATION: &str = "everhold-generation";
}

/// The error body that goes with a non-200 status.
pub type ErrorBody = Error;
