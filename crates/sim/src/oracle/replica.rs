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
use std::sync::Arc;

/// See the module's words.
#[derive(Default)]
pub(super) struct Replica {
    pub(super) kv: MemKv,
    last: LogIndex,
    entries: BTreeMap<u64, Entry>,
    /// Read anew when it is asked for after a change.
    map: RefCell<Option<Arc<ClusterMap>>>,
}

/// What an index carries, for ever.
struct Entry {
    command: u32,
    answer: u32,
    first: String,
}

impl Replica {
    pub(super) fn last(&self) -> LogIndex {
        self.last
    }

    /// The map at the newest entry; empty as long as there is none.
    pub(super) fn map(&self) -> Arc<ClusterMap> {
        let mut map = self.map.borrow_mut();
        let read = || Arc::new(reads::load_map(&self.kv).unwrap_or_default());
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
        let entry = Entry { command: crc(command), answer: crc(&ours), first: host.into() };
        self.replica.entries.insert(index.0, entry);
        *self.replica.map.borrow_mut() = None;
        if ours != answer {
            let detail =
                format!("{host} answered x{index} unlike the model: {}", describe(command));
            self.violate("invariant_3_replicas_agree", detail, None);
        }
        self.look_at(index, command);
        self.check_rules(before, index, &ours);
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
