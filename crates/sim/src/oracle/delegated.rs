//! Probes of what is promised of changes that were made behind delegations (ADR 0013): of chained requests a prefix takes
//! effect, a version that may be lost is not given again, and what comes after the end of a delegation is fenced.

use super::Inner;
use everhold_proto::command::{Answer, Command};
use everhold_proto::fs::{
    Behind, FsError, FsOp, FsReply, Name, SessionBatch, SessionRequest, SetAttr,
};
use everhold_proto::kv::{MemKv, prefix_end};
use everhold_proto::tables::{Key, Table};
use everhold_proto::{InodeId, LogIndex, SessionId, Timestamp};

impl Inner {
    /// Asks both of a copy of the state, in the name of the session that a batch was of.
    pub(super) fn probe_delegated(&mut self, index: LogIndex, batch: &SessionBatch) {
        let Some(last) = batch.requests.iter().map(|request| request.request).max() else { return };
        // Later ones may have been carried out before: batches overtake each other.
        let from = last.max(self.last_answer(batch.session)) + 1;
        self.probe_chain(index, batch, from);
        self.probe_versions(index, batch, from);
    }

    /// The highest number of a request of a session whose answer is kept; 0: there is none.
    fn last_answer(&self, session: SessionId) -> u64 {
        let of = Key::new(Table::KeptAnswer).u64(session.0).done();
        let kept = self.replica.kv.0.range(of.clone()..prefix_end(&of)).next_back();
        let number = kept.and_then(|(key, _)| Some(*key.get(of.len()..)?.first_chunk()?));
        number.map_or(0, u64::from_be_bytes)
    }

    /// After a chained request that fails none is carried out.
    fn probe_chain(&mut self, index: LogIndex, batch: &SessionBatch, from: u64) {
        let Ok(name) = Name::new(&b"a name that nobody gives"[..]) else { return };
        let absent = FsOp::Unlink { parent: InodeId::ROOT, name, linger: false };
        let requests = [absent, touch_root()].into_iter().zip(from..).map(|(op, number)| {
            SessionRequest { chained: true, ..SessionRequest::new(number, op) }
        });
        let chain = SessionBatch { requests: requests.collect(), ..batch.clone() };
        let answer = self.ask(&mut self.replica.kv.clone(), Command::Fs(chain));
        let Some(Answer::Fs { results, .. }) = answer else { return };
        let failed = results.first().is_some_and(|first| *first == Err(FsError::NotFound));
        if failed && results.get(1).is_some_and(|second| *second != Err(FsError::Skipped)) {
            let detail =
                format!("after {index}, what follows a failed request would be: {results:?}");
            self.violate("rule_a_prefix_takes_effect", detail, None);
        }
    }

    /// When a delegation ends irregularly, the next version is none that its holder may have given.
    fn probe_versions(&mut self, index: LogIndex, batch: &SessionBatch, from: u64) {
        let mut state = self.replica.kv.clone();
        let inode = InodeId::ROOT;
        let delegate = FsOp::Delegate { inode };
        let Some(held) = self.version_after(&mut state, batch, from, delegate) else { return };
        let revoke = Command::Revoke { inode, session: batch.session };
        if self.ask(&mut state, revoke) != Some(Answer::Done) {
            return;
        }
        self.probe_fence(index, &mut state.clone(), batch, from + 1);
        let Some(next) = self.version_after(&mut state, batch, from + 1, touch_root()) else {
            return;
        };
        if next <= held + 1 {
            let detail = format!(
                "after {index}, {} could have shown version {next} of {inode} and lost it, and it is given again",
                batch.session
            );
            self.violate("rule_a_version_is_one_content", detail, None);
        }
    }

    /// What was done behind a delegation that has ended counts no more.
    fn probe_fence(&mut self, index: LogIndex, state: &mut MemKv, batch: &SessionBatch, from: u64) {
        let behind = Some(Behind { at: Timestamp(0), inode: None });
        let told = SessionRequest { behind, ..SessionRequest::new(from, touch_root()) };
        let one = SessionBatch { requests: vec![told], ..batch.clone() };
        let Some(Answer::Fs { results, .. }) = self.ask(state, Command::Fs(one)) else { return };
        if results.first().is_some_and(Result::is_ok) {
            let detail = format!(
                "after {index}, what {} did behind a delegation that has ended would count",
                batch.session
            );
            self.violate("rule_what_comes_late_is_fenced", detail, None);
        }
    }

    /// The version of the root after one request; `None`: it was refused, because somebody else holds it, say.
    fn version_after(
        &self,
        state: &mut MemKv,
        batch: &SessionBatch,
        number: u64,
        op: FsOp,
    ) -> Option<u64> {
        let requests = vec![SessionRequest::new(number, op)];
        let one = SessionBatch { requests, ..batch.clone() };
        match self.ask(state, Command::Fs(one))? {
            Answer::Fs { results, .. } => match results.first() {
                Some(Ok(FsReply::Attr(attr))) => Some(attr.version),
                _ => None,
            },
            _ => None,
        }
    }
}

fn touch_root() -> FsOp {
    FsOp::SetAttr { inode: InodeId::ROOT, set: SetAttr { mode: Some(0o755), ..SetAttr::default() } }
}
