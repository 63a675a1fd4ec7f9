//! `rbuddy init`: writes a commented configuration. Never over an existing file.

use crate::config::template::TEMPLATE;
use crate::exit::{Exit, Failure};
use crate::out;
use anyhow::Context;
use clap::Args;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Where to; `-` is stdout
    #[arg(default_value = "rbuddy.toml")]
    file: PathBuf,
}

pub(crate) fn run(args: &InitArgs) -> Result<(), Failure> {
    let name = args.file.display();
    if args.file.as_os_str() == "-" {
        out::result(TEMPLATE.trim_end());
        return Ok(());
    }
    // Passwords will stand in it: nobody else may read it.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let mut file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Failure::new(Exit::Refused, format!("{name} exists already: it is left alone")));
        }
        Err(error) => return Err(anyhow::Error::from(error).context(format!("create {name}")).into()),
    };
    file.write_all(TEMPLATE.as_bytes()).with_context(|| format!("write {name}"))?;
    out::remark(&format!("wrote {name}; fill in the addresses, then: rbuddy check --config {name}"));
    Ok(())
}
