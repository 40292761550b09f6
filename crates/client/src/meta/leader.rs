//! A call to the leader, tried until the deadline: redirects, rotation, and pauses with jitter.

use super::view::Asked;
use crate::client::Client;
use crate::wire::{Transport, WireError};
use everhold_proto::rpc::{GetMap, GotMap, Rpc};
use everhold_proto::{Error, Kind};
use std::time::Duration;
use tokio::time::Instant;

/// First and longest pause between tries.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(200);
/// A leader that does not answer for this long is doubted. If others name it all the same, the next try gets twice as
/// long, because a slow cluster must not be asked the same again and again; anybody else is doubted as soon as before.
const TRY_MIN: Duration = Duration::from_millis(750);
const TRY_MAX: Duration = Duration::from_secs(6);
/// Redirects followed without a pause.
const REDIRECTS_MAX: u32 = 3;

/// Whether an earlier try may have been applied although no answer came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Doubt(pub(crate) bool);

/// What to do after a failed try.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Ask whom the answer named, now.
    Follow,
    /// Pause, then ask again.
    Pause,
    /// Give the error to the caller.
    GiveUp,
}

/// How long each address is waited for, in one call.
#[derive(Debug, Default)]
struct Patience {
    /// Who was late although it was believed to lead, and how long it gets when it is named again.
    late: Option<(String, Duration)>,
}

impl Patience {
    fn with(&self, asked: &Asked) -> Duration {
        let late = self.late.as_ref().filter(|(late, _)| asked.named && *late == asked.address);
        late.map_or(TRY_MIN, |(_, limit)| *limit)
    }

    fn was_late(&mut self, asked: &Asked) {
        if asked.named {
            self.late = Some((asked.address.clone(), (self.with(asked) * 2).min(TRY_MAX)));
        }
    }
}

impl Client {
    /// Asks the leader, whoever that is by then. The request must be safe to repeat. `doubt` is raised
    /// when a try may have been applied; it is for the caller to judge when this fails.
    pub(crate) async fn ask_leader<R: Rpc>(
        &self,
        request: &R,
        deadline: Instant,
        doubt: &mut Doubt,
    ) -> Result<R::Reply, Error> {
        let clock = &self.env.clock;
        let (mut pause, mut redirects) = (PAUSE_MIN, 0);
        let mut patience = Patience::default();
        loop {
            let asked = self.view.whom_to_ask(clock.now());
            let address = asked.address.clone();
            let until = deadline.min(clock.now() + patience.with(&asked));
            let error = match self.wire.try_call(&address, request, until, true).await {
                Ok(reply) => {
                    self.view.leads(&address);
                    *self.answered.lock() = clock.now();
                    return Ok(reply);
                }
                Err(error) => error,
            };
            if error.transport() == Some(Transport::Late) {
                patience.was_late(&asked);
            }
            match self.after(&address, &error, doubt) {
                Next::GiveUp => return Err(error.into()),
                Next::Follow if redirects < REDIRECTS_MAX => redirects += 1,
                Next::Follow | Next::Pause => {
                    let wait = match &error {
                        // Never sooner than it said: whoever comes back early only adds to the load.
                        WireError::Remote(e) if let Some(asked) = e.retry_after() => {
                            asked.max(pause).mul_f64(1.0 + self.env.entropy.unit() / 2.0)
                        }
                        _ => pause.mul_f64(0.5 + self.env.entropy.unit() / 2.0),
                    };
                    if clock.now() + wait >= deadline {
                        return Err(exhausted(error.into()));
                    }
                    clock.sleep(wait).await;
                    (pause, redirects) = ((pause * 2).min(PAUSE_MAX), 0);
                }
            }
        }
    }

    /// Learns from a failed try.
    fn after(&self, address: &str, error: &WireError, doubt: &mut Doubt) -> Next {
        let now = self.env.clock.now();
        let WireError::Remote(remote) = error else {
            doubt.0 |= error.was_sent();
            self.view.failed(address, now);
            return Next::Pause;
        };
        match remote.kind {
            Kind::NotLeader => match self.view.redirected(address, remote.leader.clone(), now) {
                true => Next::Follow,
                false => Next::Pause,
            },
            Kind::Busy | Kind::Retry => Next::Pause,
            Kind::MaybeApplied | Kind::Internal => {
                doubt.0 = true;
                self.view.failed(address, now);
                Next::Pause
            }
            Kind::Fenced
            | Kind::NotFound
            | Kind::Conflict
            | Kind::Invalid
            | Kind::Corrupt
            | Kind::Full
            | Kind::Foreign => Next::GiveUp,
        }
    }

    /// Fetches the map if there is a newer one. Calls at the same time share one fetch.
    pub(crate) async fn refresh_map(&self, deadline: Instant) -> Result<(), Error> {
        let asked = self.env.clock.now();
        let mut fetched = self.view.fetching.lock().await;
        if fetched.is_some_and(|at| at >= asked) {
            return Ok(());
        }
        let begun = self.env.clock.now();
        let address = self.view.whom_to_ask(begun).address;
        let until = deadline.min(begun + TRY_MIN);
        let request = GetMap { known: self.view.epoch() };
        let reply = self.wire.try_call(&address, &request, until, true).await;
        let GotMap { map, leader } = match reply {
            Ok(reply) => reply,
            Err(error) => {
                self.view.failed(&address, self.env.clock.now());
                return Err(error.into());
            }
        };
        if leader.as_deref() != Some(&address) {
            // Not followed to get a newer map now: the background refresh asks the leader next.
            let _news = self.view.redirected(&address, leader, self.env.clock.now());
        }
        if let Some(map) = map {
            if self.identity.get().is_some_and(|cluster| cluster != map.cluster) {
                let text = format!("{address} belongs to cluster {}", map.cluster);
                return Err(Error::new(Kind::Foreign, text));
            }
            self.view.offer(map);
        }
        *fetched = Some(begun);
        Ok(())
    }
}

/// The last error, with the hint that the deadline was the end of it.
fn exhausted(last: Error) -> Error {
    let message = format!(
        "the metadata service did not answer in time; see `everhold status` (last: {})",
        last.message
    );
    Error { message, ..last }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a leader that others go on naming is waited for longer; whoever comes next is not.
    #[test]
    fn patience_is_with_the_named_leader_only() {
        let asked = |address: &str, named| Asked { address: address.into(), named };
        let mut patience = Patience::default();
        let (leader, turn, other) = (asked("a:1", true), asked("a:1", false), asked("b:1", true));
        patience.was_late(&leader);
        assert_eq!(patience.with(&leader), TRY_MIN * 2);
        assert_eq!((patience.with(&turn), patience.with(&other)), (TRY_MIN, TRY_MIN));
        (0..9).for_each(|_| patience.was_late(&leader));
        assert_eq!(patience.with(&leader), TRY_MAX);
        patience.was_late(&turn);
        assert_eq!(patience.with(&leader), TRY_MAX, "by turns says nothing about a leader");
        patience.was_late(&other);
        assert_eq!(patience.with(&leader), TRY_MIN);
    }
}
