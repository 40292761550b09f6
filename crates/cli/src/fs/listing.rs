//! Looking: `ls`, `tree`, `stat`, `du`, `df`.

use crate::args::Global;
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult};
use crate::fs::{join, remote};
use crate::output::{Table, json, line, size, time};
use everhold_client::Client;
use everhold_proto::PolicyId;
use everhold_proto::fs::{Attr, FileKind, Name};
use everhold_proto::map::Policy;
use serde::Serialize;
use std::sync::Arc;

/// A file as `--json` shows it.
#[derive(Debug, Serialize)]
struct EntryView {
    path: String,
    #[serde(flatten)]
    attr: Attr,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keeping: Option<Policy>,
}

async fn view(client: &Arc<Client>, path: String, attr: Attr) -> CliResult<EntryView> {
    let target = match attr.kind {
        FileKind::Symlink => {
            let target = client.readlink(&path).await?;
            Some(String::from_utf8_lossy(&target).into_owned())
        }
        _ => None,
    };
    Ok(EntryView { path, attr, target, keeping: None })
}

/// All entries of a directory, in name order.
pub(super) async fn entries(client: &Arc<Client>, path: &str) -> CliResult<Vec<(Name, Attr)>> {
    client.list(path).await.map_err(CliError::from)
}

/// `ls`.
pub(super) async fn ls(
    client: &Arc<Client>,
    paths: &[String],
    long: bool,
    as_json: bool,
) -> CliResult {
    let mut all = Vec::new();
    for path in paths {
        let attr = client.stat(remote(path)?).await?;
        let mut views = Vec::new();
        if attr.kind == FileKind::Directory {
            for (name, attr) in entries(client, path).await? {
                views.push(view(client, join(path, &name.to_string()), attr).await?);
            }
        } else {
            views.push(view(client, path.clone(), attr).await?);
        }
        if as_json {
            all.extend(views);
            continue;
        }
        if paths.len() > 1 {
            line(format!("{path}:"))?;
        }
        if long {
            print_long(&views, path)?;
        } else {
            let names: Vec<&str> = views.iter().map(|v| relative(&v.path, path)).collect();
            if !names.is_empty() {
                line(names.join("\n"))?;
            }
        }
    }
    if as_json { json(&all) } else { Ok(()) }
}

fn relative<'a>(path: &'a str, directory: &str) -> &'a str {
    path.strip_prefix(directory.trim_end_matches('/'))
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(path)
}

fn print_long(views: &[EntryView], directory: &str) -> CliResult {
    let titles = ["MODE", ">LINKS", ">UID", ">GID", ">SIZE", "MODIFIED (UTC)", "NAME"];
    let mut table = Table::new(&titles);
    for view in views {
        let attr = &view.attr;
        let name = relative(&view.path, directory);
        let name = match &view.target {
            Some(target) => format!("{name} -> {target}"),
            None => name.to_string(),
        };
        table.row([
            mode_text(attr.kind, attr.mode),
            attr.nlink.to_string(),
            attr.uid.to_string(),
            attr.gid.to_string(),
            attr.size.to_string(),
            time(attr.mtime),
            name,
        ]);
    }
    table.print()
}

/// `drwxr-xr-x`, as every `ls` writes it.
fn mode_text(kind: FileKind, mode: u32) -> String {
    let kind = match kind {
        FileKind::File => '-',
        FileKind::Directory => 'd',
        FileKind::Symlink => 'l',
        FileKind::Fifo => 'p',
        FileKind::Socket => 's',
        FileKind::CharDevice => 'c',
        FileKind::BlockDevice => 'b',
    };
    let mut text: Vec<char> = std::iter::once(kind)
        .chain(
            (0..9)
                .map(|bit| if mode >> (8 - bit) & 1 == 1 { ['r', 'w', 'x'][bit % 3] } else { '-' }),
        )
        .collect();
    for (bit, at, letter) in [(0o4000, 3, 's'), (0o2000, 6, 's'), (0o1000, 9, 't')] {
        if mode & bit != 0 {
            text[at] = if text[at] == 'x' { letter } else { letter.to_ascii_uppercase() };
        }
    }
    text.into_iter().collect()
}

/// One entry that `tree` has still to show.
struct Branch {
    path: String,
    attr: Attr,
    /// What is printed for it.
    text: String,
    /// What is printed before its children.
    indent: String,
    level: usize,
}

