//! Programs that ask much of a file system. Those that are not installed are left out, and say so.

use crate::world::{has, visit};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a program that must succeed, and gives what it printed.
fn run(directory: &Path, words: &[&str]) -> String {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).current_dir(directory);
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    command.env_remove("GIT_DIR").env_remove("GIT_WORK_TREE").env_remove("GIT_INDEX_FILE");
    let output = command.output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{words:?} ended with {}: {out}{err}", output.status);
    out
}

/// Programs are part of no promise: without one its test has nothing to show.
fn lacks(program: &str) -> bool {
    if !has(program) {
        eprintln!("left out: {program} is not installed");
    }
    !has(program)
}

/// A repository is made, cloned between mounts, collected and checked.
#[test]
fn git_works() {
    let Some(world) = visit() else { return };
    if lacks("git") {
        return;
    }
    let (a, b) = world.directory("git");
    run(&a, &["git", "init", "-q", "-b", "main", "one"]);
    let one = a.join("one");
    run(&one, &["git", "config", "user.name", "Test"]);
    run(&one, &["git", "config", "user.email", "test@example.com"]);
    for commit in 0..2 {
        for file in 0..8 {
            let text = format!("file {file} of commit {commit}\n").repeat(200 * file + 1);
            std::fs::write(one.join(format!("{file}.txt")), text).unwrap();
        }
        run(&one, &["git", "add", "."]);
        run(&one, &["git", "commit", "-q", "-m", "more"]);
    }
    run(&b, &["git", "clone", "-q", "one", "two"]);
    run(&one, &["git", "gc", "-q", "--prune=now"]);
    // Each through the mount that did not write it.
    for repository in [b.join("one"), a.join("two")] {
        run(&repository, &["git", "fsck", "--strict", "--full"]);
        assert_eq!(run(&repository, &["git", "status", "--porcelain"]), "");
        assert_eq!(run(&repository, &["git", "rev-list", "--count", "HEAD"]).trim(), "2");
    }
}

/// Says each row number once its transaction is committed.
const SQLITE_WRITER: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
assert db.execute('pragma journal_mode=wal').fetchone()[0] == 'wal'
db.execute('pragma synchronous=full')
db.execute('create table if not exists rows (number integer primary key, text text)')
number = 0
while True:
    db.execute('begin immediate')
    for _ in range(3):
        db.execute('insert into rows values (?, ?)', (number, str(number) * 500))
        number += 1
    db.execute('commit')
    print(number, flush=True)
";

const SQLITE_CHECK: &str = "
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
assert db.execute('pragma integrity_check').fetchone()[0] == 'ok'
rows = db.execute('select number, text from rows order by number').fetchall()
assert [n for n, _ in rows] == list(range(len(rows))), 'rows are missing'
assert all(t == str(n) * 500 for n, t in rows), 'rows are wrong'
print(len(rows))
";

/// SQLite with a write-ahead log: the writer is killed with SIGKILL, and every row that it committed is
/// there, in a whole database.
#[test]
fn sqlite_keeps_what_it_committed() {
    const COMMITS: usize = 30;
    let Some(world) = visit() else { return };
    if lacks("python3") {
        return;
    }
    let (a, b) = world.directory("sqlite");
    let mut command = Command::new("python3");
    command.args(["-c", SQLITE_WRITER]).arg(a.join("db")).stdout(Stdio::piped());
    let mut writer = command.spawn().expect("python3 runs");
    let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
    let committed: Vec<u64> =
        lines.take(COMMITS).map(|line| line.unwrap().parse().unwrap()).collect();
    writer.kill().unwrap();
    writer.wait().unwrap();
    let least = *committed.last().expect("it committed something");
    assert_eq!(committed.len(), COMMITS);
    for directory in [&a, &b] {
        let database = directory.join("db");
        let rows = run(directory, &["python3", "-c", SQLITE_CHECK, database.to_str().unwrap()]);
        assert!(rows.trim().parse::<u64>().unwrap() >= least, "{rows} of {least}");
    }
}

/// A source tree is unpacked, and the other mount has the same.
#[test]
fn tar_and_diff_agree() {
    let Some(world) = visit() else { return };
    if lacks("tar") || lacks("diff") {
        return;
    }
    let (a, b) = world.directory("tar");
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of the crates");
    let archive = world.point().join("crates.tar");
    let (from, archive) = (crates.to_str().unwrap(), archive.to_str().unwrap());
    run(&a, &["tar", "-cf", archive, "-C", from, "."]);
    run(&a, &["tar", "-xf", archive]);
    run(&b, &["diff", "-r", from, "."]);
}
