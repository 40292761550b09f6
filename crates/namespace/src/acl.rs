//! POSIX access control lists, in the form in which Linux keeps them in extended attributes: a header of
//! version 2, then (tag u16, permissions u16, id u32) for each entry, little endian.
//!
//! The rules follow `fs/posix_acl.c` of Linux. **Invariant:** an [`Acl`] is valid in the sense of
//! `posix_acl_valid`: entries in the order of their tags, one owner, one group, one rest, and one mask
//! where a named user or group needs it. So no rule here can fail.

use everhold_proto::fs::FsError;
use everhold_proto::limits::ACL_ENTRIES_MAX;

/// The attribute that says who may use an inode.
pub(crate) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of a directory from which what is created in it gets its access list.
pub(crate) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
/// Read, write, execute.
const PERMISSIONS: u32 = 0o7;
/// The permissions of owner, group and rest.
const MODE_PERMISSIONS: u32 = 0o777;
/// The id that stands for none.
const NO_ID: u32 = u32::MAX;

/// Whom an entry is about, in the order that a list has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    UserObject,
    User(u32),
    GroupObject,
    Group(u32),
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    permissions: u32,
}

/// A valid list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Acl(Vec<Entry>);

impl Acl {
    /// Reads the value of an attribute. `None`: a list without entries, which stands for no list.
    /// `Invalid` for what Linux refuses, `NoSpace` for more than [`ACL_ENTRIES_MAX`] entries.
    pub(crate) fn parse(value: &[u8]) -> Result<Option<Acl>, FsError> {
        if value.is_empty() {
            return Ok(None);
        }
        let (version, entries) =
            value.split_first_chunk::<HEADER_BYTES>().ok_or(FsError::Invalid)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if u32::from_le_bytes(*version) != VERSION || !rest.is_empty() {
            return Err(FsError::Invalid);
        }
        if entries.len() > ACL_ENTRIES_MAX {
            return Err(FsError::NoSpace);
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entries = entries.iter().map(Entry::parse).collect::<Option<Vec<_>>>();
        let entries = entries.filter(|entries| are_valid(entries));
        Ok(Some(Acl(entries.ok_or(FsError::Invalid)?)))
    }

    /// The value of the attribute.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + ENTRY_BYTES * self.0.len());
        bytes.extend(VERSION.to_le_bytes());
        self.0.iter().for_each(|entry| bytes.extend(entry.to_bytes()));
        bytes
    }

    /// The mode that shows this list, its other bits from `mode`; and whether the mode says all that
    /// the list says, so that it need not be kept (`posix_acl_equiv_mode`).
    pub(crate) fn equivalent_mode(&self, mode: u32) -> (u32, bool) {
        let of = |tag| self.permissions(tag).unwrap_or(0);
        let group = self.permissions(Tag::Mask).unwrap_or(of(Tag::GroupObject));
        let shown = of(Tag::UserObject) << 6 | group << 3 | of(Tag::Other);
        ((mode & !MODE_PERMISSIONS) | shown, self.is_minimal())
    }

    /// What a new inode that is asked for with `mode` gets from this default list of its directory: its
    /// mode and, unless the mode says it all, its list (`posix_acl_create`).
    pub(crate) fn create(&self, mode: u32) -> (u32, Option<Acl>) {
        let mut list = self.clone();
        list.intersect(mode);
        let (mode, minimal) = list.equivalent_mode(mode);
        (mode, (!minimal).then_some(list))
    }

    /// The list after a `chmod` (`posix_acl_chmod`).
    pub(crate) fn chmod(&mut self, mode: u32) {
        let group_class = self.group_class();
        for entry in &mut self.0 {
            if let Some(shift) = shift_in_mode(entry.tag, group_class) {
                entry.permissions = (mode >> shift) & PERMISSIONS;
            }
        }
    }

    /// Takes away what `mode` does not ask for (`posix_acl_create_masq`).
    fn intersect(&mut self, mode: u32) {
        let group_class = self.group_class();
        for entry in &mut self.0 {
            if let Some(shift) = shift_in_mode(entry.tag, group_class) {
                entry.permissions &= mode >> shift;
            }
        }
    }

    /// The entry that the group's permissions in the mode stand for.
    fn group_class(&self) -> Tag {
        self.permissions(Tag::Mask).map_or(Tag::GroupObject, |_| Tag::Mask)
    }

