//! Known mistakes, compiled in on request, to see whether the simulator finds them: a checker that
//! never fails proves nothing.
//!
//! **Invariant:** without the feature `planted`, which no crate of the product enables, [`has`] is a
//! constant `false` and nothing of this is in a program.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

macro_rules! bugs {
    ($($(#[$doc:meta])* $bug:ident = $name:literal,)*) => {
        /// A mistake that someone could make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[$doc])* $bug,)* }

        impl Bug {
            /// All of them.
            pub const ALL: [Bug; [$($name),*].len()] = [$(Bug::$bug),*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Bug::$bug => $name,)* }
            }
        }
    };
}

bugs! {
    /// A block is acknowledged before it is synced.
    AckBeforeSync = "ack-before-sync",
    /// The Raft log reports entries as flushed before they are synced.
    LogAckBeforeSync = "log-ack-before-sync",
    /// An acknowledgement of an earlier disk session counts.
    OldSessionAck = "old-session-ack",
    /// One acknowledgement is enough for a commit.
    QuorumOfOne = "quorum-of-one",
    /// A commit does not record the copies that it lacks.
    MissingNotRecorded = "missing-not-recorded",
    /// What a peer does not have is taken for not needed when a disk is compared.
    TrustPeerListing = "trust-peer-listing",
    /// A registration does not end completeness.
    RegistrationKeepsCompleteness = "registration-keeps-completeness",
    /// A `leave` counts members that are complete but lack copies.
    LeaveCountsComplete = "leave-counts-complete",
    /// A repair that is reported late clears a newer record.
    LateRepairDone = "late-repair-done",
    /// A permission to delete outlives the disk's return to the placement group.
    DeleteAfterRejoin = "delete-after-rejoin",
    /// A block that is not in the table is deleted although it may still be committed.
    DeleteWithoutFloor = "delete-without-floor",
    /// A member that goes Out is not kept as a source.
    ForgetFormer = "forget-former",
    /// A disk that left deletes its copies before the others are whole.
    DeleteBeforeVerified = "delete-before-verified",
    /// A change planned on an old generation of a placement group applies.
    OldGenerationPlan = "old-generation-plan",
    /// The log is purged beyond what the state machine holds durably.
    PurgePastDurable = "purge-past-durable",
    /// A snapshot lacks the sessions.
    SnapshotWithoutSessions = "snapshot-without-sessions",
    /// A snapshot lacks the records of missing copies.
    SnapshotWithoutMissing = "snapshot-without-missing",
    /// A client uses a block id again.
    ReuseBlockId = "reuse-block-id",
    /// A block is served and taken without its checksum.
    ServeUnverified = "serve-unverified",
    /// A read takes one part of a file from one version and the rest from another.
    MixVersions = "mix-versions",
    /// A request whose answer is kept is executed again.
    ExecuteTwice = "execute-twice",
    /// A request whose number fell out of the window is executed again.
    ExecuteForgotten = "execute-forgotten",
    /// The brake also stops the copying of last copies.
    BrakeStopsLastCopy = "brake-stops-last-copy",
    /// A restarted leader goes on in its old term.
    LeaderRestore = "leader-restore",
    /// An answer does not wait for the caches that can show what was before.
    AnswerBeforeAck = "answer-before-ack",
    /// A directory that a client holds is changed by, and shown to, everybody.
    IgnoreDelegations = "ignore-delegations",
    /// What was done behind a delegation counts after its end.
    TellUnfenced = "tell-unfenced",
    /// What one file lost is told to whoever asks first.
    OneErrorForAll = "one-error-for-all",
    /// After a change that was refused the rest of what was done behind a delegation takes effect.
    BatchGoesOn = "batch-goes-on",
    /// A version that was lost is given to other content.
    VersionReused = "version-reused",
    /// A delegation ends after a short silence although its holder has changes that the cluster does not know.
    DirtyRevoked = "dirty-revoked",
    /// Open files are not registered again with the session that replaces a lost one.
    HandleNotRegisteredAgain = "handle-not-registered-again",
    /// Who lost a lock with its session goes on as if it had it.
    LostLockUnnoticed = "lost-lock-unnoticed",
    /// A new leader counts the age of each session from its own beginning.
    SessionAgeReset = "session-age-reset",
    /// A commit in doubt is made again over whatever the file is by then.
    RecommitWithoutVersion = "recommit-without-version",
}

/// Which one is planted: its place in [`Bug::ALL`] plus one.
static PLANTED: AtomicUsize = AtomicUsize::new(0);

/// Plants a bug in this process, if the program was built for it.
pub fn plant(bug: Bug) {
    PLANTED.store(bug as usize + 1, Relaxed);
}

/// Whether this bug is planted.
#[inline(always)]
pub fn has(bug: Bug) -> bool {
    cfg!(feature = "planted") && PLANTED.load(Relaxed) == bug as usize + 1
}
