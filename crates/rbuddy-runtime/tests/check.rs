//! The check against real servers: what it says, and that it writes nothing.

mod common;

use common::Server;
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::settings::{Consistency, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::admin::{AdminConnection, text};
use rbuddy_runtime::check::{Finding, Severity, Topic, check, essential};
use rbuddy_runtime::settings::{ApiSettings, Endpoint, GroupSettings, JournalSettings, RelaySettings, Settings};
use std::time::Duration;

fn settings(primary: &Endpoint, replicas: &[Endpoint]) -> Settings {
    let policy = GroupPolicy {
        group: "main".parse().expect("a name"),
        primary: PrimaryAt::Fixed(primary.address.clone()),
        replicas: replicas.iter().map(|replica| replica.address.clone()).collect(),
        actives: 1,
        relay: NodeAddress::new("127.0.0.1", 1),
        standby: StandbyMode::Empty,
        consistency: Consistency::Rolling,
        max_unavailable: 1,
        freeze: FreezeMode::Hold,
        drain: Duration::from_secs(10),
        max_lag: MaxLag::default(),
        guard: Guard::default(),
        dead_after: Duration::from_secs(3),
        snapshot_from: SnapshotFrom::Primary,
        notify: Vec::new(),
    };
    let relay = RelaySettings::listening("127.0.0.1:1", policy.relay.clone());
    let group =
        GroupSettings { policy, primary: primary.clone().into(), replicas: replicas.to_vec(), relay, reader: None, notify: Vec::new() };
    Settings {
        state_dir: "/nonexistent".into(),
        api: ApiSettings { listen: "127.0.0.1:0".to_owned(), token: None },
        journal: JournalSettings::default(),
        groups: vec![group],
    }
}

async fn command(endpoint: &Endpoint, args: &[&str]) -> redis::Value {
    let connection = AdminConnection::open(endpoint, Duration::from_secs(5)).await.expect("it runs");
    connection.command(args).await.expect("it obeys")
}

async fn follow(replica: &Server, primary: &Server) {
    command(&replica.endpoint(), &["REPLICAOF", "127.0.0.1", &primary.port.to_string()]).await;
    let connection = AdminConnection::open(&replica.endpoint(), Duration::from_secs(5)).await.expect("it runs");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !connection.info().await.expect("INFO").is_link_up {
        assert!(tokio::time::Instant::now() < deadline, "the replica never followed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn has(findings: &[Finding], severity: Severity, server: u16, topic: Topic) -> bool {
    findings.iter().any(|f| f.severity == severity && f.topic == topic && f.server.as_ref().is_some_and(|at| at.port == server))
}

#[tokio::test]
async fn a_sound_pair_is_proven_and_nothing_is_written() {
    let (primary, active, standby) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    command(&primary.endpoint(), &["SET", "k", "v"]).await;
    follow(&active, &primary).await;
    let before = command_counts(&[&primary, &active, &standby]).await;
    let findings = check(&settings(&primary.endpoint(), &[active.endpoint(), standby.endpoint()])).await;
    let after = command_counts(&[&primary, &active, &standby]).await;
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:#?}");
    assert!(
        has(&findings, Severity::Ok, active.port, Topic::Data) && has(&findings, Severity::Ok, active.port, Topic::Commands),
        "{findings:#?}"
    );
    assert!(has(&findings, Severity::Warning, active.port, Topic::Restart), "it has no configuration file: {findings:#?}");
    assert_eq!(before, after, "commands that change something");
    assert!(essential(&settings(&primary.endpoint(), &[active.endpoint(), standby.endpoint()])).await.is_empty());
}

/// How often each command that is not a mere question ran, per server. What replicas and primary say to each other is left out.
async fn command_counts(servers: &[&Server]) -> Vec<String> {
    let questions = [
        "auth",
        "info",
        "config|get",
        "command|info",
        "acl|whoami",
        "acl|dryrun",
        "acl|list",
        "module|list",
        "client|list",
        "ping",
        "replconf",
        "psync",
    ];
    let mut counts = Vec::new();
    for server in servers {
        let stats = text(&command(&server.endpoint(), &["INFO", "commandstats"]).await).expect("text");
        let lines = stats.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(":calls="));
        counts.extend(
            lines
                .filter(|(name, _)| !questions.contains(name))
                .map(|(name, rest)| format!("{} {name} {}", server.port, rest.split(',').next().unwrap_or_default())),
        );
    }
    counts
}

#[tokio::test]
async fn a_primary_named_as_replica_and_one_server_twice_are_refused() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    // Another name for the same server: only the run id shows it.
    let alias = |server: &Server| Endpoint { address: NodeAddress::new("localhost", server.port), user: None, password: None };
    let settings = settings(&primary.endpoint(), &[replica.endpoint(), alias(&replica), alias(&primary)]);
    for findings in [essential(&settings).await, check(&settings).await] {
        let errors: Vec<_> = findings.iter().filter(|f| f.topic == Topic::Identity && f.severity == Severity::Error).collect();
        assert_eq!(errors.len(), 2, "{findings:#?}");
        assert!(
            errors[0].message.contains("is the same server as 127.0.0.1") && errors[1].message.contains("is the primary"),
            "{errors:#?}"
        );
    }
}

#[tokio::test]
async fn foreign_keys_cluster_mode_and_dead_servers_are_found() {
    let (primary, foreign) = (Server::start(&[]).await, Server::start(&[]).await);
    let cluster = Server::start(&["--cluster-enabled", "yes"]).await;
    let mut dead = Server::start(&[]).await;
    dead.kill();
    command(&foreign.endpoint(), &["SET", "mine", "1"]).await;
    let settings = settings(&primary.endpoint(), &[foreign.endpoint(), cluster.endpoint(), dead.endpoint()]);
    let findings = check(&settings).await;
    assert!(has(&findings, Severity::Error, foreign.port, Topic::Data), "{findings:#?}");
    let adopt = format!("rbuddy adopt 127.0.0.1:{}", foreign.port);
    assert!(findings.iter().any(|f| f.remedy.as_ref().is_some_and(|remedy| remedy.contains(&adopt))), "{findings:#?}");
    assert!(has(&findings, Severity::Error, cluster.port, Topic::Cluster), "{findings:#?}");
    assert!(has(&findings, Severity::Error, dead.port, Topic::Reachable), "{findings:#?}");
    let refusals = essential(&settings).await;
    assert_eq!(refusals.iter().map(|f| f.topic).collect::<Vec<_>>(), [Topic::Cluster], "a dead server does not keep rbuddy from starting");
}

#[tokio::test]
async fn renamed_and_forbidden_commands_are_found() {
    let primary = Server::start(&[]).await;
    let renamed = Server::start(&["--rename-command", "FLUSHALL", "", "--rename-command", "CONFIG", "c0nfig"]).await;
    let strict = Server::start(&[]).await;
    command(&strict.endpoint(), &["ACL", "SETUSER", "buddy", "on", ">pw", "~*", "&*", "+@all", "-replicaof", "-config|rewrite"]).await;
    command(&primary.endpoint(), &["ACL", "SETUSER", "mute", "on", ">pw", "+psync", "+replconf", "+ping"]).await;
    let mute = primary.with_password(Some("mute"), "pw");
    let findings = check(&settings(&mute, &[renamed.endpoint(), strict.with_password(Some("buddy"), "pw")])).await;
    assert!(has(&findings, Severity::Error, primary.port, Topic::Reachable), "{findings:#?}");
    assert!(findings.iter().any(|f| f.remedy.as_ref().is_some_and(|remedy| remedy.contains("+info"))), "{findings:#?}");
    let said = |port: u16, severity: Severity| {
        let of = |f: &&Finding| f.topic == Topic::Commands && f.severity == severity && f.server.as_ref().is_some_and(|at| at.port == port);
        findings.iter().filter(of).map(|f| f.message.clone()).collect::<Vec<_>>()
    };
    assert_eq!(said(renamed.port, Severity::Error), ["has no command CONFIG GET, CONFIG SET, FLUSHALL"]);
    assert_eq!(said(strict.port, Severity::Error), ["does not allow our login REPLICAOF"]);
    assert_eq!(
        said(strict.port, Severity::Warning),
        ["does not allow our login CONFIG REWRITE: its role will not outlive its own restart"]
    );
}

#[tokio::test]
async fn a_password_that_is_missing_or_wrong_is_named() {
    let primary = Server::start(&["--requirepass", "pw"]).await;
    let replica = Server::start(&["--masterauth", "other"]).await;
    let findings = check(&settings(&primary.endpoint(), &[replica.endpoint()])).await;
    assert!(has(&findings, Severity::Error, primary.port, Topic::Reachable), "{findings:#?}");
    let findings = check(&settings(&primary.with_password(None, "pw"), &[replica.endpoint()])).await;
    assert!(has(&findings, Severity::Error, replica.port, Topic::Masterauth), "{findings:#?}");
}
