//! Changes and questions that wait for another client, which holds a directory and has changes there that it has not told.

use super::combine::{Waiting, answer};
use crate::client::Client;
use crate::error::ClientError;
use everhold_proto::Kind;
use everhold_proto::fs::FsError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between tries, with half as much again as jitter. The leader waits for the holder, too, before it answers.
const PAUSE: Duration = Duration::from_millis(50);

impl Client {
    /// Pauses before the next try; `None`: the caller's deadline came first, and it was answered.
    pub(super) async fn wait_for_holder<I, O>(
        &self,
        waiting: Waiting<I, O>,
        held: FsError,
    ) -> Option<Waiting<I, O>> {
        self.stats.held_up.fetch_add(1, Ordering::Relaxed);
        let clock = self.env.clock;
        let pause = PAUSE.mul_f64(1.0 + self.env.entropy.unit() / 2.0);
        if clock.now() + pause < waiting.deadline && !waiting.answer.is_closed() {
            clock.sleep(pause).await;
            return Some(waiting);
        }
        let text = format!(
            "{held} and has changes there that it has not told; `everhold health` names its client"
        );
        answer(waiting.answer, Err(ClientError::new(Kind::Retry, text)));
        None
    }
}
