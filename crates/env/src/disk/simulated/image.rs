//! What a simulated file holds: a live image, a durable one, and the changes between them.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Unit in which images are kept; pages that were never written read as zero and take no memory.
const PAGE: usize = 4096;
/// Unit that a disk writes atomically.
const SECTOR: usize = 512;

/// Sparse bytes. Pages are shared between clones until they are written.
#[derive(Clone, Default, Debug)]
pub(super) struct Image {
    pages: BTreeMap<u64, Arc<[u8; PAGE]>>,
    len: u64,
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Offsets of the pages that are not all zero, or were not once.
    pub(super) fn pages(&self) -> Vec<u64> {
        self.pages.keys().map(|number| number * PAGE as u64).collect()
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(out.len() - done);
            match self.pages.get(&(at / PAGE as u64)) {
                Some(page) => out[done..done + n].copy_from_slice(&page[within..within + n]),
                None => out[done..done + n].fill(0),
            }
            done += n;
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let within = (at % PAGE as u64) as usize;
            let n = (PAGE - within).min(bytes.len() - done);
            let piece = &bytes[done..done + n];
            let number = at / PAGE as u64;
            if self.pages.contains_key(&number) || piece.iter().any(|b| *b != 0) {
                let page = self.pages.entry(number).or_insert_with(|| Arc::new([0; PAGE]));
                Arc::make_mut(page)[within..within + n].copy_from_slice(piece);
            }
            done += n;
        }
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.retain(|number, _| number * (PAGE as u64) < len);
            let within = (len % PAGE as u64) as usize;
            if let Some(page) = self.pages.get_mut(&(len / PAGE as u64)) {
                Arc::make_mut(page)[within..].fill(0);
            }
        }
        self.len = len;
    }

    /// Flips one bit of the byte at `offset`.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        let mut byte = [0];
        self.read(offset, &mut byte);
        byte[0] ^= 1 << (bit % 8);
        self.write(offset, &byte);
    }
}

/// A change that is not durable yet.
#[derive(Debug)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    SetLen(u64),
}

/// One file (an inode: it lives on while it is open, whatever becomes of its name).
#[derive(Default, Debug)]
pub(super) struct Inode {
    pub(super) live: Image,
    durable: Image,
    unsynced: Vec<Change>,
    /// How many changes were ever made durable; with `unsynced.len()` it numbers the changes.
    synced: u64,
    /// In which life of the disk some handle locked it.
    pub(super) locked_in: Option<u64>,
}

impl Inode {
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.live.write(offset, bytes);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn set_len(&mut self, len: u64) {
        self.live.set_len(len);
        self.unsynced.push(Change::SetLen(len));
    }

    /// A mark that covers every change so far.
    pub(super) fn mark(&self) -> u64 {
        self.synced + self.unsynced.len() as u64
    }

    /// Makes the changes up to `mark` durable.
    pub(super) fn sync(&mut self, mark: u64) {
        let count = mark.saturating_sub(self.synced) as usize;
        for change in self.unsynced.drain(..count) {
            match change {
                Change::Write { offset, bytes } => self.durable.write(offset, &bytes),
                Change::SetLen(len) => self.durable.set_len(len),
            }
            self.synced += 1;
        }
    }

    /// Flips a bit at rest: in both images.
    pub(super) fn flip(&mut self, offset: u64, bit: u8) {
        self.live.flip(offset, bit);
        self.durable.flip(offset, bit);
    }

    /// The same content, durable, as a file of its own.
    pub(super) fn durable_copy(&self) -> Inode {
        Inode { live: self.durable.clone(), durable: self.durable.clone(), ..Inode::default() }
    }

    /// Power loss: what was not synced is gone; with `rng`, each sector of it by the toss of a coin.
    pub(super) fn crash(&mut self, rng: Option<&mut ChaCha8Rng>) {
        let unsynced = std::mem::take(&mut self.unsynced);
        self.synced += unsynced.len() as u64;
        if let Some(rng) = rng {
            unsynced.into_iter().for_each(|change| survive_in_part(&mut self.durable, change, rng));
        }
        self.live = self.durable.clone();
    }
}

fn survive_in_part(durable: &mut Image, change: Change, rng: &mut ChaCha8Rng) {
    match change {
        Change::SetLen(len) if rng.random() => durable.set_len(len),
        Change::SetLen(_) => {}
        Change::Write { offset, bytes } => {
            // All, nothing, or a mix: a mix alone would hardly ever leave a long write whole.
            let whole: bool = rng.random_bool(0.25);
            let mut at = 0;
            while at < bytes.len() {
                let sector_end = SECTOR - ((offset + at as u64) % SECTOR as u64) as usize;
                let n = sector_end.min(bytes.len() - at);
                if whole || rng.random() {
                    durable.write(offset + at as u64, &bytes[at..at + n]);
                }
                at += n;
            }
        }
    }
}
