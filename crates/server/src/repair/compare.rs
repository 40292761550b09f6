//! The comparison of a disk with a PG's block table: first synchronisation, return after an outage,
//! and a range that was recorded as missing.
//!
//! **Invariant:** the comparison starts with the table, at a log index later than the disk's join and
//! registration, and names the index of its *first* page: whatever was committed after it was judged
//! against this disk as a member, and is recorded as missing here if it is.

use super::merge::{Difference, compare};
use super::round::{Restored, Round};
use everhold_proto::limits::{MISSING_PER_MEMBER_MAX, PAGE_ENTRIES_MAX};
use everhold_proto::rpc::{Compared, ReportBad, TablePage, TablePageReply};
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, Error, LogIndex};

/// How a comparison ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// Reported: the disk is complete.
    Done {
        /// It holds blocks that are not in the table.
        extra: bool,
    },
    /// Too much could not be fetched, or the disk registered anew: start again later.
    Unfinished,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    table_read: Option<LogIndex>,
    missing: Vec<BlockId>,
    extra: bool,
}

impl Round<'_> {
    /// Compares everything with the table and fetches what is lacking.
    pub(crate) async fn compare(&self) -> Result<Comparison, Error> {
        self.disk.gate.enter(self.work.pg, self.work.joined).await;
        let mut counted = self.disk.progress.comparing(self.work.blocks);
        let (mut found, mut after) = (Found::default(), None);
        loop {
            let limit = PAGE_ENTRIES_MAX as u32;
            let page =
                self.cluster.table_page(TablePage { pg: self.work.pg, after, limit }).await?;
            found.table_read.get_or_insert(page.at);
            let last = last_of(&page, after);
            if !self.compare_page(&page, after, last, &mut found).await? {
                return Ok(Comparison::Unfinished);
            }
            counted.done(page.blocks.len() as u64);
            match last {
                Some(id) => after = Some(id),
                None => return self.report_compared(found).await,
            }
        }
    }

    /// One page; `false` when the comparison cannot end well any more.
    async fn compare_page(
        &self,
        page: &TablePageReply,
        after: Option<BlockId>,
        last: Option<BlockId>,
        found: &mut Found,
    ) -> Result<bool, Error> {
        let Difference { lacking, differing, extra } =
            compare(&page.blocks, &self.held(after, last).await?);
        found.extra |= !extra.is_empty();
        if !differing.is_empty() && !self.report_differing(&differing).await? {
            return Ok(false);
        }
        for (block, outcome) in self.restore_all(lacking).await? {
            if outcome != Restored::Held {
                found.missing.push(block.id);
            }
        }
        Ok(found.missing.len() as u64 <= MISSING_PER_MEMBER_MAX && !self.is_stale())
    }

    /// What the disk holds in the id range of a page.
    async fn held(
        &self,
        mut after: Option<BlockId>,
        last: Option<BlockId>,
    ) -> Result<Vec<BlockEntry>, Error> {
        let mut held = Vec::new();
        loop {
            let part = self.disk.store.list(self.work.pg, after, PAGE_ENTRIES_MAX).await?;
            let ended = part.len() < PAGE_ENTRIES_MAX;
            after = part.last().map(|entry| entry.id).or(after);
            let wanted = part.len();
            held.extend(part.into_iter().take_while(|entry| last.is_none_or(|l| entry.id <= l)));
            let beyond = last.is_some_and(|last| after.is_some_and(|id| id >= last));
            if ended || beyond || wanted == 0 {
                return Ok(held);
            }
        }
    }

    /// A copy of another length or checksum is no copy: it is recorded as missing and fetched from
    /// that record. `false` when the report ended the disk session.
    async fn report_differing(&self, blocks: &[BlockEntry]) -> Result<bool, Error> {
        self.disk.progress.found_bad(blocks.len() as u64);
        let ids = blocks.iter().map(|block| block.id).collect();
        let (disk, session, pg) = (self.disk.disk, self.session, self.work.pg);
        let ended = self.cluster.bad(ReportBad { disk, session, pg, blocks: ids }).await?;
        if ended {
            self.disk.end_session(session);
        }
        Ok(!ended)
    }

    async fn report_compared(&self, found: Found) -> Result<Comparison, Error> {
        let report = Compared {
            disk: self.disk.disk,
            session: self.session,
            pg: self.work.pg,
            joined: self.work.joined,
            table_read: found.table_read.unwrap_or_default(),
            missing: found.missing,
        };
        self.cluster.compared(report).await?;
        Ok(Comparison::Done { extra: found.extra })
    }
}

/// The id that the page ends at; `None` when it is the last page. A page that says "more" and does
/// not move on is taken as the last: the comparison then proves less, never more.
fn last_of(page: &TablePageReply, after: Option<BlockId>) -> Option<BlockId> {
    let last = page.blocks.last().map(|entry| entry.id)?;
    (page.more && after.is_none_or(|before| last > before)).then_some(last)
}
