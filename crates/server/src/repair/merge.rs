//! The comparison of two listings in id order: what a table wants and what a disk has. Pure.

use everhold_proto::BlockId;
use everhold_proto::table::BlockEntry;

/// How one id range of a disk differs from the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// In the table, not on the disk.
    pub(crate) lacking: Vec<BlockEntry>,
    /// On the disk with another length or checksum: not a copy.
    pub(crate) differing: Vec<BlockEntry>,
    /// On the disk, not in the table.
    pub(crate) extra: Vec<BlockId>,
}

/// Compares two listings of the same id range, both in ascending order.
pub(crate) fn compare(table: &[BlockEntry], disk: &[BlockEntry]) -> Difference {
    let (mut found, mut held) = (Difference::default(), disk.iter().peekable());
    for wanted in table {
        while let Some(extra) = held.next_if(|entry| entry.id < wanted.id) {
            found.extra.push(extra.id);
        }
        match held.next_if(|entry| entry.id == wanted.id) {
            None => found.lacking.push(*wanted),
            Some(copy) if copy != wanted => found.differing.push(*wanted),
            Some(_) => {}
        }
    }
    found.extra.extend(held.map(|entry| entry.id));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::SessionId;

    fn entry(counter: u64, crc: u32) -> BlockEntry {
        BlockEntry { id: BlockId { session: SessionId(1), counter }, length: 10, crc }
    }

    #[test]
    fn finds_each_kind_of_difference_at_every_place() {
        let table = [entry(2, 0), entry(4, 0), entry(5, 0), entry(8, 0)];
        let disk = [entry(1, 0), entry(2, 0), entry(3, 0), entry(5, 9), entry(9, 0)];
        let found = compare(&table, &disk);
        assert_eq!(found.lacking, [entry(4, 0), entry(8, 0)]);
        assert_eq!(found.differing, [entry(5, 0)]);
        assert_eq!(found.extra, [entry(1, 0).id, entry(3, 0).id, entry(9, 0).id]);
        assert_eq!(compare(&[], &[]), Difference::default());
        assert_eq!(compare(&table, &table), Difference::default());
    }
}
