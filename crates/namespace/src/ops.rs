//! The operations, each with the semantics of a local Linux file system. Permissions are the edges'
//! business: whoever proposes an operation may do it.

mod attributes;
mod clone;
mod create;
mod delegate;
mod handles;
pub(crate) mod locks;
mod names;
mod rename;
mod write;
mod xattr;

use crate::failure::Outcome;
use crate::tree::Tree;
use everhold_proto::fs::{FsOp, FsReply};

/// Carries out one operation.
pub(crate) fn perform(tree: &mut Tree<'_, '_>, op: &FsOp) -> Outcome<FsReply> {
    let entry = |parent: &_, name: &everhold_proto::fs::Name| (*parent, name.clone());
    match op {
        FsOp::Create { parent, name, kind, owner, open } => {
            create::create(tree, entry(parent, name), kind, *owner, *open)
        }
        FsOp::PutFile { parent, name, owner, size, content, replace, mtime } => {
            let file = create::WholeFile {
                owner: *owner,
                size: *size,
                content,
                replace: *replace,
                mtime: *mtime,
            };
            create::put_file(tree, entry(parent, name), file)
        }
        FsOp::Commit { inode, expected_version, content, size_at_least, append } => {
            write::expect_version(tree, *inode, *expected_version)?;
            write::commit(tree, *inode, content, *size_at_least, *append)
        }
        FsOp::Fold { inode, expected_version, content } => {
            write::expect_version(tree, *inode, Some(*expected_version))?;
            write::fold(tree, *inode, content)
        }
        FsOp::Punch { inode, offset, length } => write::punch(tree, *inode, *offset, *length),
        FsOp::Link { inode, parent, name } => names::link(tree, *inode, entry(parent, name)),
        FsOp::Unlink { parent, name, linger } => names::unlink(tree, entry(parent, name), *linger),
        FsOp::Rmdir { parent, name } => names::rmdir(tree, entry(parent, name)),
        FsOp::Rename { parent, name, new_parent, new_name, mode } => {
            rename::rename(tree, entry(parent, name), entry(new_parent, new_name), *mode)
        }
        FsOp::SetAttr { inode, set } => attributes::set(tree, *inode, set),
        FsOp::SetXattr { inode, name, value, mode } => xattr::set(tree, *inode, name, value, *mode),
        FsOp::RemoveXattr { inode, name } => xattr::remove(tree, *inode, name),
        FsOp::Open { inode } => handles::open(tree, *inode),
        FsOp::Release { inode } => handles::release(tree, *inode),
        FsOp::Delegate { inode } => delegate::give(tree, *inode),
        FsOp::Undelegate { inode, lost } => delegate::take_back(tree, *inode, *lost),
        // Of the session's row, not of the tree: see `execute`.
        FsOp::Reserve { .. } => Err(everhold_proto::fs::FsError::Invalid.into()),
        FsOp::CloneRange { source, source_offset, length, target, target_offset } => {
            let clone = clone::Clone {
                source: *source,
                source_offset: *source_offset,
                length: *length,
                target: *target,
                target_offset: *target_offset,
            };
            clone::clone_range(tree, &clone)
        }
        FsOp::CreateUnnamed { parent, owner, linkable } => {
            create::create_unnamed(tree, *parent, *owner, *linkable)
        }
        FsOp::Lock { inode, space, owner, kind, start, end, pid } => {
            let (inode, space, owner, start, end) = (*inode, *space, *owner, *start, *end);
            locks::lock(tree, &locks::Wanted { inode, space, owner, start, end }, *kind, *pid)
        }
        FsOp::Unlock { inode, space, owner, start, end } => {
            let (inode, space, owner, start, end) = (*inode, *space, *owner, *start, *end);
            locks::unlock(tree, &locks::Wanted { inode, space, owner, start, end })
        }
    }
}
