//! Giving up what was written to an open file and may not be committed any more, because it was written under a lock
//! that was lost.

use super::{OpenFile, too_busy};
use crate::error::{ClientError, Result};
use std::sync::Arc;

impl OpenFile {
    /// Drops everything that was written and is not committed, after the flush that is under way has ended; says how
    /// many bytes that were. The caller has made sure that this flush cannot commit ([`crate::Client::bind`]). With
    /// `told`, everybody who has the file open is told.
    pub async fn abandon(self: &Arc<Self>, told: Option<ClientError>) -> Result<usize> {
        let (clock, deadline) = (self.client.env.clock, self.client.deadline());
        let writing = clock.until(deadline, self.writing.lock()).await;
        let _writing = writing.map_err(|_| too_busy())?;
        let commits = clock.until(deadline, self.committing.lock()).await;
        let _commits = commits.map_err(|_| too_busy())?;
        let mut state = self.state.lock();
        let bytes = state.overlay.held();
        state.overlay = Default::default();
        self.client.dirty.remove(bytes);
        (state.dirty_since, state.left) = (None, false);
        (state.sight, state.version) = (None, None);
        state.changes += 1;
        if bytes > 0 {
            tracing::error!(inode = %self.inode, bytes, "what was written under a lost lock is dropped");
            if let Some(told) = told {
                self.client.losses.add([self.inode], &told);
            }
        }
        Ok(bytes)
    }
}
