//! Making written blocks part of a file: the linearization point of a write.

use crate::blocks::Written;
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::meta::attr_of;
use bytes::Bytes;
use everhold_proto::fs::{Attr, Content, Extent, FsError, FsOp, Source};
use everhold_proto::{BlockId, Kind, PolicyId};
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

/// Rounds of "refused, written again": each refusal has a cause (a membership change, a session that
/// ended) that does not come back many times within one deadline.
const ROUNDS_MAX: usize = 8;

impl Client {
    /// Commits `written` by the operation that `make` builds around it. Blocks that do not count are
    /// written again from memory, and the commit is tried again.
    pub(crate) async fn commit(
        self: &Arc<Self>,
        policy: PolicyId,
        mut written: Vec<Written>,
        deadline: Instant,
        make: impl Fn(Content) -> FsOp,
    ) -> Result<Attr> {
        for _ in 0..ROUNDS_MAX {
            let refused = match self.execute_by(make(content_of(&written)), deadline).await {
                Ok(reply) => return attr_of(reply),
                Err(ClientError::Fs(FsError::BlocksRefused(refused))) => refused,
                Err(e) => return Err(e),
            };
            let refused = refused.into_iter().map(|(id, _)| id).collect();
            written = self.rewrite_refused(policy, written, &refused, deadline).await?;
        }
        Err(ClientError::new(
            Kind::Retry,
            "blocks were refused again and again; see `everhold status`",
        ))
    }

    /// Writes blocks that did not count again from memory.
    pub(crate) async fn rewrite_refused(
        &self,
        policy: PolicyId,
        written: Vec<Written>,
        refused: &BTreeSet<BlockId>,
        deadline: Instant,
    ) -> Result<Vec<Written>> {
        if let Err(e) = self.refresh_map(deadline).await {
            tracing::debug!(error = %e, "the map was not refreshed");
        }
        let (again, mut written): (Vec<_>, Vec<_>) =
            written.into_iter().partition(|w| refused.contains(&w.block.id));
        tracing::debug!(blocks = again.len(), "blocks were refused; writing them again");
        let rewritten = again.into_iter().map(|w| self.rewrite_block(policy, w, deadline));
        for result in join_all(rewritten).await {
            written.push(result?);
        }
        written.sort_by_key(|w| w.offset);
        Ok(written)
    }
}

/// The content that blocks make up.
pub(crate) fn content_of(written: &[Written]) -> Content {
    let mut extents: Vec<Extent> = written.iter().flat_map(Written::extents).collect();
    extents.sort_by_key(|e| e.offset);
    Content { extents, blocks: written.iter().map(|w| w.block.clone()).collect() }
}

/// Content of a few bytes that travel in the commit itself.
pub(super) fn inline(offset: u64, data: Bytes) -> Content {
    let length = data.len() as u64;
    let extents = match length {
        0 => Vec::new(),
        _ => vec![Extent { offset, length, source: Source::Inline(data) }],
    };
    Content { extents, blocks: Vec::new() }
}

/// `bytes` in memory of its own, so that a few bytes do not keep a large buffer.
pub(super) fn compact(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