/// `tree`: depth first, in name order.
pub(super) async fn tree(
    client: &Arc<Client>,
    path: &str,
    depth: usize,
    as_json: bool,
) -> CliResult {
    let attr = client.stat(remote(path)?).await?;
    let root =
        Branch { path: path.into(), attr, text: path.into(), indent: String::new(), level: 0 };
    let (mut directories, mut files, mut found) = (0u64, 0u64, Vec::new());
    let mut stack = vec![root];
    while let Some(branch) = stack.pop() {
        let is_directory = branch.attr.kind == FileKind::Directory;
        match (branch.level, is_directory) {
            (0, _) => {}
            (_, true) => directories += 1,
            (_, false) => files += 1,
        }
        if !as_json {
            line(&branch.text)?;
        }
        if is_directory && branch.level < depth {
            let children = entries(client, &branch.path).await?;
            stack.extend(below(&branch, children).into_iter().rev());
        }
        if as_json {
            found.push(view(client, branch.path, branch.attr).await?);
        }
    }
    if as_json {
        return json(&found);
    }
    line(format!("\n{directories} directories, {files} files"))
}

fn below(parent: &Branch, children: Vec<(Name, Attr)>) -> Vec<Branch> {
    let last = children.len().saturating_sub(1);
    let indent = &parent.indent;
    let branch = |(at, (name, attr)): (usize, (Name, Attr))| {
        let (turn, line) =
            if at == last { ("└── ", "    ") } else { ("├── ", "│   ") };
        Branch {
            path: join(&parent.path, &name.to_string()),
            attr,
            text: format!("{indent}{turn}{name}"),
            indent: format!("{indent}{line}"),
            level: parent.level + 1,
        }
    };
    children.into_iter().enumerate().map(branch).collect()
}

/// `stat`.
pub(super) async fn stat(client: &Arc<Client>, paths: &[String], as_json: bool) -> CliResult {
    let mut all = Vec::new();
    for path in paths {
        let attr = client.lstat(remote(path)?).await?;
        let mut view = view(client, path.clone(), attr).await?;
        view.keeping = policy(client, view.attr.policy);
        if as_json {
            all.push(view);
        } else {
            print_stat(&view)?;
        }
    }
    if as_json { json(&all) } else { Ok(()) }
}

fn policy(client: &Arc<Client>, id: PolicyId) -> Option<Policy> {
    client.map().policies.get(&id).cloned()
}

fn print_stat(view: &EntryView) -> CliResult {
    let attr = &view.attr;
    line(format!("path      {}", view.path))?;
    if let Some(target) = &view.target {
        line(format!("target    {target}"))?;
    }
    line(format!("kind      {:?}, inode {}, version {}", attr.kind, attr.inode, attr.version))?;
    line(format!("mode      {} ({:04o})", mode_text(attr.kind, attr.mode), attr.mode))?;
    line(format!("owner     {}:{}, {} links", attr.uid, attr.gid, attr.nlink))?;
    line(format!("size      {} bytes ({})", attr.size, size(attr.size, false)))?;
    line(format!("allocated {} bytes", attr.allocated))?;
    line(format!("modified  {} UTC", time(attr.mtime)))?;
    line(format!("changed   {} UTC", time(attr.ctime)))?;
    line(format!("born      {} UTC", time(attr.btime)))?;
    line(format!("caching   {}", attr.consistency))?;
    match &view.keeping {
        Some(p) => line(format!(
            "policy    {}: {} copies, durable on {} when acknowledged ({:?})",
            p.name, p.copies, p.write_quorum, p.durability
        )),
        None => line(format!("policy    {}", attr.policy)),
    }
}

/// A total of `du`.
#[derive(Debug, Serialize)]
struct Total {
    path: String,
    bytes: u64,
    files: u64,
}

/// `du`: bytes that the extents of files cover; each copy is not counted.
pub(super) async fn du(
    client: &Arc<Client>,
    paths: &[String],
    summarize: bool,
    exact: bool,
    as_json: bool,
) -> CliResult {
    let mut totals = Vec::new();
    for path in paths {
        let attr = client.stat(remote(path)?).await?;
        let found = totals_of(client, path, attr).await?;
        let skipped = if summarize { found.len().saturating_sub(1) } else { 0 };
        totals.extend(found.into_iter().skip(skipped));
    }
    if as_json {
        return json(&totals);
    }
    let mut table = Table::new(&[">SIZE", ">FILES", "PATH"]);
    for total in totals {
        table.row([size(total.bytes, exact), total.files.to_string(), total.path]);
    }
    table.print()
}

