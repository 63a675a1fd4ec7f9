//! Whole files in, all complaints out.

use super::{Loaded, parse, template::TEMPLATE};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::settings::{DriftGuard, FreezeMode, StandbyMode};
use rbuddy_runtime::settings::{JournalSettings, NotifyFormat};
use std::time::Duration;

const SOUND: &str = r#"
[groups.main]
primary = "redis://127.0.0.1:6379"
replicas = ["redis://127.0.0.1:6380", "redis://127.0.0.1:6381"]
relay = { listen = "127.0.0.1:6382" }
"#;

fn sound(text: &str) -> Loaded {
    parse("f", text).unwrap_or_else(|problems| panic!("refused:\n{}", problems.render(false)))
}

/// What is said of a file, errors or not.
fn said(text: &str) -> Vec<String> {
    match parse("f", text) {
        Ok(loaded) => loaded.remarks.lines(),
        Err(problems) => problems.lines(),
    }
}

fn with(lines: &str) -> String {
    format!("{SOUND}{lines}\n")
}

#[test]
fn the_written_template_is_sound() {
    let loaded = sound(TEMPLATE);
    assert!(loaded.remarks.is_empty(), "{:?}", loaded.remarks.lines());
    assert_eq!(loaded.settings.groups.len(), 1);
}

#[test]
fn what_is_left_out_has_its_default() {
    let settings = sound(SOUND).settings;
    assert_eq!((settings.state_dir.to_str(), settings.api.listen.as_str()), (Some("/var/lib/rbuddy"), "127.0.0.1:9999"));
    let group = &settings.groups[0];
    assert_eq!((group.policy.actives, group.policy.drain), (1, Duration::from_secs(10)));
    assert_eq!((group.policy.standby, group.policy.freeze), (StandbyMode::Empty, FreezeMode::Hold));
    assert_eq!((group.policy.max_lag.bytes, group.policy.dead_after), (1 << 20, Duration::from_secs(3)));
    assert_eq!((group.relay.announce.to_string().as_str(), group.relay.backlog_bytes), ("127.0.0.1:6382", 64 << 20));
    assert!(group.reader.is_none() && group.notify.is_empty() && group.relay.auth.is_none());
    assert_eq!(settings.journal, JournalSettings { size_bytes: 16 << 20, files: 4 });
}

#[test]
fn every_key_is_read() {
    let text = r#"
        state_dir = "/x"
        api = { listen = "0.0.0.0:1", token = "secret" }
        journal = { size = "1MiB", files = 0 }
        [groups.a]
        primary = "redis://me:pw@db:7000"
        replicas = ["redis://r1", "redis://:x@[::1]:9"]
        relay = { listen = "0.0.0.0:2", announce = "relay:3", backlog = 1_000_000, auth = "u:p:q", upstream_timeout = "20s", replica_timeout = "1m" }
        reader = { listen = "localhost:0", max_clients = 5, park = "250ms" }
        active = 2
        standby = "warm"
        max_unavailable = 1
        freeze = "detach"
        drain = "7s"
        max_lag = { bytes = "1KB", time = "3s" }
        guard = { min_keys_ratio = 1, min_keys = 0, drift = "warn" }
        dead_after = "1s"
        notify = [{ url = "https://h/p", format = "json" }, { url = "http://h" }]
    "#;
    let loaded = sound(text);
    assert_eq!(loaded.remarks.lines().len(), 1, "only the note on detach: {:?}", loaded.remarks.lines());
    let group = &loaded.settings.groups[0];
    assert_eq!(loaded.settings.journal, JournalSettings { size_bytes: 1 << 20, files: 0 });
    assert_eq!(loaded.settings.api.token.as_ref().map(|token| token.expose()), Some("secret"));
    assert_eq!((group.primary.user.as_deref(), group.primary.password.as_ref().map(|pw| pw.expose())), (Some("me"), Some("pw")));
    assert_eq!(group.replicas[1].address.to_string(), "[::1]:9");
    let auth = group.relay.auth.as_ref().expect("given");
    assert_eq!((auth.user.as_deref(), auth.password.expose()), (Some("u"), "p:q"));
    assert_eq!((group.relay.announce.to_string().as_str(), group.relay.backlog_bytes), ("relay:3", 1_000_000));
    let reader = group.reader.as_ref().expect("given");
    assert_eq!((reader.listen.as_str(), reader.max_clients, reader.park), ("localhost:0", 5, Duration::from_millis(250)));
    assert_eq!(group.policy.max_unavailable, 1);
    assert_eq!((group.policy.actives, group.policy.freeze, group.policy.guard.min_keys_ratio), (2, FreezeMode::Detach, 1.0));
    assert_eq!(group.policy.guard.drift, DriftGuard::Warn);
    assert_eq!(group.notify.iter().map(|target| target.format).collect::<Vec<_>>(), [NotifyFormat::Json, NotifyFormat::Form]);
    assert_eq!(group.policy.notify, ["https://h/p", "http://h"]);
}

