//! Files: streaming reads of one version, streaming writes that replace atomically, and reads and
//! writes of ranges.

mod commit;
mod open;
mod range;
mod reader;
mod writer;

pub(crate) use commit::content_of;
pub use open::OpenFile;
pub(crate) use open::{Dirty, SMALL_MAX};
pub use reader::FileReader;
pub use writer::{CreateOptions, FileWriter};
