//! A client that is gone in the middle of its writes: it has a runtime of its own, which is thrown away
//! with all its tasks and connections. Nothing is closed, no session ended, no file finished.

use crate::real::recorded::Guest;
use anyhow::{Result, ensure};
use bytes::Bytes;
use everhold_client::{Client, ClientOptions, CreateOptions};
use everhold_env::Env;
use futures_util::future::join;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};

/// Pause between its writes: it is to have something under way, not to fill the disks.
const PAUSE: Duration = Duration::from_millis(100);
const PIECE: usize = 1 << 20;

/// The client while it is there.
pub(crate) struct Vanishing {
    runtime: Option<Runtime>,
    written: Arc<AtomicU64>,
    guest: Arc<Guest>,
}

impl Vanishing {
    /// Starts it; it writes one file without end, and does what the guest does.
    pub(crate) fn start(addresses: Vec<String>, salt: u64, guest: Guest) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let written = Arc::new(AtomicU64::new(0));
        let (counter, guest) = (written.clone(), Arc::new(guest));
        let present = guest.clone();
        // It runs until its runtime is gone.
        drop(runtime.spawn(async move {
            let options =
                ClientOptions { name: "faults: vanishing".into(), ..ClientOptions::default() };
            let client = match Client::connect(Env::real(), &addresses, options).await {
                Ok(client) => client,
                Err(e) => return tracing::info!(error = %e, "the client is not connected"),
            };
            let writing = write_for_ever(&client, Self::path(salt), counter);
            let (ended, ()) = join(writing, present.work(client.clone())).await;
            if let Err(e) = ended {
                tracing::info!(error = %e, "the client ended before it vanished");
            }
        }));
        Ok(Vanishing { runtime: Some(runtime), written, guest })
    }

    /// The file that it never finishes: nobody may ever see it.
    pub(crate) fn path(salt: u64) -> String {
        format!("/vanished/{salt:016x}")
    }

    /// It is gone. Fails when it had not written anything.
    pub(crate) fn vanish(mut self) -> Result<()> {
        self.end();
        ensure!(
            self.written.load(Ordering::Relaxed) > 0,
            "the client wrote nothing before it vanished"
        );
        Ok(())
    }

    fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
            self.guest.is_gone();
        }
    }
}

impl Drop for Vanishing {
    fn drop(&mut self) {
        self.end(); // a runtime must not be dropped where it would wait
    }
}

async fn write_for_ever(
    client: &Arc<Client>,
    path: String,
    written: Arc<AtomicU64>,
) -> Result<(), everhold_client::ClientError> {
    client.mkdir_all("/vanished", 0o755).await?;
    let mut writer = client.create(&path, CreateOptions::default()).await?;
    loop {
        writer.write_bytes(Bytes::from(vec![0x5a; PIECE])).await?;
        written.fetch_add(PIECE as u64, Ordering::Relaxed);
        client.env().clock.sleep(PAUSE).await;
    }
}
