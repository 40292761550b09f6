use super::*;
use everhold_proto::command::MapCommand;
use everhold_proto::fs::{FsAnswer, FsOp, FsQuery, FsReply, Name, NewKind, Owner};
use everhold_proto::fs::{SessionBatch, SessionRequest};
use everhold_proto::kv::{MemKv, get_row};
use everhold_proto::map::{Labels, Policy};
use everhold_proto::tables::{self, Header};
use everhold_proto::{ClusterId, InodeId, NodeId, PolicyId, SessionId, Stamp, Timestamp};

/// A state machine fed by hand.
struct Machine {
    kv: MemKv,
    index: u64,
}

impl Machine {
    fn created() -> Self {
        let mut machine = Machine { kv: MemKv::default(), index: 0 };
        assert_eq!(machine.apply(create()), Answer::Done);
        machine
    }

    fn apply(&mut self, command: Command) -> Answer {
        let stamp = Stamp { log_ms: self.index * 10, wall: Timestamp(1) };
        self.apply_bytes(&codec::encode(&Stamped { stamp, command }))
    }

    fn apply_bytes(&mut self, bytes: &[u8]) -> Answer {
        self.index += 1;
        let answer = ClusterState.apply(&mut self.kv, LogIndex(self.index), bytes);
        codec::decode(&answer.expect("the store works")).expect("an answer")
    }

    fn header(&self) -> Header {
        get_row(&self.kv, &tables::header()).expect("a row").unwrap_or_default()
    }
}

fn create() -> Command {
    let policy = Policy::replicated(PolicyId(0), "default", 3);
    Command::Create { cluster: ClusterId([7; 16]), policy }
}

fn create_file(name: &'static str) -> FsOp {
    FsOp::Create {
        parent: InodeId::ROOT,
        name: Name::new(name).expect("a name"),
        kind: NewKind::File,
        owner: Owner { uid: 0, gid: 0, mode: 0o644, umask: 0 },
        open: false,
    }
}

fn kind(answer: &Answer) -> Option<Kind> {
    match answer {
        Answer::Refused(error) => Some(error.kind),
        _ => None,
    }
}

/// Creating makes a cluster with a root directory, once.
#[test]
fn a_cluster_is_created_once() {
    let mut machine = Machine::created();
    let root = namespace::query(&machine.kv, &FsQuery::Attr { inode: InodeId::ROOT });
    assert!(matches!(root, Ok(Ok(FsAnswer::Attr(_)))), "{root:?}");
    assert_eq!(machine.header().cluster, ClusterId([7; 16]));
    let before = machine.kv.clone();
    assert_eq!(kind(&machine.apply(create())), Some(Kind::Conflict));
    let mut after = machine.kv.clone();
    let header = tables::header();
    after.0.insert(header.clone(), before.0[&header].clone());
    assert_eq!(after, before, "a refusal changes nothing but log time");
}

/// Bytes that are no command are refused and change nothing; nothing panics.
#[test]
fn hostile_commands_are_refused() {
    let mut machine = Machine::created();
    let before = machine.kv.clone();
    let valid = codec::encode(&Stamped { stamp: Stamp::default(), command: create() });
    for cut in 0..valid.len() {
        assert_eq!(kind(&machine.apply_bytes(&valid[..cut])), Some(Kind::Invalid));
    }
    assert_eq!(kind(&machine.apply_bytes(&[0xff; 64])), Some(Kind::Invalid));
    assert_eq!(machine.kv, before);
}

/// Map, session and file commands reach their halves, and log time never goes back.
#[test]
fn commands_reach_their_halves() {
    let mut machine = Machine::created();
    let (address, labels) = ("a:1".into(), Labels::default());
    let register = MapCommand::RegisterNode { uuid: [1; 16], address, labels, marks: Vec::new() };
    assert_eq!(machine.apply(Command::Map(register)), Answer::Node { node: NodeId(1), boot: 1 });
    let open = Command::OpenSession { client: "c".into(), follows: false, nonce: 7 };
    let Answer::Session(session) = machine.apply(open) else {
        panic!("no session");
    };
    assert_eq!(session, SessionId((7 << 32) | machine.index));
    let requests = vec![SessionRequest::new(1, create_file("f"))];
    let batch = SessionBatch { session, acked_below: 1, floor: 0, requests };
    let first = machine.apply(Command::Fs(batch.clone()));
    let Answer::Fs { results, first, next } = first else { panic!("{first:?}") };
    assert!(matches!(results[..], [Ok(FsReply::Attr(_))]), "{results:?}");
    assert_eq!(next, first + 1, "one record tells of it");
    let again = Answer::Fs { results, first: next, next };
    assert_eq!(
        machine.apply(Command::Fs(batch.clone())),
        again,
        "a repeated request is not repeated"
    );
    let requests = [batch.requests, vec![SessionRequest::new(2, create_file("g"))]].concat();
    let answer = machine.apply(Command::Fs(SessionBatch { requests, ..batch }));
    let Answer::Fs { results, first, next: later } = answer else { panic!("{answer:?}") };
    assert!(matches!(results[..], [Ok(FsReply::Attr(_)), Ok(FsReply::Attr(_))]), "{results:?}");
    assert_eq!(
        (first, later),
        (next + 1, next + 1),
        "an old answer says nothing of what came since"
    );
    assert_eq!(machine.apply(Command::EndSession { session }), Answer::Done);
    let renew = Command::RenewSession { session, acked_below: 1, floor: 0 };
    assert_eq!(kind(&machine.apply(renew)), Some(Kind::NotFound));
    let sweep = Command::Table(TableCommand::Sweep { limit: 10 });
    assert!(matches!(machine.apply(sweep), Answer::Swept(_)));
    let log_ms = machine.header().log_ms;
    let stale = Stamped { stamp: Stamp::default(), command: create() };
    machine.apply_bytes(&codec::encode(&stale));
    assert_eq!(machine.header().log_ms, log_ms);
}
