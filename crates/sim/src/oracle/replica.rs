//! The oracle's own replica of the metadata.

use super::Inner;
use everhold_cluster::reads;
use everhold_consensus::StateMachine;
use everhold_proto::LogIndex;
use everhold_proto::codec;
use everhold_proto::command::{Command, MapCommand, Stamped, TableCommand};
use everhold_proto::fs::{Content, FsOp};
use everhold_proto::kv::MemKv;
use everhold_proto::map::ClusterMap;
use everhold_proto::table::NewBlock;
use everhold_server::ClusterState;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

/// See the module's words.
#[derive(Default)]
pub(super) struct Replica {
    pub(super) kv: MemKv,
    last: LogIndex,
    entries: BTreeMap<u64, Entry>,
    /// The state now and then, to begin with when an older one is asked for.
    checkpoints: BTreeMap<u64, MemKv>,
    /// Read anew when it is asked for after a change.
    map: RefCell<Option<Arc<ClusterMap>>>,
}

/// What an index carries, for ever.
struct Entry {
    bytes: Vec<u8>,
    command: u32,
    answer: u32,
    first: String,
}

/// Entries between two checkpoints.
const CHECKPOINT_EVERY: u64 = 256;

impl Replica {
    /// The state as it was at an index.
    fn state_at(&self, index: LogIndex) -> MemKv {
        let (from, mut kv) = match self.checkpoints.range(..=index.0).next_back() {
            Some((from, kv)) => (*from, kv.clone()),
            None => (0, MemKv::default()),
        };
        for (at, entry) in self.entries.range((Bound::Excluded(from), Bound::Included(index.0))) {
            if let Err(e) = ClusterState.apply(&mut kv, LogIndex(*at), &entry.bytes) {
                crate::event!("the oracle cannot apply x{at} again: {e}");
            }
        }
        kv
    }

    pub(super) fn last(&self) -> LogIndex {
        self.last
    }

    /// The map at the newest entry; empty as long as there is none.
    pub(super) fn map(&self) -> Arc<ClusterMap> {
        let mut map = self.map.borrow_mut();
        let read = || Arc::new(reads::load_map(&self.kv).expect("the rows of the oracle decode"));
        map.get_or_insert_with(read).clone()
    }
}

impl Inner {
    /// A node applied an entry. The first to do so moves the oracle's replica; every other one must have
    /// seen the same command and given the same answer.
    pub(super) fn applied(&mut self, host: &str, index: LogIndex, command: &[u8], answer: &[u8]) {
        let seen = (crc(command), crc(answer));
        crate::event!("{host} applied x{index} {:08x} -> {:08x}", seen.0, seen.1);
        if index > self.replica.last {
            self.advance(host, index, command, answer);
            return;
        }
        let Some(entry) = self.replica.entries.get(&index.0) else {
            let detail = format!("{host} applied a command at x{index}; nobody else had one there");
            return self.violate("invariant_3_replicas_agree", detail, None);
        };
        if (entry.command, entry.answer) == seen {
            return;
        }
        let what = if entry.command == seen.0 { "answer" } else { "command" };
        let detail = format!(
            "the {what} at x{index} differs: {:08x} -> {:08x} on {}, {:08x} -> {:08x} on {host}: {}",
            entry.command,
            entry.answer,
            entry.first,
            seen.0,
            seen.1,
            describe(command)
        );
        self.violate("invariant_3_replicas_agree", detail, None);
    }

    fn advance(&mut self, host: &str, index: LogIndex, command: &[u8], answer: &[u8]) {
        let before = self.before(command);
        let ours = match ClusterState.apply(&mut self.replica.kv, index, command) {
            Ok(ours) => ours,
            Err(e) => return self.violate("invariant_3_replicas_agree", e.to_string(), None),
        };
        self.replica.last = index;
        let bytes = command.to_vec();
        let entry = Entry { bytes, command: crc(command), answer: crc(&ours), first: host.into() };
        self.replica.entries.insert(index.0, entry);
        let newest = self.replica.checkpoints.last_key_value().map_or(0, |(at, _)| *at);
        if index.0 >= newest + CHECKPOINT_EVERY {
            self.replica.checkpoints.insert(index.0, self.replica.kv.clone());
        }
        *self.replica.map.borrow_mut() = None;
        if ours != answer {
            let detail =
                format!("{host} answered x{index} unlike the model: {}", describe(command));
            self.violate("invariant_3_replicas_agree", detail, None);
        }
        self.look_at(index, command);
        self.check_rules(before, index, &ours);
    }

