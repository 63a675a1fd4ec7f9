//! `rbuddy replay` on files as a crash, another version or a forger leaves them.

use rbuddy_core::control::Controller;
use rbuddy_core::control::action::Output;
use rbuddy_core::control::event::Event;
use rbuddy_core::control::journal::{Beginning, Entry};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::settings::{FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::types::{NodeAddress, Time};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Exit code, stdout, stderr.
fn replay(file: &Path, options: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_rbuddy")).arg("replay").args(options).arg(file).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

/// A start and a few moments in which nothing happens.
fn journal() -> Vec<String> {
    let address = |port| NodeAddress::new("127.0.0.1", port);
    let policy = GroupPolicy {
        group: "main".parse().expect("a name"),
        primary: PrimaryAt::Fixed(address(1)),
        replicas: vec![address(2)],
        actives: 1,
        relay: address(3),
        standby: StandbyMode::Empty,
        consistency: rbuddy_core::control::settings::Consistency::Rolling,
        max_unavailable: 1,
        freeze: FreezeMode::Hold,
        drain: Duration::ZERO,
        max_lag: MaxLag::default(),
        guard: Guard::default(),
        dead_after: Duration::from_secs(1),
        snapshot_from: SnapshotFrom::Primary,
        notify: Vec::new(),
    };
    let at = Time::from_unix_ms(1_000);
    let mut controller = Controller::new(policy.clone(), None, at);
    let mut entries = vec![Entry::Begin(Box::new(Beginning { at, policy, state: None }))];
    while let Output::Action(action) = controller.poll_output() {
        entries.push(Entry::Action(action));
    }
    entries.extend([2_000, 3_000].map(|ms| Entry::Event { at: Time::from_unix_ms(ms), event: Event::Tick }));
    let version = env!("CARGO_PKG_VERSION");
    let heading = format!("{{\"journal\":1,\"rbuddy\":\"{version}\",\"group\":\"main\"}}");
    let lines = entries.iter().map(|entry| serde_json::to_string(entry).expect("plain data"));
    std::iter::once(heading).chain(lines).collect()
}

#[test]
fn what_is_sound_ends_with_0_and_half_a_line_is_only_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("1.ndjson");
    std::fs::write(&file, format!("{}\n{{\"event\":{{\"at\":40", journal().join("\n"))).expect("written");
    let (code, stdout, stderr) = replay(&file, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("#1 rbuddy starts") && stdout.contains("→ publishes who may be read: nobody"), "{stdout}");
    assert!(stderr.contains("half a line") && stderr.contains("3 steps, 2 of them without a decision, 0 decided differently"), "{stderr}");

    let (_, stdout, _) = replay(&file, &["--from", "1970-01-01T00:00:02Z", "--all"]);
    assert_eq!(stdout.lines().filter(|line| line.contains("time passed")).count(), 2, "{stdout}");
    assert!(!stdout.contains("rbuddy starts"), "{stdout}");
    let (_, stdout, _) = replay(&file, &["--json", "--all"]);
    let steps: Vec<serde_json::Value> = stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((steps.len(), &steps[2]["at"], &steps[0]["difference"]), (3, &3_000.into(), &serde_json::Value::Null));
    let (_, stdout, _) = replay(folder.path(), &[]);
    assert!(stdout.contains("#1 rbuddy starts"), "a folder stands for its files: {stdout}");
}

#[test]
fn what_differs_ends_with_1_and_is_shown_at_its_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("1.ndjson");
    let mut lines = journal();
    let at = lines.iter().position(|line| line.contains("\"assign\"")).expect("it tells who may be read");
    lines.remove(at);
    std::fs::write(&file, lines.join("\n")).expect("written");
    let (code, stdout, stderr) = replay(&file, &[]);
    assert_eq!(code, 1, "{stdout}{stderr}");
    assert!(stdout.contains("✗ recorded: Outbox") && stdout.contains("replayed: Assign"), "{stdout}");
    assert!(stderr.contains("error: ") && stderr.contains("1 decided differently"), "{stderr}");
}

#[test]
fn another_format_is_named_and_another_version_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("1.ndjson");
    std::fs::write(&file, "{\"journal\":2}\n").expect("written");
    let (code, _, stderr) = replay(&file, &[]);
    assert_eq!((code, stderr.contains("format 2") && stderr.contains("reads 1")), (1, true), "{stderr}");
    let mut lines = journal();
    lines[0] = lines[0].replace(env!("CARGO_PKG_VERSION"), "99.0");
    std::fs::write(&file, lines.join("\n")).expect("written");
    let (code, _, stderr) = replay(&file, &[]);
    assert_eq!((code, stderr.contains("written by rbuddy 99.0")), (0, true), "{stderr}");
    assert_eq!(replay(&folder.path().join("none"), &[]).0, 1);
    assert_eq!(replay(&file, &["--from", "yesterday"]).0, 2);
}
