//! The receiving side of a snapshot: rows are loaded into a fresh state file as they come; the state in use is
//! not touched until all of them are there, verified and durable. One transfer at a time.

use crate::network::{SnapshotMessage, SnapshotReply};
use crate::scope::scoped;
use crate::state::{Host, SnapshotData, Staging};
use crate::types::{Raft, Snapshot, SnapshotMeta, Types, Vote, membership_is_sound};
use bytes::Bytes;
use everhold_env::Env;
use everhold_proto::checksum::crc32c;
use openraft::async_runtime::WatchReceiver;
use openraft::raft::SnapshotResponse;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// How long one message waits for the installation before it answers "still installing".
const INSTALL_WAIT: Duration = Duration::from_secs(1);

type Outcome = Option<Result<SnapshotResponse<Types>, String>>;

pub(crate) struct Receiver {
    env: Env,
    host: Host,
    raft: Raft,
    transfer: Mutex<Option<Transfer>>,
}

struct Transfer {
    id: u64,
    vote: Vote,
    meta: SnapshotMeta,
    next_chunk: u32,
    stage: Stage,
}

enum Stage {
    Loading(Box<Staging>),
    Installing(watch::Receiver<Outcome>),
}

impl Receiver {
    pub(crate) fn new(env: Env, host: Host, raft: Raft) -> Self {
        Receiver { env, host, raft, transfer: Mutex::new(None) }
    }

    pub(crate) async fn handle(&self, message: SnapshotMessage) -> SnapshotReply {
        let mut slot = self.transfer.lock().await;
        match message {
            SnapshotMessage::Begin { transfer, vote, meta } => {
                self.begin(&mut slot, transfer, vote, meta).await
            }
            SnapshotMessage::Rows { transfer, number, crc, rows } => match slot.take() {
                Some(current) if current.id == transfer => {
                    self.rows(&mut slot, current, number, crc, rows).await
                }
                other => {
                    *slot = other;
                    restart("unknown transfer")
                }
            },
            SnapshotMessage::End { transfer, rows, digest } => match slot.take() {
                Some(current) if current.id == transfer => {
                    self.end(&mut slot, current, (rows, digest)).await
                }
                other => {
                    *slot = other;
                    restart("unknown transfer")
                }
            },
        }
    }

    async fn begin(
        &self,
        slot: &mut Option<Transfer>,
        id: u64,
        vote: Vote,
        meta: SnapshotMeta,
    ) -> SnapshotReply {
        if let Err(reason) = self.check(&vote, &meta) {
            return restart(reason);
        }
        match slot.take() {
            Some(Transfer { stage: Stage::Installing(outcome), id, vote, meta, next_chunk })
                if outcome.borrow().is_none() =>
            {
                *slot = Some(Transfer {
                    stage: Stage::Installing(outcome),
                    id,
                    vote,
                    meta,
                    next_chunk,
                });
                return restart("another snapshot is being installed");
            }
            Some(current) if current.vote.leader_id > vote.leader_id => {
                *slot = Some(current);
                return restart("a newer leader sends a snapshot");
            }
            Some(Transfer { stage: Stage::Loading(staging), .. }) => {
                self.host.abandon(staging).await
            }
            _ => {}
        }
        match self.host.stage().await {
            Ok(staging) => {
                *slot = Some(Transfer {
                    id,
                    vote,
                    meta,
                    next_chunk: 0,
                    stage: Stage::Loading(staging),
                });
                SnapshotReply::Continue
            }
            Err(e) => restart(e.to_string()),
        }
    }

