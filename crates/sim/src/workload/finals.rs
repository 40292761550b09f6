//! The reads after all faults: whatever was acknowledged must be there.

use super::locks::COUNTER;
use super::ops::Ops;
use super::plan::WorkloadPlan;
use super::programs;
use super::trees::Known;
use crate::check::LOCK;
use crate::history::*;
use everhold_client::Client;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Number under which these reads are recorded.
const READER: u32 = 255;
/// Files read at once.
const AT_ONCE: usize = 16;
/// Pause before a read is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads every shared object, and every small file of the history, as ordinary operations, each tried
/// until it has a definite answer. Gives the objects that had none by `deadline`.
pub async fn final_check(
    client: &Arc<Client>,
    plan: &Arc<WorkloadPlan>,
    recorder: &Recorder,
    deadline: Instant,
) -> Vec<ObjectId> {
    let mut ops = Ops::new(client.clone(), READER, plan.clone(), recorder.clone());
    ops.is_final = true;
    let reads = Finals { ops, deadline };
    let mut unread = Vec::new();
    let names = plan.file_names();
    for object in [plan.file_objects(), plan.rename_objects()].concat() {
        reads.group(&object, &names, &mut unread).await;
    }
    for object in plan.lock_objects() {
        reads.group(&object, &[LOCK.into(), COUNTER.into()], &mut unread).await;
    }
    for object in plan.log_objects() {
        let read = reads.until(async || reads.ops.log(&object, LogInput::Read).await).await;
        unread.extend(read.is_none().then_some(object));
    }
    for (object, bytes) in plan.slots_objects() {
        let read = async || reads.ops.slots(&object, bytes, SlotsInput::ReadAll).await;
        unread.extend(reads.until(read).await.is_none().then_some(object));
    }
    for object in plan.tree_objects() {
        if !reads.tree(&object).await {
            unread.push(object);
        }
    }
    reads.small_files(&mut unread).await;
    for object in plan.counter_objects() {
        let read = async || reads.ops.final_count(&object).await.ok();
        unread.extend(reads.until(read).await.is_none().then_some(object));
    }
    for object in recorder.desks().objects() {
        if !reads.desk(&object).await {
            unread.push(object);
        }
    }
    unread
}

struct Finals {
    ops: Ops,
    deadline: Instant,
}

impl Finals {
    /// Tries until there is a definite answer.
    async fn until<T>(&self, mut read: impl AsyncFnMut() -> Option<T>) -> Option<T> {
        let clock = self.ops.client.env().clock;
        loop {
            if let Some(answer) = read().await {
                return Some(answer);
            }
            if clock.now() + PAUSE >= self.deadline {
                return None;
            }
            clock.sleep(PAUSE).await;
        }
    }

    async fn group(&self, object: &ObjectId, names: &[FileName], unread: &mut Vec<ObjectId>) {
        let gets = names.iter().map(|name| GroupInput::Get(name.clone()));
        for input in [GroupInput::List].into_iter().chain(gets) {
            let read = async || self.ops.group(object, input.clone()).await;
            if self.until(read).await.is_none() && unread.last() != Some(object) {
                unread.push(object.clone());
            }
        }
    }

    /// Lists the tree from its top.
    async fn tree(&self, object: &ObjectId) -> bool {
        let top = self.until(async || self.ops.directory(object).await.ok()).await;
        let Some(top) = top else { return false };
        let mut known = Known::from([(Tag::INITIAL, top)]);
        let mut pending = vec![Tag::INITIAL];
        while let Some(dir) = pending.pop() {
            let mut listed = None;
            loop {
                if let Some(answer) =
                    self.ops.tree_step(object, &mut known, TreeInput::List(dir)).await
                {
                    listed = Some(answer);
                    break;
                }
                if self.ops.client.env().clock.now() + PAUSE >= self.deadline {
                    break;
                }
                self.ops.client.env().clock.sleep(PAUSE).await;
            }
            match listed {
                None => return false,
                Some(TreeOutput::Entries(entries)) => {
                    pending.extend(entries.into_iter().filter_map(|(_, node)| match node {
                        Node::Directory(tag) => Some(tag),
                        Node::File(_) => None,
                    }));
                }
                Some(_) => {}
            }
        }
        true
    }

    /// What is left of a desk is what its history allows.
    async fn desk(&self, object: &ObjectId) -> bool {
        let Some((directory, prefix)) = object.as_str().split_once(':') else { return false };
        let (client, directory) = (&self.ops.client, ObjectId::new(directory));
        let read = async || match self.ops.directory(&directory).await {
            Ok(inode) => programs::look_at_all(client, inode, prefix).await.ok(),
            Err(_) => None,
        };
        let Some(actual) = self.until(read).await else { return false };
        let judged = actual.and_then(|seen| self.ops.recorder.desks().judge_end(object, &seen));
        if let Err(wrong) = judged {
            self.ops.recorder.violation(programs::SEEN, object, format!("at the end: {wrong}"));
        }
        true
    }

    /// Each small file by itself; a few at once, in the order of their names.
    async fn small_files(&self, unread: &mut Vec<ObjectId>) {
        let histories = self.ops.recorder.histories();
        let objects: Vec<ObjectId> =
            histories.into_keys().filter(|object| object.as_str().contains(':')).collect();
        let reads = objects.into_iter().map(|object| async move {
            let name = object.as_str().split(':').nth(1).unwrap_or_default();
            let input = GroupInput::Get(name.into());
            let read = self.until(async || self.ops.group(&object, input.clone()).await).await;
            read.is_none().then_some(object)
        });
        let mut reads = futures_util::stream::iter(reads).buffered(AT_ONCE);
        while let Some(missing) = reads.next().await {
            unread.extend(missing);
        }
    }
}
