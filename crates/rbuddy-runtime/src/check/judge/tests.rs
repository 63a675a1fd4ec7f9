//! Facts made by hand: what is said of them.

use super::super::facts::{Access, GroupFacts, Server, ServerFacts, Silence};
use super::super::finding::{Finding, Severity, Topic};
use super::super::gather::{FOR_PRIMARY, FOR_REPLICAS};
use super::{group, identity, size};
use crate::primary::{Answer, Said};
use crate::settings::{Credentials, Endpoint, GroupSettings, PrimaryPlace, RelaySettings, Secret, SentinelSettings};
use rbuddy_core::control::drift::{Settings, User};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::settings::{Consistency, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::NodeAddress;
use std::time::Duration;

/// A primary and two replicas, one full and one empty, without a fault.
fn sound() -> GroupFacts {
    let primary = NodeAddress::new("p", 1);
    let relay = NodeAddress::new("relay", 4);
    let policy = GroupPolicy {
        group: "main".parse().expect("a name"),
        primary: PrimaryAt::Fixed(primary.clone()),
        replicas: vec![NodeAddress::new("a", 2), NodeAddress::new("b", 3)],
        actives: 1,
        relay: relay.clone(),
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
    let endpoint = |address: &NodeAddress| Endpoint { address: address.clone(), user: None, password: None };
    let settings = GroupSettings {
        primary: endpoint(&primary).into(),
        replicas: policy.replicas.iter().map(endpoint).collect(),
        relay: RelaySettings::listening("0.0.0.0:4", relay),
        reader: None,
        notify: Vec::new(),
        policy,
    };
    let full = "aa".repeat(20);
    let primary_info = format!(
        "redis_version:7.0.15\nrun_id:{}\nconfig_file:/etc/p\nrole:master\nmaster_replid:{full}\nmaster_repl_offset:9\nrepl_backlog_size:104857600\nused_memory:1000\ndb0:keys=5,expires=0,avg_ttl=0\n",
        "01".repeat(20)
    );
    let replica_info = |id: &str, replid: &str, keys: &str| {
        format!(
            "redis_version:7.0.15\nrun_id:{}\nconfig_file:/etc/r\nrole:slave\nmaster_host:p\nmaster_port:1\nmaster_link_status:up\nslave_read_only:1\nmaster_replid:{replid}\nused_memory:1000\ntotal_system_memory:100000\n{keys}",
            id.repeat(20)
        )
    };
    let mut primary_facts = facts(&primary_info, FOR_PRIMARY);
    primary_facts.write_rate = Some(1024.0);
    GroupFacts {
        primary: Some(Server { address: primary, facts: Ok(primary_facts) }),
        sentinels: Vec::new(),
        replicas: vec![
            Server {
                address: NodeAddress::new("a", 2),
                facts: Ok(facts(&replica_info("02", &full, "db0:keys=5,expires=0,avg_ttl=0\n"), FOR_REPLICAS)),
            },
            Server { address: NodeAddress::new("b", 3), facts: Ok(facts(&replica_info("03", &"bb".repeat(20), ""), FOR_REPLICAS)) },
        ],
        settings,
        own_ids: Vec::new(),
    }
}

fn facts(info: &str, commands: &[(&'static str, &[&str])]) -> ServerFacts {
    let config =
        [("masterauth", ""), ("masteruser", ""), ("save", "3600 1"), ("replica-serve-stale-data", "yes"), ("replica-read-only", "yes")];
    ServerFacts {
        info: ServerInfo::parse(&format!("{info}maxmemory:0\nmaxmemory_policy:noeviction\n# Modules\nmodule:name=bloom,ver=1\n")),
        config: config.into_iter().map(|(name, value)| (name, value.to_owned())).collect(),
        commands: commands.iter().map(|(name, _)| (*name, Access::Allowed)).collect(),
        settings: Settings { databases: Some(16), ignores_limit: Some(true), users: Some(Default::default()) },
        file_replicaof: Some(Some(NodeAddress::new("relay", 4))),
        ..ServerFacts::default()
    }
}

fn all(group_facts: &GroupFacts) -> Vec<Finding> {
    let mut list = identity(std::slice::from_ref(group_facts));
    list.extend(group(group_facts));
    list
}

/// What is not as it should be: severity, server, topic.
fn faults(group_facts: &GroupFacts) -> Vec<(Severity, Option<String>, Topic)> {
    let list = all(group_facts).into_iter().filter(|finding| finding.severity > Severity::Ok);
    list.map(|finding| (finding.severity, finding.server.map(|server| server.to_string()), finding.topic)).collect()
}

fn primary(group: &mut GroupFacts) -> &mut ServerFacts {
    group.primary.as_mut().expect("there is one").facts.as_mut().expect("it answered")
}

fn replica(group: &mut GroupFacts, at: usize) -> &mut ServerFacts {
    group.replicas[at].facts.as_mut().expect("it answered")
}

fn a_user() -> User {
    User { is_on: true, ..User::default() }
}

fn detach_an_old_one(group: &mut GroupFacts) {
    group.settings.policy.freeze = rbuddy_core::control::settings::FreezeMode::Detach;
    replica(group, 0).info.version = "6.2.0".parse_redis();
}

#[test]
fn data_of_an_earlier_history_of_the_group_is_known() {
    let mut group = sound();
    let earlier = "cc".repeat(20).parse().expect("an id");
    replica(&mut group, 0).info.replid = Some(earlier);
    assert_eq!(faults(&group).len(), 1, "it could be anybody's");
    group.own_ids = vec![earlier];
    assert_eq!(faults(&group), []);
}

#[test]
fn a_sound_group_has_no_fault() {
    assert_eq!(faults(&sound()), []);
}

#[test]
fn each_fault_is_named_at_its_server() {
    use Severity::{Error, Note, Warning};
    type Change = fn(&mut GroupFacts);
    let changes: [(Change, Severity, Option<&str>, Topic); 30] = [
        (|g| replica(g, 1).info.run_id = g.known_primary().and_then(|(_, p)| p.info.run_id), Error, Some("b:3"), Topic::Identity),
        (|g| replica(g, 1).info.run_id = replica(g, 0).info.run_id, Error, Some("b:3"), Topic::Identity),
        (|g| replica(g, 0).info.is_cluster = true, Error, Some("a:2"), Topic::Cluster),
        (|g| g.replicas[0].facts = Err(Silence { is_denied: false, reason: "gone".into() }), Error, Some("a:2"), Topic::Reachable),
        (|g| replica(g, 0).info.master = Some(NodeAddress::new("x", 1)), Warning, Some("a:2"), Topic::Role),
        (|g| replica(g, 0).info.is_sync_in_progress = true, Warning, Some("a:2"), Topic::Role),
        (|g| replica(g, 0).info.is_link_up = false, Note, Some("a:2"), Topic::Role),
        (|g| replica(g, 0).info.replid = Some("cc".repeat(20).parse().expect("an id")), Error, Some("a:2"), Topic::Data),
        (|g| detach_an_old_one(g), Error, Some("a:2"), Topic::Version),
        (|g| replica(g, 0).info.version = "6.2.0".parse_redis(), Error, Some("a:2"), Topic::Version),
        (|g| _ = replica(g, 0).commands.insert("FLUSHALL", Access::Missing), Error, Some("a:2"), Topic::Commands),
        (|g| _ = replica(g, 0).commands.insert("REPLICAOF", Access::Denied), Error, Some("a:2"), Topic::Commands),
        (|g| _ = replica(g, 0).commands.insert("CONFIG REWRITE", Access::Denied), Warning, Some("a:2"), Topic::Commands),
        (|g| _ = replica(g, 0).commands.insert("CLIENT KILL", Access::Unknown), Note, Some("a:2"), Topic::Commands),
        (|g| _ = replica(g, 0).config.insert("masterauth", "pw".into()), Warning, Some("a:2"), Topic::Masterauth),
        (|g| g.settings.primary.password = Some(Secret::new("pw")), Error, Some("a:2"), Topic::Masterauth),
        (|g| g.settings.primary.password = Some(Secret::new("pw")), Note, Some("p:1"), Topic::Masterauth),
        (|g| _ = replica(g, 0).config.insert("replica-serve-stale-data", "no".into()), Note, Some("a:2"), Topic::StaleReads),
        (|g| _ = replica(g, 0).config.insert("replica-read-only", "no".into()), Error, Some("a:2"), Topic::ReadOnly),
        (|g| replica(g, 0).info.config_file = None, Warning, Some("a:2"), Topic::Restart),
        (|g| replica(g, 0).file_replicaof = Some(None), Note, Some("a:2"), Topic::Restart),
        (|g| replica(g, 0).info.max_memory = Some(10), Warning, Some("a:2"), Topic::Memory),
        (|g| replica(g, 0).info.system_memory = Some(10), Warning, Some("a:2"), Topic::Memory),
        (|g| primary(g).write_rate = Some(1e7), Warning, Some("p:1"), Topic::Backlog),
        (|g| replica(g, 1).info.max_memory = Some(1 << 30), Note, Some("b:3"), Topic::Drift),
        (|g| replica(g, 1).info.max_memory = Some(10), Warning, Some("b:3"), Topic::Drift),
        (|g| _ = replica(g, 0).settings.users.insert([("app".to_owned(), a_user())].into()), Warning, Some("b:3"), Topic::Drift),
        (|g| replica(g, 0).settings.databases = Some(4), Error, Some("a:2"), Topic::Drift),
        (|g| _ = replica(g, 0).info.modules.insert(Default::default()), Error, Some("a:2"), Topic::Drift),
        (|g| replica(g, 0).sentinels = 3, Warning, Some("a:2"), Topic::Sentinel),
    ];
    for (at, (change, severity, server, topic)) in changes.into_iter().enumerate() {
        let mut group = sound();
        change(&mut group);
        let faults = faults(&group);
        let expected = (severity, server.map(str::to_owned), topic);
        assert!(faults.contains(&expected), "change {at}: expected {expected:?}, found {faults:?}");
        assert!(
            all(&group).iter().all(|finding| finding.severity < Severity::Warning || finding.remedy.is_some()),
            "change {at}: no remedy"
        );
    }
}

trait ParseRedis {
    fn parse_redis(&self) -> Option<rbuddy_core::types::ServerVersion>;
}

impl ParseRedis for str {
    fn parse_redis(&self) -> Option<rbuddy_core::types::ServerVersion> {
        rbuddy_core::types::ServerVersion::parse(rbuddy_core::types::Flavour::Redis, self).ok()
    }
}

#[test]
fn a_full_set_of_replicas_is_told_that_one_must_be_adopted() {
    let mut group = sound();
    let full = replica(&mut group, 0).info.clone();
    replica(&mut group, 1).info.replid = full.replid;
    replica(&mut group, 1).info.keyspace = full.keyspace;
    assert_eq!(faults(&group), [(Severity::Note, None, Topic::Data)]);
}

#[test]
fn masterauth_is_compared_and_never_shown() {
    let mut group = sound();
    group.settings.relay.auth = Some(Credentials { user: Some("repl".into()), password: Secret::new("hunter2") });
    for at in 0..2 {
        replica(&mut group, at).config.insert("masterauth", "hunter2".into());
        replica(&mut group, at).config.insert("masteruser", "repl".into());
    }
    primary(&mut group).config.insert("masterauth", "hunter2".into());
    assert_eq!(faults(&group), []);
    replica(&mut group, 0).config.insert("masterauth", "hunter3".into());
    replica(&mut group, 1).config.insert("masteruser", String::new());
    let list = all(&group);
    assert_eq!(list.iter().filter(|finding| finding.severity == Severity::Error).count(), 2);
    assert!(!format!("{list:?}").contains("hunter"));
}

#[test]
fn sizes_are_readable() {
    assert_eq!((size(1023).as_str(), size(1 << 20).as_str(), size(u64::MAX).as_str()), ("1023 bytes", "1.0 MiB", "16777216.0 TiB"));
}

/// A sound group whose primary three Sentinels name, with these answers.
fn named_by(answers: [Result<Answer, String>; 3]) -> GroupFacts {
    let mut group = sound();
    let at = |host: &str| NodeAddress::new(host, 26379);
    let sentinels = ["s1", "s2", "s3"].map(|host| Endpoint { address: at(host), user: None, password: None }).to_vec();
    group.settings.primary.place = PrimaryPlace::Sentinels(SentinelSettings { name: "m".into(), sentinels });
    let said = ["s1", "s2", "s3"].into_iter().zip(answers).map(|(host, answer)| Said { sentinel: at(host), answer });
    group.sentinels = said.collect();
    group
}

#[test]
fn sentinels_are_asked_and_each_fault_of_theirs_is_named() {
    let names = |host: &str, epoch| Ok(Answer::Names { address: NodeAddress::new(host, 1), epoch: Some(epoch) });
    let silent = || Err("s3:26379 did not answer".to_owned());
    assert_eq!(faults(&named_by([names("p", 1), names("p", 1), names("p", 1)])), []);
    let of = |server: &str| Some(server.to_owned());
    let faults_of = |answers| faults(&named_by(answers));
    assert_eq!(faults_of([names("p", 1), names("p", 1), silent()]), [(Severity::Warning, of("s3:26379"), Topic::Sentinel)]);
    assert_eq!(faults_of([names("p", 1), Ok(Answer::UnknownName), names("p", 1)]), [(Severity::Error, of("s2:26379"), Topic::Sentinel)]);
    assert_eq!(faults_of([names("p", 2), names("old", 1), names("p", 2)]), [(Severity::Warning, None, Topic::Sentinel)]);
    let nobody = faults_of([silent(), silent(), silent()]);
    assert!(nobody.contains(&(Severity::Error, None, Topic::Sentinel)), "{nobody:?}");
}

#[test]
fn a_replica_that_sentinels_made_the_primary_does_not_keep_rbuddy_from_starting() {
    let names = || Ok(Answer::Names { address: NodeAddress::new("p", 1), epoch: None });
    let mut group = named_by([names(), names(), names()]);
    replica(&mut group, 1).info.run_id = primary(&mut group).info.run_id;
    let findings = identity(&[group]);
    assert_eq!(
        findings.iter().map(|finding| (finding.severity, finding.topic)).collect::<Vec<_>>(),
        [(Severity::Warning, Topic::Identity)]
    );
}
