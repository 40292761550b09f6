//! What must be there before the workloads begin.

use super::content;
use super::plan::WorkloadPlan;
use crate::history::{Tag, Value};
use bytes::Bytes;
use everhold_client::{Client, ClientError, CreateOptions};
use std::sync::Arc;
use std::time::Duration;

/// Tries before the set-up fails: nothing is broken on purpose yet.
const TRIES_MAX: u32 = 20;
/// Pause between them.
const PAUSE: Duration = Duration::from_millis(200);

/// Creates the directories, the empty logs and the files of slots. It may be repeated: what is there
/// stays as it is, and a late repetition changes nothing.
pub async fn setup(client: &Arc<Client>, plan: &WorkloadPlan) -> Result<(), ClientError> {
    let mut tries = 0;
    loop {
        match set_up(client, plan).await {
            Err(e) if tries == TRIES_MAX => return Err(e),
            Err(_) => client.env().clock.sleep(PAUSE).await,
            Ok(()) => return Ok(()),
        }
        tries += 1;
    }
}

async fn set_up(client: &Arc<Client>, plan: &WorkloadPlan) -> Result<(), ClientError> {
    let directories = [
        plan.file_objects(),
        plan.rename_objects(),
        plan.lock_objects(),
        plan.tree_objects(),
        plan.desk_objects(),
    ];
    client.mkdir_all(&plan.root, 0o755).await?;
    for object in directories.iter().flatten() {
        client.mkdir_all(plan.path(object, None), 0o755).await?;
    }
    for object in plan.log_objects().into_iter().chain(plan.counter_objects()) {
        put_new(client, &plan.path(&object, None), Bytes::new()).await?;
    }
    for (object, size) in plan.slots_objects() {
        let slots = (0..plan.slots).map(|_| Value { tag: Tag::INITIAL, size });
        put_new(client, &plan.path(&object, None), content::make_all(slots)).await?;
    }
    Ok(())
}

async fn put_new(client: &Arc<Client>, path: &str, data: Bytes) -> Result<(), ClientError> {
    let options = CreateOptions { replace: false, ..CreateOptions::default() };
    match client.put(path, data, options).await {
        Err(e) if !e.is_exists() => Err(e),
        _ => Ok(()),
    }
}
