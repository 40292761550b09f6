//! Files in memory.

use crate::common::noise;
use crate::sys::Mapped;
use crate::world::visit;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;

const LENGTH: usize = 200_000;

/// What is written through a shared mapping is in the file; what is written through a private one is not.
#[test]
fn shared_and_private_mappings() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("mappings");
    let mut expected = noise(1, LENGTH);
    std::fs::write(a.join("f"), &expected).unwrap();
    let file = OpenOptions::new().read(true).write(true).open(a.join("f")).unwrap();
    let mut shared = Mapped::new(&file, LENGTH, true);
    let mut private = Mapped::new(&file, LENGTH, false);
    assert!(shared.bytes() == &expected[..] && private.bytes() == &expected[..]);
    private.bytes()[10..20].fill(b'p');
    shared.bytes()[5_000..90_000].fill(b's');
    expected[5_000..90_000].fill(b's');
    shared.sync();
    let mut read = vec![0; LENGTH];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected, "the same descriptor");
    assert!(std::fs::read(b.join("f")).unwrap() == expected, "the other mount");
    // Written with `write`, seen in the mapping.
    file.write_all_at(b"written", 150_000).unwrap();
    assert_eq!(&shared.bytes()[150_000..150_007], b"written");
    expected[150_000..150_007].copy_from_slice(b"written");
    // Not synced by the program: the last close sees to it.
    shared.bytes()[LENGTH - 1] = b'!';
    expected[LENGTH - 1] = b'!';
    drop((shared, private, file));
    assert!(std::fs::read(b.join("f")).unwrap() == expected, "after the close");
}
