//! Inode numbers that are set aside for a session, so that it can name what it creates before it tells.
//!
//! **Invariant:** a number is used at most once: they are used in ascending order, and one that was passed over
//! is given up.

use everhold_proto::fs::{FsError, FsReply};
use everhold_proto::ids::*;
use everhold_proto::limits::{NUMBERS_RANGES_MAX, NUMBERS_RESERVED_MAX};
use everhold_proto::table::SessionRow;
use everhold_proto::tables::Header;

/// Sets numbers aside.
pub(crate) fn reserve(
    header: &mut Header,
    session: &mut SessionRow,
    count: u32,
) -> Result<FsReply, FsError> {
    if count == 0 || count > NUMBERS_RESERVED_MAX || session.numbers.len() >= NUMBERS_RANGES_MAX {
        return Err(FsError::Invalid);
    }
    let (from, to) = (header.next_inode, header.next_inode + u64::from(count));
    header.next_inode = to;
    session.numbers.push((from, to));
    Ok(FsReply::Numbers(from, to))
}

/// Whether a number was set aside for the session and not used yet.
pub(crate) fn has(session: &SessionRow, number: InodeId) -> bool {
    session.numbers.iter().any(|(from, to)| (*from..*to).contains(&number.0))
}

/// Gives up a number and all before it.
pub(crate) fn used(session: &mut SessionRow, number: InodeId) {
    session.numbers.retain_mut(|(from, to)| {
        *from = (*from).max(number.0 + 1);
        from < to
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_used_once_and_in_order() {
        let (mut header, mut session) = (Header::default(), SessionRow::default());
        header.next_inode = 10;
        let mut reserve = |session: &mut SessionRow, count| reserve(&mut header, session, count);
        assert_eq!(reserve(&mut session, 3), Ok(FsReply::Numbers(10, 13)));
        assert_eq!(reserve(&mut session, 2), Ok(FsReply::Numbers(13, 15)));
        assert_eq!(reserve(&mut session, 0), Err(FsError::Invalid));
        assert!(has(&session, InodeId(10)) && has(&session, InodeId(14)));
        assert!(!has(&session, InodeId(9)) && !has(&session, InodeId(15)));
        used(&mut session, InodeId(11));
        assert!(!has(&session, InodeId(10)) && !has(&session, InodeId(11)));
        assert!(has(&session, InodeId(12)));
        used(&mut session, InodeId(14));
        assert_eq!(session.numbers, []);
        for _ in 0..NUMBERS_RANGES_MAX {
            reserve(&mut session, 1).expect("there is room");
        }
        assert_eq!(reserve(&mut session, 1), Err(FsError::Invalid));
    }
}
