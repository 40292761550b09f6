//! What ought to be true at every moment, held against what the nodes show.
//!
//! The oracle runs a replica of its own: the real state machine over a map in memory, fed with each
//! committed command once. Beside it stands a book of the copies: which block each block store has on
//! stable storage, as the stores themselves announce it. From both, each invariant of the design that
//! speaks of the inside of the cluster can be checked at any step.

mod audit;
mod brake;
mod delegated;
mod probes;
mod replica;
mod rules;
mod sessions;

pub use audit::Convergence;

use crate::trace;
use everhold_env::Witness;
use everhold_proto::map::ClusterMap;
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, DiskId, DiskSession, LogIndex, PgId};
use parking_lot::Mutex;
use replica::Replica;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Which one, by name.
    pub invariant: String,
    /// What was seen.
    pub detail: String,
    /// The shortest history that shows it.
    pub history: Vec<String>,
}

/// Violations kept of one run: the first ones tell what happened, the rest follows from them.
const VIOLATIONS_MAX: usize = 8;

/// See the module's words. Clones share it.
#[derive(Clone, Default)]
pub struct Oracle(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    replica: Replica,
    hosts: BTreeMap<String, Copies>,
    /// Length and checksum of every block id ever stored.
    contents: BTreeMap<BlockId, (u32, u32, String)>,
    /// What happened to each block, for the history of a violation.
    stories: BTreeMap<BlockId, Vec<String>>,
    rules: rules::Book,
    /// Since when each placement group waits for a second copy under the brake, in milliseconds.
    waiting: BTreeMap<PgId, u64>,
    violations: Vec<Violation>,
}

/// The block store of one host.
#[derive(Default)]
struct Copies {
    blocks: BTreeMap<BlockId, (PgId, BlockEntry)>,
    /// Something was done to the disk that the store does not know: what it holds is uncertain.
    damaged: bool,
    /// Its device was emptied in this disk session: what the cluster believes of it holds again once the
    /// disk has registered anew.
    emptied_in: Option<DiskSession>,
}

/// Lines kept of each block's story.
const STORY_LINES_MAX: usize = 40;

impl Oracle {
    /// The witness inside of `host`.
    pub fn witness(&self, host: &str) -> Arc<dyn Witness> {
        Arc::new(Inside { oracle: self.clone(), host: host.into() })
    }

    /// What was found so far.
    pub fn violations(&self) -> Vec<Violation> {
        self.0.lock().violations.clone()
    }

    /// The cluster map at the newest committed entry.
    pub fn map(&self) -> Arc<ClusterMap> {
        self.0.lock().replica.map()
    }

    /// The newest entry that any node has applied.
    pub fn applied(&self) -> LogIndex {
        self.0.lock().replica.last()
    }

    /// Bits of the disk of `host` decayed, or a write went astray.
    pub fn damaged(&self, host: &str) {
        self.0.lock().hosts.entry(host.into()).or_default().damaged = true;
    }

    /// The mark that the node on `host` registered with last; 0 if there is none.
    pub fn mark(&self, host: &str) -> u64 {
        let map = self.map();
        let newest = map.nodes.values().rev().find(|node| host_of(&node.address) == host);
        newest.map_or(0, |node| node.mark)
    }

    /// Whether there is damage on the disk of `host` that nobody may have found yet.
    pub fn is_damaged(&self, host: &str) -> bool {
        self.0.lock().hosts.get(host).is_some_and(|copies| copies.damaged)
    }

    /// The block store of `host` was emptied.
    pub fn emptied(&self, host: &str) {
        let mut inner = self.0.lock();
        // A session is the index of its registration: all that were before are of the old device.
        let before = DiskSession(inner.replica.last().0);
        let copies = inner.hosts.entry(host.into()).or_default();
        copies.blocks.clear();
        copies.damaged = false;
        copies.emptied_in = Some(before);
    }

    /// The disks of `host` went back to an earlier state: what is on them is uncertain.
    pub fn rolled_back(&self, host: &str) {
        self.damaged(host);
    }
}

