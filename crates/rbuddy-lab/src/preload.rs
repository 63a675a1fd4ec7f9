//! Small libraries in C that change what the system tells a process (LD_PRELOAD). Each is compiled when it is needed. Linux only, and only processes that ask
//! the C library.

use crate::LabError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles the library of this name. Its files are made in `folder`, which exists.
pub(crate) fn compile(folder: &Path, name: &str, text: &str) -> Result<PathBuf, LabError> {
    let (source, library) = (folder.join(format!("{name}.c")), folder.join(format!("{name}.so")));
    fs::write(&source, text).map_err(LabError::io(format!("write {}", source.display())))?;
    let what = || format!("compile {} with cc", source.display());
    let compiled = Command::new("cc").args(["-O2", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output();
    let compiled = compiled.map_err(LabError::io(what()))?;
    if !compiled.status.success() {
        let words = String::from_utf8_lossy(&compiled.stderr).into_owned();
        return Err(LabError::io(what())(std::io::Error::other(words)));
    }
    Ok(library)
}
