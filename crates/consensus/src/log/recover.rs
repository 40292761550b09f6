//! Reads the log back. Frames are replayed in order; what follows the last valid frame is a torn
//! write and is cut, unless something proves that it had been durable: a later frame, the next
//! segment, or the mark in the identity file. Then the log is refused, because a vote may be missing.

use super::frame::Header;
use super::identity::Mark;
use super::index::{FrameRef, Index};
use super::record::{self, Base, Record};
use super::segment::{self, Image, Segment};
use crate::ConsensusError;
use crate::types::{LogId, entry_bytes};
use bytes::Bytes;
use everhold_env::Env;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The log as it was found.
pub(crate) struct Recovered {
    pub index: Index,
    pub segments: BTreeMap<u64, Segment>,
    /// The segment that is appended to, and where.
    pub current: u64,
    pub end: u64,
    /// The sequence number of the next frame.
    pub sequence: u64,
}

struct Replay {
    index: Index,
    segments: BTreeMap<u64, Segment>,
    sequence: Option<u64>,
}

pub(crate) async fn recover(
    env: &Env,
    dir: &Path,
    synced: Mark,
    cache_bytes_max: usize,
) -> Result<Recovered, ConsensusError> {
    let listed = segment::list(env, dir)
        .await
        .map_err(ConsensusError::io(format!("list {}", dir.display())))?;
    let numbers = check_numbers(dir, &listed, synced)?;
    let mut replay =
        Replay { index: Index::new(cache_bytes_max), segments: BTreeMap::new(), sequence: None };
    let mut current = Mark::default();
    for number in numbers {
        let path = segment::path(dir, number);
        let image = Image::read(env, dir, number).await?;
        let Some((header, _)) = image.frame_at(0, replay.sequence) else {
            let is_newest = listed.last() == Some(&number);
            if replay.segments.is_empty() || !is_newest || synced.segment >= number {
                return Err(corrupt(path, "its first frame is damaged"));
            }
            // The process ended while it made this segment, before anything was in it. The one before
            // is the newest again, so what follows its frames must be a torn write.
            drop(image);
            let newest = Image::read(env, dir, current.segment).await?;
            let path = segment::path(dir, current.segment);
            check_end(path, &newest, current, synced, replay.sequence.unwrap_or_default())?;
            discard(env, dir, number).await?;
            break;
        };
        if !replay.segments.is_empty() && header.previous_end != current.end {
            let reason = format!("frames end at {} of {}", current.end, header.previous_end);
            return Err(corrupt(segment::path(dir, current.segment), reason));
        }
        let end = replay.segment(&path, number, &image)?;
        current = Mark { segment: number, end };
        if listed.last() == Some(&number) {
            check_end(path, &image, current, synced, replay.sequence.unwrap_or_default())?;
        }
    }
    if current.segment == synced.segment && current.end < synced.end {
        let reason = format!("frames end at {} of {}", current.end, synced.end);
        return Err(corrupt(segment::path(dir, current.segment), reason));
    }
    replay.finish(dir, current)
}

fn corrupt(path: PathBuf, reason: impl Into<String>) -> ConsensusError {
    ConsensusError::Corrupt { path, reason: reason.into() }
}

fn check_numbers(dir: &Path, numbers: &[u64], synced: Mark) -> Result<Vec<u64>, ConsensusError> {
    let incomplete = |reason: String| ConsensusError::Incomplete { path: dir.to_owned(), reason };
    let (Some(first), Some(last)) = (numbers.first(), numbers.last()) else {
        return Err(incomplete("there is an identity but no log".into()));
    };
    if last - first + 1 != numbers.len() as u64 {
        return Err(incomplete(format!("segments are missing between {first} and {last}")));
    }
    if *last < synced.segment {
        return Err(incomplete(format!("segment {} is missing", synced.segment)));
    }
    Ok(numbers.to_vec())
}

async fn discard(env: &Env, dir: &Path, number: u64) -> Result<(), ConsensusError> {
    let path = segment::path(dir, number);
    let what = || ConsensusError::io(format!("remove {}", path.display()));
    env.disk.remove(&path).await.map_err(what())?;
    env.disk.sync_dir(dir).await.map_err(what())
}

fn check_end(
    path: PathBuf,
    image: &Image,
    current: Mark,
    synced: Mark,
    sequence: u64,
) -> Result<(), ConsensusError> {
    if synced.segment == current.segment && current.end < synced.end {
        return Err(corrupt(
            path,
            format!("frames end at {}, {} was synced", current.end, synced.end),
        ));
    }
    if image.has_frame_after(current.end, sequence) {
        return Err(corrupt(
            path,
            format!("the frame at {} is damaged, a later one is not", current.end),
        ));
    }
    Ok(())
}