#[test]
fn all_mistakes_are_named_at_once_in_the_order_of_the_file() {
    let text = r#"state_dri = "/x"
[api]
listen = "0.0.0.0:9999"
[sentinel]
listen = "127.0.0.1:26382"
[groups.main]
primary = "rediss://:hunter2@127.0.0.1:6379"
replicas = ["redis://127.0.0.1:6380", "redis://127.0.0.1:66380"]
relay = { listen = "127.0.0.1:6382", backlog = "64 megs" }
drain = 10
max_lag = { bytes = "1MiB", tmie = "2s" }
guard = { min_keys_ratio = 1.5 }
standby = "cold"
"#;
    assert_eq!(
        said(text),
        [
            "f:1:1: error: unknown key `state_dri` at the top level (did you mean `state_dir`?)",
            "f:3:10: error: whoever reaches the API could order a failover (add token = \"…\" to [api], or listen on 127.0.0.1)",
            "f:4:1: error: the Sentinel endpoint is not yet in this version (remove [sentinel]: follow the active by `reader`, by GET /active or by `notify`)",
            "f:7:11: error: `groups.main.primary`: rediss:// (TLS) is not yet in this version (use redis:// over a trusted network or a tunnel (stunnel, spiped, WireGuard))",
            "f:8:39: error: `groups.main.replicas[1]`: there is no such port (write a port from 1 to 65535)",
            "f:9:48: error: `groups.main.relay.backlog`: \"64 megs\" is not a size (write a whole number with a unit: \"64MiB\", \"1GB\", \"4096B\")",
            "f:10:9: error: `groups.main.drain` is a number without a unit (say which unit: \"10s\" or \"10ms\")",
            "f:11:29: error: unknown key `tmie` in `groups.main.max_lag` (did you mean `time`?)",
            "f:12:28: error: `groups.main.guard.min_keys_ratio` is out of range (choose from 0 to 1)",
            "f:13:11: error: `groups.main.standby`: no such choice (write \"empty\" or \"warm\")",
        ]
    );
}

#[test]
fn who_must_not_be_whom() {
    let text = r#"
[groups.a]
primary = "redis://localhost:6379"
replicas = ["redis://127.0.0.1:6380", "redis://LOCALHOST:6380", "redis://127.0.0.1:6379", "redis://127.0.0.1:9999"]
relay = { listen = "127.0.0.1:6382" }
reader = { listen = "0.0.0.0:6390" }
[groups.b]
primary = "redis://127.0.0.1:6390"
replicas = ["redis://127.0.0.1:6380", "redis://127.0.0.1:6385"]
relay = { listen = "127.0.0.1:6382" }
"#;
    assert_eq!(
        said(text),
        [
            "f:4:39: error: the replica LOCALHOST:6380 is already named (name each replica once)",
            "f:4:65: error: the replica 127.0.0.1:6379 is the primary (remove it from `replicas`: rbuddy empties replicas and never touches a primary)",
            "f:4:91: error: 127.0.0.1:9999 is the address of the API (name the server's own address here, or listen elsewhere)",
            "f:8:11: error: 127.0.0.1:6390 is the address of the reader endpoint of group `a` (name the server's own address here, or listen elsewhere)",
            "f:9:13: error: the replica 127.0.0.1:6380 is already named in group `a` (name each replica once)",
            "f:10:20: error: the relay of group `b` listens where the relay of group `a` does (give each its own port)",
        ]
    );
}

