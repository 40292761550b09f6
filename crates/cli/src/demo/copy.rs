//! Copying the source in, and reading it back with comparison byte by byte. Every operation is
//! recorded.

use crate::demo::source::{Entry, EntryKind, Source};
use crate::demo::stalls::{Direction, Recorder};
use bytes::Bytes;
use everhold_client::{Client, ClientError, CreateOptions};
use everhold_proto::checksum::Digest;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

/// Files on their way at once.
const WORKERS: usize = 4;
/// Files up to this size are one operation; larger ones are one per chunk of this size.
const CHUNK: usize = 4 << 20;
/// Mode of directories in the cluster.
const DIRECTORY_MODE: u32 = 0o755;

/// What a local file was when it was copied: if it changes later, its copy is compared with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    size: u64,
    mtime_ns: i64,
    crc: u32,
}

/// What verification found about one file.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Lost(String),
    Altered(String),
}

/// The state of the work, shared by its workers.
pub(crate) struct Copying {
    client: Arc<Client>,
    source: Source,
    recorder: Arc<Recorder>,
    /// Acknowledged files by their index in the source.
    marks: Mutex<BTreeMap<usize, Mark>>,
    links: Mutex<BTreeSet<usize>>,
    bad: Mutex<Bad>,
    next: AtomicUsize,
    bytes: AtomicU64,
}

/// Files (by index) that are not what they were.
#[derive(Debug, Default)]
struct Bad {
    lost: BTreeSet<usize>,
    altered: BTreeSet<usize>,
    told: Vec<String>,
}

impl Copying {
    /// Work over `source`.
    pub(crate) fn new(client: Arc<Client>, source: Source, recorder: Arc<Recorder>) -> Arc<Self> {
        Arc::new(Copying {
            client,
            source,
            recorder,
            marks: Mutex::default(),
            links: Mutex::default(),
            bad: Mutex::default(),
            next: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
        })
    }

    /// The next pass begins: none of its bytes are done.
    pub(crate) fn begin_pass(&self) {
        self.next.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
    }

    /// Bytes of the present pass that are done.
    pub(crate) fn done_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Acknowledged files and links, and their bytes.
    pub(crate) fn acknowledged(&self) -> (u64, u64) {
        let marks = self.marks.lock();
        let bytes = marks.values().map(|mark| mark.size).sum();
        (marks.len() as u64 + self.links.lock().len() as u64, bytes)
    }

    /// Files lost, files altered, and the first of them by name.
    pub(crate) fn findings(&self) -> (u64, u64, Vec<String>) {
        let bad = self.bad.lock();
        (bad.lost.len() as u64, bad.altered.len() as u64, bad.told.clone())
    }

    /// Copies everything in: directories, then files by several workers, then links.
    pub(crate) async fn copy_in(self: &Arc<Self>) {
        for entry in &self.source.entries {
            if entry.kind == EntryKind::Directory {
                let started = Instant::now();
                let made = self.client.mkdir_all(&entry.remote, DIRECTORY_MODE).await;
                self.record(Direction::Write, "mkdir", entry, started, &made);
            }
        }
        self.pass(|work, index| async move { work.put(index).await }).await;
        for (index, entry) in self.source.entries.iter().enumerate() {
            if let EntryKind::Symlink(target) = &entry.kind {
                let started = Instant::now();
                let made = self.client.symlink(target, &entry.remote).await;
                self.record(Direction::Write, "symlink", entry, started, &made);
                if made.is_ok() {
                    self.links.lock().insert(index);
                }
            }
        }
    }

    /// Reads everything that was acknowledged, and compares it with what is here.
    pub(crate) async fn read_back(self: &Arc<Self>) {
        self.pass(|work, index| async move { work.verify(index).await }).await;
        let links: Vec<usize> = self.links.lock().iter().copied().collect();
        for index in links {
            let EntryKind::Symlink(target) = &self.source.entries[index].kind else { continue };
            let started = Instant::now();
            let read = self.client.readlink(&self.source.entries[index].remote).await;
            self.record(Direction::Read, "readlink", &self.source.entries[index], started, &read);
            self.judge(
                index,
                match read {
                    Ok(found) if found == *target => Verdict::Same,
                    Ok(_) => Verdict::Altered("the link points elsewhere".into()),
                    Err(e) => Verdict::Lost(e.to_string()),
                },
            );
        }
    }

