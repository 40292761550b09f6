//! How a mount behaves.

use std::time::Duration;

/// What an operation does when the cluster does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLoss {
    /// It waits, as on a hard-mounted network file system, up to [`OnLoss::deadline`].
    #[default]
    Wait,
    /// It fails with EIO after half a minute.
    Error,
}

impl OnLoss {
    /// How long an operation tries.
    pub fn deadline(self) -> Duration {
        match self {
            OnLoss::Wait => Duration::from_secs(15 * 60),
            OnLoss::Error => Duration::from_secs(30),
        }
    }
}

/// Options of a mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What `df` and `mount` show as the source.
    pub source: String,
    /// Refuse changes.
    pub read_only: bool,
    /// Only the user who mounted may use it; else everybody, by the files' permissions.
    pub private: bool,
    /// Threads that take requests from the kernel.
    pub threads: usize,
    /// Whether device nodes and set-id bits work.
    pub dev_suid: bool,
    /// No program is started from it.
    pub no_exec: bool,
    /// Each write is durable before it is answered. Names are, too, if the client does not write behind.
    pub sync: bool,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            source: "everhold".into(),
            read_only: false,
            private: false,
            threads: 2,
            dev_suid: false,
            no_exec: false,
            sync: false,
        }
    }
}
