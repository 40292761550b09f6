//! The end of the process, announced. A failed sync or a failed state machine leaves this replica
//! in an unknown state: it must stop at once and start again from stable storage, never retry.

use std::sync::Arc;
use tokio::sync::watch;

/// Set at most once, by the first failure; clones share it.
#[derive(Clone)]
pub(crate) struct Fatal(Arc<watch::Sender<Option<String>>>);

impl Fatal {
    pub(crate) fn new() -> Self {
        Fatal(Arc::new(watch::Sender::new(None)))
    }

    /// Announces `reason`, unless an earlier one was announced.
    pub(crate) fn trip(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.0.send_if_modified(|current| {
            if current.is_some() {
                return false;
            }
            tracing::error!(%reason, "metadata replica failed and must be restarted");
            *current = Some(reason);
            true
        });
    }

    /// The reason, if there is one yet.
    pub(crate) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits for the reason.
    pub(crate) async fn wait(&self) -> String {
        let mut changes = self.0.subscribe();
        let reason = changes.wait_for(Option::is_some).await;
        // The sender lives in `self`, so the channel cannot close while this waits.
        reason.ok().and_then(|r| r.clone()).unwrap_or_default()
    }
}