    /// Runs `work` on each file, [`WORKERS`] at a time.
    async fn pass<F, W>(self: &Arc<Self>, work: F)
    where
        F: Fn(Arc<Self>, usize) -> W + Clone + Send + 'static,
        W: Future<Output = ()> + Send,
    {
        self.begin_pass();
        let worker = || {
            let (copying, work) = (self.clone(), work.clone());
            self.client.env().tasks.spawn(async move {
                loop {
                    let index = copying.next.fetch_add(1, Ordering::Relaxed);
                    match copying.source.entries.get(index).map(|entry| &entry.kind) {
                        None => return,
                        Some(EntryKind::File { .. }) => work(copying.clone(), index).await,
                        Some(EntryKind::Directory | EntryKind::Symlink(_)) => {}
                    }
                }
            })
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| worker()).collect();
        for worker in workers {
            worker.join().await.expect("a worker neither panics nor is aborted");
        }
    }

    fn record<T, E: std::fmt::Display>(
        &self,
        direction: Direction,
        what: &str,
        entry: &Entry,
        started: Instant,
        result: &Result<T, E>,
    ) {
        let what = || format!("{what} {}", String::from_utf8_lossy(&entry.remote));
        self.recorder.ended(direction, what, started, result);
    }

    async fn put(self: Arc<Self>, index: usize) {
        let entry = self.source.entries[index].clone();
        match self.put_entry(&entry).await {
            Ok(mark) => {
                self.marks.lock().insert(index, mark);
            }
            Err(Failure::Local(e)) => {
                // Not the cluster's failure: a file that went away before it was copied is not part of the job.
                self.bad.lock().tell(format!("{} was not copied: {e}", entry.local.display()));
            }
            // Recorded where it happened.
            Err(Failure::Cluster) => {}
        }
    }

    async fn put_entry(&self, entry: &Entry) -> Result<Mark, Failure> {
        let tasks = self.client.env().tasks;
        let mut local = LocalFile::open(entry, &tasks).await?;
        let options = CreateOptions { mode: entry.mode, ..CreateOptions::default() };
        let mut digest = Digest::default();
        let mut chunk = local.next(self, &tasks).await?;
        digest.update(&chunk);
        if chunk.len() < CHUNK {
            let size = chunk.len() as u64;
            let started = Instant::now();
            let put = self.client.put(&entry.remote, chunk, options).await;
            self.record(Direction::Write, "put", entry, started, &put);
            put.map_err(|_| Failure::Cluster)?;
            self.bytes.fetch_add(size, Ordering::Relaxed);
            return Ok(Mark { size, mtime_ns: local.mtime_ns, crc: digest.finish() });
        }
        let started = Instant::now();
        let created = self.client.create(&entry.remote, options).await;
        self.record(Direction::Write, "create", entry, started, &created);
        let mut writer = created.map_err(|_| Failure::Cluster)?;
        while !chunk.is_empty() {
            let size = chunk.len() as u64;
            let started = Instant::now();
            let written = writer.write_bytes(chunk).await;
            self.record(Direction::Write, "write", entry, started, &written);
            written.map_err(|_| Failure::Cluster)?;
            self.bytes.fetch_add(size, Ordering::Relaxed);
            chunk = local.next(self, &tasks).await?;
            digest.update(&chunk);
        }
        let size = writer.size();
        let started = Instant::now();
        let finished = writer.finish().await;
        self.record(Direction::Write, "finish", entry, started, &finished);
        finished.map_err(|_| Failure::Cluster)?;
        Ok(Mark { size, mtime_ns: local.mtime_ns, crc: digest.finish() })
    }

