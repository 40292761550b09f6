//! A bounded number of jobs at once, each a task of its own, all ended when dropped.

use everhold_env::Tasks;
use futures_util::StreamExt;
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::FuturesUnordered;

/// Files from this size on are heavy.
const HEAVY_BYTES: u64 = 256 << 10;
/// What a heavy file counts.
const HEAVY: usize = 8;

/// Jobs under way.
pub(super) struct Jobs {
    tasks: Tasks,
    running: FuturesUnordered<BoxFuture<'static, usize>>,
    load: usize,
    limit: usize,
}

impl Jobs {
    pub(super) fn new(tasks: Tasks, limit: usize) -> Self {
        Jobs { tasks, running: FuturesUnordered::new(), load: 0, limit: limit.max(1) }
    }

    /// Starts a job for so many bytes, as soon as there is room.
    pub(super) async fn start(
        &mut self,
        bytes: u64,
        job: impl Future<Output = ()> + Send + 'static,
    ) {
        let weight = if bytes >= HEAVY_BYTES { HEAVY } else { 1 };
        while self.load > 0 && self.load + weight > self.limit {
            self.wait_for_one().await;
        }
        self.load += weight;
        let task = self.tasks.spawn(job);
        self.running.push(task.join().map(move |_| weight).boxed());
    }

    /// Waits for all.
    pub(super) async fn finish(mut self) {
        while self.load > 0 {
            self.wait_for_one().await;
        }
    }

    async fn wait_for_one(&mut self) {
        let weight = self.running.next().await.expect("a load means a running job");
        self.load -= weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Never more than the limit run at once, and all have run in the end.
    #[tokio::test]
    async fn jobs_are_bounded_and_all_run() {
        let (now, most, ran) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counts = Arc::new((now, most, ran));
        let mut jobs = Jobs::new(Tasks::real(), 16);
        for n in 0..100 {
            let (counts, bytes) = (counts.clone(), if n % 10 == 0 { HEAVY_BYTES } else { 1 });
            let weight = if bytes == 1 { 1 } else { HEAVY };
            let job = async move {
                let load = counts.0.fetch_add(weight, SeqCst) + weight;
                counts.1.fetch_max(load, SeqCst);
                tokio::task::yield_now().await;
                counts.0.fetch_sub(weight, SeqCst);
                counts.2.fetch_add(1, SeqCst);
            };
            jobs.start(bytes, job).await;
        }
        jobs.finish().await;
        assert!(counts.1.load(SeqCst) <= 16);
        assert_eq!(counts.2.load(SeqCst), 100);
    }
}
