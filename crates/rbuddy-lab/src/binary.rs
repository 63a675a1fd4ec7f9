//! Finds server binaries: the default one for demo and tests, and others by family and version.
//!
//! Looked at, in this order: `RBUDDY_TEST_SERVER`, `redis-server` and `valkey-server` on PATH, then `.servers/*` of the working folder and
//! the folders above it (what `scripts/test-servers` fetches). It never installs anything.

use crate::LabError;
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A server binary that can be run here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binary {
    /// Where.
    pub path: PathBuf,
    /// `redis` or `valkey`.
    pub family: String,
    /// `(7, 0, 15)`.
    pub version: (u16, u16, u16),
}

impl Binary {
    /// The first one found.
    pub fn find() -> Result<Binary, LabError> {
        let looked_at = candidates();
        looked_at.iter().find_map(|path| Binary::at(path)).ok_or_else(|| LabError::NoBinary {
            looked_at: looked_at.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// One of this family and version (`"valkey", 9, 1`), where there is one.
    pub fn of(family: &str, major: u16, minor: u16) -> Option<Binary> {
        let fits = |binary: &Binary| binary.family == family && (binary.version.0, binary.version.1) == (major, minor);
        candidates().iter().filter_map(|path| Binary::at(path)).find(fits)
    }

    /// The binary at a path, if it runs and says what it is.
    pub fn at(path: &Path) -> Option<Binary> {
        let output = Command::new(path).arg("--version").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (family, version) = parse_version(&text)?;
        Some(Binary { path: path.to_owned(), family, version })
    }

    /// Since Redis 7.0 DEBUG must be allowed on the command line; older servers die of the unknown option.
    pub fn wants_debug_enabled(&self) -> bool {
        self.version >= (7, 0, 0)
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor, patch) = self.version;
        write!(f, "{} {major}.{minor}.{patch} ({})", self.family, self.path.display())
    }
}

fn candidates() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = env::var_os("RBUDDY_TEST_SERVER").map(PathBuf::from).into_iter().collect();
    let folders: Vec<PathBuf> = env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    for name in ["redis-server", "valkey-server"] {
        paths.extend(folders.iter().map(|folder| folder.join(name)).filter(|path| path.is_file()));
    }
    let working_folder = env::current_dir().unwrap_or_default();
    let fetched = working_folder.ancestors().map(|folder| folder.join(".servers")).find(|folder| folder.is_dir());
    let mut fetched: Vec<PathBuf> =
        fetched.and_then(|folder| folder.read_dir().ok()).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    fetched.sort();
    for folder in fetched {
        paths.extend(["redis-server", "valkey-server"].iter().map(|name| folder.join(name)).filter(|path| path.is_file()));
    }
    paths
}

/// `Redis server v=7.0.15 sha=…`, `Valkey server v=9.1.2 sha=…`.
fn parse_version(text: &str) -> Option<(String, (u16, u16, u16))> {
    let family = text.split_whitespace().next()?.to_lowercase();
    let version = text.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    let mut numbers = version.split('.').map(|number| number.parse::<u16>());
    let version = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    ["redis", "valkey"].contains(&family.as_str()).then_some((family, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_says_what_it_is() {
        let redis = parse_version("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=ae4d7c971a948f0");
        assert_eq!(redis, Some(("redis".to_owned(), (7, 0, 15))));
        let valkey = parse_version("Valkey server v=9.1.2 sha=00000000:1 malloc=libc bits=64 build=1");
        assert_eq!(valkey, Some(("valkey".to_owned(), (9, 1, 2))));
        assert_eq!(parse_version("bash: version 5"), None);
        assert_eq!(Binary::at(Path::new("/bin/true")), None);
    }
}
