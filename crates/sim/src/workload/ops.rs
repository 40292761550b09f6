//! Operations that record themselves: each is carried out through the client library, and what came of it
//! is recorded and returned.

use super::content;
use super::outcome::{Judged, judge};
use super::plan::{VALUE_BYTES_MIN, WorkloadPlan};
use crate::history::*;
use everhold_client::{Client, ClientError, CreateOptions, OpenFile};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FsError, Name};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// No file of a workload is larger.
pub(crate) const FILE_BYTES_MAX: usize = 64 << 20;
/// Names that the client library uses for files that are not finished.
const HIDDEN: &str = ".everhold-";

/// A client with what it needs to record what it does. Several operations may be under way at once.
pub struct Ops {
    pub(crate) client: Arc<Client>,
    pub(crate) number: u32,
    pub(crate) plan: Arc<WorkloadPlan>,
    pub(crate) recorder: Recorder,
    /// Whether these are the reads after all faults.
    pub(crate) is_final: bool,
    /// Directories of objects, which stay for the whole run.
    directories: Mutex<BTreeMap<ObjectId, InodeId>>,
    /// Files that a client with delegations keeps open.
    pub(crate) files: Mutex<BTreeMap<ObjectId, Arc<OpenFile>>>,
}

impl Ops {
    /// Operations of a client.
    pub fn new(
        client: Arc<Client>,
        number: u32,
        plan: Arc<WorkloadPlan>,
        recorder: Recorder,
    ) -> Self {
        let (directories, files) = (Mutex::default(), Mutex::default());
        Ops { client, number, plan, recorder, is_final: false, directories, files }
    }

    /// A fresh value of this size.
    pub(crate) fn value(&self, size: u32) -> Value {
        let tag = self.recorder.fresh_tag(self.number);
        Value { tag, size: size.max(VALUE_BYTES_MIN) }
    }

    fn invoke(&self, object: &ObjectId, input: Input) -> OpToken {
        match self.is_final {
            true => self.recorder.invoke_final(self.number, object, input),
            false => self.recorder.invoke(self.number, object, input),
        }
    }

    /// Records the end; gives back the answer if it is definite.
    fn end<T: Clone>(&self, token: OpToken, judged: Judged<T>, wrap: fn(T) -> Output) -> Option<T> {
        match judged {
            Judged::Answer(output) => {
                self.recorder.returned(token, wrap(output.clone()));
                return Some(output);
            }
            Judged::Refused(_) => unreachable!("made an answer before"),
            Judged::Failed(why) => self.recorder.failed(token, why),
            Judged::Unknown(why) => self.recorder.unknown(token, why),
        }
        None
    }

    /// What a client has done behind a delegation counts once the cluster has been told; so does what it saw.
    async fn settled<T>(&self, judged: Judged<T>) -> Judged<T> {
        match judged {
            Judged::Answer(answer) => match self.client.settle_all().await {
                Ok(()) => Judged::Answer(answer),
                Err(e) => Judged::Unknown(format!("not told: {e}")),
            },
            other => other,
        }
    }

    /// Content that is no written value is a breach by itself; the read counts as failed.
    fn proven<T>(&self, object: &ObjectId, what: &str, read: Result<T, String>) -> Judged<T> {
        match read {
            Ok(value) => Judged::Answer(value),
            Err(wrong) => {
                let detail = format!("c{} {what}: {wrong}", self.number);
                self.recorder.violation("invariant_4_reads_are_right", object, detail);
                Judged::Failed("wrong bytes".into())
            }
        }
    }

    /// An operation on a small directory of files. `None`: no definite answer.
    pub async fn group(&self, object: &ObjectId, input: GroupInput) -> Option<GroupOutput> {
        let token = self.invoke(object, Input::Group(input.clone()));
        let judged = match self.perform_group(object, &input).await {
            Judged::Refused(e) => Judged::Answer(GroupOutput::Refused(e)),
            other => other,
        };
        self.end(token, self.settled(judged).await, Output::Group)
    }

