//! When something may have been lost: what is there, whether it can be, and whether everybody was told who had to be.

use super::PAUSE;
use super::edge::{Edge, NOTE, PATIENCE, SEEN, Trouble, content_of};
use crate::desk::{Deed, Fate, FileNo, Lost, Seen};
use crate::history::FileName;
use crate::workload::ops::FILE_BYTES_MAX;
use everhold_client::{Client, ClientError, ClientOptions, OpenFile};
use everhold_proto::InodeId;
use everhold_proto::fs::{FsError, Name};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::time::Instant;

/// Whoever lost something is told, and nobody else.
const TOLD: &str = "what_is_lost_is_told";
/// Nothing is lost while the session lives.
const KEPT: &str = "nothing_is_lost_in_a_living_session";

/// What was lost, by the files that it was of.
struct Losses {
    /// They have names, and their content is different without it.
    content: BTreeSet<FileNo>,
    /// They have to do with it, by a name or by a change of unknown outcome.
    concerned: BTreeSet<FileNo>,
    /// Files that have names.
    named: BTreeSet<FileNo>,
    /// Names are different without it.
    names: bool,
    deeds: Vec<Deed>,
}

impl Edge {
    /// The program works on this desk no more. If nothing answers for long, it is judged like one that died.
    pub(super) async fn recover(&mut self, trouble: Trouble) {
        crate::event!("{} looks for losses: {trouble:?}", self.object);
        if let Some((actual, doubt)) = self.find_out(trouble).await {
            crate::event!("{} is left: {actual:?}", self.object);
            self.desk().fate = Fate::Retired(actual, doubt);
        }
        self.close_all();
    }

    async fn find_out(&mut self, trouble: Trouble) -> Option<(Seen, Option<Deed>)> {
        let deadline = self.client.env().clock.now() + PATIENCE;
        let doubt = self.desk().under_way().cloned();
        let gone = self.bring_to_rest(deadline).await?;
        let told = self.ask_descriptors(&gone);
        let told_names = self.names.is_told(&self.client, self.directory);
        let (directory, object) = (self.directory, self.object.clone());
        let prefix = object.as_str().split_once(':')?.1;
        let actual = self.look_from_outside(directory, prefix, deadline).await?;
        let explained = self.desk().explain(&actual);
        let Some(lost) = explained else {
            let wrong = self.desk().unexplained(&actual);
            self.violation(SEEN, wrong);
            return Some((actual, doubt));
        };
        let losses = self.losses(&lost, doubt.as_ref());
        crate::event!("{} lost {:?}; told: {told:?}", self.object, losses.deeds);
        self.judge_losses(&losses, &trouble);
        self.judge_told(&losses, &told, told_names);
        let looks = self.desk().judge_looks(&actual, &lost);
        if let Err(wrong) = looks {
            self.violation(SEEN, wrong);
        }
        if doubt.is_none() {
            self.look_by_oneself(&actual).await;
        }
        Some((actual, doubt))
    }

    /// Waits until nothing of the program is on its way. Gives the files that are gone.
    async fn bring_to_rest(&mut self, deadline: Instant) -> Option<BTreeSet<FileNo>> {
        let clock = self.client.env().clock;
        let mut gone = BTreeSet::new();
        while clock.now() < deadline {
            let mut is_quiet = true;
            for (file, open) in &self.open {
                match open.file.flush().await {
                    Err(e) if e.is_not_found() => drop(gone.insert(*file)),
                    flushed => is_quiet &= flushed.is_ok(),
                }
            }
            for inode in self.inodes.values().chain([&self.directory]) {
                is_quiet &= self.client.until_settled(*inode).await.is_ok();
            }
            if is_quiet {
                return Some(gone);
            }
            clock.sleep(PAUSE).await;
        }
        None
    }

    /// Asks each descriptor whether it is told of a loss.
    fn ask_descriptors(&mut self, gone: &BTreeSet<FileNo>) -> BTreeMap<FileNo, Vec<bool>> {
        let mut told = BTreeMap::new();
        for (file, open) in &mut self.open {
            let inode = self.inodes[file];
            let is_gone = gone.contains(file) || self.client.is_gone(inode);
            let of_each =
                open.descriptors.iter_mut().map(|d| d.is_told(&self.client, inode) || is_gone);
            told.insert(*file, of_each.collect());
        }
        told
    }

