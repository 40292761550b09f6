//! The command line: what there is to say, and nothing about how it is done. Raw flags become
//! validated values here, so that the commands never see a text that is not a size or an id.

use clap::{Args, Parser, Subcommand, ValueEnum};
use everhold_proto::fs::Consistency;
use everhold_proto::map::Spread;
use everhold_proto::{ByteSize, DiskId, NodeId};
use std::path::PathBuf;

/// A distributed file system that keeps files readable, writable and safe while machines fail.
#[derive(Debug, Parser)]
#[command(name = "everhold", version, arg_required_else_help = true, after_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
Start with `everhold up`, then `everhold fs put FILE /FILE` in another terminal.
Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 cluster unreachable, 5 busy or timed out,
6 data corrupt or lost, 7 no space, 8 exists, changed meanwhile or would break a rule, 9 foreign cluster or format,
10 and 11 of `health`: warnings, and data or service at risk, 130 interrupted.";

/// The strategies as they are called on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsistencyArg {
    Strict,
    CloseToOpen,
    Relaxed,
}

impl From<ConsistencyArg> for Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::Strict => Consistency::Strict,
            ConsistencyArg::CloseToOpen => Consistency::CloseToOpen,
            ConsistencyArg::Relaxed => Consistency::Relaxed,
        }
    }
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Addresses of some nodes; without it, the cluster that `everhold up` started last
    #[arg(
        long,
        global = true,
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        env = "EVERHOLD_CLUSTER"
    )]
    pub(crate) cluster: Vec<String>,
    /// Print JSON for machines
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one node: it stores blocks, and keeps metadata if the cluster chooses it
    Server(ServerArgs),
    /// Run a local cluster of real server processes until Ctrl-C
    Up(UpArgs),
    /// Show that files survive killed nodes: a fresh cluster, real input, two SIGKILLs, a report
    Demo(DemoArgs),
    /// Work with files in the cluster
    #[command(subcommand)]
    Fs(FsCommand),
    /// Mount the cluster as a file system of this machine (Linux, FUSE)
    Mount(MountArgs),
    /// Unmount: what was written is committed first
    Umount {
        /// The mount point
        path: PathBuf,
        /// Do not wait for the cluster: what is not committed is lost, and programs that use the mount get errors
        #[arg(long)]
        force: bool,
    },
    /// State of the cluster: nodes, leader, redundancy, findings
    Status,
    /// Nodes: list, add, start, stop, maintenance, empty, remove
    #[command(subcommand)]
    Node(NodeCommand),
    /// What is not as it should be, how bad it is, and what to do; the exit code tells scripts
    Health,
    /// Disks: list, add, empty, take back
    #[command(subcommand)]
    Disk(DiskCommand),
    /// How data is kept: copies, and the level that they are spread over
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Read every copy back now and repair what is bad; without that, it happens over a week
    #[command(subcommand)]
    Scrub(ScrubCommand),
    /// Make the disks as even as they can be; large differences are evened out without that
    #[command(subcommand)]
    Rebalance(RebalanceCommand),
    /// Placement groups
    #[command(subcommand)]
    Pg(PgCommand),
    /// Repair: what is not fully redundant
    #[command(subcommand)]
    Repair(RepairCommand),
    /// The last transitions of nodes, disks and the brake, with their reasons
    Events {
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Only of these: a node (n3), a disk (d3), a placement group (pg17), brake
        #[arg(long, value_name = "SUBJECT,…", value_delimiter = ',')]
        of: Vec<String>,
        /// Those of placement groups too: a single repair makes hundreds
        #[arg(long, conflicts_with = "of")]
        all: bool,
    },
    /// Measure throughput and cost beside what disk and network can do
    Bench(BenchArgs),
    /// Write the manual pages: one for each command, for man(1)
    Man {
        /// The directory they go to, such as /usr/local/share/man/man1
        dir: PathBuf,
    },
}

/// `everhold server`.
#[derive(Debug, Args)]
pub(crate) struct ServerArgs {
    /// Data directory of this node
    #[arg(long)]
    pub(crate) dir: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7600")]
    pub(crate) listen: String,
    /// The address that others reach this node at; without it, the one it listens on
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) advertise: Option<String>,
    /// Join the cluster of these nodes
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', conflicts_with = "bootstrap")]
    pub(crate) join: Vec<String>,
    /// Create a new cluster with this node as its first
    #[arg(long)]
    pub(crate) bootstrap: bool,
    /// Copies of each block in a new cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) copies: u8,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Most bytes to store; without it, what the file system has
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// Size of the block store's segment files
    #[arg(long, value_name = "SIZE")]
    pub(crate) segment_size: Option<ByteSize>,
    /// Worker threads; without it, one per core
    #[arg(long)]
    pub(crate) threads: Option<usize>,
    /// Write the log to this file, which has a successor every 16 MiB; three older ones are kept. Without it, to standard
    /// error
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
}

