//! What each command does, one file each. `run` and `relay` serve; `status`, `plan` and the orders in `client` talk to a running rbuddy over its
//! API; `check`, `init` and `replay` need none.

pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod init;
pub(crate) mod plan;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod run;
pub(crate) mod status;

use crate::config::{self, ConfigError, Loaded};
use crate::exit::{Exit, Failure};
use crate::out;
use std::path::Path;

/// A configuration that can be run. Its mistakes are shown, and end the command; its remarks are shown only.
fn load(path: &Path) -> Result<Loaded, Failure> {
    let loaded = config::load(path).map_err(|error| match error {
        ConfigError::Wrong(problems) => {
            out::remark(&problems.render(out::remarks_in_colour()));
            Failure::new(Exit::Usage, format!("{} has mistakes", problems.file()))
        }
        read @ ConfigError::Read { .. } => Failure { exit: Exit::Usage, error: Some(read.into()) },
    })?;
    if !loaded.remarks.is_empty() {
        out::remark(&loaded.remarks.render(out::remarks_in_colour()));
    }
    Ok(loaded)
}
