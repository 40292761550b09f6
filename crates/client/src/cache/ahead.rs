//! Asking ahead: what a program that reads through directories will ask for next is asked for in the same
//! call, and goes into the cache. Nobody is told of it, and nothing fails by it.

use super::Cache;
use super::contents::{Content, Contents};
use crate::client::Client;
use crate::error::Result;
use crate::tree::Entry;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Extent, FileKind, FsAnswer, FsQuery, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use futures_util::future::{join, join_all};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is asked ahead keeps nobody waiting longer; the question itself has the time that every question has.
const PATIENCE: Duration = Duration::from_millis(100);
/// Directories that are listed ahead for one that is listed, entries in them, and how many in one call.
const LISTED_MAX: usize = 128;
const LISTED_ENTRIES_MAX: u64 = 4096;
const LISTED_AT_ONCE: usize = 32;

impl Client {
    /// Entries of a directory after a name, and whether there are more: from the cache if it may answer. For a
    /// program that lists a tree, the directories below are asked for, too, and those beside it.
    pub async fn cached_list(
        self: &Arc<Self>,
        directory: InodeId,
        after: Option<Name>,
        limit: usize,
    ) -> Result<(Vec<Entry>, bool)> {
        let tree = after.is_none().then(|| self.lists_tree(directory)).flatten();
        if let Some(known) = self.peek_list(directory, after.as_ref(), limit) {
            return Ok(known);
        }
        let page = self.list_page(directory, after, limit).await?;
        if let Some(above) = tree {
            let mut next: VecDeque<_> =
                page.0.iter().filter_map(|(_, attr)| to_list(attr)).collect();
            next.extend(self.others(above, directory, to_list));
            let ahead = self.list_below(next);
            // What was not answered in time comes into the cache later.
            let _late = self.env.clock.within(PATIENCE, ahead).await;
        }
        Ok(page)
    }

    /// The directory above, if a program goes through a tree.
    fn lists_tree(&self, directory: InodeId) -> Option<InodeId> {
        let above = self.peek_attr(directory)?.parent;
        let mut walks = self.cache.as_ref()?.walks.lock();
        walks.lists_tree(directory, above, self.env.clock.now()).then_some(above)
    }

    /// Lists directories and what is below them, level by level.
    async fn list_below(self: &Arc<Self>, mut next: VecDeque<Attr>) {
        let deadline = self.deadline();
        let (mut directories, mut entries) = (LISTED_MAX, LISTED_ENTRIES_MAX);
        loop {
            let mut batch = Vec::new();
            while batch.len() < LISTED_AT_ONCE && directories > 0 {
                let Some(attr) = next.pop_front() else { break };
                if attr.size <= entries && self.may_list(attr.inode) {
                    directories -= 1;
                    entries -= attr.size;
                    batch.push(attr.inode);
                }
            }
            if batch.is_empty() {
                return;
            }
            let list =
                |inode| FsQuery::ReadDir { inode, after: None, limit: PAGE_ENTRIES_MAX as u32 };
            let asked = batch.into_iter().map(|inode| self.query_queued(list(inode), deadline));
            // Their answers are in the cache; one that failed is asked for again when its time comes.
            for answer in join_all(asked).await {
                if let Ok(FsAnswer::Entries { entries, .. }) = answer {
                    next.extend(entries.iter().filter_map(|(_, attr)| to_list(attr)));
                }
            }
        }
    }

    /// Whether a listing would be news, and could be held.
    fn may_list(&self, directory: InodeId) -> bool {
        let is_here = |cache: &Arc<Cache>| {
            cache.with(&self.env, |held| held.listing(directory).map(|_| ())).is_some()
        };
        !self.holds_directory(directory)
            && !self.has_untold(directory)
            && !self.cache.as_ref().is_some_and(is_here)
    }

    /// What the current version of a small file contains, if it is here; it is going to be read.
    pub(crate) fn peek_content(&self, inode: InodeId) -> Option<Arc<Content>> {
        let content = self.content_here(inode)?;
        self.cache.as_ref()?.walks.lock().used();
        Some(content)
    }