#[test]
fn single_mistakes_say_what_to_do() {
    for (lines, expected) in [
        ("active = 3", "f:6:10: error: `groups.main.active` is out of range (choose from 1 to 2)"),
        ("active = \"1\"", "f:6:10: error: `groups.main.active` must be a whole number, found a string"),
        (
            "active = 2",
            "f:2:9: warning: all replicas serve, so none is a standby (lower `active`, add a replica, or choose standby = \"warm\")",
        ),
        (
            "consistency = \"atomic\"\nactive = 2",
            "f:2:9: error: consistency = \"atomic\" needs a standby for each active (choose consistency = \"rolling\", or standby = \"empty\" with twice as many \
             replicas as `active` says)",
        ),
        (
            "max_unavailable = 1",
            "f:2:9: error: `max_unavailable` says nothing where standbys take over: none of the actives is missed (remove it, or choose standby = \"warm\")",
        ),
        ("standby = \"warm\"\nmax_unavailable = 2", "f:7:19: error: `groups.main.max_unavailable` is out of range (choose from 1 to 1)"),
        ("consistency = \"all\"", "f:6:15: error: `groups.main.consistency`: no such choice (write \"rolling\" or \"atomic\")"),
        ("drain = \"5s\"", "f:6:9: warning: under 7 s some clients that follow by Sentinel are cut off (choose 7s or more)"),
        (
            "dead_after = \"soon\"",
            "f:6:14: error: `groups.main.dead_after`: \"soon\" is not a duration (write a whole number with a unit: \"500ms\", \"10s\", \"2m\", \"1h\")",
        ),
        (
            "freeze = \"detach\"",
            "f:6:10: note: actives are detached (REPLICAOF NO ONE) while a new dataset arrives (prefer \"hold\": a detached replica calls itself a master, and expires and evicts keys by itself)",
        ),
        ("reader = {}", "f:6:10: error: `groups.main.reader.listen` is missing (listen = \"127.0.0.1:6390\")"),
        ("reader = \"127.0.0.1:1\"", "f:6:10: error: `groups.main.reader` must be a table, found a string"),
        (
            "notify = [{ url = \"ftp://h\" }]",
            "f:6:19: error: `groups.main.notify[0].url`: the URL's scheme is neither http nor https (write http://host:port/path or https://host/path)",
        ),
        ("notify = [{ url = \"http://h\" }, { url = \"http://h\" }]", "f:6:41: error: this receiver is named twice (remove one)"),
        ("[groups.v1]", "f:6:9: error: a group cannot be named `v1` (choose another name: the API's own paths begin with /v1)"),
        ("[groups.\"a b\"]", "f:6:9: error: this cannot name a group (a group's name has 1 to 64 of a-z A-Z 0-9 _ -)"),
    ] {
        let said = said(&with(lines));
        assert!(said.iter().any(|line| line == expected), "{lines}\nexpected {expected}\nsaid     {said:#?}");
    }
}

#[test]
fn a_relay_that_others_can_reach_needs_a_password() {
    let open = SOUND.replace("127.0.0.1:6382", "10.0.0.1:6382");
    assert_eq!(
        said(&open),
        [
            "f:5:20: error: whoever reaches the relay could read the whole dataset (add auth = \"password\" to the relay and set masterauth on the replicas to the same, or listen on 127.0.0.1)"
        ]
    );
    assert!(said(&open.replace("redis://127.0.0.1:6379", "redis://:pw@127.0.0.1:6379")).is_empty(), "the primary's password is asked for");
    assert!(said(&open.replace("10.0.0.1:6382\"", "10.0.0.1:6382\", auth = \"pw\"")).is_empty());
}

#[test]
fn a_relay_on_all_addresses_must_say_which_one_replicas_follow() {
    let wildcard = SOUND.replace("\"127.0.0.1:6382\"", "\"0.0.0.0:6382\", auth = \"pw\"");
    assert_eq!(
        said(&wildcard),
        [
            "f:5:20: error: replicas cannot be told to follow a wildcard address (add announce = \"HOST:PORT\": the relay's address as the replicas see it)"
        ]
    );
}