    fn permissions(&self, tag: Tag) -> Option<u32> {
        self.0.iter().find(|entry| entry.tag == tag).map(|entry| entry.permissions)
    }

    fn is_minimal(&self) -> bool {
        let base = [Tag::UserObject, Tag::GroupObject, Tag::Other];
        self.0.iter().all(|entry| base.contains(&entry.tag))
    }
}

/// Where the mode has the permissions of an entry, if it has them.
fn shift_in_mode(tag: Tag, group_class: Tag) -> Option<u32> {
    match tag {
        Tag::UserObject => Some(6),
        Tag::Other => Some(0),
        tag if tag == group_class => Some(3),
        _ => None,
    }
}

/// Tags in order, what there must be once there once, and a mask where somebody is named. Whether a
/// user is named twice does not matter to Linux either.
fn are_valid(entries: &[Entry]) -> bool {
    let rank = |tag: Tag| match tag {
        Tag::UserObject => 0,
        Tag::User(_) => 1,
        Tag::GroupObject => 2,
        Tag::Group(_) => 3,
        Tag::Mask => 4,
        Tag::Other => 5,
    };
    let count = |wanted| entries.iter().filter(|entry| rank(entry.tag) == wanted).count();
    let named = count(1) + count(3) > 0;
    entries.is_sorted_by_key(|entry| rank(entry.tag))
        && [0, 2, 5].iter().all(|once| count(*once) == 1)
        && (count(4) == 1 || (count(4) == 0 && !named))
}