    /// A node took over the state of another one: it must be the state that the log makes.
    pub(super) fn installed(&mut self, host: &str, index: LogIndex, rows: &[(Vec<u8>, Vec<u8>)]) {
        crate::event!("{host} installs a snapshot at {index}: {} rows", rows.len());
        let ours = self.replica.state_at(index);
        let theirs: BTreeMap<&[u8], &[u8]> =
            rows.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let differs = |key: &[u8]| ours.0.get(key).map(|v| &v[..]) != theirs.get(key).copied();
        let mut keys = ours.0.keys().map(|key| &key[..]).chain(theirs.keys().copied());
        if let Some(key) = keys.find(|key| differs(key)) {
            let table = key.first().map_or('?', |table| char::from(*table));
            let detail = format!(
                "{host} installed a snapshot at {index} with {} rows; the log makes {}, and a row of \
                 table {table} differs",
                theirs.len(),
                ours.0.len()
            );
            self.violate("invariant_3_replicas_agree", detail, None);
        }
    }

    /// What the entry changed is checked at once.
    fn look_at(&mut self, index: LogIndex, command: &[u8]) {
        let Ok(Stamped { command, .. }) = codec::decode::<Stamped>(command) else { return };
        match &command {
            Command::Fs(batch) => {
                for request in &batch.requests {
                    for block in content_of(&request.op).map_or(&[][..], |c| &c.blocks) {
                        self.admitted(index, block);
                    }
                }
            }
            Command::Map(MapCommand::ChangePg { pg, change, .. }) => {
                crate::event!("x{index} {pg} {change:?}");
                self.check_pg_keeps_copies(*pg);
            }
            Command::Map(change) => crate::event!("x{index} {change:?}"),
            Command::Table(TableCommand::Lost { pg, blocks, .. }) => {
                for id in blocks {
                    self.tell(*id, format_args!("x{index} {pg} reports it lost"));
                }
            }
            Command::Table(TableCommand::Compared { disk, pg, missing, .. }) => {
                crate::event!("x{index} {disk} compared {pg}: {} missing", missing.len());
            }
            Command::Table(TableCommand::Repaired { disk, blocks, .. }) => {
                for block in blocks {
                    let recorded = block.recorded;
                    let line = format_args!("x{index} {disk} reports it repaired (x{recorded})");
                    self.tell(block.id, line);
                }
            }
            Command::Table(TableCommand::Bad { disk, blocks, .. }) => {
                for id in blocks {
                    self.tell(*id, format_args!("x{index} {disk} reports it bad"));
                }
            }
            _ => {}
        }
    }

    fn admitted(&mut self, index: LogIndex, block: &NewBlock) {
        let acks: Vec<String> =
            block.acks.iter().map(|ack| format!("{} in {}", ack.disk, ack.session)).collect();
        self.tell(block.id, format_args!("x{index} commits it to {} by {acks:?}", block.pg));
        self.check_block(block.pg, block.id);
    }
}

pub(super) fn content_of(op: &FsOp) -> Option<&Content> {
    match op {
        FsOp::PutFile { content, .. }
        | FsOp::Commit { content, .. }
        | FsOp::Fold { content, .. } => Some(content),
        _ => None,
    }
}

fn crc(bytes: &[u8]) -> u32 {
    everhold_proto::checksum::crc32c(bytes)
}

/// A command in a line.
fn describe(command: &[u8]) -> String {
    match codec::decode::<Stamped>(command) {
        Ok(Stamped { command, .. }) => {
            let mut text = format!("{command:?}");
            text.truncate(300);
            text
        }
        Err(e) => e.to_string(),
    }
}
