//! What is told to followers of commits. openraft sends a message without entries for each commit that no message with
//! entries has carried. A follower need not know at once: it applies what is committed, and nobody waits for that. So
//! such a message is held back a little, and is not sent when another one follows, which tells of this commit too.

use crate::types::{LogId, Types};
use everhold_env::Env;
use futures_util::{Stream, StreamExt, stream};
use openraft::raft::AppendEntriesRequest;
use std::time::Duration;

/// Followers learn of a commit this much later at most.
const HELD_FOR: Duration = Duration::from_millis(20);

type Request = AppendEntriesRequest<Types>;

/// `requests` without those that only tell of a commit, where another one follows soon. Whoever takes a request has
/// seen the one before it answered.
pub(crate) fn held(
    env: Env,
    requests: impl Stream<Item = Request> + Send + Unpin + 'static,
) -> impl Stream<Item = Request> + Send + Unpin + 'static {
    let requests = requests.fuse();
    Box::pin(stream::unfold((env, requests, None), |(env, mut requests, sent)| async move {
        let mut request = requests.next().await?;
        if tells_of_commits(&request, sent) {
            let deadline = env.clock.now() + HELD_FOR;
            while tells_of_commits(&request, sent)
                && let Ok(Some(later)) = env.clock.until(deadline, requests.next()).await
            {
                request = later;
            }
        }
        let last = request.entries.last().map_or(request.prev_log_id, |entry| Some(entry.log_id));
        Some((request, (env, requests, Some(last))))
    }))
}

/// The follower has all that is before it: there is nothing to ask or to tell but what is committed.
fn tells_of_commits(request: &Request, sent: Option<Option<LogId>>) -> bool {
    request.entries.is_empty() && sent == Some(request.prev_log_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::model::log_id;
    use crate::types::{Entry, Vote};
    use openraft::EntryPayload;
    use tokio::sync::mpsc;

    fn id(index: u64) -> LogId {
        log_id(1, index)
    }

    /// The entries behind `prev` up to `last`, with what is committed.
    fn request(prev: u64, last: u64, committed: u64) -> Request {
        let entry = |index| Entry { log_id: id(index), payload: EntryPayload::Blank };
        AppendEntriesRequest {
            vote: Vote::new_committed(1, 1),
            prev_log_id: Some(id(prev)),
            entries: (prev + 1..=last).map(entry).collect(),
            leader_commit: Some(id(committed)),
        }
    }

    /// (entries, what is committed)
    fn seen(request: &Request) -> (usize, u64) {
        (request.entries.len(), request.leader_commit.expect("given").index)
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_is_told_with_what_follows_it() {
        let env = Env::real();
        let (send, requests) = mpsc::unbounded_channel();
        let requests = stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|request| (request, requests))
        });
        let mut held = held(env.clone(), Box::pin(requests));
        for one in [request(3, 3, 3), request(3, 4, 3), request(4, 4, 4), request(4, 6, 4)] {
            send.send(one).unwrap();
        }
        assert_eq!(
            seen(&held.next().await.unwrap()),
            (0, 3),
            "the first one asks where the follower is"
        );
        assert_eq!(seen(&held.next().await.unwrap()), (1, 3));
        assert_eq!(seen(&held.next().await.unwrap()), (2, 4));

        let begun = env.clock.now();
        for committed in 5..=6 {
            send.send(request(6, 6, committed)).unwrap();
        }
        assert_eq!(
            seen(&held.next().await.unwrap()),
            (0, 6),
            "alone, the last one is sent in the end"
        );
        assert_eq!(env.clock.now() - begun, HELD_FOR);

        send.send(request(6, 6, 6)).unwrap();
        send.send(request(5, 5, 6)).unwrap();
        assert_eq!(seen(&held.next().await.unwrap()), (0, 6), "another question is not held");
        assert_eq!(env.clock.now() - begun, HELD_FOR);

        send.send(request(5, 5, 7)).unwrap();
        drop(send);
        assert_eq!(
            seen(&held.next().await.unwrap()),
            (0, 7),
            "what is held is sent when nothing follows"
        );
        assert!(held.next().await.is_none());
    }
}