impl Entry {
    fn parse(bytes: &[u8; ENTRY_BYTES]) -> Option<Entry> {
        let [t0, t1, p0, p1, id @ ..] = *bytes;
        let (permissions, id) = (u16::from_le_bytes([p0, p1]), u32::from_le_bytes(id));
        let named = (id != NO_ID).then_some(id);
        let tag = match u16::from_le_bytes([t0, t1]) {
            0x01 => Tag::UserObject,
            0x02 => Tag::User(named?),
            0x04 => Tag::GroupObject,
            0x08 => Tag::Group(named?),
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return None,
        };
        let permissions = u32::from(permissions);
        (permissions <= PERMISSIONS).then_some(Entry { tag, permissions })
    }

    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let (tag, id): (u16, u32) = match self.tag {
            Tag::UserObject => (0x01, NO_ID),
            Tag::User(id) => (0x02, id),
            Tag::GroupObject => (0x04, NO_ID),
            Tag::Group(id) => (0x08, id),
            Tag::Mask => (0x10, NO_ID),
            Tag::Other => (0x20, NO_ID),
        };
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..2].copy_from_slice(&tag.to_le_bytes());
        bytes[2..4].copy_from_slice(&(self.permissions as u16).to_le_bytes());
        bytes[4..].copy_from_slice(&id.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn list(entries: &[(Tag, u32)]) -> Acl {
        let entry =
            |(tag, permissions): &(Tag, u32)| Entry { tag: *tag, permissions: *permissions };
        let acl = Acl(entries.iter().map(entry).collect());
        assert_eq!(Acl::parse(&acl.to_bytes()), Ok(Some(acl.clone())));
        acl
    }

    fn minimal(user: u32, group: u32, other: u32) -> Acl {
        list(&[(Tag::UserObject, user), (Tag::GroupObject, group), (Tag::Other, other)])
    }

    fn extended(group: u32, mask: u32) -> Acl {
        list(&[
            (Tag::UserObject, 7),
            (Tag::User(1000), 7),
            (Tag::GroupObject, group),
            (Tag::Mask, mask),
            (Tag::Other, 5),
        ])
    }

    /// The bytes that `setfacl -m u:1000:rwx` sets on a file of mode 0644.
    #[test]
    fn bytes_are_those_of_linux() {
        let bytes = [
            2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255,
            255, 255, 255, 16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
        ];
        let acl = Acl::parse(&bytes).unwrap().unwrap();
        assert_eq!(acl.to_bytes(), bytes);
        assert_eq!(acl.equivalent_mode(0o100_4644), (0o100_4674, false));
    }

    #[test]
    fn lists_that_linux_refuses_are_refused() {
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let value = |entries: &[Vec<u8>]| [&2u32.to_le_bytes()[..], &entries.concat()].concat();
        let (user, group, other) = (entry(1, 7, 0), entry(4, 5, 0), entry(32, 5, 0));
        let (named, mask) = (entry(2, 7, 9), entry(16, 7, 0));
        let base = [user.clone(), group.clone(), other.clone()];
        assert!(Acl::parse(&value(&base)).unwrap().is_some());
        let bad = [
            vec![user.clone(), group.clone()],
            vec![group.clone(), user.clone(), other.clone()],
            vec![user.clone(), user.clone(), group.clone(), other.clone()],
            vec![user.clone(), named.clone(), group.clone(), other.clone()],
            vec![user.clone(), entry(2, 7, u32::MAX), group.clone(), mask.clone(), other.clone()],
            vec![user.clone(), group.clone(), mask.clone(), mask, other.clone()],
            vec![user.clone(), group.clone(), entry(32, 8, 0)],
            vec![user, group, entry(64, 5, 0), other],
        ];
        for entries in bad {
            assert_eq!(Acl::parse(&value(&entries)), Err(FsError::Invalid), "{entries:?}");
        }
        assert_eq!(Acl::parse(&[1, 0, 0, 0]), Err(FsError::Invalid), "version 1");
        assert_eq!(Acl::parse(&[2, 0, 0]), Err(FsError::Invalid));
        assert_eq!(Acl::parse(&[2, 0, 0, 0, 1]), Err(FsError::Invalid), "half an entry");
        assert_eq!(Acl::parse(&[2, 0, 0, 0]), Ok(None));
        assert_eq!(Acl::parse(&[]), Ok(None));
        let many = vec![named; ACL_ENTRIES_MAX + 1];
        assert_eq!(Acl::parse(&value(&many)), Err(FsError::NoSpace));
    }

    #[test]
    fn a_minimal_list_is_a_mode() {
        assert_eq!(minimal(7, 5, 1).equivalent_mode(0o2000), (0o2751, true));
        assert_eq!(minimal(7, 5, 5).create(0o1666), (0o1644, None));
    }

    #[test]
    fn what_is_created_gets_no_more_than_it_asked_for() {
        let (mode, made) = extended(5, 7).create(0o666);
        assert_eq!(mode, 0o664, "the mask stands for the group, and the umask is not asked");
        let made = made.unwrap();
        assert_eq!(made.permissions(Tag::Mask), Some(6));
        assert_eq!(made.permissions(Tag::GroupObject), Some(5));
        assert_eq!(made.permissions(Tag::User(1000)), Some(7));
        assert_eq!(made.permissions(Tag::Other), Some(4));
        assert_eq!(extended(5, 7).create(0o4700).0, 0o4700);
    }

    #[test]
    fn chmod_changes_the_mask_and_not_the_group() {
        let mut acl = extended(5, 7);
        acl.chmod(0o640);
        assert_eq!(acl.equivalent_mode(0), (0o640, false));
        assert_eq!(acl.permissions(Tag::GroupObject), Some(5));
        let mut acl = minimal(7, 7, 7);
        acl.chmod(0o640);
        assert_eq!(acl, minimal(6, 4, 0));
    }

    proptest! {
        /// Foreign bytes are a list that has these very permissions, or an error.
        #[test]
        fn foreign_bytes_do_no_harm(bytes in prop::collection::vec(0u8..34, 0..60)) {
            let bytes = [&[2, 0, 0, 0], &bytes[..]].concat();
            if let Ok(Some(acl)) = Acl::parse(&bytes) {
                prop_assert_eq!(Acl::parse(&acl.to_bytes()), Ok(Some(acl)));
            }
        }

        /// A default list and a mode give a mode that grants nothing that the mode did not ask for, and
        /// a list that this mode stands for.
        #[test]
        fn created_modes_ask_and_lists_agree(
            mode in 0u32..0o10000, group in 0u32..8, mask in 0u32..8,
        ) {
            let (made, list) = extended(group, mask).create(mode);
            prop_assert_eq!(made & !mode, 0);
            prop_assert_eq!(made & !0o777, mode & !0o777);
            prop_assert_eq!(list.unwrap().equivalent_mode(made), (made, false));
        }
    }
}
