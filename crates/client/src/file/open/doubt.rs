//! A commit of which nobody knows whether it was made: its answer was lost with the session.
//!
//! **Invariant:** it is not made again over what others wrote since. The bytes are there, or the file is as it was before
//! and they are committed over that version only, or whoever has the file open is told of the loss.

use super::OpenFile;
use super::overlay::{Doubt, Sealed};
use crate::error::{ClientError, Result};
use bytes::Bytes;
use everhold_proto::Kind;
use everhold_proto::fs::{Attr, Extent};
use std::sync::Arc;

impl OpenFile {
    /// Settles what becomes of the oldest of what was sealed.
    pub(super) async fn settle_doubt(self: &Arc<Self>, sealed: Sealed, doubt: Doubt) -> Result<()> {
        let deadline = self.client.deadline();
        let seen = self.client.extents(self.inode, 0, u64::MAX, deadline).await;
        let (attr, extents, more) = match seen {
            Ok(seen) => seen,
            Err(e) => return Err(self.failed(&mut self.state.lock(), e)),
        };
        if !more && self.shows(&attr, &extents, &sealed.runs).await? {
            tracing::info!(inode = %self.inode, "a commit in doubt was made");
            let mut state = self.state.lock();
            (state.sight, state.version) = (None, Some(attr.version));
            state.changes += 1;
            self.let_go(&mut state.overlay);
            return Ok(());
        }
        if doubt.over == Some(attr.version) {
            let staged = self.client.stage(self.inode, sealed.runs, false, doubt.over).await;
            return self.finish(staged).await;
        }
        let text = "what was written may have been lost: the client was cut off while it was committed, and the file \
                    has changed since";
        let error = ClientError::new(Kind::Fenced, text);
        tracing::error!(inode = %self.inode, "bytes whose commit was in doubt are given up");
        let mut state = self.state.lock();
        state.sight = None;
        state.changes += 1;
        self.let_go(&mut state.overlay);
        self.client.losses.add([self.inode], &error);
        Err(error)
    }

    /// Whether a version of the file has all bytes of some runs.
    async fn shows(&self, attr: &Attr, extents: &[Extent], runs: &[(u64, Bytes)]) -> Result<bool> {
        let deadline = self.client.deadline();
        for (at, bytes) in runs {
            let end = at + bytes.len() as u64;
            if end > attr.size {
                return Ok(false);
            }
            if self.client.read_extents(extents, *at, end, deadline).await? != *bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
