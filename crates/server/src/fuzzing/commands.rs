//! Commands applied to the replicated state of a small cluster.

use crate::state::ClusterState;
use everhold_cluster::reads;
use everhold_consensus::StateMachine;
use everhold_namespace as namespace;
use everhold_proto::command::{Answer, Command, MapCommand, Stamped};
use everhold_proto::fs::{FsOp, FsQuery, Name, NewKind, Owner, SessionBatch, SessionRequest};
use everhold_proto::fuzzing::{found, sequence};
use everhold_proto::kv::MemKv;
use everhold_proto::map::{Labels, Policy};
use everhold_proto::{
    ClusterId, DiskId, InodeId, LogIndex, PolicyId, SessionId, Stamp, Timestamp, codec,
};

/// Bounds the time that one run takes.
const COMMANDS_MAX: usize = 64;
const NODES: u8 = 3;

/// Applies the commands that the input encodes, one after another, to a cluster of three nodes with a
/// placement group, a session and a file. Each is answered; none panics or fails the store.
pub fn apply_commands(bytes: &[u8]) {
    let mut machine = Machine::prepared();
    for stamped in sequence::<Stamped>(bytes, COMMANDS_MAX) {
        machine.apply(&stamped);
    }
    machine.ask();
}

struct Machine {
    kv: MemKv,
    index: u64,
}

impl Machine {
    /// Ids are small, as in the samples: what refers to them often hits.
    fn prepared() -> Self {
        let mut machine = Machine { kv: MemKv::default(), index: 0 };
        let policy = Policy::replicated(PolicyId(0), "default", 2);
        machine.run(Command::Create { cluster: ClusterId([7; 16]), policy });
        let opened =
            machine.run(Command::OpenSession { client: "c".into(), follows: true, nonce: 0 });
        assert_eq!(opened, Answer::Session(SessionId(2)));
        for number in 1..=NODES {
            let (address, labels) = (format!("a:{number}"), Labels::default());
            let uuid = [number; 16];
            machine.run(Command::Map(MapCommand::RegisterNode {
                uuid,
                address,
                labels,
                marks: Vec::new(),
            }));
            machine.run(Command::Map(MapCommand::RegisterDisk {
                uuid,
                disk: None,
                node: everhold_proto::NodeId(number.into()),
                capacity_bytes: 1 << 30,
                used_bytes: 0,
            }));
        }
        let members = vec![vec![DiskId(1), DiskId(2)], vec![DiskId(2), DiskId(3)]];
        let policy = PolicyId(0);
        let create = MapCommand::CreatePgs { policy, members, existing: 0 };
        assert_eq!(machine.run(Command::Map(create)), Answer::Done);
        let file = FsOp::Create {
            parent: InodeId::ROOT,
            name: Name::new(&[1][..]).expect("a name"),
            kind: NewKind::File,
            owner: Owner { uid: 0, gid: 0, mode: 0o644, umask: 0 },
            open: true,
        };
        let requests = vec![SessionRequest::new(1, file)];
        let batch = SessionBatch { session: SessionId(2), acked_below: 1, floor: 0, requests };
        machine.run(Command::Fs(batch));
        machine
    }

    fn run(&mut self, command: Command) -> Answer {
        self.apply(&Stamped { stamp: Stamp { log_ms: self.index, wall: Timestamp(1) }, command })
    }

    fn apply(&mut self, stamped: &Stamped) -> Answer {
        self.index += 1;
        let bytes = codec::encode(stamped);
        let answer = ClusterState.apply(&mut self.kv, LogIndex(self.index), &bytes);
        codec::decode(&answer.expect("the store works")).expect("an answer decodes")
    }

    /// What was written can be read.
    fn ask(&self) {
        reads::load_map(&self.kv).expect("the map's rows decode");
        namespace::usage(&self.kv).expect("the header decodes");
        for inode in (1..6).map(InodeId) {
            for query in [
                FsQuery::Attr { inode },
                FsQuery::ReadDir { inode, after: None, limit: 100 },
                FsQuery::Extents { inode, from: 0, to: u64::MAX, limit: 100 },
                FsQuery::ReadLink { inode },
                FsQuery::ListXattr { inode },
            ] {
                let _ = namespace::query(&self.kv, &query).expect("the tree's rows decode");
            }
        }
    }
}

/// Single commands of every kind, and a session's life.
pub fn samples_of_commands(count: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|seed| {
            let few = (0..4).filter_map(|n| found::<Stamped>(100 * seed + n));
            few.flat_map(|stamped| codec::encode(&stamped)).collect()
        })
        .collect()
}