    /// What a client without a cache sees, which has nothing to do with this one.
    async fn look_from_outside(
        &self,
        directory: InodeId,
        prefix: &str,
        deadline: Instant,
    ) -> Option<Seen> {
        let env = self.client.env().clone();
        let clock = env.clock;
        let seeds: Vec<String> =
            self.client.map().nodes.values().map(|node| node.address.clone()).collect();
        let options =
            ClientOptions { name: "outside".into(), uid: 0, gid: 0, ..ClientOptions::default() };
        let mut outside = None;
        while clock.now() < deadline {
            let client = match &outside {
                Some(client) => client,
                None => match Client::connect(env.clone(), &seeds, options.clone()).await {
                    Ok(client) => outside.insert(client),
                    Err(_) => {
                        clock.sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            match look_at_all(client, directory, prefix).await {
                Ok(Ok(seen)) => {
                    // Its session ends by itself where it cannot be ended.
                    drop(client.close().await);
                    return Some(seen);
                }
                Ok(Err(wrong)) => {
                    self.violation(SEEN, wrong);
                    return None;
                }
                Err(_) => clock.sleep(PAUSE).await,
            }
        }
        None
    }

    fn losses(&self, lost: &Lost, doubt: Option<&Deed>) -> Losses {
        let desk = self.desk();
        let mut all: Vec<_> = desk.lost(lost).collect();
        // Nobody was told that a change of unknown outcome was made.
        let under_way = desk.under_way();
        all.retain(|(deed, _)| {
            doubt.is_none() || under_way.is_none_or(|u| !std::ptr::eq(u, *deed))
        });
        // What was done to a file without a name went to the leader at once, and cannot be seen from outside.
        let named: BTreeSet<FileNo> = desk.state().names.values().copied().collect();
        let doubted = doubt.into_iter().flat_map(|deed| deed.files(desk.state()));
        Losses {
            content: all
                .iter()
                .filter_map(|(deed, _)| deed.content_of())
                .filter(|file| named.contains(file))
                .collect(),
            concerned: all.iter().flat_map(|(deed, s)| deed.files(s)).chain(doubted).collect(),
            named,
            names: all.iter().any(|(deed, _)| deed.is_of_names()),
            deeds: all.iter().map(|(deed, _)| (*deed).clone()).collect(),
        }
    }

    fn judge_losses(&self, losses: &Losses, trouble: &Trouble) {
        if !losses.deeds.is_empty() && self.client.session_id() == self.session {
            self.violation(KEPT, format!("lost: {:?}", losses.deeds));
        }
        let refusal = match trouble {
            Trouble::Failed(e) => e.fs(),
            Trouble::News => None,
        };
        if let Some(e @ (FsError::NotFound | FsError::Exists | FsError::NotEmpty)) = refusal
            && losses.deeds.is_empty()
            && self.client.session_id() == self.session
        {
            let deed = self.desk().under_way().cloned();
            self.violation(SEEN, format!("{e} is no answer to {deed:?}, and nothing was lost"));
        }
    }

    fn judge_told(&self, losses: &Losses, told: &BTreeMap<FileNo, Vec<bool>>, told_names: bool) {
        for (file, of_each) in told {
            if losses.content.contains(file) && of_each.contains(&false) {
                let detail =
                    format!("descriptors of file {file}: {of_each:?}, lost: {:?}", losses.deeds);
                self.violation(TOLD, detail);
            }
            // A file without a name may be gone with the session that had it open.
            let may_be_told = losses.concerned.contains(file) || !losses.named.contains(file);
            if !may_be_told && of_each.contains(&true) {
                let detail = format!(
                    "file {file} lost nothing, and its descriptors were told: {of_each:?}; lost: {:?}",
                    losses.deeds
                );
                self.violation(TOLD, detail);
            }
        }
        if losses.names && !told_names {
            self.violation(TOLD, format!("the directory was not told; lost: {:?}", losses.deeds));
        }
    }

    /// What this client's own caches show is what there is.
    async fn look_by_oneself(&self, actual: &Seen) {
        let known: BTreeSet<FileName> = self.desk().state().names.keys().cloned().collect();
        for name in actual.keys().cloned().chain(known).collect::<BTreeSet<_>>() {
            let Ok(seen) = self.cached(&name).await else { continue };
            let right = actual.get(&name).map(|content| content.slots.clone());
            if seen != Ok(right.clone()) {
                let detail =
                    format!("its own client shows {name} as {seen:?}, and it is {right:?}");
                self.violation(SEEN, detail);
            }
        }
    }

    async fn cached(
        &self,
        name: &FileName,
    ) -> Result<Result<Option<Vec<Option<crate::history::Tag>>>, String>, ClientError> {
        let name = Name::new(name.as_bytes().to_vec())?;
        let Some(attr) = self.client.cached_lookup(self.directory, &name).await? else {
            return Ok(Ok(None));
        };
        let file = OpenFile::new(self.client.clone(), attr.inode);
        file.saw(&attr);
        let bytes = file.read(0, FILE_BYTES_MAX).await?;
        Ok(super::edge::decode(&bytes).map(Some))
    }
}

/// All files of a directory whose names begin with a prefix. The inner error: bytes that nobody wrote.
pub(in crate::workload) async fn look_at_all(
    client: &Arc<Client>,
    directory: InodeId,
    prefix: &str,
) -> Result<Result<Seen, String>, ClientError> {
    let mut seen = Seen::new();
    for (name, attr) in client.list_inode(directory).await? {
        let Ok(name) = std::str::from_utf8(name.as_bytes()) else { continue };
        if !name.starts_with(prefix) {
            continue;
        }
        let file = OpenFile::new(client.clone(), attr.inode);
        let bytes = file.read(0, FILE_BYTES_MAX).await?;
        let note = match client.get_xattr(attr.inode, NOTE).await {
            Ok(note) => Some(note),
            Err(e) if matches!(e.fs(), Some(FsError::NoAttribute)) => None,
            Err(e) => return Err(e),
        };
        match content_of(&bytes, note.as_deref()) {
            Ok(content) => drop(seen.insert(FileName::from(name), content)),
            Err(wrong) => return Ok(Err(format!("{name}: {wrong}"))),
        }
    }
    Ok(Ok(seen))
}
