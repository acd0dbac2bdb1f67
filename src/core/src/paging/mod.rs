//! Messages that were written out of memory.
//!
//! A page holds the messages of one queue that were there when it was written. What the ledger
//! keeps of it ([`Page`], [`PagedRun`]) says everything about its messages but what they say:
//! where they are, how large, of which priority, how often delivered. Whoever needs the messages
//! reads the page ([`read`]).
//!
//! Pages are an affair of one node: no fact of the log names one, and another node has others.

mod column;
mod page;
mod write;

pub use column::Column;
pub use page::{Moved, Over, Page, PageContent, PageKey, PagedRun};
pub use write::{Gathered, Unwritten, Written, read};