/// Where a node stands.
#[derive(Clone, Debug, Args)]
pub(crate) struct LabelArgs {
    /// Region label
    #[arg(long, default_value = "")]
    pub(crate) region: String,
    /// Zone label: copies are spread over zones
    #[arg(long, default_value = "")]
    pub(crate) zone: String,
    /// Rack label
    #[arg(long, default_value = "")]
    pub(crate) rack: String,
    /// Host label
    #[arg(long, default_value = "")]
    pub(crate) host: String,
}

/// `everhold mount`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct MountArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MountCommand>,
    #[command(flatten)]
    pub(crate) here: MountHere,
}

/// Mounts of this machine.
#[derive(Debug, Subcommand)]
pub(crate) enum MountCommand {
    /// Mounts of this machine, and whether they work
    Ls,
    /// Counts and times of each operation of a mount
    Stats {
        /// The mount point
        path: PathBuf,
    },
}

/// One mount.
#[derive(Debug, Args)]
pub(crate) struct MountHere {
    /// The directory to mount on
    #[arg(required = true)]
    pub(crate) path: Option<PathBuf>,
    /// Stay in the foreground, until Ctrl-C or `umount`
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Where the log goes; the file has a successor every 16 MiB, and three older ones are kept [default:
    /// ~/.local/state/everhold/mount-PATH.log, in the foreground standard error]
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Refuse changes
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Only for the user who mounts; else for everybody, by the files' permissions
    #[arg(long)]
    pub(crate) private: bool,
    /// Let device nodes and set-id bits work; they are ignored otherwise
    #[arg(long)]
    pub(crate) dev_suid: bool,
    /// What is done anyway, for who wrote it when it was an option
    #[arg(long, hide = true, conflicts_with = "dev_suid")]
    pub(crate) no_dev_suid: bool,
    /// Start no programs from it
    #[arg(long)]
    pub(crate) no_exec: bool,
    /// Commit each write and each change of names before it is answered
    #[arg(long)]
    pub(crate) sync: bool,
    /// Change the options of the mount that is there, such as `ro` or `rw,noexec`; for the mount helper
    #[arg(long, hide = true, value_name = "OPTIONS")]
    pub(crate) remount: Option<String>,
    /// Commit each change before it is answered, also in directories that nobody else uses
    #[arg(long)]
    pub(crate) no_write_behind: bool,
    /// What an operation does when the cluster does not answer: wait (up to 15 minutes) or fail after 30 s
    #[arg(long, value_enum, default_value_t = OnLossArg::Wait)]
    pub(crate) on_loss: OnLossArg,
    /// Threads that take requests from the kernel
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) threads: u16,
}

/// See [`everhold_fuse::OnLoss`].
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum OnLossArg {
    /// Wait.
    Wait,
    /// Fail with an error.
    Error,
}

/// `everhold up`.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Number of nodes of a new cluster (an existing one keeps its number) [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) nodes: Option<u32>,
    /// Number of zones of a new cluster [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) zones: Option<u32>,
    /// Where the data is kept [default: ~/.local/share/everhold/cluster]
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// Copies of each block in a new cluster [default: 3, or the number of nodes if that is less]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub(crate) copies: Option<u8>,
    /// First port of a new cluster; without it, free ones are taken
    #[arg(long)]
    pub(crate) port_base: Option<u16>,
    /// Most bytes that each node stores
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// Size of the block store's segment files
    #[arg(long, value_name = "SIZE")]
    pub(crate) segment_size: Option<ByteSize>,
    /// Leave the nodes running in the background and return (`everhold node stop` ends them)
    #[arg(long)]
    pub(crate) detach: bool,
}

/// `everhold demo`.
#[derive(Clone, Debug, Args)]
pub(crate) struct DemoArgs {
    /// What to copy in; without it, the source tree this was built from and generated data
    pub(crate) path: Option<PathBuf>,
    /// Bytes of generated data [default: 512MiB without PATH, none with it]
    #[arg(long, value_name = "SIZE")]
    pub(crate) size: Option<ByteSize>,
    /// Number of nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(4..=64))]
    pub(crate) nodes: u32,
    /// Number of zones
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) zones: u32,
    /// Keep the cluster's data in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Give up waiting for full redundancy after so many seconds
    #[arg(long, default_value_t = 600)]
    pub(crate) repair_timeout: u64,
}

/// `everhold bench`.
#[derive(Clone, Debug, Args)]
pub(crate) struct BenchArgs {
    /// Bytes of the sequential stream
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub(crate) size: ByteSize,
    /// Number of small files
    #[arg(long, default_value_t = 10_000)]
    pub(crate) files: u32,
    /// Number of parallel clients
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) clients: u32,
    /// Measure a temporary cluster of five local nodes instead of the one in use
    #[arg(long)]
    pub(crate) temp: bool,
    /// Directory for the disk's own rate [default: that of the local cluster, else the temporary one]
    #[arg(long)]
    pub(crate) disk_dir: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) mode: Option<BenchMode>,
}

