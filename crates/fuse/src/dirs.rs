//! Open directories: a stream of entries in name order, page by page, right while the directory changes:
//! an entry that is there all the time is given exactly once.

use crate::failure::Outcome;
use everhold_client::{Client, LossMark};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use std::sync::Arc;

/// An open directory.
pub(crate) struct Dir {
    pub(crate) inode: InodeId,
    /// What of the directory's losses its program was told.
    pub(crate) told: LossMark,
    stream: tokio::sync::Mutex<Stream>,
}

/// Where a stream stands. Positions count entries from 0.
#[derive(Default)]
pub(crate) struct Stream {
    /// The entries from position `first` on.
    page: Vec<(Name, Attr)>,
    first: u64,
    /// The name before this page.
    after: Option<Name>,
    /// There is nothing after this page.
    is_last: bool,
    begun: bool,
    /// Where earlier pages began: position, and the name before it.
    marks: Vec<(u64, Option<Name>)>,
}

impl Dir {
    pub(crate) fn new(inode: InodeId, told: LossMark) -> Self {
        Dir { inode, told, stream: tokio::sync::Mutex::default() }
    }

    /// The stream at `position`. Requests for one directory handle are answered one at a time.
    pub(crate) async fn at(
        &self,
        client: &Arc<Client>,
        position: u64,
    ) -> Outcome<tokio::sync::MutexGuard<'_, Stream>> {
        let mut stream = self.stream.lock().await;
        if position == 0 || !stream.begun {
            // The beginning: `rewinddir` has to show what is there now.
            *stream = Stream { begun: true, ..Stream::default() };
            stream.load(client, self.inode, 0, None).await?;
        }
        if position < stream.first {
            stream.go_back(client, self.inode, position).await?;
        }
        while position >= stream.first + stream.page.len() as u64 && !stream.is_last {
            let next = stream.first + stream.page.len() as u64;
            let after = stream.page.last().map(|(name, _)| name.clone());
            stream.load(client, self.inode, next, after).await?;
        }
        Ok(stream)
    }
}

impl Stream {
    /// Asks anew for what comes from `position` on, which is on this page or right after it.
    pub(crate) async fn renew(
        &mut self,
        client: &Arc<Client>,
        inode: InodeId,
        position: u64,
    ) -> Outcome<()> {
        let after = self.name_before(position);
        self.load(client, inode, position, after).await
    }

    /// The name before `position`, which is on this page or right after it.
    fn name_before(&self, position: u64) -> Option<Name> {
        match position.saturating_sub(self.first).checked_sub(1) {
            Some(index) => self.page.get(index as usize).map(|(name, _)| name.clone()),
            None => self.after.clone(),
        }
    }

    /// The entries from `position` on that are here, with the position after each.
    pub(crate) fn from(&self, position: u64) -> impl Iterator<Item = (u64, &Name, &Attr)> {
        let skip = position.saturating_sub(self.first) as usize;
        let numbered = self.page.iter().enumerate().skip(skip);
        numbered.map(|(i, (name, attr))| (self.first + i as u64 + 1, name, attr))
    }

    async fn load(
        &mut self,
        client: &Arc<Client>,
        inode: InodeId,
        first: u64,
        after: Option<Name>,
    ) -> Outcome<()> {
        let (page, more) = client.cached_list(inode, after.clone(), PAGE_ENTRIES_MAX).await?;
        if self.marks.last().is_none_or(|(at, _)| *at < first) {
            self.marks.push((first, after.clone()));
        }
        (self.page, self.first, self.after, self.is_last) = (page, first, after, !more);
        Ok(())
    }

    /// `seekdir` to an earlier position: from the page that it was in.
    async fn go_back(
        &mut self,
        client: &Arc<Client>,
        inode: InodeId,
        position: u64,
    ) -> Outcome<()> {
        let at = self.marks.partition_point(|(first, _)| *first <= position).max(1) - 1;
        let (first, after) = self.marks.get(at).cloned().unwrap_or_default();
        self.load(client, inode, first, after).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_before_a_position_is_on_the_page_or_before_it() {
        let name = |text: &str| Name::new(text.as_bytes().to_vec()).unwrap();
        let attr: Attr = (0..).find_map(everhold_proto::fuzzing::found).unwrap();
        let page = ["c", "d"].map(|text| (name(text), attr.clone())).to_vec();
        let after = Some(name("b"));
        // A later page was seen before somebody went back to this one.
        let marks = vec![(0, None), (2, after.clone()), (4, Some(name("d")))];
        let stream = Stream { page, first: 2, after, is_last: false, begun: true, marks };
        for (position, before) in [(2, "b"), (3, "c"), (4, "d")] {
            assert_eq!(stream.name_before(position), Some(name(before)), "{position}");
        }
    }
}
