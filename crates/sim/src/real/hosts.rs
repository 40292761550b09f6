//! Hosts: network namespaces on one bridge, and the ways to cut and slow the links between them.
//!
//! ```text
//!   harness, clients: 10.77.0.1 on bridge `everhold0`
//!        ├── h1 ═══ eth0 10.77.0.11   (namespace of node 1)
//!        ├── h2 ═══ eth0 10.77.0.12   (namespace of node 2)
//!        └── …
//! ```
//!
//! No namespace has a name, not even the harness's own: each lives as long as a process or a
//! descriptor refers to it. So nothing is left behind, however a run ends, and runs do not collide.
//! **Invariant:** no packet leaves these namespaces; there is no route out.

use crate::real::command::{run, tool};
use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// Port that every node listens on.
const PORT: u16 = 7400;
const BRIDGE: &str = "everhold0";
/// Address of the harness and its clients.
pub(crate) const CLIENTS: &str = "10.77.0.1";

/// Which packets of a host are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Those that arrive and those that leave.
    Both,
    /// Those that arrive: the host is deaf.
    Arriving,
    /// Those that leave: the host is mute.
    Leaving,
}

/// The network namespaces of all hosts; hosts count from 1.
pub(crate) struct Hosts(Vec<Arc<File>>);

/// IP address of a host.
pub(crate) fn ip(host: u32) -> String {
    format!("10.77.0.{}", 10 + host)
}

/// Where the node of a host listens.
pub(crate) fn address(host: u32) -> String {
    format!("{}:{PORT}", ip(host))
}

impl Hosts {
    /// Moves this process into a network and a mount namespace of its own and makes the hosts. Must
    /// come before any thread is started: namespaces belong to threads.
    pub(crate) fn enter(count: u32) -> Result<Self> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        ensure!(threads == 1, "namespaces must be made before threads, there are {threads}");
        separate(UnshareFlags::NEWNS)?;
        // Mounts made here end with this namespace and are not seen outside of it.
        run(&mut tool("mount", &["--make-rprivate", "/"]))?;
        let mut spaces = Vec::new();
        for _ in 0..count {
            separate(UnshareFlags::NEWNET)?;
            spaces.push(Arc::new(File::open("/proc/self/ns/net")?));
        }
        separate(UnshareFlags::NEWNET)?;
        let hosts = Hosts(spaces);
        hosts.connect()?;
        Ok(hosts)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        u32::try_from(self.0.len()).expect("there are a few")
    }

    fn connect(&self) -> Result<()> {
        let here = |line: &str| run(&mut tool("ip", &line.split(' ').collect::<Vec<_>>()));
        here("link set lo up")?;
        here(&format!("link add {BRIDGE} type bridge"))?;
        here(&format!("addr add {CLIENTS}/24 dev {BRIDGE}"))?;
        here(&format!("link set {BRIDGE} up"))?;
        for (host, space) in (1..).zip(&self.0) {
            let space = format!("/proc/{}/fd/{}", std::process::id(), space.as_raw_fd());
            here(&format!("link add h{host} type veth peer name eth0"))?;
            here(&format!("link set eth0 netns {space}"))?;
            here(&format!("link set h{host} master {BRIDGE} up"))?;
            self.tool(host, "ip", "link set lo up")?;
            self.tool(host, "ip", &format!("addr add {}/24 dev eth0", ip(host)))?;
            self.tool(host, "ip", "link set eth0 up")?;
        }
        Ok(())
    }

    /// Lets the command run on a host.
    pub(crate) fn place(&self, host: u32, command: &mut Command) {
        let space = self.0[host as usize - 1].clone();
        let enter = move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        // SAFETY: between fork and exec it makes one system call and allocates nothing.
        unsafe { command.pre_exec(enter) };
    }

    /// Drops packets between a host and these peers, given by IP address.
    pub(crate) fn cut(&self, host: u32, peers: &[String], cut: Cut) -> Result<()> {
        for peer in peers {
            if cut != Cut::Leaving {
                self.tool(host, "iptables", &format!("-w 10 -A INPUT -s {peer} -j DROP"))?;
            }
            if cut != Cut::Arriving {
                self.tool(host, "iptables", &format!("-w 10 -A OUTPUT -d {peer} -j DROP"))?;
            }
        }
        Ok(())
    }

    /// Lets all packets of a host through again.
    pub(crate) fn mend(&self, host: u32) -> Result<()> {
        self.tool(host, "iptables", "-w 10 -F")
    }

    /// Limits the link of a host, both ways.
    pub(crate) fn slow(&self, host: u32, kilobits: u32) -> Result<()> {
        let limit = format!("root tbf rate {kilobits}kbit burst 16kb latency 500ms");
        self.tool(host, "tc", &format!("qdisc replace dev eth0 {limit}"))?;
        let down = format!("qdisc replace dev h{host} {limit}");
        run(&mut tool("tc", &down.split(' ').collect::<Vec<_>>()))
    }

    /// Takes the limit away.
    pub(crate) fn unslow(&self, host: u32) -> Result<()> {
        self.tool(host, "tc", "qdisc del dev eth0 root")?;
        run(&mut tool("tc", &["qdisc", "del", "dev", &format!("h{host}"), "root"]))
    }

    fn tool(&self, host: u32, name: &str, line: &str) -> Result<()> {
        let mut command = tool(name, &line.split(' ').collect::<Vec<_>>());
        self.place(host, &mut command);
        run(&mut command).with_context(|| format!("on host {host}"))
    }
}

fn separate(flags: UnshareFlags) -> Result<()> {
    // SAFETY: neither flag makes this thread's descriptors its own, and there is no other thread.
    unsafe { unshare_unsafe(flags) }
        .context("no namespace of its own; is this a restricted container?")
}
