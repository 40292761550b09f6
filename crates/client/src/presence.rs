//! The sign that this process is there: a port that takes connections and closes them.
//!
//! The kernel takes connections for a process that is stopped or starved, too, and refuses them once it has ended. So the
//! leader can tell a mount that is slow, whose changes are waited for, from one that is gone.

use everhold_env::{Clock, Listener, Net};
use std::sync::OnceLock;
use std::time::Duration;

/// After a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Where this process can be connected to.
#[derive(Debug, Default)]
pub(crate) struct Presence(OnceLock<u16>);

impl Presence {
    /// The port; `None` before there is one, and where none can be had.
    pub(crate) fn port(&self) -> Option<u16> {
        self.0.get().copied()
    }

    /// Begins to listen. Without a port, others wait for the end of the session when this process is gone.
    pub(crate) async fn begin(&self, net: &Net) -> Option<Listener> {
        let listening = net.listen("0.0.0.0:0").await.and_then(|listener| {
            let port = listener.local_addr()?.port();
            Ok((listener, port))
        });
        match listening {
            Ok((listener, port)) => {
                self.0.get_or_init(|| port);
                Some(listener)
            }
            Err(e) => {
                tracing::warn!(error = %e, "no port can be had by which others see that this process is there");
                None
            }
        }
    }
}

/// Takes connections and closes them, for the life of the client.
pub(crate) async fn run(listener: Listener, clock: Clock) {
    loop {
        if let Err(e) = listener.accept().await {
            tracing::debug!(error = %e, "a connection was not taken");
            clock.sleep(PAUSE).await;
        }
    }
}
