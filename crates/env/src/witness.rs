//! What a simulator sees of the inside of a process, so that it can hold each step against the
//! invariants. In production nobody looks.

use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, LogIndex, PgId};
use std::path::Path;
use std::sync::Arc;

/// Sees what a process does. Calls are made from within it and must not block.
pub trait Witness: Send + Sync {
    /// The replicated state machine applied a command and gave this answer; called in log order, after
    /// the effect can be read.
    fn applied(&self, index: LogIndex, command: &[u8], answer: &[u8]);
    /// The state as of `index`, row by row, was installed from a snapshot that another replica sent.
    fn installed(&self, index: LogIndex, rows: &[(Vec<u8>, Vec<u8>)]);
    /// The block store in `dir` was opened and has these blocks, as its index says.
    fn opened(&self, dir: &Path, blocks: &[(PgId, BlockEntry)]);
    /// The block store in `dir` has a block on stable storage, or moved it.
    fn stored(&self, dir: &Path, pg: PgId, block: BlockEntry);
    /// The block store in `dir` deleted a block durably.
    fn deleted(&self, dir: &Path, id: BlockId);
}

/// The port to a witness.
#[derive(Clone, Default)]
pub struct Witnesses(Option<Arc<dyn Witness>>);

impl Witnesses {
    /// Nobody looks.
    pub fn none() -> Self {
        Witnesses(None)
    }

    /// `witness` looks.
    pub fn one(witness: Arc<dyn Witness>) -> Self {
        Witnesses(Some(witness))
    }

    /// Whether somebody looks: what costs more to show is not even collected for nobody.
    pub fn is_someone(&self) -> bool {
        self.0.is_some()
    }

    /// Shows the witness something, if there is one.
    pub fn tell(&self, what: impl FnOnce(&dyn Witness)) {
        if let Some(witness) = &self.0 {
            what(&**witness);
        }
    }
}
