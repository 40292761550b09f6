//! A slow disk: the block device below one node's file system answers the node's process only so often, by the
//! kernel's own throttle (cgroup v1, `blkio`).
//!
//! **Invariant:** only a cgroup that was made here, with processes that were started here, is touched; it is
//! removed when this is dropped.

use anyhow::{Context, Result, ensure};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const BLKIO: &str = "/sys/fs/cgroup/blkio";

/// A throttle that holds one process back.
pub(super) struct Throttle {
    group: PathBuf,
    pid: u32,
}

/// Why there is no throttle here, if so.
pub(super) fn unavailable() -> Option<String> {
    let file = Path::new(BLKIO).join("blkio.throttle.write_iops_device");
    (!file.exists())
        .then(|| format!("the kernel offers no throttle: {} is missing", file.display()))
}

impl Throttle {
    /// From now on `pid` gets `per_second` reads and as many writes from the device that `dir` is on.
    pub(super) fn begin(pid: u32, dir: &Path, per_second: u32) -> Result<Self> {
        ensure!(per_second > 0, "a disk that answers never is not slow but dead");
        let device = std::fs::metadata(dir)?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let group = Path::new(BLKIO).join(format!("everhold-reliability-{}", std::process::id()));
        std::fs::create_dir_all(&group).with_context(|| group.display().to_string())?;
        let throttle = Throttle { group, pid };
        for what in ["read", "write"] {
            let file = throttle.group.join(format!("blkio.throttle.{what}_iops_device"));
            std::fs::write(&file, format!("{major}:{minor} {per_second}"))
                .with_context(|| file.display().to_string())?;
        }
        std::fs::write(throttle.group.join("cgroup.procs"), pid.to_string())?;
        Ok(throttle)
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        // The process may have ended; then the group is empty already.
        let _ = std::fs::write(Path::new(BLKIO).join("cgroup.procs"), self.pid.to_string());
        if let Err(e) = std::fs::remove_dir(&self.group) {
            tracing::warn!(group = %self.group.display(), error = %e, "a cgroup is left behind");
        }
    }
}
