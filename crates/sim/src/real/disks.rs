//! Disks: one small ext4 file system per node, in a sparse file, so that a node's disk can be filled
//! and damaged without touching anything else.

use crate::real::command::{run, tool};
use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Steps in which a disk is filled.
const BALLAST_UNITS: [u64; 4] = [64 << 20, 1 << 20, 64 << 10, 4 << 10];
/// Places looked at per bit to flip: most of a young segment is still zeroes.
const TRIES: usize = 2000;

/// The disks; they are unmounted when this is dropped.
pub(crate) struct Disks {
    dir: PathBuf,
    bytes: u64,
    mounted: BTreeSet<u32>,
}

impl Disks {
    /// Makes and mounts a disk for each node from 1 to `count` in `dir`.
    pub(crate) fn make(dir: &Path, count: u32, bytes: u64) -> Result<Self> {
        let mut disks = Disks { dir: dir.to_path_buf(), bytes, mounted: BTreeSet::new() };
        for number in 1..=count {
            std::fs::create_dir_all(disks.mount(number))?;
            disks.renew(number)?;
        }
        Ok(disks)
    }

    /// Gives a node that does not run an empty disk.
    pub(crate) fn renew(&mut self, number: u32) -> Result<()> {
        let image = self.image(number).to_string_lossy().into_owned();
        let mount = self.mount(number).to_string_lossy().into_owned();
        if self.mounted.remove(&number) {
            run(&mut tool("umount", &[&mount]))?;
            std::fs::remove_file(&image)?;
        }
        File::create(&image)?.set_len(self.bytes)?;
        // No share for root: the servers are root, and the disk must be full for them too.
        run(&mut tool("mkfs.ext4", &["-q", "-F", "-m", "0", &image]))?;
        run(&mut tool("mount", &["-o", "loop", &image, &mount]))?;
        self.mounted.insert(number);
        Ok(())
    }

    /// The data directory of a node.
    pub(crate) fn data(&self, number: u32) -> PathBuf {
        self.mount(number).join("data")
    }

    /// Where the disk of a node is mounted.
    pub(crate) fn place(&self, number: u32) -> PathBuf {
        self.mount(number)
    }

    /// Fills a disk but for about `leave` bytes; gives the bytes that are left.
    pub(crate) fn fill(&self, number: u32, leave: u64) -> Result<u64> {
        let ballast = File::create(self.ballast(number))?;
        let mut filled = 0;
        // The servers write too, so the last part goes in ever smaller steps.
        for unit in BALLAST_UNITS {
            while self.free(number)? >= leave + unit {
                match fallocate(&ballast, FallocateFlags::empty(), filled, unit) {
                    Ok(()) => filled += unit,
                    Err(rustix::io::Errno::NOSPC) => break,
                    Err(e) => return Err(e).context("fill a disk"),
                }
            }
        }
        self.free(number)
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