    /// Refuses what no correct leader sends; openraft would end the process on it.
    fn check(&self, vote: &Vote, meta: &SnapshotMeta) -> Result<(), &'static str> {
        let last = meta.last_log_id.ok_or("an empty snapshot")?;
        let committed = self.raft.metrics().borrow_watched().local_committed;
        let contradicts = committed.is_some_and(|c| last > c && last.index <= c.index);
        let sound = vote.committed
            && last.leader_id <= vote.leader_id
            && last.index <= crate::log::INDEX_MAX
            && membership_is_sound(meta.last_membership.membership())
            && !contradicts;
        sound.then_some(()).ok_or("a snapshot that contradicts its leader or this log")
    }

    async fn rows(
        &self,
        slot: &mut Option<Transfer>,
        current: Transfer,
        number: u32,
        crc: u32,
        rows: Bytes,
    ) -> SnapshotReply {
        let Transfer { id, vote, meta, next_chunk, stage } = current;
        let Stage::Loading(mut staging) = stage else {
            *slot = Some(Transfer { id, vote, meta, next_chunk, stage });
            return SnapshotReply::Installing;
        };
        // A repeated chunk is one whose acknowledgement was lost.
        let repeated = number.checked_add(1) == Some(next_chunk);
        let sound = number == next_chunk && crc32c(&rows) == crc;
        if !repeated && !sound {
            self.host.abandon(staging).await;
            return restart("a chunk out of order or damaged");
        }
        if repeated {
            *slot = Some(Transfer { id, vote, meta, next_chunk, stage: Stage::Loading(staging) });
            return SnapshotReply::Continue;
        }
        let load = move || {
            let loaded = staging.load(&rows);
            (staging, loaded)
        };
        let (staging, loaded) = self.env.tasks.blocking(load).await;
        if let Err(e) = loaded {
            self.host.abandon(staging).await;
            return restart(e.to_string());
        }
        *slot = Some(Transfer {
            id,
            vote,
            meta,
            next_chunk: next_chunk + 1,
            stage: Stage::Loading(staging),
        });
        SnapshotReply::Continue
    }

    async fn end(
        &self,
        slot: &mut Option<Transfer>,
        current: Transfer,
        totals: (u64, u32),
    ) -> SnapshotReply {
        let Transfer { id, vote, meta, next_chunk, stage } = current;
        let outcome = match stage {
            Stage::Installing(outcome) => outcome,
            Stage::Loading(staging) => self.install(staging, vote, meta.clone(), totals),
        };
        let mut pending = outcome.clone();
        *slot = Some(Transfer { id, vote, meta, next_chunk, stage: Stage::Installing(outcome) });
        let waited = self.env.clock.within(INSTALL_WAIT, pending.wait_for(Option::is_some)).await;
        match waited {
            Ok(Ok(outcome)) => match outcome.as_ref() {
                Some(Ok(response)) => SnapshotReply::Done(response.clone()),
                Some(Err(reason)) => restart(reason.clone()),
                None => SnapshotReply::Installing,
            },
            Ok(Err(_)) => restart("the installation was given up"),
            Err(_) => SnapshotReply::Installing,
        }
    }

    /// Seals and installs in the background: with a large state it takes longer than any one call should.
    fn install(
        &self,
        staging: Box<Staging>,
        vote: Vote,
        meta: SnapshotMeta,
        totals: (u64, u32),
    ) -> watch::Receiver<Outcome> {
        let (sender, outcome) = watch::channel(None);
        let (env, host, raft) = (self.env.clone(), self.host.clone(), self.raft.clone());
        let install = async move {
            let result = seal_and_install(env, host, raft, staging, vote, meta, totals).await;
            sender.send_replace(Some(result));
        };
        self.env.tasks.detach(scoped(&self.env, install));
        outcome
    }
}

async fn seal_and_install(
    env: Env,
    host: Host,
    raft: Raft,
    mut staging: Box<Staging>,
    vote: Vote,
    meta: SnapshotMeta,
    totals: (u64, u32),
) -> Result<SnapshotResponse<Types>, String> {
    let described = meta.clone();
    let seal = move || {
        let sealed = staging.seal(&described, totals);
        (staging, sealed)
    };
    let (staging, sealed) = env.tasks.blocking(seal).await;
    if let Err(e) = sealed {
        host.abandon(staging).await;
        return Err(e.to_string());
    }
    let snapshot =
        Snapshot { meta: meta.clone(), snapshot: SnapshotData::Staged(staging.into_staged(meta)) };
    raft.install_full_snapshot(vote, snapshot).await.map_err(|e| e.to_string())
}

fn restart(reason: impl Into<String>) -> SnapshotReply {
    SnapshotReply::Restart(reason.into())
}
