//! Ctrl-C and SIGTERM as a future, so that every command can clean up and then end with 130.

use crate::exit::{CliError, CliResult, Exit};
use std::future::Future;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The two signals that ask a program to end.
pub(crate) struct Interrupt {
    ctrl_c: Signal,
    terminate: Signal,
}

impl Interrupt {
    /// From now on the signals no longer end the program by themselves.
    pub(crate) fn listen() -> CliResult<Self> {
        let install = |kind| signal(kind).map_err(|e| CliError::local("signal handler", &e));
        Ok(Interrupt {
            ctrl_c: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    /// Waits for either.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Runs `work` until it ends or the program is asked to end; then it is dropped, and whoever owns
    /// what it used cleans up.
    pub(crate) async fn guard<T>(
        &mut self,
        work: impl Future<Output = CliResult<T>>,
    ) -> CliResult<T> {
        tokio::select! {
            result = work => result,
            () = self.wait() => Err(CliError::new(
                Exit::Interrupted,
                "interrupted",
                "nothing is left running; start it again when you like",
            )),
        }
    }
}