#[test]
fn a_primary_may_be_named_by_sentinels_with_logins_of_their_own() {
    let table = "{ sentinel = [\"10.0.0.1\", \"redis://10.0.0.2:7\"], name = \"mymaster\", user = \"u\", password = \"p\", sentinel_password = \"s\" }";
    let loaded = sound(&SOUND.replace("\"redis://127.0.0.1:6379\"", table));
    let primary = &loaded.settings.groups[0].primary;
    let sentinels = primary.sentinels().expect("named");
    let shown: Vec<String> = sentinels.sentinels.iter().map(|sentinel| sentinel.address.to_string()).collect();
    assert_eq!((sentinels.name.as_str(), shown), ("mymaster", vec!["10.0.0.1:26379".to_owned(), "10.0.0.2:7".to_owned()]));
    assert_eq!((primary.user.as_deref(), primary.password.as_ref().map(|pw| pw.expose())), (Some("u"), Some("p")));
    assert_eq!(sentinels.sentinels[0].password.as_ref().map(|pw| pw.expose()), Some("s"));
    assert_eq!(loaded.settings.groups[0].policy.primary, PrimaryAt::Named("mymaster".to_owned()));
    let url = sound(&SOUND.replace("redis://127.0.0.1:6379", "redis-sentinel://:p@10.0.0.1,10.0.0.2:7/mymaster"));
    let of_url = &url.settings.groups[0].primary;
    assert_eq!(of_url.sentinels().expect("named").sentinels[1].address.to_string(), "10.0.0.2:7");
    assert_eq!(of_url.password.as_ref().map(|pw| pw.expose()), Some("p"));
}

#[test]
fn mistakes_about_sentinels_are_named() {
    for (table, words) in [
        ("{ name = \"m\" }", "`groups.main.primary.sentinel` is missing"),
        ("{ sentinel = [\"a:1\"] }", "`groups.main.primary.name` is missing"),
        ("{ sentinel = [], name = \"m\" }", "names no Sentinel"),
        ("{ sentinel = [\"a:1\", \"a:1\"], name = \"m\" }", "this Sentinel is named twice"),
        ("{ sentinel = [\"a:x\"], name = \"m\" }", "is not a port"),
        ("{ sentinel = [\"redis://:hunter2@a:1\"], name = \"m\" }", "the login stands elsewhere"),
        ("{ sentinel = [\"a:1\"], name = \"m m\" }", "no name that a Sentinel knows"),
        ("{ sentinel = [\"a:1\"], name = \"m\", sentinel_user = \"u\" }", "has no password"),
        ("{ sentinel = [\"127.0.0.1:6380\"], name = \"m\" }", "the replica 127.0.0.1:6380 is a Sentinel"),
        ("{ sentinel = [\"127.0.0.1:6382\"], name = \"m\" }", "127.0.0.1:6382 is the address of the relay"),
        ("\"redis-sentinel://a:1\"", "does not name the primary"),
    ] {
        let lines = said(&SOUND.replace("\"redis://127.0.0.1:6379\"", table));
        assert!(lines.iter().any(|line| line.contains(words)), "{table}: {lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("hunter2")), "{lines:#?}");
    }
}

#[test]
fn empty_and_broken_files_are_explained() {
    assert_eq!(
        said(""),
        ["f:1:1: error: `groups` is missing (add [groups.main] with primary, replicas and relay; `rbuddy init` writes an example)"]
    );
    assert_eq!(said("[groups]"), ["f:1:1: error: `groups` is empty (add [groups.main]; `rbuddy init` writes an example)"]);
    assert_eq!(said("[groups.main\n"), ["f:1:13: error: unclosed table, expected `]`"]);
    let broken = parse("f", "state_dir = \n[api]\ntoken = \"hunter2\n").expect_err("two lines do not parse");
    assert_eq!(broken.lines().len(), 2, "{:#?}", broken.lines());
    assert!(!broken.render(false).contains("hunter2"), "{}", broken.render(false));
    let lines = said("[groups.main]\nrelay = {}\n");
    assert!(lines.contains(&"f:2:9: error: `groups.main.relay.listen` is missing (listen = \"127.0.0.1:6382\")".to_owned()), "{lines:#?}");
    assert!(lines.iter().any(|line| line.starts_with("f:1:1: error: `groups.main.primary` is missing")), "{lines:#?}");
}

#[test]
fn a_mistake_is_shown_with_its_line_and_without_secrets() {
    let problems = parse("rbuddy.toml", &SOUND.replace("redis://127.0.0.1:6379", "redis://me:hunter2@127.0.0.1:0")).expect_err("port 0");
    let expected = "\
error: `groups.main.primary`: there is no port 0 to connect to
 --> rbuddy.toml:3:11
  |
3 | primary = \"redis://**********@127.0.0.1:0\"
  |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  |
  = help: write a port from 1 to 65535";
    assert_eq!(problems.render(false), expected);
}