impl Replay {
    /// Replays one segment and tells where its valid frames end.
    fn segment(&mut self, path: &Path, number: u64, image: &Image) -> Result<u64, ConsensusError> {
        let first = self.segments.is_empty();
        self.segments.insert(number, Segment { file: image.file.clone(), last_index: None });
        let mut offset = 0;
        while let Some((header, payload)) = image.frame_at(offset, self.sequence) {
            let records = record::decode_all(&Bytes::copy_from_slice(payload))
                .map_err(|e| corrupt(path.to_owned(), format!("frame at {offset}: {e}")))?;
            let is_base = matches!(records.first(), Some(Record::Base(_)));
            if is_base != (offset == 0) {
                return Err(corrupt(
                    path.to_owned(),
                    format!("frame at {offset}: misplaced base record"),
                ));
            }
            self.frame(number, offset, &header, records, first)
                .map_err(|e| corrupt(path.to_owned(), format!("frame at {offset}: {e}")))?;
            self.sequence = Some(header.sequence + 1);
            offset += header.frame_bytes() as u64;
        }
        Ok(offset)
    }

    fn frame(
        &mut self,
        number: u64,
        offset: u64,
        header: &Header,
        records: Vec<Record>,
        first_segment: bool,
    ) -> Result<(), String> {
        let mut frame: Option<FrameRef> = None;
        for (position, record) in records.into_iter().enumerate() {
            match record {
                Record::Base(_) if position > 0 => return Err("misplaced base record".into()),
                Record::Base(base) if first_segment => self.rebase(base)?,
                Record::Base(base) => self.check_base(&base)?,
                Record::Vote(vote) => self.index.vote = Some(vote),
                Record::Committed(committed) => self.index.committed = committed,
                Record::Truncate(_) | Record::Purge(_) if frame.is_some() => {
                    return Err("a truncation follows entries".into());
                }
                Record::Truncate(after) => self.truncate(after)?,
                Record::Purge(upto) => self.purge(upto)?,
                Record::Entry(entry) => {
                    let (index, bytes) = (entry.log_id.index, entry_bytes(&entry));
                    self.index.append(entry).map_err(|e| e.to_string())?;
                    let frame_bytes = header.frame_bytes();
                    let frame = frame.get_or_insert(FrameRef {
                        segment: number,
                        offset,
                        frame_bytes,
                        entry_bytes: 0,
                        first: index,
                        last: index,
                    });
                    frame.entry_bytes += bytes;
                    frame.last = index;
                }
            }
        }
        if let Some(frame) = frame {
            self.index.add_frame(frame);
            self.index.set_durable(frame.last + 1, self.index.generation);
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.last_index = Some(frame.last);
            }
        }
        Ok(())
    }

    fn rebase(&mut self, base: Base) -> Result<(), String> {
        if next(base.purged) > next(base.last) {
            return Err("more is purged than there was".into());
        }
        (self.index.vote, self.index.committed) = (base.vote, base.committed);
        self.index.rebase(base.purged, base.last);
        Ok(())
    }

    fn check_base(&self, base: &Base) -> Result<(), String> {
        let index = &self.index;
        if base.vote != index.vote || base.last != index.last || base.purged != index.purged {
            return Err("it does not continue the segment before".into());
        }
        Ok(())
    }

    fn purge(&mut self, upto: LogId) -> Result<(), String> {
        let is_newer = self.index.purged.is_none_or(|purged| upto > purged);
        if is_newer && next(Some(upto)) < next(self.index.purged) {
            return Err("a purge that goes back".into());
        }
        self.index.purge(upto);
        self.index.purge_frames(upto.index);
        Ok(())
    }

    fn truncate(&mut self, after: Option<LogId>) -> Result<(), String> {
        if next(self.index.purged) > next(after) || next(after) > self.index.next_index() {
            return Err("a truncation outside of the log".into());
        }
        self.index.truncate(after);
        self.index.truncate_frames(after);
        truncate_segments(&mut self.segments, after.map(|a| a.index));
        Ok(())
    }

    fn finish(self, dir: &Path, current: Mark) -> Result<Recovered, ConsensusError> {
        let purged_next = self.index.purged.map_or(0, |p| p.index + 1);
        let first = self.index.oldest_on_disk().unwrap_or(self.index.next_index());
        if first > purged_next {
            let reason = format!("entries {purged_next} to {} are missing", first - 1);
            return Err(ConsensusError::Incomplete { path: dir.to_owned(), reason });
        }
        Ok(Recovered {
            index: self.index,
            segments: self.segments,
            current: current.segment,
            end: current.end,
            sequence: self.sequence.unwrap_or_default(),
        })
    }
}

/// The index behind `id`. Bounds are compared by it, because the order of log ids goes by terms first.
fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

/// Segments forget void entries, so that they go as soon as nothing in them is needed.
pub(crate) fn truncate_segments(segments: &mut BTreeMap<u64, Segment>, after: Option<u64>) {
    for segment in segments.values_mut() {
        segment.last_index = match (segment.last_index, after) {
            (Some(last), Some(after)) => Some(last.min(after)),
            _ => None,
        };
    }
}
