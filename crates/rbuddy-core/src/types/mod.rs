//! The words of the domain as types: raw text is parsed once, at the edge, and the inside never checks it again.

mod address;
mod names;
mod position;
mod replid;
mod time;
mod version;

pub use address::{NodeAddress, ParseNodeAddressError};
pub use names::{Generation, GroupName, ParseGroupNameError};
pub use position::{DatasetId, NextByte, Offset, ParsePositionError, Position};
pub use replid::{ParseIdError, ReplId, RunId};
pub use time::Time;
pub use version::{Flavour, ParseVersionError, RdbVersion, ServerVersion};
