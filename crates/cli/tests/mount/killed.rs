//! Programs that are killed while the cluster does not answer.

use crate::common::{Cluster, eventually};
use crate::sys;
use crate::world::{Visit, pid, visit_alone};
use rustix::process::{Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

/// All nodes of a cluster stand still until this is dropped.
struct Stopped<'a>(&'a Cluster);

impl<'a> Stopped<'a> {
    fn all(cluster: &'a Cluster) -> Self {
        let stopped = Stopped(cluster);
        stopped.signal(Signal::STOP);
        stopped
    }

    fn signal(&self, signal: Signal) {
        for number in self.0.addresses().into_keys() {
            kill_process(pid(self.0.pid(number)), signal).expect("it runs");
        }
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

/// Starts a program.
fn start(program: &str, arguments: &[&str], directory: &Path) -> Child {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(directory).stdin(Stdio::piped());
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Waits until a thread sleeps in a system call, and not just now; `false`: it has ended.
fn hangs(thread: u32) -> bool {
    let mut asleep = 0;
    eventually("a program to wait", || {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{thread}/stat")) else {
            return Some(false);
        };
        let state = stat.rsplit_once(") ").and_then(|(_, after)| after.chars().next());
        match state {
            Some('Z') => return Some(false),
            Some('S' | 'D') => asleep += 1,
            _ => asleep = 0,
        }
        (asleep >= 5).then_some(true)
    })
}

/// Starts a program until it waits for the cluster: as long as a lease runs it is answered from memory.
fn start_until_it_hangs(program: &str, arguments: &[&str]) -> Child {
    eventually("a program to wait for the cluster", || {
        let mut child = start(program, arguments, Path::new("/"));
        if hangs(child.id()) {
            return Some(child);
        }
        child.wait().expect("a child");
        None
    })
}

fn until_all_nodes_are_up(world: &Visit) {
    eventually("every node to be up", || {
        let status = world.cluster.try_status()?;
        let nodes = status["nodes"].as_array()?.clone();
        nodes.iter().all(|node| node["state"] == "up").then_some(())
    });
}

/// SIGKILL ends programs whose requests nobody answers: questions, synced writes, and one that closes a file with
/// bytes that wait for a commit. What they wrote is not lost by that.
#[test]
fn a_killed_program_ends_while_the_cluster_stands_still() {
    let Some(world) = visit_alone() else { return };
    let mount = world.mount();
    let directory = mount.path().join("killed");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("f"), "content").unwrap();
    File::open(directory.join("f")).unwrap().sync_all().unwrap();
    // They open their files while the cluster works.
    let sync = ["of=synced", "bs=4096", "count=1", "iflag=fullblock", "oflag=sync", "conv=notrunc"];
    let mut synced = start("dd", &sync, &directory);
    let closed = ["of=closed", "bs=4096", "count=2", "iflag=fullblock"];
    let mut closing = start("dd", &closed, &directory);
    closing.stdin.as_mut().unwrap().write_all(&[7; 4096]).unwrap();
    let size = |name: &str| directory.join(name).metadata().ok().map(|meta| meta.len());
    eventually("the files to be there", || (size("synced")? == 0).then_some(()));
    eventually("a block to be written", || (size("closed")? == 4096).then_some(()));
    {
        let stopped = Stopped::all(&world.cluster);
        synced.stdin.as_mut().unwrap().write_all(&[8; 4096]).unwrap();
        let path = directory.join("f");
        let path = path.to_str().unwrap();
        let asking = [("stat", vec![path]), ("cat", vec![path]), ("ls", vec!["-l", path])];
        let mut all: Vec<Child> =
            asking.map(|(program, arguments)| start_until_it_hangs(program, &arguments)).into();
        assert!(hangs(synced.id()) && hangs(closing.id()));
        all.extend([synced, closing]);
        for child in &mut all {
            child.kill().unwrap();
            eventually("a killed program to end", || child.try_wait().expect("a child"));
        }
        drop(stopped);
    }
    until_all_nodes_are_up(&world);
    let seen = world.b.path().join("killed");
    let read = |name: &str| std::fs::read(seen.join(name)).ok();
    eventually("the synced write to be there", || (read("synced")? == [8; 4096]).then_some(()));
    eventually("the closed file to be there", || (read("closed")? == [7; 4096]).then_some(()));
}

/// A signal that a program handles ends none of its requests but waits for locks: programs do not expect `EINTR`
/// from a file.
#[test]
fn a_handled_signal_breaks_no_request() {
    let Some(world) = visit_alone() else { return };
    let mount = world.mount();
    let file = mount.path().join("signalled");
    std::fs::write(&file, "content").unwrap();
    File::open(&file).unwrap().sync_all().unwrap();
    sys::let_signals_interrupt();
    let stopped = Stopped::all(&world.cluster);
    let mut before = start_until_it_hangs("stat", &[file.to_str().unwrap()]);
    let (tell, told) = mpsc::channel();
    let asking = std::thread::spawn(move || {
        tell.send((sys::this_thread(), rustix::thread::gettid())).unwrap();
        rustix::fs::stat(&file)
    });
    let (thread, number) = told.recv().unwrap();
    let number = number.as_raw_nonzero().get() as u32;
    assert!(hangs(number), "it waits");
    sys::interrupt(thread);
    assert!(hangs(number), "it goes on waiting");
    drop(stopped);
    assert_eq!(asking.join().unwrap().expect("no error").st_size, 7);
    assert!(before.wait().expect("a child").success());
    until_all_nodes_are_up(&world);
}
