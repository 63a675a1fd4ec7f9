//! What Linux says about processes that we started: CPU time, memory, children.

use anyhow::Context;
use std::fs;
use std::time::Duration;

/// `USER_HZ`: what /proc counts CPU time in, the same on every architecture that servers run on.
const TICKS_PER_SECOND: u64 = 100;

/// Memory of a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most it ever was.
    pub(crate) resident_peak: u64,
}

/// User and system time of a process, of its children that have ended, and of those that run: a server's forks and a pipe's workers count.
pub(crate) fn cpu(process: u32) -> anyhow::Result<Duration> {
    let all = all();
    anyhow::ensure!(all.iter().any(|one| one.id == process), "process {process} has gone");
    let tree = std::iter::once(process).chain(descendants_in(&all, process));
    let ticks: u64 = tree.filter_map(|id| all.iter().find(|one| one.id == id)).map(|one| one.ticks).sum();
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND))
}

/// All processes below this one.
pub(crate) fn descendants(process: u32) -> Vec<u32> {
    descendants_in(&all(), process)
}

/// Memory of one process, without its children.
pub(crate) fn memory(process: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{process}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    memory_in(&text).with_context(|| format!("find VmRSS and VmHWM in {path}"))
}

/// `0.08 0.03 0.01`: whether others use the machine.
pub(crate) fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let averages: Vec<&str> = text.split_whitespace().take(3).collect();
    if averages.is_empty() { "unknown".to_owned() } else { averages.join(" ") }
}

/// Name of the processor, where the kernel tells it.
pub(crate) fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
    name.map_or_else(|| "unknown processor".to_owned(), |(_, name)| name.trim().to_owned())
}

#[derive(Debug, PartialEq, Eq)]
struct Process {
    id: u32,
    parent: u32,
    /// Its own and of the children it has waited for.
    ticks: u64,
}

/// Processes come and go while this is read: those that have gone are left out.
fn all() -> Vec<Process> {
    let ids = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter_map(|id| parse_stat(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)).collect()
}

fn descendants_in(all: &[Process], process: u32) -> Vec<u32> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(all.iter().filter(|one| one.parent == parent && one.id != parent).map(|one| one.id));
        next += 1;
    }
    found.split_off(1)
}

/// `4711 (name with ) and spaces) S 1 …`: the name may hold anything, so fields are counted from the last parenthesis.
fn parse_stat(text: &str) -> Option<Process> {
    let (head, tail) = text.rsplit_once(')')?;
    let id = head.split_once(' ')?.0.parse().ok()?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok());
    // state, ppid, …; utime, stime, cutime and cstime are fields 14 to 17 of the whole line.
    let ticks = [11, 12, 13, 14].into_iter().map(number).sum::<Option<u64>>()?;
    Some(Process { id, parent: u32::try_from(number(1)?).ok()?, ticks })
}

fn memory_in(status: &str) -> Option<Memory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
    };
    Some(Memory { resident: bytes("VmRSS")?, resident_peak: bytes("VmHWM")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let line = "4711 (a) S 1 (b) R 12 4711 4711 0 -1 4194560 1 2 3 4 50 60 7 8 20 0 1 0 99 1 1";
        assert_eq!(parse_stat(line), Some(Process { id: 4711, parent: 12, ticks: 125 }));
        assert_eq!(parse_stat("4711 (cut) R 12"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn children_of_children_are_found_and_strangers_are_not() {
        let all = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 1), (0, 0)].map(|(id, parent)| Process { id, parent, ticks: 0 });
        assert_eq!(descendants_in(&all, 2), [3, 4]);
        assert_eq!(descendants_in(&all, 5), Vec::<u32>::new());
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let memory = memory_in("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t     512 kB\n");
        assert_eq!(memory, Some(Memory { resident: 512 * 1024, resident_peak: 2048 * 1024 }));
        assert_eq!(memory_in("Name:\tzombie\n"), None);
        assert!(super::memory(std::process::id()).expect("we run").resident > 0);
    }

    #[test]
    fn a_running_child_counts_and_one_that_is_gone_is_an_error() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("start a child");
        assert!(descendants(std::process::id()).contains(&child.id()));
        assert!(cpu(child.id()).expect("it runs") < Duration::from_secs(1));
        child.kill().expect("kill it");
        child.wait().expect("wait for it");
        assert!(cpu(child.id()).is_err());
    }
}
