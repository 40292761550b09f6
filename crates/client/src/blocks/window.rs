//! How many blocks this client has under way: as many as end in good time. More would only wait on the servers, where
//! they cost everybody something; here a block that waits costs nothing (see [`crate::Admission`]).

use crate::admission::{Admission, AdmissionConfig, LimitConfig, Place};
use crate::health::Class;
use everhold_env::Env;
use everhold_proto::{Error, Kind, Priority};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Small blocks: group commit makes many at once cheap, and nobody feels a tenth of a second.
const SMALL: LimitConfig = LimitConfig {
    start: 32,
    min: 8,
    max: 1024,
    target: Duration::from_millis(100),
    tolerance: 2.0,
};
/// Large ones are bounded by memory before (`ClientOptions::buffers`).
const LARGE: LimitConfig =
    LimitConfig { start: 32, min: 8, max: 256, target: Duration::from_millis(500), tolerance: 2.0 };
/// Operations that wait: more than the applications of one machine have at a time.
const WAITING_MAX: usize = 16 << 10;
/// The deadline of the operation comes long before.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// See the module's words.
pub(crate) struct Window(Option<[Arc<Admission>; 2]>);

impl Window {
    /// Without protection, everything begins at once.
    pub(crate) fn new(env: &Env, protected: bool) -> Self {
        let of = |what, limit| {
            let (waiting_max, wait_max) = (WAITING_MAX, WAIT_MAX);
            Admission::new(env, AdmissionConfig { what, limit, waiting_max, wait_max })
        };
        Window(protected.then(|| [of("small blocks", SMALL), of("large blocks", LARGE)]))
    }

    /// Waits for a place; `None`: nothing is bounded.
    pub(crate) async fn enter(
        &self,
        class: Class,
        deadline: Instant,
    ) -> Result<Option<Place>, Error> {
        let Some(admission) = self.of(class) else { return Ok(None) };
        admission.enter(Priority::Foreground, deadline).await.map(Some).map_err(|_| {
            Error::new(Kind::Retry, "this client has more under way than ends in time")
        })
    }

    /// A server refused a block.
    pub(crate) fn refused(&self, class: Class) {
        if let Some(admission) = self.of(class) {
            admission.refused();
        }
    }

    fn of(&self, class: Class) -> Option<&Arc<Admission>> {
        let [small, large] = self.0.as_ref()?;
        Some(match class {
            Class::PutSmall | Class::GetSmall => small,
            Class::PutLarge | Class::GetLarge => large,
        })
    }
}
