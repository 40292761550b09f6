//! Taking a directory: the delegation, its entries, and numbers for what will be created in it.

use super::{Behind, State};
use crate::client::Client;
use crate::error::{ClientError, Result, unexpected};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FileKind, FsAnswer, FsOp, FsQuery, FsReply, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Changes under way are waited for so long; otherwise it is tried another time.
const GATE: Duration = Duration::from_millis(100);
/// All of it takes so long at most: other changes wait meanwhile.
const LIMIT: Duration = Duration::from_secs(2);
/// Entries of a directory that is worth it: as many are fetched in some tens of milliseconds.
const ENTRIES_MAX: usize = 20_000;
/// A directory that is too large or has access control lists is not tried again for so long.
const UNFIT: Duration = Duration::from_secs(60);
/// Numbers that are asked for at once.
const NUMBERS: u32 = 4096;

/// Directories below one that was taken by a program that walks a tree, and entries in them, which are taken with it.
const BELOW_MAX: usize = 128;
const BELOW_ENTRIES_MAX: u64 = 8192;
/// All levels below take so long at most.
const BELOW_LIMIT: Duration = Duration::from_millis(250);

impl Behind {
    /// Tries to hold a directory, and those below it if a program walks through a tree. If that fails the leader goes
    /// on making its changes, and after a while it is tried again.
    pub(super) async fn take(&self, client: &Arc<Client>, directory: InodeId, deadline: Instant) {
        let clock = client.env.clock;
        let Ok(_gate) = clock.within(GATE, self.gate.write()).await else { return };
        let begun = clock.now();
        let limit = deadline.min(begun + LIMIT);
        let walks = {
            let state = self.state.lock();
            if state.holdings.has(directory) {
                return;
            }
            state.heat.walks(begun)
        };
        let mut below = self.take_all(client, &[directory], limit).await;
        let limit = limit.min(clock.now() + BELOW_LIMIT);
        let (mut directories, mut entries) = (BELOW_MAX, BELOW_ENTRIES_MAX);
        while walks && !below.is_empty() && clock.now() < limit {
            let level = self.fit(below, &mut directories, &mut entries, clock.now());
            below = self.take_all(client, &level, limit).await;
        }
        self.work.notify_one();
    }

    /// Those of some directories that may be taken unasked, as many as there is room for.
    fn fit(
        &self,
        found: Vec<Attr>,
        directories: &mut usize,
        entries: &mut u64,
        now: Instant,
    ) -> Vec<InodeId> {
        let state = self.state.lock();
        let mut fit = Vec::new();
        for attr in found {
            let is_free = !state.holdings.has(attr.inode) && state.heat.may_take(attr.inode, now);
            if is_free && attr.xattrs == 0 && attr.size <= *entries && *directories > 0 {
                *directories -= 1;
                *entries -= attr.size;
                fit.push(attr.inode);
            }
        }
        fit
    }

    /// Tries to hold some directories; gives the ones below those that are held now. Others who hold one keep it.
    async fn take_all(
        &self,
        client: &Arc<Client>,
        directories: &[InodeId],
        limit: Instant,
    ) -> Vec<Attr> {
        if directories.is_empty() {
            return Vec::new();
        }
        let clock = client.env.clock;
        let (waits, before) = {
            let state = self.state.lock();
            (state.queue.last(directories), (state.session, state.disturbed))
        };
        if let Some(number) = waits
            && self.until_told(&clock, number, limit).await.is_err()
        {
            return Vec::new();
        }
        let takes = directories.iter().map(|directory| self.take_one(client, *directory, limit));
        let (numbers, taken) = tokio::join!(self.reserve(client, limit), join_all(takes));
        let now = clock.now();
        let mut state = self.state.lock();
        let undisturbed =
            (state.session, state.disturbed) == before && client.session_id() == before.0;
        let mut below = Vec::new();
        for (directory, taken) in directories.iter().zip(taken) {
            match (&numbers, taken) {
                (Ok(()), Ok(Some((attr, entries)))) if undisturbed && client.holds_at(now) => {
                    tracing::debug!(%directory, entries = entries.len(), "a directory is held");
                    state.holdings.take_in(&attr, &entries);
                    state.heat.took(now);
                    let attrs = entries.into_iter().map(|(_, attr)| attr);
                    below.extend(attrs.filter(|attr| attr.kind == FileKind::Directory));
                }
                (_, Ok(None)) => {
                    state.heat.leave(*directory, UNFIT, now);
                    state.give_back(*directory, now);
                }
                (_, Ok(Some(_))) => state.leave(*directory, now),
                (_, Err(e)) => {
                    tracing::debug!(%directory, error = %e, "a directory could not be held");
                    state.leave(*directory, now);
                }
            }
        }
        below
    }

    async fn take_one(
        &self,
        client: &Arc<Client>,
        directory: InodeId,
        limit: Instant,
    ) -> Result<Option<(Attr, Vec<(Name, Attr)>)>> {
        match client.execute_queued(FsOp::Delegate { inode: directory }, limit).await? {
            FsReply::Attr(attr) => self.list(client, attr, limit).await,
            FsReply::Done | FsReply::Numbers(..) => Err(unexpected("a delegation")),
        }
    }

    /// The directory with its entries; `None`: it is not fit to be held.
    async fn list(
        &self,
        client: &Arc<Client>,
        attr: Attr,
        limit: Instant,
    ) -> Result<Option<(Attr, Vec<(Name, Attr)>)>> {
        if attr.size > ENTRIES_MAX as u64 || attr.xattrs > 0 {
            return Ok(None);
        }
        let inode = attr.inode;
        let page = |after| FsQuery::ReadDir { inode, after, limit: PAGE_ENTRIES_MAX as u32 };
        let (mut all, mut answer) = (Vec::new(), client.query_queued(page(None), limit).await?);
        loop {
            let FsAnswer::Entries { entries, more } = answer else {
                return Err(unexpected("a listing"));
            };
            all.extend(entries);
            let last = all.last().map(|(name, _)| name.clone()).filter(|_| more);
            let Some(last) = last else { break };
            answer = client.query_queued(page(Some(last)), limit).await?;
        }
        // It is the listing of the directory that was delegated, or something is very wrong.
        Ok((all.len() as u64 == attr.size).then_some((attr, all)))
    }

    /// Sets numbers aside for what will be created.
    pub(super) async fn reserve(&self, client: &Arc<Client>, deadline: Instant) -> Result<()> {
        let _one = client.env.clock.until(deadline, self.reserving.lock()).await?;
        if !self.state.lock().holdings.needs_numbers() {
            return Ok(());
        }
        let session = client.session_id();
        match client.execute_queued(FsOp::Reserve { count: NUMBERS }, deadline).await? {
            FsReply::Numbers(from, to) if from < to => {
                let mut state = self.state.lock();
                if state.session == session && client.session_id() == session {
                    state.holdings.add_numbers(from, to);
                    return Ok(());
                }
                let text = "the session ended meanwhile";
                Err(ClientError::new(everhold_proto::Kind::Retry, text))
            }
            FsReply::Numbers(..) | FsReply::Done | FsReply::Attr(_) => {
                Err(unexpected("a question for numbers"))
            }
        }
    }
}

impl State {
    /// A directory is not held after all; the delegation may have been given.
    fn leave(&mut self, directory: InodeId, now: Instant) {
        self.heat.wanted(directory, now);
        self.give_back(directory, now);
    }
}
