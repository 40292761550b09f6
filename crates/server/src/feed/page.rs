//! One page of the change feed, for a cache that asks for what comes after its cursor.

use everhold_namespace as namespace;
use everhold_proto::fs::ChangeRecord;
use everhold_proto::kv::{KvRead, KvResult, get_row};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::tables::{self, Header};

/// See the module's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// In order and without gaps.
    pub(crate) records: Vec<(u64, ChangeRecord)>,
    /// The cursor after them.
    pub(crate) next: u64,
    /// What was between the cursor and `next` cannot be told.
    pub(crate) reset: bool,
    /// Whether these are all records there are.
    pub(crate) is_whole: bool,
}

/// The number that the next change record will have.
pub(crate) fn end(kv: &dyn KvRead) -> KvResult<u64> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    Ok(header.next_change)
}

/// At most `limit` records from `from` on. A cursor that the feed does not know (0, trimmed, of another
/// history) gets none of them, and is set to the feed's end.
pub(crate) fn read(kv: &dyn KvRead, from: u64, limit: usize) -> KvResult<Page> {
    let end = end(kv)?;
    let reset = Page { records: Vec::new(), next: end, reset: true, is_whole: true };
    if from == 0 || from > end {
        return Ok(reset);
    }
    let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
    let records = namespace::changes::read(kv, from, limit)?;
    match (records.first(), records.last()) {
        (Some((first, _)), Some((last, _))) if *first == from => {
            let next = last + 1;
            Ok(Page { records, next, reset: false, is_whole: next >= end })
        }
        (None, _) if from == end => Ok(Page { records, next: from, reset: false, is_whole: true }),
        _ => Ok(reset),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::apply::Apply;
    use everhold_proto::fs::{FsOp, Name, NewKind, Owner, SessionBatch, SessionRequest};
    use everhold_proto::kv::MemKv;
    use everhold_proto::{InodeId, LogIndex, Stamp};

    fn entry<T>(kv: &mut MemKv, index: u64, work: impl FnOnce(&mut Apply<'_>) -> T) -> T {
        let mut ctx = Apply::begin(kv, LogIndex(index), Stamp::default()).expect("in memory");
        let answer = work(&mut ctx);
        ctx.finish().expect("in memory");
        answer
    }

    /// A feed with the records 1 to 5.
    fn feed() -> MemKv {
        let mut kv = MemKv::default();
        entry(&mut kv, 1, |ctx| namespace::create_root(ctx).expect("in memory"));
        let open = |ctx: &mut Apply<'_>| namespace::sessions::open(ctx, "c", true, 0);
        let session = entry(&mut kv, 2, open).expect("in memory");
        let create = |request| {
            let op = FsOp::Create {
                parent: InodeId::ROOT,
                name: Name::new(format!("f{request}")).expect("a name"),
                kind: NewKind::File,
                owner: Owner { uid: 0, gid: 0, mode: 0o644, umask: 0 },
                open: false,
            };
            SessionRequest::new(request, op)
        };
        let requests = (1..=5).map(create).collect();
        let batch = SessionBatch { session, acked_below: 1, floor: 0, requests };
        entry(&mut kv, 3, |ctx| namespace::apply(ctx, &batch)).expect("in memory");
        kv
    }

    fn numbers(page: &Page) -> Vec<u64> {
        page.records.iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn pages_follow_each_other() {
        let kv = feed();
        let first = read(&kv, 2, 3).expect("in memory");
        assert_eq!((numbers(&first), first.next), (vec![2, 3, 4], 5));
        assert!(!first.is_whole && !first.reset);
        let second = read(&kv, first.next, 3).expect("in memory");
        assert_eq!((numbers(&second), second.next), (vec![5], 6));
        assert!(second.is_whole && !second.reset);
        let third = read(&kv, second.next, 3).expect("in memory");
        assert_eq!((numbers(&third), third.next, third.reset), (vec![], 6, false));
    }

    #[test]
    fn cursors_that_are_not_known_are_reset() {
        let mut kv = feed();
        let is_reset = |kv: &MemKv, from| {
            let page = read(kv, from, 3).expect("in memory");
            assert!(!page.reset || (page.next == 6 && page.records.is_empty()));
            page.reset
        };
        assert!(is_reset(&kv, 0) && is_reset(&kv, 7) && is_reset(&kv, u64::MAX));
        assert!(!is_reset(&kv, 1) && !is_reset(&kv, 6));
        let trim = |ctx: &mut Apply<'_>| namespace::changes::trim(ctx, 4, 100);
        entry(&mut kv, 4, trim).expect("in memory");
        assert!(is_reset(&kv, 3) && !is_reset(&kv, 4) && !is_reset(&kv, 6));
        let all = |ctx: &mut Apply<'_>| namespace::changes::trim(ctx, 6, 100);
        entry(&mut kv, 5, all).expect("in memory");
        assert!(is_reset(&kv, 5) && !is_reset(&kv, 6));
    }
}
