use super::*;

const CREATE: OpenMode = OpenMode { create: true, direct: true };

fn page(fill: u8) -> AlignedBuf {
    AlignedBuf::copy_of(&[fill; ALIGNMENT])
}

async fn first_byte(disk: &SimDisk, path: &Path) -> io::Result<u8> {
    let file = disk.open(path, OpenMode { create: false, direct: true }).await?;
    Ok(file.read_at(0, ALIGNMENT).await?.first().copied().unwrap_or(0))
}

/// Only synced content under a synced name survives a crash, and old handles are dead.
#[tokio::test]
async fn crash_keeps_exactly_what_was_synced() {
    let disk = SimDisk::new();
    let dir = Path::new("/d");
    disk.create_dir_all(dir).await.unwrap();
    let (a, b) = (dir.join("a"), dir.join("b"));
    let file = disk.open(&a, CREATE).await.unwrap();
    file.write_at(0, page(1)).await.unwrap();
    file.sync_data().await.unwrap();
    disk.sync_dir(dir).await.unwrap();
    file.write_at(0, page(2)).await.unwrap();
    disk.open(&b, CREATE).await.unwrap();
    assert_eq!(first_byte(&disk, &a).await.unwrap(), 2);
    disk.crash(None);
    assert!(file.read_at(0, 1).await.is_err());
    assert_eq!(first_byte(&disk, &a).await.unwrap(), 1);
    assert_eq!(first_byte(&disk, &b).await.unwrap_err().kind(), io::ErrorKind::NotFound);
}

/// A seed decides which sectors of an unsynced write survive; some seed tears it.
#[tokio::test]
async fn unsynced_writes_can_tear() {
    let mut torn = false;
    for seed in 0..32 {
        let disk = SimDisk::new();
        let path = Path::new("f");
        let file = disk.open(path, CREATE).await.unwrap();
        file.set_len_zeroed(ALIGNMENT as u64).await.unwrap();
        disk.sync_dir(Path::new("")).await.unwrap();
        file.write_at(0, page(9)).await.unwrap();
        disk.crash(Some(seed));
        let file = disk.open(path, CREATE).await.unwrap();
        let content = file.read_at(0, ALIGNMENT).await.unwrap();
        let ones = content.chunks(512).filter(|sector| sector[0] == 9).count();
        torn |= ones > 0 && ones < 8;
    }
    assert!(torn);
}

/// Faults strike at their count, and a full disk says so.
#[tokio::test]
async fn faults_strike_when_told() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("f"), CREATE).await.unwrap();
    disk.inject(Fault::WriteErrorAt(2));
    file.write_at(0, page(1)).await.unwrap();
    assert!(file.write_at(0, page(2)).await.is_err());
    disk.inject(Fault::BitFlip { path: "f".into(), offset: 0, bit: 1 });
    assert_eq!(first_byte(&disk, Path::new("f")).await.unwrap(), 3);
    disk.inject(Fault::Capacity(ALIGNMENT as u64));
    let full = file.write_at(ALIGNMENT as u64, page(1)).await.unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    disk.inject(Fault::PowerAt(1));
    assert!(file.write_at(0, page(4)).await.is_err());
    assert!(file.sync_data().await.is_err());
}

/// redb keeps what it committed through a crash.
#[tokio::test]
async fn redb_survives_a_crash() {
    const TABLE: redb::TableDefinition<u32, u32> = redb::TableDefinition::new("t");
    let disk = SimDisk::new();
    let open =
        || redb::Builder::new().create_with_backend(disk.redb_backend(Path::new("db")).unwrap());
    let db = open().unwrap();
    disk.sync_dir(Path::new("")).await.unwrap();
    let write = db.begin_write().unwrap();
    write.open_table(TABLE).unwrap().insert(1, 2).unwrap();
    write.commit().unwrap();
    disk.crash(Some(7));
    drop(db);
    let db = open().unwrap();
    let read = redb::ReadableDatabase::begin_read(&db).unwrap();
    assert_eq!(read.open_table(TABLE).unwrap().get(1).unwrap().unwrap().value(), 2);
}
