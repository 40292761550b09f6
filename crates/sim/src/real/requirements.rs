//! What the machine must offer: root, and tools that make networks and disks.

use std::path::{Path, PathBuf};

/// Tools and the Debian packages that bring them.
const TOOLS: [(&str, &str); 6] = [
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("iptables", "iptables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mount", "mount"),
    ("umount", "mount"),
];

/// What is missing, one line each; nothing when the harness can run here.
pub fn unmet_requirements() -> Vec<String> {
    let mut unmet = Vec::new();
    if !rustix::process::geteuid().is_root() {
        unmet.push("it needs root, to make network namespaces and mounts: run it as root".into());
    }
    for (tool, package) in TOOLS {
        if find(tool).is_none() {
            unmet.push(format!("it needs `{tool}`: apt-get install {package}"));
        }
    }
    unmet
}

/// Where a tool is; the directories of administration are looked into whatever `PATH` says.
pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let mut places = std::env::split_paths(&path).chain(usual).map(|dir| dir.join(tool));
    places.find(|place: &PathBuf| Path::is_file(place))
}
