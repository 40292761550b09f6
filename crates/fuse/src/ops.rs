//! What each request does.

mod attributes;
mod directories;
mod files;
mod locks;
mod names;
mod space;
mod xattrs;

pub(crate) use directories::{Listed, Listing};
pub(crate) use files::Opened;
pub(crate) use locks::{LockRequest, lock_range};
pub(crate) use space::{STAT_UNIT, Space};
pub(crate) use xattrs::Sized;
