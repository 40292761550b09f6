//! First contact: a fresh node asks the nodes it was told of which cluster they are in, and a node
//! with a cluster makes sure that they are in the same.

use crate::directory::NodeFile;
use crate::error::StartError;
use everhold_client::Wire;
use everhold_env::Env;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::map::{Node, told_mark};
use everhold_proto::rpc::{GetMap, Hello, HelloReply};
use everhold_proto::{ClusterId, Epoch};
use futures_util::future::join_all;
use std::time::Duration;

/// One question; a node that is there answers at once.
const HELLO_LIMIT: Duration = Duration::from_millis(500);
/// Pause between rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// The cluster of the first node that answers.
pub(crate) async fn find_cluster(
    env: &Env,
    wire: &Wire,
    addresses: &[String],
    limit: Duration,
) -> Result<ClusterId, StartError> {
    let deadline = env.clock.now() + limit;
    loop {
        for address in addresses {
            if let Some(cluster) = hello(env, wire, address).await?.and_then(|hello| hello.cluster)
            {
                return Ok(cluster);
            }
        }
        if env.clock.now() >= deadline {
            return Err(StartError::NoContact { addresses: addresses.to_vec() });
        }
        env.clock.sleep(PAUSE).await;
    }
}

/// Asks each node once; those that do not answer are met later.
pub(crate) async fn check_seeds(
    env: &Env,
    wire: &Wire,
    addresses: &[String],
    ours: ClusterId,
) -> Result<(), StartError> {
    for address in addresses {
        let theirs = hello(env, wire, address).await?.and_then(|hello| hello.cluster);
        if let Some(theirs) = theirs.filter(|theirs| *theirs != ours) {
            return Err(StartError::Foreign { address: address.clone(), theirs, ours });
        }
    }
    Ok(())
}

/// Asks the nodes that this one knew last whether it registered since the state of its directory: then it
/// was restored from an old copy, and must not vote as if it knew what it has promised. Nodes that do not
/// answer at once, or do not know better, are no obstacle: the registration is judged too.
pub(crate) async fn check_age(env: &Env, wire: &Wire, file: &NodeFile) -> Result<(), StartError> {
    let Some(uuid) = file.uuid() else { return Ok(()) };
    let deadline = env.clock.now() + HELLO_LIMIT;
    let ask = GetMap { known: Epoch(0) };
    let questions = file.peers.iter().map(|peer| wire.call_idempotent(peer, &ask, deadline));
    for answer in join_all(questions).await {
        let map = answer.ok().and_then(|got| got.map);
        let row = map.and_then(|map| map.nodes.into_values().find(|node| node.uuid == uuid));
        let is_ours = |told: u64| file.marks.iter().any(|mark| told_mark(*mark) == told_mark(told));
        let newer = |node: &Node| node.boot > file.boot && !is_ours(node.mark);
        if let Some(node) = row.filter(|node| node.mark != 0 && newer(node)) {
            return Err(StartError::RolledBack { node: node.id, boot: node.boot, ours: file.boot });
        }
    }
    Ok(())
}

async fn hello(env: &Env, wire: &Wire, address: &str) -> Result<Option<HelloReply>, StartError> {
    let deadline = env.clock.now() + HELLO_LIMIT;
    match wire.call_idempotent(address, &Hello {}, deadline).await {
        Ok(hello) if hello.format != FORMAT_VERSION => Err(StartError::Format {
            what: format!("the node at {address}"),
            theirs: hello.format,
            ours: FORMAT_VERSION,
        }),
        Ok(hello) => Ok(Some(hello)),
        Err(e) => {
            tracing::info!(%address, error = %e, "no contact");
            Ok(None)
        }
    }
}
