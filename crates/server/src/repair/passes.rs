//! The passes of a disk's scrub: how far the one under way is, and whether another one was asked for.

use everhold_proto::rpc::ScrubStatus;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// See the module's words.
#[derive(Default)]
pub struct ScrubPasses {
    inner: Mutex<Inner>,
    asked: Notify,
}

#[derive(Default)]
struct Inner {
    status: ScrubStatus,
    /// Urgent passes asked for, and how many of these the pass under way and those before it answer.
    asked: u64,
    answered: u64,
}

/// The pass under way; it ends with [`ScrubPasses::end`], or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pass {
    pub(crate) urgent: bool,
    answers: u64,
}

impl ScrubPasses {
    /// Asks for an urgent pass over everything that is on the disk now. It begins at once.
    pub fn ask(&self) {
        self.inner.lock().asked += 1;
        self.asked.notify_one();
    }

    /// Resolves when a pass was asked for.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// A pass over `blocks` copies begins: an urgent one if one was asked for.
    pub(crate) fn begin(&self, blocks: u64) -> Pass {
        let mut inner = self.inner.lock();
        let pass = Pass { urgent: inner.asked > inner.answered, answers: inner.asked };
        inner.status.urgent = pass.urgent;
        inner.status.blocks = blocks;
        inner.status.checked_blocks = 0;
        inner.status.checked_bytes = 0;
        pass
    }

    /// Whether another pass was asked for since this one began.
    pub(crate) fn is_overtaken(&self, pass: Pass) -> bool {
        self.inner.lock().asked > pass.answers
    }

    /// A copy of so many bytes was read.
    pub(crate) fn checked(&self, bytes: u64) {
        let mut inner = self.inner.lock();
        inner.status.checked_blocks += 1;
        inner.status.checked_bytes += bytes;
    }

    /// Everything was read.
    pub(crate) fn end(&self, pass: Pass) {
        let mut inner = self.inner.lock();
        inner.answered = inner.answered.max(pass.answers);
        inner.status.passes += 1;
        inner.status.urgent_passes += u64::from(pass.urgent);
        inner.status.urgent = false;
    }

    /// How far it is; the number of bad copies is the caller's to add.
    pub fn status(&self) -> ScrubStatus {
        self.inner.lock().status.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An urgent pass is one that was asked for and has not been completed; asked again, it begins anew.
    #[test]
    fn asked_for_until_completed() {
        let passes = ScrubPasses::default();
        let slow = passes.begin(10);
        assert!(!slow.urgent && !passes.is_overtaken(slow));
        passes.ask();
        assert!(passes.is_overtaken(slow));
        let first = passes.begin(10);
        assert!(first.urgent);
        passes.ask();
        assert!(passes.is_overtaken(first), "it may have passed what is asked about now");
        let second = passes.begin(12);
        passes.checked(100);
        assert_eq!(passes.status().checked_bytes, 100);
        passes.end(second);
        let status = passes.status();
        assert_eq!((status.passes, status.urgent_passes, status.urgent), (1, 1, false));
        assert!(!passes.begin(12).urgent);
    }
}
