//! `mount -o remount,…`: the options of a mount that is there. The kernel's flags are changed; nothing is mounted.

use crate::exit::{CliError, CliResult, Exit};
use rustix::mount::{MountFlags, mount_remount};
use std::path::Path;

/// Changes the options of a mount.
pub(crate) fn run(path: &Path, options: &str) -> CliResult {
    let path = super::control::absolute(path);
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|e| CliError::local("/proc/self/mountinfo", &e))?;
    let now = everhold_fuse::mount::flags_of(&path, mountinfo.as_bytes()).ok_or_else(|| {
        let text = format!("{} is not mounted", path.display());
        CliError::new(Exit::NotFound, text, "`everhold mount ls` lists mounts")
    })?;
    let mut flags = now.split(',').fold(MountFlags::empty(), |flags, name| match flag(name) {
        Some((flag, true)) => flags | flag,
        _ => flags,
    });
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match flag(option) {
            Some((flag, on)) => flags.set(flag, on),
            None if is_without_effect(option) => {}
            None => {
                let text = format!("{option} cannot be changed while it is mounted");
                return Err(CliError::usage(text, "unmount it, and mount it with this option"));
            }
        }
    }
    mount_remount(&path, flags, c"").map_err(|e| {
        let text = format!("{}: {e}", path.display());
        CliError::new(Exit::Busy, text, "files that are open for writing keep it from being `ro`")
    })
}

/// A flag of the kernel's, and whether the option sets it.
fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "noatime" => (MountFlags::NOATIME, true),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "relatime" => (MountFlags::RELATIME, true),
        "strictatime" => (MountFlags::STRICTATIME, true),
        _ => return None,
    })
}

/// Options that mount(8) hands on and that say nothing here.
fn is_without_effect(option: &str) -> bool {
    matches!(option, "remount" | "defaults" | "_netdev" | "nofail" | "auto" | "noauto" | "async")
        || option.starts_with("x-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_flags_or_refused() {
        assert_eq!(flag("ro"), Some((MountFlags::RDONLY, true)));
        assert_eq!(flag("rw"), Some((MountFlags::RDONLY, false)));
        assert_eq!(flag("threads=4"), None);
        assert!(is_without_effect("x-systemd.automount") && !is_without_effect("threads=4"));
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(run(dir.path(), "ro").unwrap_err().exit, Exit::NotFound);
    }
}
