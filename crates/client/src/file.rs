//! Files: streaming reads of one version, streaming writes that replace atomically, and reads and
//! writes of ranges.

mod commit;
mod range;
mod reader;
mod writer;

pub use reader::FileReader;
pub use writer::{CreateOptions, FileWriter};
