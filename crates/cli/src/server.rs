//! `everhold server`: one node in the foreground, until it is asked to stop.

use crate::args::{LabelArgs, ServerArgs};
use crate::exit::{CliError, CliResult, Exit, of_kind};
use crate::interrupt::Interrupt;
use crate::limits::{connections, files_max};
use crate::output::line;
use everhold_env::Env;
use everhold_proto::map::Labels;
use everhold_server::{Origin, Server, ServerConfig, StartError};

/// Runs the node.
pub(crate) async fn run(args: ServerArgs) -> CliResult {
    let config = config(args)?;
    let mut interrupt = Interrupt::listen()?;
    let server = tokio::select! {
        started = Server::start(Env::real(), config) => started.map_err(start_error)?,
        // A node that was asked to stop before it served has nothing to hand over.
        () = interrupt.wait() => return Ok(()),
    };
    line(format!("listening on {}", server.address()))?;
    server.run_until(interrupt.wait()).await.map_err(|fatal| {
        CliError::new(
            Exit::Failed,
            fatal.to_string(),
            "the other nodes go on; read the log above, check the disk, then start this node again",
        )
    })
}

/// The flags as a validated configuration.
fn config(args: ServerArgs) -> CliResult<ServerConfig> {
    std::fs::create_dir_all(&args.dir).map_err(|e| CliError::local(&args.dir, &e))?;
    let dir = args.dir.canonicalize().map_err(|e| CliError::local(&args.dir, &e))?;
    let origin = match (args.bootstrap, args.join.is_empty()) {
        (true, _) => Origin::Bootstrap { copies: args.copies },
        (false, false) => Origin::Join(args.join),
        (false, true) => Origin::Existing,
    };
    let mut config = ServerConfig::new(dir, args.listen, origin);
    config.advertise = args.advertise;
    let LabelArgs { region, zone, rack, host } = args.labels;
    config.labels = Labels { region, zone, rack, host };
    config.capacity = args.capacity;
    if let Some(segment) = args.segment_size {
        config.segment_bytes = segment;
    }
    let wanted = config.load.connections_max;
    config.load.connections_max = connections(wanted, files_max());
    if config.load.connections_max < wanted {
        let (most, files) = (config.load.connections_max, files_max());
        tracing::warn!(most, files, "few files may be open at once: fewer connections are taken");
    }
    config.validate().map_err(|e| start_error(e.into()))?;
    Ok(config)
}

fn start_error(error: StartError) -> CliError {
    let (exit, hint) = match &error {
        StartError::Config(_) => (Exit::Usage, "see `everhold server --help`"),
        StartError::Directory { .. } => (Exit::Failed, "check --dir and its permissions"),
        StartError::InUse { .. } => {
            (Exit::Conflict, "stop the other server first, or use another --dir")
        }
        StartError::Format { .. } => (
            Exit::Foreign,
            "run the program version that wrote it, or use a fresh --dir and let the cluster repair",
        ),
        StartError::Foreign { .. } => (
            Exit::Foreign,
            "join with addresses of the directory's own cluster, or use a fresh --dir",
        ),
        StartError::RolledBack { .. } => (
            Exit::Foreign,
            "set it up anew: join with a fresh --dir, and the cluster copies to it what it needs",
        ),
        StartError::Listen { .. } => {
            (Exit::Failed, "choose another --listen address, or stop what uses this one")
        }
        StartError::NoContact { .. } => {
            (Exit::Unreachable, "check that one of the --join addresses runs")
        }
        StartError::NoCluster { .. } => {
            (Exit::Usage, "add --bootstrap for a new cluster, or --join HOST:PORT")
        }
        StartError::Store { source, .. } => of_kind(source.kind()),
        StartError::Consensus { .. } => (
            Exit::Failed,
            "look at the disk; if the metadata there is damaged, let this node join again with a fresh --dir",
        ),
    };
    let cause = std::error::Error::source(&error).map(|cause| cause.to_string());
    let message = error.to_string();
    let message = match cause {
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
        _ => message,
    };
    CliError::new(exit, message, hint)
}
