//! Names and kinds of files: links, pipes, devices, sockets, long names and names that are no text.

use crate::world::visit;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};

/// Hard links are one file under two names, symbolic ones lead where they say.
#[test]
fn hard_and_symbolic_links() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("links");
    std::fs::write(a.join("f"), "one").unwrap();
    std::fs::hard_link(a.join("f"), a.join("hard")).unwrap();
    let (f, hard) = (a.join("f").metadata().unwrap(), b.join("hard").metadata().unwrap());
    assert_eq!((f.ino(), hard.nlink()), (hard.ino(), 2));
    std::fs::write(b.join("hard"), "two!").unwrap();
    assert_eq!(std::fs::read(a.join("f")).unwrap(), b"two!");
    std::fs::remove_file(a.join("f")).unwrap();
    assert_eq!(b.join("hard").metadata().unwrap().nlink(), 1);
    let refused = std::fs::hard_link(&a, a.join("directory")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));

    symlink("hard", a.join("soft")).unwrap();
    assert_eq!(std::fs::read_link(b.join("soft")).unwrap().as_os_str(), "hard");
    assert_eq!(std::fs::read(b.join("soft")).unwrap(), b"two!");
    let long = OsStr::from_bytes(&[b'x'; 4000]);
    symlink(long, a.join("long")).unwrap();
    assert_eq!(std::fs::read_link(b.join("long")).unwrap().as_os_str(), long);
    symlink("loop", a.join("loop")).unwrap();
    let looped = File::open(a.join("loop")).unwrap_err();
    assert_eq!(looped.raw_os_error(), Some(libc::ELOOP));
}

/// Pipes, sockets and devices work, and are in the other mount what they are in this one.
#[test]
fn pipes_sockets_and_devices() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("kinds");
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, a.join("pipe"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, a.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
    mknodat(CWD, a.join("disk"), FileType::BlockDevice, mode, makedev(7, 200)).unwrap();
    let listener = UnixListener::bind(a.join("socket")).unwrap();
    let kind = |name: &str| b.join(name).symlink_metadata().unwrap().file_type();
    assert!(kind("pipe").is_fifo() && kind("socket").is_socket());
    assert!(kind("null").is_char_device() && kind("disk").is_block_device());
    assert_eq!(b.join("disk").metadata().unwrap().rdev(), makedev(7, 200));

    let (path, mut text) = (a.join("pipe"), String::new());
    let writer = std::thread::spawn(move || std::fs::write(path, "through"));
    File::open(a.join("pipe")).unwrap().read_to_string(&mut text).unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(text, "through");
    std::fs::write(a.join("null"), "gone").unwrap();
    assert_eq!(std::fs::read(a.join("null")).unwrap(), b"");
    let mut client = UnixStream::connect(a.join("socket")).unwrap();
    client.write_all(b"hello").unwrap();
    drop(client);
    text.clear();
    listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello");
}

/// Names have up to 255 bytes, of any value but zero and the slash.
#[test]
fn long_names_and_odd_names() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("odd");
    let longest = [b'n'; 255];
    let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
    for name in [&longest[..], b"\xff\xfe", b" ", b"new\nline", b"...", &odd] {
        std::fs::write(a.join(OsStr::from_bytes(name)), name).unwrap();
        assert_eq!(std::fs::read(b.join(OsStr::from_bytes(name))).unwrap(), name);
    }
    let listed: Vec<_> = std::fs::read_dir(&b).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(listed.len(), 6);
    assert!(listed.iter().any(|name| name.as_bytes() == odd));
    let refused = File::create(a.join(OsStr::from_bytes(&[b'n'; 256]))).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    let refused = std::fs::metadata(b.join(OsStr::from_bytes(&[b'n'; 256]))).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
}