/// Totals of all directories below a path, each after those that it holds, the path itself last.
async fn totals_of(client: &Arc<Client>, path: &str, attr: Attr) -> CliResult<Vec<Total>> {
    if attr.kind != FileKind::Directory {
        return Ok(vec![Total { path: path.into(), bytes: attr.allocated, files: 1 }]);
    }
    // Open directories from the root down, each with what is still to be looked at in it.
    let own = |path: String| Total { path, bytes: 0, files: 0 };
    let mut open = vec![(own(path.into()), entries(client, path).await?)];
    let mut done = Vec::new();
    while let Some((total, left)) = open.last_mut() {
        match left.pop() {
            Some((name, attr)) if attr.kind == FileKind::Directory => {
                let path = join(&total.path, &name.to_string());
                let children = entries(client, &path).await?;
                open.push((own(path), children));
            }
            Some((_, attr)) => {
                total.bytes += attr.allocated;
                total.files += 1;
            }
            None => {
                let Some((total, _)) = open.pop() else { break };
                if let Some((parent, _)) = open.last_mut() {
                    parent.bytes += total.bytes;
                    parent.files += total.files;
                }
                done.push(total);
            }
        }
    }
    Ok(done)
}

/// One disk of `df`.
#[derive(Debug, Serialize)]
struct DiskSpace {
    disk: String,
    node: String,
    zone: String,
    capacity_bytes: u64,
    used_bytes: u64,
    fullness: everhold_proto::map::Fullness,
}

/// `df`.
pub(super) async fn df(global: &Global, exact: bool) -> CliResult {
    let status = Admin::new(&seeds(global)?).status(LEADER_LIMIT).await?;
    let map = &status.map;
    let spaces: Vec<DiskSpace> = map
        .disks
        .values()
        .map(|disk| DiskSpace {
            disk: disk.id.to_string(),
            node: disk.node.to_string(),
            zone: map.nodes.get(&disk.node).map_or(String::new(), |node| node.labels.zone.clone()),
            capacity_bytes: disk.capacity_bytes,
            used_bytes: disk.used_bytes,
            fullness: disk.fullness,
        })
        .collect();
    let capacity: u64 = spaces.iter().map(|space| space.capacity_bytes).sum();
    let used: u64 = spaces.iter().map(|space| space.used_bytes).sum();
    if global.json {
        return json(&serde_json::json!({
            "disks": spaces, "capacity_bytes": capacity, "used_bytes": used,
            "files_bytes": status.bytes, "inodes": status.inodes,
        }));
    }
    let titles = ["DISK", "NODE", "ZONE", ">CAPACITY", ">USED", ">FREE", ">USED%", "LEVEL"];
    let mut table = Table::new(&titles);
    let share = |used: u64, of: u64| format!("{:.0}%", 100.0 * used as f64 / of.max(1) as f64);
    let free = |space: &DiskSpace| space.capacity_bytes.saturating_sub(space.used_bytes);
    for space in &spaces {
        table.row([
            space.disk.clone(),
            space.node.clone(),
            space.zone.clone(),
            size(space.capacity_bytes, exact),
            size(space.used_bytes, exact),
            size(free(space), exact),
            share(space.used_bytes, space.capacity_bytes),
            format!("{:?}", space.fullness).to_lowercase(),
        ]);
    }
    table.row([
        "all".into(),
        String::new(),
        String::new(),
        size(capacity, exact),
        size(used, exact),
        size(spaces.iter().map(free).sum(), exact),
        share(used, capacity),
        String::new(),
    ]);
    table.print()?;
    line(format!(
        "{} in {} files and directories; the disks hold each block once per copy",
        size(status.bytes, exact),
        status.inodes
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_look_as_usual() {
        assert_eq!(mode_text(FileKind::Directory, 0o755), "drwxr-xr-x");
        assert_eq!(mode_text(FileKind::File, 0o4640), "-rwSr-----");
        assert_eq!(mode_text(FileKind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(relative("/a/b", "/a"), "b");
        assert_eq!(relative("/a", "/"), "a");
        assert_eq!(relative("/a", "/a"), "/a");
    }
}