/// Special measurements.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum BenchMode {
    /// Resident memory of a node that is idle with many small blocks
    IdleMemory {
        /// Number of blocks
        #[arg(long, default_value_t = 1_000_000)]
        blocks: u64,
    },
}

/// `everhold node`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// All nodes
    Ls,
    /// Say how a further node is started, and wait until it is part of the cluster
    Add(NodeAddArgs),
    /// Start a stopped node of the local cluster
    Start {
        /// The node, such as 3 or n3
        node: NodeId,
    },
    /// Stop a node of the local cluster
    Stop {
        /// The node, such as 3 or n3
        node: NodeId,
        /// End it at once (SIGKILL) instead of asking (SIGTERM)
        #[arg(long)]
        kill: bool,
    },
    /// Nothing is rebuilt while a node in maintenance is away
    Maintenance {
        /// The node, such as 3 or n3
        node: NodeId,
        /// Switch it on or off
        #[arg(value_parser = ["on", "off"])]
        mode: String,
    },
    /// Empty a node: its copies and its vote go to others. Refused when too few nodes or zones would be left
    Drain {
        /// The node, such as 3 or n3
        node: NodeId,
        /// Take it back
        #[arg(long, conflicts_with = "wait")]
        cancel: bool,
        /// Wait until it is empty
        #[arg(long)]
        wait: bool,
    },
    /// Take a node that is drained or lost out of the cluster for good
    Remove {
        /// The node, such as 3 or n3
        node: NodeId,
    },
    /// Take a node that does not come back out of the cluster now: its copies are made elsewhere at once, then it is removed
    Replace {
        /// The node, such as 3 or n3
        node: NodeId,
        /// Give up waiting for its copies after so many seconds; calling it again goes on
        #[arg(long, default_value_t = 3600)]
        timeout: u64,
    },
    /// Say where a node stands, whatever its process was started with
    Label {
        /// The node, such as 3 or n3
        node: NodeId,
        /// Region
        #[arg(long)]
        region: Option<String>,
        /// Zone
        #[arg(long)]
        zone: Option<String>,
        /// Rack
        #[arg(long)]
        rack: Option<String>,
        /// Host
        #[arg(long)]
        host: Option<String>,
        /// What its process says counts again, from its next start on
        #[arg(long, conflicts_with_all = ["region", "zone", "rack", "host"])]
        reset: bool,
    },
}

/// `everhold node add`.
#[derive(Clone, Debug, Args)]
pub(crate) struct NodeAddArgs {
    /// The address that others will reach it at
    #[arg(value_name = "HOST:PORT")]
    pub(crate) address: String,
    /// Its data directory
    #[arg(long, default_value = "/var/lib/everhold")]
    pub(crate) dir: PathBuf,
    /// The address that it listens on, without the port
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub(crate) listen: String,
    #[command(flatten)]
    pub(crate) labels: LabelArgs,
    /// Most bytes to store; without it, what the file system has
    #[arg(long, value_name = "SIZE")]
    pub(crate) capacity: Option<ByteSize>,
    /// Write a systemd unit here, to be copied to the machine
    #[arg(long, value_name = "FILE")]
    pub(crate) unit: Option<PathBuf>,
    /// Do not wait for the node
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 600)]
    pub(crate) timeout: u64,
}

/// `everhold rebalance`.
#[derive(Debug, Subcommand)]
pub(crate) enum RebalanceCommand {
    /// Make every move that makes the disks evener, and no other
    Start {
        /// Only say how much would move
        #[arg(long, conflicts_with = "wait")]
        dry_run: bool,
        /// Wait until it is done
        #[arg(long)]
        wait: bool,
    },
    /// Leave it at what goes on by itself
    Stop,
    /// How even the disks are, and what is left to move
    Status,
}

/// `everhold disk`.
#[derive(Debug, Subcommand)]
pub(crate) enum DiskCommand {
    /// All disks: node, state, space, places in placement groups, speed
    Ls,
    /// A node takes one more disk into service, without a restart
    Add {
        /// The node, such as 3 or n3
        node: NodeId,
        /// Directory on the node, absolute and empty, usually where the device is mounted
        path: String,
        /// Most bytes to store; without it, what the file system has
        #[arg(long, value_name = "SIZE")]
        capacity: Option<ByteSize>,
    },
    /// Empty a disk. Refused when too few nodes or zones would be left
    Drain {
        /// The disk, such as 3 or d3
        disk: DiskId,
        /// Take it back
        #[arg(long)]
        cancel: bool,
    },
    /// Take an added disk that is drained out of the cluster for good; its node goes on with the others
    Remove {
        /// The disk, such as 3 or d3
        disk: DiskId,
    },
}

