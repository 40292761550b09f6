//! Ports to the world: clock, network, disk, entropy and tasks, with the real ones and the
//! simulated ones. Every other crate reaches the world through an [`Env`], so that a whole cluster
//! runs unchanged in a deterministic simulator.
//!
//! **Invariant:** no other crate calls `Instant::now`, opens a socket or a file of the data path,
//! draws randomness or spawns a thread by itself.

mod buffer;
mod clock;
pub mod disk;
mod entropy;
mod gate;
pub mod net;
mod tasks;
mod witness;

pub use buffer::{ALIGNMENT, AlignedBuf};
pub use clock::{Clock, DeadlineExceeded, Rate};
pub use disk::{Disk, File, OpenMode};
pub use entropy::Entropy;
pub use gate::{Gate, Passing};
pub use net::{Listener, Net, Network, NetworkListener, NetworkStream, Stream};
pub use tasks::{RaftRuntime, Task, Tasks};
pub use witness::{Witness, Witnesses};

use std::sync::Arc;

/// All ports of one process (or one simulated host). Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// TCP.
    pub net: Net,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Background work.
    pub tasks: Tasks,
    /// Whoever looks on.
    pub witness: Witnesses,
}

impl Env {
    /// The real world.
    pub fn real() -> Self {
        Env {
            clock: Clock::real(),
            entropy: Entropy::real(),
            net: Net::real(),
            disk: Arc::new(disk::RealDisk::new()),
            tasks: Tasks::real(),
            witness: Witnesses::none(),
        }
    }
}
