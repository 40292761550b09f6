//! Files: attributes, extents, locks, operations and queries of the namespace, and their answers.

mod attr;
mod change;
mod content;
mod error;
mod lock;
mod name;
mod op;
mod query;

pub use attr::{
    Attr, Consistency, FileKind, NewKind, Owner, RenameMode, SetAttr, TimeOrNow, XattrMode,
};
pub use change::{ChangeKind, ChangeRecord};
pub use content::{Content, Extent, Source};
pub use error::FsError;
pub use lock::{LockInfo, LockKind, LockOwner, LockSpace};
pub use name::Name;
pub use op::{Behind, FsOp, FsReply, SessionBatch, SessionRequest};
pub use query::{FsAnswer, FsQuery, Usage};
