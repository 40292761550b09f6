//! The real disk against a temporary directory.

use everhold_env::disk::RealDisk;
use everhold_env::{ALIGNMENT, AlignedBuf, Disk, OpenMode};

/// Content and lengths come back as written, zeroes where nothing was written, short at the end.
#[tokio::test]
async fn files_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new();
    let sub = dir.path().join("a/b");
    disk.create_dir_all(&sub).await.unwrap();
    for direct in [false, true] {
        let path = sub.join(format!("f{direct}"));
        let file = disk.open(&path, OpenMode { create: true, direct }).await.unwrap();
        file.set_len_zeroed(5 << 20).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 5 << 20);
        let buf = file.write_at(ALIGNMENT as u64, AlignedBuf::copy_of(&[7; 5000])).await.unwrap();
        assert_eq!(buf.len(), 5000);
        file.sync_data().await.unwrap();
        let back = file.read_at(0, 4 * ALIGNMENT).await.unwrap();
        assert!(back[..ALIGNMENT].iter().all(|b| *b == 0));
        assert_eq!(back[ALIGNMENT..ALIGNMENT + 5000], [7; 5000]);
        assert!(back[ALIGNMENT + 5000..].iter().all(|b| *b == 0));
        assert_eq!(file.read_at((5 << 20) - 4096, 1 << 20).await.unwrap().len(), 4096);
        assert_eq!(file.read_at(6 << 20, 4096).await.unwrap().len(), 0);
        file.set_len_zeroed(0).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0);
    }
    assert_eq!(disk.list(&sub).await.unwrap(), [sub.join("ffalse"), sub.join("ftrue")]);
}

/// Small files are replaced whole and their size is limited.
#[tokio::test]
async fn small_files_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::new();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    disk.write_atomic(&a, b"one").await.unwrap();
    disk.write_atomic(&a, b"two").await.unwrap();
    assert_eq!(disk.read_small(&a, 3).await.unwrap(), b"two");
    assert!(disk.read_small(&a, 2).await.is_err());
    disk.rename(&a, &b).await.unwrap();
    disk.sync_dir(dir.path()).await.unwrap();
    assert_eq!(disk.list(dir.path()).await.unwrap(), std::slice::from_ref(&b));
    disk.remove(&b).await.unwrap();
    assert!(disk.list(dir.path()).await.unwrap().is_empty());
    let (total, available) = disk.space(dir.path()).await.unwrap();
    assert!(total >= available && available > 0);
}