    fn content_here(&self, inode: InodeId) -> Option<Arc<Content>> {
        let cache = self.cache.as_ref()?;
        let attr = self.peek_attr(inode).filter(Contents::is_fit)?;
        cache.contents.lock().get(inode, attr.version)
    }

    /// A block of it was not there.
    pub(crate) fn forget_content(&self, inode: InodeId) {
        if let Some(cache) = &self.cache {
            cache.contents.lock().forget(inode);
        }
    }

    /// As [`Client::extents`]; for a program that reads one file of a directory after the other, the next ones are
    /// asked for, too.
    pub(crate) async fn extents_and_ahead(
        self: &Arc<Self>,
        inode: InodeId,
        from: u64,
        deadline: Instant,
    ) -> Result<(Attr, Vec<Extent>, bool)> {
        let asked = self.extents(inode, from, u64::MAX, deadline);
        let next = self.files_ahead(inode);
        if next.is_empty() {
            return asked.await;
        }
        let ahead = self.env.clock.within(PATIENCE, self.read_ahead(next));
        join(asked, ahead).await.0
    }

    /// Files in the same directory that are likely to be read next.
    fn files_ahead(&self, inode: InodeId) -> Vec<InodeId> {
        let (Some(cache), Some(attr)) = (&self.cache, self.peek_attr(inode)) else { return vec![] };
        let count = cache.walks.lock().files_ahead(attr.parent, self.env.clock.now());
        if count == 0 {
            return Vec::new();
        }
        let is_news = |attr: &Attr| {
            let is_file = attr.kind == FileKind::File && attr.size > 0 && Contents::is_fit(attr);
            let news = is_file && cache.contents.lock().get(attr.inode, attr.version).is_none();
            news.then_some(attr.inode)
        };
        self.others(attr.parent, inode, is_news).take(count).collect()
    }

    /// Asks for the contents of files, and starts to read the blocks of those that have any.
    async fn read_ahead(self: &Arc<Self>, files: Vec<InodeId>) {
        let Some(cache) = &self.cache else { return };
        cache.walks.lock().asked_ahead();
        let deadline = self.deadline();
        let query = |inode| FsQuery::Extents {
            inode,
            from: 0,
            to: u64::MAX,
            limit: PAGE_ENTRIES_MAX as u32,
        };
        let asked = files.iter().map(|inode| self.query_queued(query(*inode), deadline));
        join_all(asked).await; // their answers are in the cache
        let contents = files.iter().filter_map(|inode| self.content_here(*inode));
        let in_blocks: Vec<_> = contents.filter(|content| content.has_blocks()).collect();
        if let Ok(place) = cache.block_readers.clone().try_acquire_owned()
            && !in_blocks.is_empty()
        {
            let client = self.clone();
            self.env.tasks.detach(async move {
                client.read_blocks_ahead(in_blocks).await;
                drop(place);
            });
        }
    }

    async fn read_blocks_ahead(self: Arc<Self>, contents: Vec<Arc<Content>>) {
        let deadline = self.deadline();
        for content in contents {
            if let Err(e) = content.bytes(&self, deadline).await {
                return tracing::debug!(error = %e, "a file was not read ahead");
            }
        }
    }

    /// What the cache knows of the other entries of a directory: those after an inode, then those before it.
    fn others<T>(
        &self,
        directory: InodeId,
        inode: InodeId,
        pick: impl Fn(&Attr) -> Option<T>,
    ) -> impl Iterator<Item = T> {
        let cache = self.cache.as_ref().filter(|_| !self.has_untold(directory));
        let entries =
            cache.and_then(|cache| cache.with(&self.env, |held| held.entries_of(directory)));
        let mut entries = entries.unwrap_or_default();
        let at = entries.iter().position(|attr| attr.inode == inode).map_or(0, |at| at + 1);
        entries.rotate_left(at);
        entries
            .into_iter()
            .filter(move |attr| attr.inode != inode)
            .filter_map(move |attr| pick(&attr))
    }
}

/// A directory that is not known to be empty.
fn to_list(attr: &Attr) -> Option<Attr> {
    (attr.kind == FileKind::Directory && attr.size > 0).then(|| attr.clone())
}
