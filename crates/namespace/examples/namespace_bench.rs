//! How fast the pure state machine is: whole small files put, looked up and deleted over a `BTreeMap`.
//! The ceiling of what a metadata leader can do; the store below it costs extra.
//!
//! `cargo run --release -p everhold-namespace --example namespace_bench -- [FILES]`

#![expect(clippy::disallowed_methods, reason = "a benchmark measures the real clock")]

use bytes::Bytes;
use everhold_namespace::{apply, create_root, query, reap, sessions};
use everhold_proto::apply::Apply;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, MemKv};
use everhold_proto::units::{Stamp, Timestamp};
use std::time::Instant;

const BATCH: u64 = 64;
const FILES_PER_DIRECTORY: u64 = 1000;
const OWNER: Owner = Owner { uid: 0, gid: 0, mode: 0o644, umask: 0 };

struct Bench {
    kv: MemKv,
    index: u64,
    session: SessionId,
    next_request: u64,
}

impl Bench {
    fn entry<T>(&mut self, work: impl FnOnce(&mut Apply<'_>) -> KvResult<T>) -> KvResult<T> {
        self.index += 1;
        let stamp = Stamp { log_ms: self.index, wall: Timestamp(self.index as i64) };
        let mut ctx = Apply::begin(&mut self.kv, LogIndex(self.index), stamp)?;
        let answer = work(&mut ctx)?;
        ctx.finish()?;
        Ok(answer)
    }

    fn batch(&mut self, ops: Vec<FsOp>) -> KvResult<Vec<FsReply>> {
        let (session, acked_below) = (self.session, self.next_request);
        let requests: Vec<SessionRequest> = (acked_below..)
            .zip(ops)
            .map(|(request, op)| SessionRequest::new(request, op))
            .collect();
        self.next_request += requests.len() as u64;
        let batch = SessionBatch { session, acked_below, floor: 0, requests };
        let answers = self.entry(|ctx| apply(ctx, &batch))?;
        Ok(answers
            .results
            .into_iter()
            .map(|answer| answer.expect("the operation is right"))
            .collect())
    }
}

fn name(text: String) -> Name {
    Name::new(text.into_bytes()).expect("a short name")
}

fn put(parent: InodeId, text: String, bytes: &Bytes) -> FsOp {
    let size = bytes.len() as u64;
    let extent = Extent { offset: 0, length: size, source: Source::Inline(bytes.clone()) };
    FsOp::PutFile {
        parent,
        name: name(text),
        owner: OWNER,
        size,
        content: Content { extents: vec![extent], blocks: Vec::new() },
        replace: false,
        mtime: TimeOrNow::Now,
    }
}

fn report(what: &str, count: u64, since: Instant) {
    let seconds = since.elapsed().as_secs_f64();
    let (rate, micros) = (count as f64 / seconds, seconds * 1e6 / count as f64);
    println!("{what:<28}{rate:>12.0} per s{micros:>9.2} µs each");
}

fn main() -> KvResult<()> {
    let files: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(200_000);
    let (kv, session) = (MemKv::default(), SessionId(0));
    let mut bench = Bench { kv, index: 0, session, next_request: 1 };
    bench.entry(create_root)?;
    bench.session = bench.entry(|ctx| sessions::open(ctx, "bench", false, 0))?;

    let mut directories = Vec::new();
    for i in 0..files.div_ceil(FILES_PER_DIRECTORY) {
        let (parent, name, kind) = (InodeId::ROOT, name(format!("d{i}")), NewKind::Directory);
        let create = FsOp::Create { parent, name, kind, owner: OWNER, open: false };
        for reply in bench.batch(vec![create])? {
            directories.extend(match reply {
                FsReply::Attr(attr) => Some(attr.inode),
                FsReply::Done | FsReply::Numbers(..) => None,
            });
        }
    }
    let directory = |i: u64| directories[(i / FILES_PER_DIRECTORY) as usize];

    let (start, bytes) = (Instant::now(), Bytes::from(vec![7; 1024]));
    for from in (0..files).step_by(BATCH as usize) {
        let batch = from..(from + BATCH).min(files);
        bench.batch(batch.map(|i| put(directory(i), format!("f{i}"), &bytes)).collect())?;
    }
    report("put a file of 1 KiB", files, start);

    let start = Instant::now();
    for i in 0..files {
        let path = format!("d{}/f{i}", i / FILES_PER_DIRECTORY).into();
        let question = FsQuery::Resolve { base: InodeId::ROOT, path, follow: true, read: true };
        query(&bench.kv, &question)?.expect("the file is there");
    }
    report("resolve and read it", files, start);

    let start = Instant::now();
    for inode in &directories {
        let question = FsQuery::ReadDir { inode: *inode, after: None, limit: u32::MAX };
        query(&bench.kv, &question)?.expect("the directory is there");
    }
    report("list its entry", files, start);

    let start = Instant::now();
    for from in (0..files).step_by(BATCH as usize) {
        let batch = from..(from + BATCH).min(files);
        let unlink =
            |i| FsOp::Unlink { parent: directory(i), name: name(format!("f{i}")), linger: false };
        bench.batch(batch.map(unlink).collect())?;
    }
    report("unlink it", files, start);
    while bench.entry(|ctx| reap(ctx, 1000))? > 0 {}
    Ok(())
}