    async fn perform_group(&self, object: &ObjectId, input: &GroupInput) -> Judged<GroupOutput> {
        let client = &self.client;
        let path = |name: &str| self.plan.path(object, Some(name));
        let done = |_| GroupOutput::Done;
        match input {
            GroupInput::Put(name, value) => {
                let options = CreateOptions::default();
                let put = client.put(path(name), content::make(*value), options).await;
                judge(put.map(|_attr| GroupOutput::Done))
            }
            GroupInput::PutNew(name, value) => {
                let options = CreateOptions { replace: false, ..CreateOptions::default() };
                let put = client.put(path(name), content::make(*value), options).await;
                judge(put.map(|_attr| GroupOutput::Done))
            }
            GroupInput::Get(name) => match judge(client.get(path(name), FILE_BYTES_MAX).await) {
                Judged::Answer(bytes) => {
                    let read = content::read(&bytes).map(GroupOutput::Value);
                    self.proven(object, &input.to_string(), read)
                }
                Judged::Refused(e) => Judged::Refused(e),
                Judged::Failed(why) | Judged::Unknown(why) => Judged::Failed(why),
            },
            GroupInput::Remove(name) => judge(client.remove(path(name)).await.map(done)),
            GroupInput::Rename(from, to, mode) => {
                let renamed = client.rename(path(from), path(to), *mode).await;
                judge(renamed.map(|_attr| GroupOutput::Done))
            }
            GroupInput::Stat(name) => {
                let attr = match client.follows() {
                    true => self.cached_stat(object, name).await,
                    false => client.stat(path(name)).await,
                };
                judge(attr.map(|attr| GroupOutput::Size(attr.size)))
            }
            GroupInput::List => {
                let entries = client.list(self.plan.path(object, None)).await;
                judge(entries.map(|entries| GroupOutput::Names(visible(entries, |attr| attr.size))))
            }
        }
    }

    /// An operation on a log.
    pub async fn log(&self, object: &ObjectId, input: LogInput) -> Option<LogOutput> {
        let token = self.invoke(object, Input::Log(input.clone()));
        let path = self.plan.path(object, None);
        let judged = match &input {
            LogInput::Append(value) => {
                let appended = self.client.append(path, content::make(*value)).await;
                judge(appended.map(|_attr| LogOutput::Done))
            }
            LogInput::Read => match judge(self.client.get(path, FILE_BYTES_MAX).await) {
                Judged::Answer(bytes) => {
                    let read = content::read_all(&bytes).map(LogOutput::Records);
                    self.proven(object, "read", read)
                }
                Judged::Refused(e) => Judged::Refused(e),
                Judged::Failed(why) | Judged::Unknown(why) => Judged::Failed(why),
            },
        };
        let judged = match judged {
            Judged::Refused(e) => Judged::Answer(LogOutput::Refused(e)),
            other => other,
        };
        self.end(token, self.settled(judged).await, Output::Log)
    }

    /// An operation on a file of slots of `bytes` each.
    pub async fn slots(
        &self,
        object: &ObjectId,
        bytes: u32,
        input: SlotsInput,
    ) -> Option<SlotsOutput> {
        let token = self.invoke(object, Input::Slots(input.clone()));
        let judged = match self.perform_slots(object, bytes, &input).await {
            Judged::Refused(e) => Judged::Answer(SlotsOutput::Refused(e)),
            other => other,
        };
        self.end(token, self.settled(judged).await, Output::Slots)
    }

