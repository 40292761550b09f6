//! `everhold node add`: everything that a further node needs, and the wait until it is part of the cluster.

use crate::args::{Global, NodeAddArgs};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{json, line};
use everhold_proto::map::{ClusterMap, Node, NodeState};
use everhold_proto::rpc::ClusterStatus;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often it is looked whether the node is there.
const POLL: Duration = Duration::from_millis(500);
/// Addresses that a node is told to join by: any of them will do, and some may be away.
const SEEDS_MAX: usize = 5;

/// Prints, and writes if asked, how the node is started; then waits until it is Up with a disk in service.
pub(super) async fn run(args: NodeAddArgs, global: &Global) -> CliResult {
    check(&args)?;
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    if let Some(node) = find(&status.map, &args.address) {
        return Err(CliError::new(
            Exit::Conflict,
            format!("{} at {} is in the cluster already ({})", node.id, args.address, node.state),
            "name another address, or see `everhold node ls`",
        ));
    }
    let command = command(&args, &status);
    if let Some(path) = &args.unit {
        write_unit(path, &command)?;
    }
    if !global.json {
        line("on the new machine:")?;
        line(format!("  {}", command.join(" ")))?;
        if let Some(path) = &args.unit {
            line(format!(
                "as a service: {} (systemctl enable --now {})",
                path.display(),
                name_of(path)
            ))?;
        }
    }
    if args.no_wait {
        return if global.json { json(&serde_json::json!({ "command": command })) } else { Ok(()) };
    }
    wait(&args, &admin, &command, global).await
}

async fn wait(args: &NodeAddArgs, admin: &Admin, command: &[String], global: &Global) -> CliResult {
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    if !global.json {
        line(format!("waiting up to {} s for it …", args.timeout))?;
    }
    loop {
        let status = admin.status(LEADER_LIMIT).await?;
        if let Some(node) = find(&status.map, &args.address)
            && is_in_service(&status.map, node)
        {
            let disks = status.map.disks.values().filter(|disk| disk.node == node.id).count();
            if global.json {
                return json(
                    &serde_json::json!({ "command": command, "node": node.id, "disks": disks }),
                );
            }
            return line(format!(
                "node {} is up with {disks} disk(s); copies move to it by themselves: `everhold rebalance status`",
                node.id
            ));
        }
        if Instant::now() >= deadline {
            return Err(CliError::new(
                Exit::Unreachable,
                format!("no node at {} joined within {} s", args.address, args.timeout),
                "look at its log; the others must reach it at this address, and it them",
            ));
        }
        sleep(POLL).await;
    }
}

fn find<'a>(map: &'a ClusterMap, address: &str) -> Option<&'a Node> {
    map.nodes.values().find(|node| node.address == address)
}

fn is_in_service(map: &ClusterMap, node: &Node) -> bool {
    node.state == NodeState::Up && map.disks.values().any(|disk| disk.node == node.id)
}

fn check(args: &NodeAddArgs) -> CliResult {
    let port = args.address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0);
    if port.is_none() {
        let text = format!("{:?} is not HOST:PORT", args.address);
        return Err(CliError::new(Exit::Usage, text, "name the address that others reach it at"));
    }
    let plain = |text: &str| text.chars().all(|c| !c.is_control() && !"\"'\\$`%".contains(c));
    let texts = [&args.labels.region, &args.labels.zone, &args.labels.rack, &args.labels.host];
    let dir = args.dir.to_str().filter(|dir| args.dir.is_absolute() && plain(dir));
    if dir.is_none() || !texts.into_iter().all(|text| plain(text)) {
        let text = "the directory must be absolute, and labels and directory without quotes, `$`, `%` and `\\`";
        return Err(CliError::new(Exit::Usage, text, "name them in plain characters"));
    }
    Ok(())
}

/// The command that starts it, as words; those with spaces are quoted.
fn command(args: &NodeAddArgs, status: &ClusterStatus) -> Vec<String> {
    let quoted = |text: &str| {
        if text.contains(char::is_whitespace) { format!("\"{text}\"") } else { text.to_owned() }
    };
    let port = args.address.rsplit_once(':').map_or("", |(_, port)| port);
    let up = status.map.nodes.values().filter(|node| node.state == NodeState::Up);
    let join: Vec<&str> = up.take(SEEDS_MAX).map(|node| node.address.as_str()).collect();
    let mut words = vec!["everhold".to_owned(), "server".into()];
    let mut option = |name: &str, value: &str| words.extend([name.to_owned(), quoted(value)]);
    option("--dir", &args.dir.display().to_string());
    option("--listen", &format!("{}:{port}", args.listen));
    option("--advertise", &args.address);
    option("--join", &join.join(","));
    let labels = [
        ("--region", &args.labels.region),
        ("--zone", &args.labels.zone),
        ("--rack", &args.labels.rack),
        ("--host", &args.labels.host),
    ];
    labels
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .for_each(|(name, value)| option(name, value));
    if let Some(capacity) = args.capacity {
        option("--capacity", &capacity.0.to_string());
    }
    words
}

fn name_of(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// A unit for systemd; one that is there already is not overwritten.
fn write_unit(path: &Path, command: &[String]) -> CliResult {
    use std::io::Write;
    let text = format!(
        "[Unit]\nDescription=Everhold node\nAfter=network-online.target\nWants=network-online.target\n\n\
         [Service]\nExecStart=/usr/bin/env {}\nRestart=always\nRestartSec=2\nLimitNOFILE=65536\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        command.join(" ")
    );
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
    let written =
        made.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
    written.map_err(|e| {
        CliError::new(
            Exit::Failed,
            format!("{}: {e}", path.display()),
            "name a file that is not there yet",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: NodeAddArgs,
    }

    fn args(words: &[&str]) -> NodeAddArgs {
        Line::try_parse_from([&["add"], words].concat()).expect("it parses").args
    }

    #[test]
    fn what_would_break_a_unit_is_refused() {
        assert!(check(&args(&["host4:7600", "--zone", "z 1"])).is_ok());
        for bad in [
            &["host4"][..],
            &[":7600"],
            &["host4:0"],
            &["h:1", "--dir", "data"],
            &["h:1", "--zone", "a$b"],
        ] {
            assert!(check(&args(bad)).is_err(), "{bad:?}");
        }
    }
}