impl Inner {
    fn violate(&mut self, invariant: &str, detail: String, about: Option<BlockId>) {
        if self.violations.len() >= VIOLATIONS_MAX {
            return;
        }
        crate::event!("VIOLATION {invariant}: {detail}");
        let mut history = match about {
            Some(id) => self.stories.get(&id).cloned().unwrap_or_default(),
            None => trace::last_lines(),
        };
        history.push(format!("{:>9.3} {detail}", trace::now_ms() as f64 / 1e3));
        self.violations.push(Violation { invariant: invariant.into(), detail, history });
    }

    fn tell(&mut self, id: BlockId, what: std::fmt::Arguments<'_>) {
        let story = self.stories.entry(id).or_default();
        if story.len() < STORY_LINES_MAX {
            story.push(format!("{:>9.3} {what}", trace::now_ms() as f64 / 1e3));
        }
    }

    /// The disk that stands on a host, and its session, as the map has it.
    fn disk_of(&self, host: &str) -> Option<(DiskId, DiskSession)> {
        let map = self.replica.map();
        // A machine that was set up anew is another node under the same address: the newest counts.
        let node = map.nodes.values().rev().find(|node| host_of(&node.address) == host)?;
        map.disks.values().find(|disk| disk.node == node.id).map(|disk| (disk.id, disk.session))
    }
}

/// `n3:7400` is on host `n3`.
fn host_of(address: &str) -> &str {
    address.split(':').next().unwrap_or(address)
}

struct Inside {
    oracle: Oracle,
    host: String,
}

impl Witness for Inside {
    fn applied(&self, index: LogIndex, command: &[u8], answer: &[u8]) {
        self.oracle.0.lock().applied(&self.host, index, command, answer);
    }

    fn installed(&self, index: LogIndex, rows: &[(Vec<u8>, Vec<u8>)]) {
        self.oracle.0.lock().installed(&self.host, index, rows);
    }

    fn opened(&self, _dir: &Path, blocks: &[(PgId, BlockEntry)]) {
        let (mut inner, host) = (self.oracle.0.lock(), self.host.as_str());
        let found: BTreeMap<BlockId, (PgId, BlockEntry)> =
            blocks.iter().map(|(pg, block)| (block.id, (*pg, *block))).collect();
        crate::event!("{host} opens its store: {} blocks", found.len());
        let copies = inner.hosts.entry(host.into()).or_default();
        let known = std::mem::replace(&mut copies.blocks, found);
        if copies.damaged {
            return;
        }
        let lost: Vec<(BlockId, PgId)> = known
            .iter()
            .filter(|(id, _)| !copies.blocks.contains_key(id))
            .map(|(id, (pg, _))| (*id, *pg))
            .collect();
        for (id, pg) in lost {
            inner.tell(id, format_args!("{host} opens its store without it"));
            // A deletion that was permitted may have been under way.
            if inner.may_still_be_committed(id) {
                let detail =
                    format!("{host} had block {id} on stable storage and opens without it");
                inner.violate("invariant_1_acknowledged_is_durable", detail, Some(id));
            }
            inner.check_block(pg, id);
        }
    }

    fn stored(&self, _dir: &Path, pg: PgId, block: BlockEntry) {
        let (mut inner, host) = (self.oracle.0.lock(), self.host.as_str());
        let inner = &mut *inner;
        crate::event!("{host} stored {} of {pg}", block.id);
        inner.tell(block.id, format_args!("{host} has {} of {pg} on stable storage", block.id));
        let content = (block.length, block.crc, host.to_owned());
        let first = inner.contents.entry(block.id).or_insert(content).clone();
        if (first.0, first.1) != (block.length, block.crc) {
            let detail = format!(
                "block {} is {} bytes {:08x} on {} and {} bytes {:08x} on {host}",
                block.id, first.0, first.1, first.2, block.length, block.crc
            );
            inner.violate("invariant_2_blocks_never_change", detail, Some(block.id));
        }
        inner.is_at_home(pg, block.id);
        inner.hosts.entry(host.into()).or_default().blocks.insert(block.id, (pg, block));
    }

    fn deleted(&self, _dir: &Path, id: BlockId) {
        let (mut inner, host) = (self.oracle.0.lock(), self.host.as_str());
        crate::event!("{host} deleted {id}");
        inner.tell(id, format_args!("{host} deleted {id}"));
        let held = inner.hosts.entry(host.into()).or_default().blocks.remove(&id);
        if let Some((pg, _)) = held {
            inner.check_deletion(host, pg, id);
            inner.check_permission(host, pg, id);
        }
    }
}
