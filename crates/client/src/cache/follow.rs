//! The task that keeps the cache: one `Follow` call under way all the time.

use super::held::News;
use super::{Cache, Invalidate};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::meta::Doubt;
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::rpc::Follow;
use everhold_proto::{Error, Kind};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The leader is asked to wait so long for a record. Leases of half a second are renewed four times each, so
/// that round trips of up to an eighth of a second leave no gap.
const WAIT: Duration = Duration::from_millis(100);
/// A lease is used for so much less than it lasts: clocks may differ by a tenth in their rate.
const MARGIN: Duration = Duration::from_millis(50);
/// One round, with whom to ask found anew in between; the lease has ended by then.
const ROUND_LIMIT: Duration = Duration::from_millis(750);
/// After a round that failed, with as much again as jitter.
const PAUSE_MS: u64 = 20;

impl Client {
    /// Lets `hook` hear what the cache forgets. Once in a client's life, and before anything is copied out of
    /// the cache; `Invalid` otherwise, and for a client that does not follow.
    pub fn on_invalidate(&self, hook: Arc<dyn Invalidate>) -> Result<()> {
        let refused = |text| ClientError::new(Kind::Invalid, text);
        let cache = self.cache.as_ref().ok_or_else(|| refused("this client does not follow"))?;
        cache.hook.set(hook).map_err(|_| refused("somebody is told already"))
    }
}

/// Runs for the life of the client.
pub(crate) async fn run(client: Weak<Client>, cache: Arc<Cache>) {
    while let Some(client) = client.upgrade() {
        if let Err(e) = round(&client, &cache).await {
            tracing::debug!(error = %e, "the change feed was not followed");
            let pause = PAUSE_MS + client.env.entropy.below(PAUSE_MS);
            client.env.clock.sleep(Duration::from_millis(pause)).await;
        }
    }
}

/// Asks for records, applies them, tells of them, and only then has a longer lease. The next round
/// acknowledges.
async fn round(client: &Arc<Client>, cache: &Arc<Cache>) -> Result<(), Error> {
    let sent = client.env.clock.now();
    let session = client.session();
    let cursor = cache.held.lock().cursor();
    let request = Follow {
        session: session.id,
        from: cursor,
        acked_below: cursor,
        limit: PAGE_ENTRIES_MAX as u32,
        wait_ms: WAIT.as_millis() as u32,
        // Without delegations there is nothing that could be lost.
        activity: client.behind.as_ref().map_or(0, |behind| behind.activity(sent)),
        presence: client.presence.port(),
    };
    let deadline = sent + ROUND_LIMIT;
    let followed = match client.ask_leader(&request, deadline, &mut Doubt::default()).await {
        Err(e) if e.kind == Kind::NotFound => {
            return client.replace_session(&session, client.deadline()).await;
        }
        answer => answer?,
    };
    let news = cache.held.lock().apply(&followed, session.id);
    if let Some(behind) = &client.behind {
        behind.heard(&followed, session.id, client.env.clock.now());
    }
    tell(client, cache, news).await;
    let lease = Duration::from_millis(followed.lease_ms.into()).saturating_sub(MARGIN);
    if !lease.is_zero() {
        cache.held.lock().extend(sent + lease);
    }
    Ok(())
}

async fn tell(client: &Client, cache: &Cache, news: News) {
    // What others changed may have lost its name.
    news.inodes.keys().for_each(|inode| client.may_lose_name(*inode));
    let Some(hook) = cache.hook.get().filter(|_| !news.is_empty()).cloned() else { return };
    // No deadline: while it hangs nothing is acknowledged and the lease ends.
    client.env.tasks.blocking(move || pass_on(&*hook, &news)).await;
}

fn pass_on(hook: &dyn Invalidate, news: &News) {
    if news.everything {
        hook.everything();
    }
    for (inode, known) in &news.directories {
        hook.directory(*inode, *known);
    }
    for (inode, content) in &news.inodes {
        hook.inode(*inode, *content);
    }
    for (parent, name) in &news.entries {
        hook.entry(*parent, name);
    }
}