    async fn verify(self: Arc<Self>, index: usize) {
        let Some(mark) = self.marks.lock().get(&index).copied() else { return };
        let entry = self.source.entries[index].clone();
        let verdict = match self.compare(&entry, mark).await {
            Ok(verdict) => verdict,
            Err(e) => Verdict::Lost(e.to_string()),
        };
        self.judge(index, verdict);
    }

    /// Compares byte by byte with the local file while that is what was copied; else by checksum.
    async fn compare(&self, entry: &Entry, mark: Mark) -> Result<Verdict, ClientError> {
        let tasks = self.client.env().tasks;
        let local = LocalFile::open(entry, &tasks).await.ok();
        let mut local = local.filter(|l| (l.size, l.mtime_ns) == (mark.size, mark.mtime_ns));
        let started = Instant::now();
        let opened = self.client.read_file(&entry.remote).await;
        self.record(Direction::Read, "open", entry, started, &opened);
        let mut reader = opened?;
        let mut digest = Digest::default();
        let mut pending = Bytes::new();
        loop {
            let started = Instant::now();
            let chunk = reader.next_chunk().await;
            self.record(Direction::Read, "read", entry, started, &chunk);
            let Some(mut chunk) = chunk? else { break };
            digest.update(&chunk);
            self.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            while let Some(file) = &mut local
                && !chunk.is_empty()
            {
                if pending.is_empty() {
                    match file.next(self, &tasks).await {
                        Ok(bytes) if !bytes.is_empty() => pending = bytes,
                        Ok(_) => return Ok(Verdict::Altered("it is longer".into())),
                        Err(_) => local = None,
                    }
                    continue;
                }
                let length = chunk.len().min(pending.len());
                if chunk.split_to(length) != pending.split_to(length) {
                    return Ok(Verdict::Altered(format!("differs before {}", reader.position())));
                }
            }
        }
        Ok(match (reader.position() == mark.size, digest.finish() == mark.crc) {
            (true, true) => Verdict::Same,
            (false, _) => Verdict::Altered(format!("{} of {} bytes", reader.position(), mark.size)),
            (true, false) => Verdict::Altered("the checksum differs".into()),
        })
    }

    fn judge(&self, index: usize, verdict: Verdict) {
        let name = String::from_utf8_lossy(&self.source.entries[index].remote).into_owned();
        let mut bad = self.bad.lock();
        match verdict {
            Verdict::Same => {}
            Verdict::Lost(why) => {
                bad.lost.insert(index);
                bad.tell(format!("{name} is lost: {why}"));
            }
            Verdict::Altered(how) => {
                bad.altered.insert(index);
                bad.tell(format!("{name} is altered: {how}"));
            }
        }
    }
}

impl Bad {
    fn tell(&mut self, text: String) {
        const TOLD_MAX: usize = 20;
        if self.told.len() < TOLD_MAX {
            self.told.push(text);
        }
    }
}

/// Why a file was not copied.
enum Failure {
    /// The local side.
    Local(io::Error),
    /// The cluster; it is recorded.
    Cluster,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Local(error)
    }
}

/// A local file that is read in chunks on a thread for blocking calls.
struct LocalFile {
    file: Arc<Mutex<File>>,
    size: u64,
    mtime_ns: i64,
}

impl LocalFile {
    async fn open(entry: &Entry, tasks: &everhold_env::Tasks) -> io::Result<Self> {
        let path = entry.local.clone();
        tasks
            .blocking(move || {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
                Ok(LocalFile { size: metadata.size(), mtime_ns, file: Arc::new(file.into()) })
            })
            .await
    }

    /// The next [`CHUNK`] bytes, or what is left, or nothing at the end.
    async fn next(&mut self, copying: &Copying, tasks: &everhold_env::Tasks) -> io::Result<Bytes> {
        let (file, mut buffer) = (self.file.clone(), copying.client.wire().buffers().take());
        tasks
            .blocking(move || {
                let mut file = file.lock();
                buffer.fill_from(CHUNK, |to| file.read(to))?;
                Ok(buffer.into_bytes())
            })
            .await
    }
}
