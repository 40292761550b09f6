//! From extents to pieces: what a range of a file is made of, holes included. Pure.

use bytes::Bytes;
use everhold_proto::fs::{Extent, Source};
use everhold_proto::{BlockId, Error, Kind, PgId};
use std::ops::Range;

/// A run of bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// So many zeroes.
    Hole(u64),
    /// These bytes.
    Inline(Bytes),
    /// This range of a block.
    Block {
        /// The block.
        id: BlockId,
        /// Its PG.
        pg: PgId,
        /// Which bytes of it.
        range: Range<u32>,
        /// Length of the whole block.
        block_length: u32,
        /// CRC32C of the whole block.
        crc: u32,
    },
}

/// The pieces of `[from, to)` in order. `extents` are ascending and do not overlap; what the cluster
/// sends is checked, not believed.
pub(crate) fn plan(extents: &[Extent], from: u64, to: u64) -> Result<Vec<Piece>, Error> {
    let mut pieces = Vec::new();
    let mut at = from;
    let first = extents.partition_point(|e| e.offset.saturating_add(e.length) <= from);
    let bad = |what: &str| Error::new(Kind::Corrupt, format!("an extent of the file {what}"));
    for extent in &extents[first..] {
        if at >= to || extent.offset >= to {
            break;
        }
        let end = extent.offset.checked_add(extent.length).ok_or_else(|| bad("never ends"))?;
        if extent.offset > at {
            pieces.push(Piece::Hole(extent.offset - at));
            at = extent.offset;
        }
        let skip = at - extent.offset; // not negative: `at` was moved to the offset
        let stop = end.min(to);
        if stop <= at {
            return Err(bad("lies before the one before it"));
        }
        pieces.push(cut(&extent.source, skip, stop - at).ok_or_else(|| bad("exceeds its source"))?);
        at = stop;
    }
    if at < to {
        pieces.push(Piece::Hole(to - at));
    }
    Ok(pieces)
}

fn cut(source: &Source, skip: u64, length: u64) -> Option<Piece> {
    match source {
        Source::Inline(bytes) => {
            let start = usize::try_from(skip).ok()?;
            let end = start.checked_add(usize::try_from(length).ok()?)?;
            (end <= bytes.len()).then(|| Piece::Inline(bytes.slice(start..end)))
        }
        Source::Block { id, pg, offset, block_length, crc } => {
            let start = u64::from(*offset).checked_add(skip)?;
            let end = start.checked_add(length)?;
            if end > u64::from(*block_length) {
                return None;
            }
            Some(Piece::Block {
                id: *id,
                pg: *pg,
                range: u32::try_from(start).ok()?..u32::try_from(end).ok()?,
                block_length: *block_length,
                crc: *crc,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::SessionId;

    fn block(offset: u64, length: u64, at: u32, block_length: u32) -> Extent {
        let id = BlockId { session: SessionId(1), counter: offset };
        let source = Source::Block { id, pg: PgId(1), offset: at, block_length, crc: 7 };
        Extent { offset, length, source }
    }

    fn inline(offset: u64, bytes: &'static [u8]) -> Extent {
        let source = Source::Inline(Bytes::from_static(bytes));
        Extent { offset, length: bytes.len() as u64, source }
    }

    /// Whether each piece is a hole, and its length.
    fn lengths(pieces: &[Piece]) -> Vec<(bool, u64)> {
        let length = |piece: &Piece| match piece {
            Piece::Hole(length) => (true, *length),
            Piece::Inline(bytes) => (false, bytes.len() as u64),
            Piece::Block { range, .. } => (false, u64::from(range.end - range.start)),
        };
        pieces.iter().map(length).collect()
    }

    #[test]
    fn holes_fill_the_gaps() {
        let extents = [block(10, 20, 0, 20), inline(40, b"hello")];
        let pieces = plan(&extents, 0, 60).unwrap();
        let expected = [(true, 10), (false, 20), (true, 10), (false, 5), (true, 15)];
        assert_eq!(lengths(&pieces), expected);
        assert_eq!(plan(&[], 5, 9).unwrap(), [Piece::Hole(4)]);
        assert_eq!(plan(&extents, 9, 9).unwrap(), []);
    }

    #[test]
    fn pieces_are_cut_to_the_range() {
        let extents = [block(10, 20, 5, 100), inline(40, b"hello")];
        let pieces = plan(&extents, 15, 42).unwrap();
        assert!(matches!(&pieces[0], Piece::Block { range, .. } if *range == (10..25)));
        assert_eq!(pieces[1], Piece::Hole(10));
        assert_eq!(pieces[2], Piece::Inline(Bytes::from_static(b"he")));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(plan(&[block(0, 200, 0, 100)], 0, 200).is_err(), "longer than its block");
        assert!(plan(&[block(u64::MAX - 1, 5, 0, 100)], 0, u64::MAX).is_err(), "overflow");
        assert!(plan(&[block(0, 10, u32::MAX, u32::MAX)], 0, 10).is_err(), "past its block");
        let short = Extent { length: 9, ..inline(0, b"hello") };
        assert!(plan(&[short], 0, 9).is_err());
        let overlapping = [block(0, 10, 0, 10), block(2, 3, 0, 10), block(20, 5, 0, 10)];
        assert!(plan(&overlapping, 0, 30).is_err());
    }
}
