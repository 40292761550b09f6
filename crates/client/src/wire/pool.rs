//! Idle connections, kept per address up to a bound and for a bounded time.

use super::connection::Connection;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections kept to one address: as many as one client's blocks and calls under way at once.
const IDLE_PER_ADDRESS_MAX: usize = 32;
/// Shorter than the time after which servers close idle connections.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Pool(Mutex<BTreeMap<String, Vec<Idle>>>);

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Pool {
    /// The connection used last, because it is the least likely to have gone stale.
    pub(super) fn take(&self, address: &str, now: Instant) -> Option<Connection> {
        loop {
            let idle = {
                let mut all = self.0.lock();
                let list = all.get_mut(address)?;
                let idle = list.pop();
                if list.is_empty() {
                    all.remove(address);
                }
                idle?
            };
            let mut connection = idle.connection;
            if now.saturating_duration_since(idle.since) < IDLE_LIMIT && connection.is_alive() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose last call ended well. Expired ones leave on the way.
    pub(super) fn give_back(&self, address: &str, connection: Connection, now: Instant) {
        let mut expired = Vec::new();
        let mut all = self.0.lock();
        if !all.contains_key(address) {
            // A new address is rare: the time to look at the others.
            all.retain(|_, list| {
                expired.append(&mut take_expired(list, now));
                !list.is_empty()
            });
        }
        let list = all.entry(address.to_string()).or_default();
        expired.append(&mut take_expired(list, now));
        if list.len() < IDLE_PER_ADDRESS_MAX {
            list.push(Idle { connection, since: now });
        }
        drop(all); // sockets close outside the lock
    }
}

/// The list is in the order of `since`.
fn take_expired(list: &mut Vec<Idle>, now: Instant) -> Vec<Idle> {
    let expired = |idle: &Idle| now.saturating_duration_since(idle.since) >= IDLE_LIMIT;
    let count = list.partition_point(expired);
    list.drain(..count).collect()
}