/// `everhold policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// All policies
    Ls,
    /// Change a policy; what is stored follows by itself. Refused when the nodes that there are cannot keep it
    Set {
        /// Its name
        #[arg(default_value = "default")]
        name: String,
        /// Copies of each block
        #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
        replicas: Option<u8>,
        /// The level of failure domains that copies are spread over
        #[arg(long, value_enum)]
        spread: Option<SpreadArg>,
    },
}

/// `everhold scrub`.
#[derive(Debug, Subcommand)]
pub(crate) enum ScrubCommand {
    /// Begin
    Start {
        /// Wait until every copy was read
        #[arg(long)]
        wait: bool,
    },
    /// How far it is, and what was found
    Status,
}

/// The levels as they are called on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpreadArg {
    Region,
    Zone,
    Rack,
    Host,
}

impl From<SpreadArg> for Spread {
    fn from(arg: SpreadArg) -> Self {
        match arg {
            SpreadArg::Region => Spread::Region,
            SpreadArg::Zone => Spread::Zone,
            SpreadArg::Rack => Spread::Rack,
            SpreadArg::Host => Spread::Host,
        }
    }
}

/// `everhold pg`.
#[derive(Debug, Subcommand)]
pub(crate) enum PgCommand {
    /// All placement groups and their members
    Ls,
}

/// `everhold repair`.
#[derive(Debug, Subcommand)]
pub(crate) enum RepairCommand {
    /// Placement groups that are not fully redundant, the riskiest first
    Ls,
}

/// `everhold fs`. Paths in the cluster are absolute: `/a/b`.
#[derive(Debug, Subcommand)]
pub(crate) enum FsCommand {
    /// List a directory
    Ls {
        /// Long form: kind, mode, links, owner, size, time
        #[arg(short, long)]
        long: bool,
        /// What to list
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
    /// Show a directory as a tree
    Tree {
        /// Where to begin
        #[arg(default_value = "/")]
        path: String,
        /// How deep to go
        #[arg(short = 'L', long, default_value_t = usize::MAX, hide_default_value = true)]
        depth: usize,
    },
    /// Attributes, policy and durability of files
    Stat {
        /// Which
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Write files to standard output
    Cat {
        /// Which
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Copy local files or trees into the cluster; `-` is standard input
    Put {
        /// Local files or directories, then the target: `put FILE… /DIR` or `put FILE /NAME`
        #[arg(required = true, num_args = 2.., value_name = "LOCAL… REMOTE")]
        paths: Vec<PathBuf>,
        /// Files transferred at once
        #[arg(short, long, default_value_t = 64)]
        jobs: usize,
    },
    /// Copy a file or tree out of the cluster; `-` is standard output
    Get {
        /// In the cluster
        remote: String,
        /// Local target
        #[arg(default_value = ".")]
        local: PathBuf,
        /// Files transferred at once
        #[arg(short, long, default_value_t = 64)]
        jobs: usize,
    },
    /// Copy within the cluster
    Cp {
        /// Directories too
        #[arg(short, long)]
        recursive: bool,
        /// From
        from: String,
        /// To
        to: String,
    },
    /// Move or rename
    Mv {
        /// Fail when the target exists
        #[arg(short, long)]
        no_clobber: bool,
        /// From
        from: String,
        /// To
        to: String,
    },
    /// Remove
    Rm {
        /// Directories and all they hold
        #[arg(short, long)]
        recursive: bool,
        /// Missing ones are no error
        #[arg(short, long)]
        force: bool,
        /// What
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Create directories
    Mkdir {
        /// Parents too; existing ones are no error
        #[arg(short, long)]
        parents: bool,
        /// Which
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Link: another name for a file, or a symbolic link
    Ln {
        /// Symbolic
        #[arg(short, long)]
        symbolic: bool,
        /// What the link points to
        target: String,
        /// The new name
        link: String,
    },
    /// Set how mounts may cache files and what is created in directories from now on
    Set {
        /// strict: every read sees what was written before; close-to-open: whoever opens sees what was
        /// closed before; relaxed: answers may be a little old
        #[arg(long, value_enum)]
        consistency: ConsistencyArg,
        /// Which
        #[arg(required = true)]
        paths: Vec<String>,
    },
    /// Space used by files and trees
    Du {
        /// Only the total of each argument
        #[arg(short, long)]
        summarize: bool,
        /// In bytes
        #[arg(short, long)]
        bytes: bool,
        /// Which
        #[arg(default_value = "/")]
        paths: Vec<String>,
    },
    /// Space of the cluster and its disks
    Df {
        /// In bytes
        #[arg(short, long)]
        bytes: bool,
    },
}
