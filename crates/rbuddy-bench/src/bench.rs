//! What every section needs: the programs, the sizes, and a folder of its own for each thing that is started.

use crate::args::{Args, Sizes};
use crate::out;
use crate::pipe::{Pipe, Way};
use crate::primary::Primary;
use crate::process;
use crate::replica::Replica;
use anyhow::Context;
use rbuddy_lab::Binary;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) sizes: Sizes,
    pub(crate) tools: Tools,
    folder: TempDir,
}

/// What is run.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) server: Binary,
    pub(crate) rbuddy: PathBuf,
    pub(crate) haproxy: Option<PathBuf>,
    pub(crate) socat: Option<PathBuf>,
}

impl Bench {
    /// Finds everything; says what is missing.
    pub(crate) fn prepare(args: &Args, sizes: Sizes) -> anyhow::Result<Bench> {
        let tools = Tools::find()?;
        let within = args.dir.clone().unwrap_or_else(std::env::temp_dir);
        fs::create_dir_all(&within).with_context(|| format!("create {}", within.display()))?;
        let folder = tempfile::Builder::new().prefix("rbuddy-bench-").tempdir_in(&within);
        let folder = folder.with_context(|| format!("make a folder in {}", within.display()))?;
        Ok(Bench { sizes, tools, folder })
    }

    /// The head of the report.
    pub(crate) fn describe(&self) -> String {
        let cores = std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |cores| cores.to_string());
        let command: Vec<String> = std::env::args().skip(1).collect();
        let warning = match (cfg!(debug_assertions), self.sizes.is_quick) {
            (true, _) => "\n**A debug build: these figures mean nothing.** `make bench-relay` makes a release build.\n",
            (false, true) => "\n**A quick run: these figures mean nothing**, they show that the benchmark works.\n",
            (false, false) => "",
        };
        let first_line = |tool: &Option<PathBuf>, argument: &str| match tool {
            Some(path) => first_line_of(path, argument, "version"),
            None => "not installed, left out (scripts/setup-bench)".to_owned(),
        };
        format!(
            "# The relay beside direct replication and TCP pipes\n{warning}\n\
             - when: {}, `rbuddy-bench {}`\n- machine: {cores} cores, {}; load average at the start: {}\n\
             - server: {}\n- rbuddy: {}\n- HAProxy: {}\n- socat: {}\n",
            jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC"),
            command.join(" "),
            process::processor(),
            process::load_average(),
            self.tools.server,
            first_line_of(&self.tools.rbuddy, "--version", "rbuddy"),
            first_line(&self.tools.haproxy, "-v"),
            first_line(&self.tools.socat, "-V"),
        )
    }

    /// A folder for one measurement; gone with everything in it when dropped.
    pub(crate) fn scratch(&self) -> anyhow::Result<TempDir> {
        tempfile::tempdir_in(self.folder.path()).context("make a folder for a measurement")
    }

    /// An empty primary. `config` are lines of its configuration beside the usual ones.
    pub(crate) async fn primary(&self, config: &[(&str, &str)]) -> anyhow::Result<Primary> {
        Primary::start(&self.tools.server, self.scratch()?, config).await
    }

    /// Empty replicas that follow nobody yet.
    pub(crate) async fn replicas(&self, count: usize) -> anyhow::Result<Vec<Replica>> {
        let mut replicas = Vec::new();
        for _ in 0..count {
            replicas.push(Replica::start(&self.tools.server, self.scratch()?).await?);
        }
        Ok(replicas)
    }

    /// A way to the primary, open.
    pub(crate) async fn open(&self, way: Way, primary: &Primary, folder: &Path) -> anyhow::Result<Pipe> {
        Pipe::open(way, &self.tools, &primary.address(), folder).await
    }

    /// Direct, the relay, and those TCP pipes that are installed. Says which are not.
    pub(crate) fn ways(&self, section: &str) -> Vec<Way> {
        let competitors = [(Way::Socat, self.tools.socat.is_some()), (Way::HaProxy, self.tools.haproxy.is_some())];
        for (way, _) in competitors.iter().filter(|(_, is_there)| !is_there) {
            out::progress(&format!("{section}: {way} is not installed and is left out (scripts/setup-bench)"));
        }
        let there = competitors.into_iter().filter(|(_, is_there)| *is_there).map(|(way, _)| way);
        [Way::Direct, Way::Relay].into_iter().chain(there).collect()
    }
}

impl Tools {
    fn find() -> anyhow::Result<Tools> {
        Ok(Tools { server: Binary::find()?, rbuddy: rbuddy()?, haproxy: on_path("haproxy"), socat: on_path("socat") })
    }
}

/// `RBUDDY_BIN`, else the binary beside this one.
fn rbuddy() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("RBUDDY_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program's own path")?;
    let beside = own.with_file_name("rbuddy");
    anyhow::ensure!(beside.is_file(), "no rbuddy beside {}: run `make bench-relay`, or name one in RBUDDY_BIN", own.display());
    Ok(beside)
}

fn on_path(name: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    // Daemons are often not on the PATH of a plain user.
    let folders = folders.into_iter().chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

/// The first line of a program's own words that names what is looked for.
fn first_line_of(program: &Path, argument: &str, word: &str) -> String {
    let output = Command::new(program).arg(argument).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    let line = text.lines().find(|line| line.contains(word));
    line.map_or_else(|| format!("{} (says no version)", program.display()), |line| line.trim().to_owned())
}
