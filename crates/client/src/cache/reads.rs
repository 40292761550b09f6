//! Questions that the cache answers if it may, and the leader otherwise. Either answer is as new as a
//! linearizable read at some moment of the call.

use crate::behind::{Behind, Peeked};
use crate::client::Client;
use crate::error::{Result, unexpected};
use bytes::Bytes;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FsAnswer, FsError, FsQuery, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use std::sync::Arc;
use std::time::Duration;

impl Client {
    /// The attributes of an inode, from the cache if it has them. Without [`follow`] the leader is always asked.
    /// The version may lag behind where content was only moved (`FsOp::Fold`).
    ///
    /// [`follow`]: crate::ClientOptions::follow
    pub async fn cached_attr(self: &Arc<Self>, inode: InodeId) -> Result<Attr> {
        match self.peek_attr(inode) {
            Some(attr) => Ok(attr),
            None => self.attr(inode).await,
        }
    }

    /// What a name in a directory stands for, from the cache if it knows; `None`: nothing, or there is no such
    /// directory.
    pub async fn cached_lookup(
        self: &Arc<Self>,
        parent: InodeId,
        name: &Name,
    ) -> Result<Option<Attr>> {
        if let Some(known) = self.peek_lookup(parent, name) {
            return Ok(known);
        }
        if let Some(found) = self.list_ahead(parent, name).await? {
            return Ok(found);
        }
        match self.lookup(parent, name.clone()).await {
            Ok(attr) => Ok(Some(attr)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Lists a directory in which names are asked for one by one, for this name and the next ones. `None`: it was
    /// not listed, or not so far.
    async fn list_ahead(
        self: &Arc<Self>,
        inode: InodeId,
        name: &Name,
    ) -> Result<Option<Option<Attr>>> {
        let Some(cache) = &self.cache else { return Ok(None) };
        if !cache.misses.lock().should_list(inode, self.env.clock.now()) {
            return Ok(None);
        }
        let list = FsQuery::ReadDir { inode, after: None, limit: PAGE_ENTRIES_MAX as u32 };
        match self.query(list).await {
            Ok(FsAnswer::Entries { entries, more }) => {
                let is_within = !more || entries.last().is_some_and(|(last, _)| name <= last);
                let found = entries.into_iter().find(|(other, _)| other == name);
                Ok(is_within.then(|| found.map(|(_, attr)| attr)))
            }
            Ok(_) => Err(unexpected("a listing")),
            Err(e) if e.fs().is_some() => Ok(None), // the lookup will say what is wrong
            Err(e) => Err(e),
        }
    }

    /// Names of the extended attributes; the cache may know that there are none.
    pub async fn cached_xattr_names(self: &Arc<Self>, inode: InodeId) -> Result<Vec<Bytes>> {
        match self.peek_attr(inode) {
            Some(attr) if attr.xattrs == 0 => Ok(Vec::new()),
            _ => self.list_xattr(inode).await,
        }
    }

    /// An extended attribute; `None`: the inode has none of this name, which the cache may know. Values are
    /// always asked for.
    pub async fn cached_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        name: &Bytes,
    ) -> Result<Option<Bytes>> {
        if self.peek_lacks(inode, name) {
            return Ok(None);
        }
        match self.query(FsQuery::GetXattr { inode, name: name.clone() }).await {
            Ok(FsAnswer::Value(value)) => Ok(Some(value)),
            Ok(_) => Err(unexpected("a question for an extended attribute")),
            Err(e) if matches!(e.fs(), Some(FsError::NoAttribute)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether it keeps a cache.
    pub fn follows(&self) -> bool {
        self.cache.is_some()
    }

    /// The attributes of an inode, if the cache may answer: without a question, and without waiting.
    pub fn peek_attr(&self, inode: InodeId) -> Option<Attr> {
        if let Some(behind) = self.behind_now()
            && let Some(attr) = behind.peek_attr(inode)
        {
            return Some(attr);
        }
        if self.has_untold(inode) {
            return None;
        }
        self.cache.as_ref()?.with(&self.env, |held| held.attr(inode))
    }

    /// What a name stands for, if the cache may answer; `Some(None)`: nothing.
    pub fn peek_lookup(&self, parent: InodeId, name: &Name) -> Option<Option<Attr>> {
        let cache = self.cache.as_ref()?;
        match self.behind_now().map(|behind| behind.peek_entry(parent, name)) {
            Some(Peeked::Absent) => Some(None),
            Some(Peeked::Is(attr)) => Some(Some(attr)),
            Some(Peeked::Inode(inode)) => self.peek_attr(inode).map(Some),
            Some(Peeked::NotHeld) | None if self.has_untold(parent) => None,
            Some(Peeked::NotHeld) | None => {
                let known = cache.with(&self.env, |held| held.entry(parent, name))?;
                // What was done to it here is not known to the cache yet.
                known.map_or(Some(None), |attr| self.peek_attr(attr.inode).map(Some))
            }
        }
    }

    /// Entries of a directory after a name, and whether there are more, if the cache may answer.
    pub fn peek_list(
        &self,
        directory: InodeId,
        after: Option<&Name>,
        limit: usize,
    ) -> Option<(Vec<(Name, Attr)>, bool)> {
        if self.holds_directory(directory) || self.has_untold(directory) {
            return None; // what is held is listed without the cache
        }
        let names = self.cache.as_ref()?.with(&self.env, |held| held.listing(directory))?;
        let from = after.map_or(0, |after| names.partition_point(|name| name <= after));
        let page = names.get(from..)?.iter().take(limit);
        // One by one: each answers only while nothing newer has been shown.
        let entries: Option<Vec<_>> =
            page.map(|name| Some((name.clone(), self.peek_lookup(directory, name)??))).collect();
        entries.map(|entries| (entries, names.len() > from + limit))
    }

    /// Whether the cache may answer that an inode has no extended attribute of this name.
    pub fn peek_lacks(&self, inode: InodeId, name: &[u8]) -> bool {
        if let Some(lacks) = self.behind_now().and_then(|behind| behind.peek_lacks(inode, name)) {
            return lacks;
        }
        if self.has_untold(inode) {
            return false;
        }
        let lacks = |cache: &Arc<super::Cache>| {
            cache.with(&self.env, |held| held.lacks(inode, name).then_some(()))
        };
        self.cache.as_ref().and_then(lacks).is_some()
    }

    /// Whether the cluster has not been told yet of something that was done to an inode: the cache does not know it
    /// either.
    pub(super) fn has_untold(&self, inode: InodeId) -> bool {
        self.behind.as_ref().is_some_and(|behind| behind.has_untold(inode))
    }

    /// What is held behind delegations, if that may be used now.
    fn behind_now(&self) -> Option<&Behind> {
        let now = self.env.clock.now();
        self.behind.as_deref().filter(|_| self.holds_at(now))
    }

    /// How long an answer that the cache gives now may be used without asking again; zero: not at all.
    /// Whoever copies answers (a kernel) must let go of them after it, or on a call of [`crate::Invalidate`].
    pub fn cache_lease_left(&self) -> Duration {
        let until = self.cache.as_ref().and_then(|cache| cache.held.lock().lease_until());
        let now = self.env.clock.now();
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
    }
}
