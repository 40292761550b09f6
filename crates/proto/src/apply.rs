//! What a command is applied in: the transaction, the header, the log index and the time.

use crate::ids::LogIndex;
use crate::kv::{KvResult, KvTxn, get_row, put_row};
use crate::tables::{self, Header};
use crate::units::Stamp;

/// One command being applied. The header is read once at its beginning and written once at its end.
pub struct Apply<'a> {
    /// The transaction.
    pub kv: &'a mut dyn KvTxn,
    /// The header row; changes are written by [`Apply::finish`].
    pub header: Header,
    /// Index of the entry.
    pub index: LogIndex,
    /// Time of the entry: `log_ms` is never less than the header's.
    pub stamp: Stamp,
}

impl<'a> Apply<'a> {
    /// Starts to apply the entry `index`. Log time never goes back.
    pub fn begin(kv: &'a mut dyn KvTxn, index: LogIndex, stamp: Stamp) -> KvResult<Self> {
        let mut header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
        header.log_ms = header.log_ms.max(stamp.log_ms);
        let stamp = Stamp { log_ms: header.log_ms, wall: stamp.wall };
        Ok(Apply { kv, header, index, stamp })
    }

    /// Writes the header back.
    pub fn finish(self) -> KvResult<()> {
        put_row(self.kv, &tables::header(), &self.header)
    }
}
