//! Reads request bodies within a size and a deadline.

use bytes::{Bytes, BytesMut};
use everhold_env::Env;
use everhold_proto::{Error, Kind};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::Instant;

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_body(
    env: &Env,
    body: Incoming,
    limit: usize,
    deadline: Instant,
) -> Result<Bytes, Error> {
    let expected = body.size_hint().lower().min(limit as u64) as usize;
    // A length that is only announced must not cost memory: the buffer grows with what arrives.
    let mut whole = BytesMut::with_capacity(expected.min(64 << 10));
    let mut single: Option<Bytes> = None;
    read_frames(env, body, limit, deadline, |frame| {
        if let Some(first) = single.take() {
            whole.extend_from_slice(&first);
        }
        if whole.is_empty() {
            single = Some(frame);
        } else {
            whole.extend_from_slice(&frame);
        }
    })
    .await?;
    Ok(single.unwrap_or_else(|| whole.freeze()))
}

/// Reads a body of at most `limit` bytes frame by frame, and tells its length.
pub(crate) async fn read_frames(
    env: &Env,
    mut body: Incoming,
    limit: usize,
    deadline: Instant,
    mut take: impl FnMut(Bytes),
) -> Result<usize, Error> {
    let too_long = || Error::new(Kind::Invalid, format!("body exceeds {limit} bytes"));
    if body.size_hint().lower() > limit as u64 {
        return Err(too_long());
    }
    let mut length = 0;
    loop {
        let frame = match env.clock.until(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => return Ok(length),
            Ok(Some(Err(e))) => {
                return Err(Error::new(Kind::Invalid, format!("body is cut off: {e}")));
            }
            Err(_) => return Err(Error::new(Kind::Retry, "body did not arrive in time")),
        };
        if let Ok(piece) = frame.into_data() {
            length += piece.len();
            if length > limit {
                return Err(too_long());
            }
            take(piece);
        }
    }
}
