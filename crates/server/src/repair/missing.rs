//! Single missing copies, as the state machine has recorded them.

use super::round::{Restored, Round};
use everhold_proto::rpc::{ListMissing, ReportLost, ReportRepaired};
use everhold_proto::table::{BlockEntry, Missing, Repaired};
use everhold_proto::{BlockId, Error};
use std::collections::BTreeMap;

/// Records worked on between two reports: a report is one Raft entry.
const BATCH: u32 = 256;

impl Round<'_> {
    /// Restores what is recorded as missing. `true` when nothing was left behind.
    pub(crate) async fn repair_missing(&self) -> Result<bool, Error> {
        self.disk.gate.enter(self.work.pg, self.work.joined).await;
        let (mut after, mut all) = (None, true);
        loop {
            let page = self
                .cluster
                .missing(ListMissing {
                    pg: self.work.pg,
                    disk: self.disk.disk,
                    after,
                    limit: BATCH,
                })
                .await?;
            let more = page.len() >= BATCH as usize;
            let last = page.last().map(|(entry, _)| entry.id);
            all &= self.repair_batch(page).await?;
            match last {
                // A page that does not move on would never end.
                Some(id) if more && after.is_none_or(|before| id > before) => after = Some(id),
                _ => return Ok(all),
            }
            if self.is_stale() {
                return Ok(false);
            }
        }
    }

    async fn repair_batch(&self, page: Vec<(BlockEntry, Missing)>) -> Result<bool, Error> {
        let records: BTreeMap<BlockId, Missing> =
            page.iter().map(|(entry, record)| (entry.id, *record)).collect();
        let restored = self.restore_all(page.into_iter().map(|(entry, _)| entry).collect()).await?;
        let all_held = restored.iter().all(|(_, outcome)| *outcome == Restored::Held);
        let of = |wanted| {
            restored
                .iter()
                .filter(move |(_, outcome)| *outcome == wanted)
                .map(|(entry, _)| entry.id)
        };
        let blocks: Vec<Repaired> = of(Restored::Held)
            .filter_map(|id| {
                records.get(&id).map(|record| Repaired { id, recorded: record.recorded })
            })
            .collect();
        if !blocks.is_empty() {
            self.report_repaired(blocks).await?;
        }
        let lost: Vec<BlockId> = of(Restored::Lost).collect();
        if !lost.is_empty() {
            self.report_lost(lost).await?;
        }
        Ok(all_held)
    }

    async fn report_repaired(&self, blocks: Vec<Repaired>) -> Result<(), Error> {
        let (disk, session, pg) = (self.disk.disk, self.session, self.work.pg);
        self.cluster.repaired(ReportRepaired { disk, session, pg, blocks }).await
    }

    pub(crate) async fn report_lost(&self, blocks: Vec<BlockId>) -> Result<(), Error> {
        tracing::error!(
            pg = %self.work.pg,
            blocks = blocks.len(),
            first = %blocks.first().copied().unwrap_or_default(),
            "no copy is left of blocks"
        );
        let (pg, generation) = (self.work.pg, self.work.generation);
        self.cluster.lost(ReportLost { pg, generation, blocks }).await
    }
}