    async fn perform_slots(
        &self,
        object: &ObjectId,
        bytes: u32,
        input: &SlotsInput,
    ) -> Judged<SlotsOutput> {
        let path = self.plan.path(object, None);
        let offset = |slot: u32| u64::from(slot) * u64::from(bytes);
        let read = match input {
            SlotsInput::Write(slot, tag) => {
                let data = content::make(Value { tag: *tag, size: bytes });
                if self.client.follows() {
                    return self.write_open(object, offset(*slot), &data).await;
                }
                let written = self.client.write_at(path, offset(*slot), data).await;
                return judge(written.map(|_attr| SlotsOutput::Done));
            }
            SlotsInput::ReadSlot(slot) => {
                self.client.read_at(path, offset(*slot), bytes as usize).await
            }
            SlotsInput::ReadAll => self.client.get(path, FILE_BYTES_MAX).await,
        };
        let data = match judge(read) {
            Judged::Answer(data) => data,
            Judged::Refused(e) => return Judged::Refused(e),
            Judged::Failed(why) | Judged::Unknown(why) => return Judged::Failed(why),
        };
        let tags = content::read_all(&data).and_then(|values| {
            let is_right = values.iter().all(|value| value.size == bytes);
            let tags: Vec<Tag> = values.iter().map(|value| value.tag).collect();
            if is_right { Ok(tags) } else { Err("values of the wrong size".to_string()) }
        });
        let shown = tags.and_then(|tags| match (input, &tags[..]) {
            (SlotsInput::ReadSlot(_), [tag]) => Ok(SlotsOutput::Tag(*tag)),
            (SlotsInput::ReadAll, all) if all.len() == self.plan.slots as usize => {
                Ok(SlotsOutput::All(tags))
            }
            (_, all) => Err(format!("{} slots", all.len())),
        });
        self.proven(object, &input.to_string(), shown)
    }

    /// A write through an open file, made durable. After an error the bytes may be committed with a later write.
    async fn write_open(&self, object: &ObjectId, offset: u64, data: &[u8]) -> Judged<SlotsOutput> {
        let file = match self.open_file(object).await {
            Ok(file) => file,
            Err(e) => return Judged::Failed(e.to_string()),
        };
        let written = match file.write(offset, data).await {
            Ok(()) => file.flush().await,
            Err(e) => Err(e),
        };
        match written {
            Ok(()) => Judged::Answer(SlotsOutput::Done),
            Err(e) => Judged::Unknown(e.to_string()),
        }
    }

    /// An operation on a tree, carried out by `perform`: the directories are those behind the tags.
    pub(crate) async fn tree(
        &self,
        object: &ObjectId,
        input: TreeInput,
        perform: impl Future<Output = Result<TreeOutput, ClientError>>,
    ) -> Option<TreeOutput> {
        let token = self.invoke(object, Input::Tree(input));
        let judged = match judge(perform.await) {
            Judged::Refused(e) => Judged::Answer(TreeOutput::Refused(e)),
            other => other,
        };
        self.end(token, self.settled(judged).await, Output::Tree)
    }

    /// Attributes of a file in a directory that stays, from the cache if it may answer.
    async fn cached_stat(&self, object: &ObjectId, name: &FileName) -> Result<Attr, ClientError> {
        let known = self.directories.lock().get(object).copied();
        let directory = match known {
            Some(directory) => directory,
            None => self.directory(object).await?,
        };
        self.directories.lock().insert(object.clone(), directory);
        let name = Name::new(name.as_bytes().to_vec())?;
        let found = self.client.cached_lookup(directory, &name).await?;
        Ok(found.ok_or(FsError::NotFound)?)
    }

    /// The inode of an object's own directory.
    pub(crate) async fn directory(&self, object: &ObjectId) -> Result<InodeId, ClientError> {
        Ok(self.client.stat(self.plan.path(object, None)).await?.inode)
    }
}

/// Entries without the client library's own.
pub(crate) fn visible<T>(
    entries: Vec<everhold_client::Entry>,
    show: impl Fn(&everhold_proto::fs::Attr) -> T,
) -> Vec<(FileName, T)> {
    let named = |(name, attr): (everhold_proto::fs::Name, _)| {
        let name = String::from_utf8_lossy(name.as_bytes()).into_owned();
        (!name.starts_with(HIDDEN)).then(|| (FileName::from(name), show(&attr)))
    };
    entries.into_iter().filter_map(named).collect()
}
