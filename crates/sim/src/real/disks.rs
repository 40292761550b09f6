//! Disks: one small ext4 file system per node, in a sparse file, so that a node's disk can be filled
//! and damaged without touching anything else.

use crate::real::command::{run, tool};
use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Unit in which a disk is filled.
const BALLAST_UNIT: u64 = 1 << 20;
/// Places looked at per bit to flip: most of a young segment is still zeroes.
const TRIES: usize = 2000;

/// The disks; they are unmounted when this is dropped.
pub(crate) struct Disks {
    dir: PathBuf,
    mounted: Vec<u32>,
}

impl Disks {
    /// Makes and mounts a disk for each node from 1 to `count` in `dir`.
    pub(crate) fn make(dir: &Path, count: u32, bytes: u64) -> Result<Self> {
        let mut disks = Disks { dir: dir.to_path_buf(), mounted: Vec::new() };
        for number in 1..=count {
            let image = disks.image(number);
            File::create(&image)?.set_len(bytes)?;
            let (image, mount) = (image.to_string_lossy().into_owned(), disks.mount(number));
            std::fs::create_dir_all(&mount)?;
            // No share for root: the servers are root, and the disk must be full for them too.
            run(&mut tool("mkfs.ext4", &["-q", "-F", "-m", "0", &image]))?;
            run(&mut tool("mount", &["-o", "loop", &image, &mount.to_string_lossy()]))?;
            disks.mounted.push(number);
        }
        Ok(disks)
    }

    /// The data directory of a node.
    pub(crate) fn data(&self, number: u32) -> PathBuf {
        self.mount(number).join("data")
    }

    /// Fills a disk but for about `leave` bytes.
    pub(crate) fn fill(&self, number: u32, leave: u64) -> Result<u64> {
        let ballast = File::create(self.ballast(number))?;
        let mut filled = 0;
        while self.free(number)? > leave {
            let more = (self.free(number)? - leave).next_multiple_of(BALLAST_UNIT);
            match fallocate(&ballast, FallocateFlags::empty(), filled, more) {
                Ok(()) => filled += more,
                // Less is left than asked for, as the servers write too: the rest in small steps.
                Err(rustix::io::Errno::NOSPC) => match self.small_step(&ballast, filled) {
                    Some(step) => filled += step,
                    None => break,
                },
                Err(e) => return Err(e).context("fill a disk"),
            }
        }
        Ok(filled)
    }

    fn small_step(&self, ballast: &File, filled: u64) -> Option<u64> {
        let steps = [BALLAST_UNIT, 64 << 10, 4 << 10].into_iter();
        steps
            .into_iter()
            .find(|step| fallocate(ballast, FallocateFlags::empty(), filled, *step).is_ok())
    }

    /// Gives the space back.
    pub(crate) fn empty(&self, number: u32) -> Result<()> {
        std::fs::remove_file(self.ballast(number)).context("free a disk")
    }

    /// Flips up to `count` bits of the blocks or headers in a node's segments; tells where.
    pub(crate) fn flip(&self, number: u32, count: usize, salt: u64) -> Result<Vec<String>> {
        let mut rng = ChaCha8Rng::seed_from_u64(salt);
        let segments = self.data(number).join("disk0/segments");
        let mut files: Vec<PathBuf> =
            std::fs::read_dir(&segments)?.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        let mut places = Vec::new();
        for _ in 0..count * TRIES {
            if places.len() == count || files.is_empty() {
                break;
            }
            let path = &files[rng.random_range(0..files.len())];
            if let Some(place) = flip_one(path, &mut rng)? {
                places.push(place);
            }
        }
        Ok(places)
    }

    fn free(&self, number: u32) -> Result<u64> {
        let stat = statvfs(self.mount(number))?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn image(&self, number: u32) -> PathBuf {
        self.dir.join(format!("disk{number}.ext4"))
    }

    fn mount(&self, number: u32) -> PathBuf {
        self.dir.join(format!("node{number}"))
    }

    fn ballast(&self, number: u32) -> PathBuf {
        self.mount(number).join("ballast")
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for number in &self.mounted {
            if let Err(e) = run(&mut tool("umount", &[&self.mount(*number).to_string_lossy()])) {
                // It goes with the mount namespace, at the latest.
                tracing::info!(error = %e, "a disk was not unmounted");
            }
        }
    }
}

/// Flips a bit of a random byte that is not zero, so that the damage meets something written.
fn flip_one(path: &Path, rng: &mut ChaCha8Rng) -> Result<Option<String>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if length == 0 {
        return Ok(None);
    }
    let (at, bit) = (rng.random_range(0..length), rng.random_range(0..8u8));
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    if byte[0] == 0 {
        return Ok(None);
    }
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at)?;
    // The server reads round the page cache: the damage must be on the medium.
    file.sync_data()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(Some(format!("{name} byte {at} bit {bit}")))
}
