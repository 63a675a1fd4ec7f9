//! The binary as scripts and people use it: what it writes where, and its exit codes.

use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::primary::PrimarySource;
use rbuddy_core::control::relay::{BacklogView, UpstreamView};
use rbuddy_core::control::status::{GroupStatus, MayStop, Operation, Phase, PrimaryStatus, Refusal, ReplicaStatus, RoleName};
use rbuddy_core::types::{DatasetId, Generation, NodeAddress, Time};
use rbuddy_runtime::api::{ApiConfig, bind};
use rbuddy_runtime::control::StateDirLock;
use rbuddy_runtime::handle::{GroupHandle, OperationRequest};
use rbuddy_runtime::settings::{ApiSettings, Secret};
use std::path::Path;
use std::sync::Arc;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Exit code, stdout, stderr.
async fn rbuddy(args: &[&str]) -> (i32, String, String) {
    rbuddy_in(Path::new("."), &[], args).await
}

async fn rbuddy_in(folder: &Path, env: &[(&str, &str)], args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rbuddy"));
    command.args(args).current_dir(folder).env_remove("RBUDDY_TOKEN").env_remove("RUST_LOG").kill_on_drop(true);
    command.envs(env.iter().copied());
    let output = command.output().await.expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("it ends by itself"), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn help_names_the_exit_codes() {
    let (code, stdout, _) = rbuddy(&["--help"]).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("3  rbuddy cannot be reached") && stdout.contains("Switch to a standby"), "{stdout}");
    assert_eq!(rbuddy(&["no-such-command"]).await.0, 2);
    assert_eq!(rbuddy(&["approve", "nonsense"]).await.0, 2);
    assert_eq!(rbuddy(&["--log-level", "==", "status"]).await.0, 2);
}

#[tokio::test]
async fn a_timeout_of_the_relay_alone_is_checked_before_anything_is_bound() {
    let relay = ["relay", "--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:2"];
    for (option, value) in
        [("--upstream-timeout", "999ms"), ("--upstream-timeout", "2h"), ("--replica-timeout", "1s"), ("--replica-timeout", "soon")]
    {
        let (code, _, stderr) = rbuddy(&[&relay[..], &[option, value]].concat()).await;
        assert_eq!(code, 2, "{option} {value}: {stderr}");
        assert!(stderr.contains(option), "it names the option: {stderr}");
    }
}

#[tokio::test]
async fn two_relays_do_not_share_a_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let _other = StateDirLock::take(&folder.path().join("rbuddy-relay")).expect("it is free");
    let (code, _, stderr) = rbuddy_in(folder.path(), &[], &["relay", "--upstream", "127.0.0.1:1", "--listen", "127.0.0.1:2"]).await;
    assert!(code != 0 && stderr.contains("another rbuddy runs with this folder") && stderr.contains("--dir"), "{code}: {stderr}");
}

#[tokio::test]
async fn a_written_configuration_passes_and_is_never_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, _, stderr) = rbuddy_in(folder.path(), &[], &["init"]).await;
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = rbuddy_in(folder.path(), &[], &["init"]).await;
    assert_eq!((code, stderr.contains("rbuddy.toml exists already")), (4, true), "{stderr}");
    let written = std::fs::read_to_string(folder.path().join("rbuddy.toml")).expect("written");
    let (_, stdout, _) = rbuddy(&["init", "-"]).await;
    assert_eq!(stdout, written);
}

#[tokio::test]
async fn a_relay_that_others_can_reach_wants_a_primary_with_a_password() {
    let folder = tempfile::tempdir().expect("a folder");
    for listen in ["0.0.0.0:6390", "[::]:6390", "192.0.2.1:6390"] {
        let (code, stdout, stderr) = rbuddy_in(folder.path(), &[], &["relay", "--upstream", "127.0.0.1:1", "--listen", listen]).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{listen}: {stderr}");
        assert!(stderr.contains("could read the whole dataset"), "{listen}: {stderr}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("readable").count(), 0, "nothing was begun");
}

#[tokio::test]
async fn mistakes_are_shown_with_line_and_remedy_before_anything_is_dialled() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "drian = 1\n[groups.main]\nprimary = \"redis://:hunter2@127.0.0.1:0\"\nreplicas = []\n").expect("writable");
    for command in ["check", "run"] {
        let (code, stdout, stderr) = rbuddy_in(folder.path(), &[], &[command, "--config", "c.toml"]).await;
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        for line in ["c.toml:1:1", "c.toml:3:11", "c.toml:4:12", "`groups.main.relay` is missing", "= help: "] {
            assert!(stderr.contains(line), "{line}: {stderr}");
        }
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
    let (code, stdout, _) = rbuddy_in(folder.path(), &[], &["check", "--json", "--config", "c.toml"]).await;
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, json["config"].as_array().map(Vec::len)), (2, Some(4)), "{stdout}");
    let (code, _, stderr) = rbuddy(&["check", "--config", "/no/such/file"]).await;
    assert_eq!((code, stderr.contains("No such file")), (2, true), "{stderr}");
}

#[tokio::test]
async fn servers_that_do_not_answer_are_found_by_check() {
    let folder = tempfile::tempdir().expect("a folder");
    // A bound port that nobody accepts on is not reachable for Redis' protocol; one that is closed is refused at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let text = format!(
        "[groups.main]\nprimary = \"redis://127.0.0.1:{port}\"\nreplicas = [\"redis://localhost.invalid:1\", \"redis://127.0.0.1:2\"]\nrelay = {{ listen = \"127.0.0.1:3\" }}\n"
    );
    std::fs::write(folder.path().join("c.toml"), text).expect("writable");
    let (code, stdout, stderr) = rbuddy_in(folder.path(), &[], &["check", "-c", "c.toml"]).await;
    assert_eq!(code, 4, "{stdout}{stderr}");
    assert!(stdout.contains("→ start it, or correct its address") && stdout.contains("3 errors"), "{stdout}");
    let (code, stdout, _) = rbuddy_in(folder.path(), &[], &["check", "--json", "-c", "c.toml"]).await;
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (code, json["findings"][0]["severity"].as_str(), json["findings"][0]["topic"].as_str()),
        (4, Some("error"), Some("reachable"))
    );
}

#[tokio::test]
async fn without_a_running_rbuddy_the_code_is_3() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port").port();
    let url = format!("127.0.0.1:{port}");
    for command in [&["status"][..], &["failover"], &["pause", "--group", "main"]] {
        let (code, _, stderr) = rbuddy(&[command, &["--api", &url]].concat()).await;
        assert_eq!((code, stderr.contains("cannot be reached")), (3, true), "{stderr}");
    }
}

/// An API with groups made by hand; every order is answered with `answer`.
struct Running {
    url: String,
    orders: mpsc::UnboundedReceiver<(String, Operation)>,
    /// What a controller would publish through: open as long as it lives.
    _statuses: Vec<watch::Sender<Arc<GroupStatus>>>,
    _assignments: Vec<watch::Sender<Arc<Assignment>>>,
}

async fn running(names: &[&str], token: Option<&str>, answer: Result<&'static str, &'static str>) -> Running {
    let (sender, orders) = mpsc::unbounded_channel();
    let (mut groups, mut statuses, mut assignments) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let (status_sender, status) = watch::channel(Arc::new(status(name)));
        let (assignment_sender, assignment) = watch::channel(Arc::new(assignment(name)));
        let (operations, mut receiver) = mpsc::channel::<OperationRequest>(1);
        let (sender, group) = (sender.clone(), (*name).to_owned());
        tokio::spawn(async move {
            while let Some(request) = receiver.recv().await {
                let _ = sender.send((group.clone(), request.operation));
                let _ = request.reply.send(answer.map(str::to_owned).map_err(str::to_owned));
            }
        });
        groups.push(GroupHandle { name: name.parse().expect("a name"), status, assignment, operations, plans: mpsc::channel(1).0 });
        statuses.push(status_sender);
        assignments.push(assignment_sender);
    }
    let settings = ApiSettings { listen: "127.0.0.1:0".to_owned(), token: token.map(Secret::new) };
    let api = bind(ApiConfig { settings, groups }).await.expect("a free port");
    let url = format!("http://{}", api.local_addr());
    tokio::spawn(api.run(CancellationToken::new()));
    Running { url, orders, _statuses: statuses, _assignments: assignments }
}

fn assignment(group: &str) -> Assignment {
    Assignment {
        group: group.parse().expect("a name"),
        generation: Generation(7),
        actives: Vec::new(),
        standby: None,
        draining: Vec::new(),
        reason: None,
    }
}

fn status(group: &str) -> GroupStatus {
    let replica = |port: u16, role: RoleName, note: Option<&str>| ReplicaStatus {
        address: NodeAddress::new("127.0.0.1", port),
        role,
        reachable: role != RoleName::Refused,
        loading: false,
        note: note.map(str::to_owned),
        version: None,
        run_id: None,
        position: format!("{}:120", "ab".repeat(20)).parse::<DatasetId>().ok().map(|dataset| dataset.0),
        lag_bytes: Some(2048),
        keys: Some(1000),
        session: None,
        flapping: None,
        drift: Vec::new(),
        may_stop: MayStop { allowed: role == RoleName::Refused, reason: "a test says so".to_owned() },
    };
    let refusal = Refusal {
        dataset: format!("{}:17", "cd".repeat(20)).parse().expect("a dataset"),
        reason: "0 keys instead of 1000".to_owned(),
        remedy: "rbuddy approve".to_owned(),
    };
    GroupStatus {
        group: group.parse().expect("a name"),
        time: Time::from_unix_ms(1_795_341_600_000),
        generation: Generation(7),
        phase: Phase::Refused,
        explanation: "the primary came back empty".to_owned(),
        paused: false,
        active: Vec::new(),
        standby: Vec::new(),
        draining: Vec::new(),
        refusal: Some(refusal),
        primary: PrimaryStatus {
            address: Some(NodeAddress::new("127.0.0.1", 6379)),
            source: PrimarySource::Configured,
            note: None,
            reachable: false,
            error: Some("connection refused".to_owned()),
            version: None,
            run_id: None,
            position: None,
            keys: None,
        },
        upstream: UpstreamView::default(),
        position: None,
        snapshot: None,
        backlog: BacklogView { disk_error: Some("no space left".to_owned()), ..BacklogView::default() },
        replicas: vec![replica(6380, RoleName::Active, None), replica(6381, RoleName::Refused, Some("holds foreign keys"))],
        undelivered: Vec::new(),
    }
}

#[tokio::test]
async fn status_is_a_table_with_the_refusal_above_it() {
    let running = running(&["main"], None, Ok("")).await;
    let (code, stdout, stderr) = rbuddy_in(Path::new("."), &[("TZ", "UTC")], &["status", "--api", &running.url]).await;
    let cd = "cd".repeat(20);
    let expected = format!(
        "\
group main: refused, generation 7, 2026-11-22 10:00:00
  the primary came back empty
  primary 127.0.0.1:6379: connection refused
  upstream idle; 0 full and 0 partial resyncs
  the relay's disk does not take the stream, which is tried again: no space left
  REFUSED dataset {cd}:17: 0 keys instead of 1000
  → rbuddy approve
 replica         role     state          version  position       behind  keys  note
 127.0.0.1:6380  active   not connected           abababab:120  2.0 KiB  1000
 127.0.0.1:6381  refused  unreachable             abababab:120  2.0 KiB  1000  holds foreign keys
"
    );
    assert_eq!((code, stdout.as_str()), (0, expected.as_str()), "{stderr}");
    let (code, stdout, _) = rbuddy(&["status", "--json", "--api", &running.url]).await;
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, json["groups"][0]["phase"].as_str()), (0, Some("refused")));
}

#[tokio::test]
async fn orders_reach_the_only_group_or_the_one_that_is_named() {
    let mut one = running(&["main"], None, Ok("switching")).await;
    let (code, stdout, stderr) = rbuddy(&["adopt", "redis://127.0.0.1:6381/", "--api", &one.url]).await;
    assert_eq!((code, stdout.as_str()), (0, "switching\n"), "{stderr}");
    let replica = NodeAddress::new("127.0.0.1", 6381);
    assert_eq!(one.orders.recv().await, Some(("main".to_owned(), Operation::Adopt { replica })));
    assert_eq!(rbuddy(&["set-primary", "10.0.0.2:6379", "--api", &one.url]).await.0, 0);
    let address = NodeAddress::new("10.0.0.2", 6379);
    assert_eq!(one.orders.recv().await, Some(("main".to_owned(), Operation::SetPrimary { address })));
    assert_eq!(rbuddy(&["set-primary", "nowhere", "--api", &one.url]).await.0, 2);

    let mut two = running(&["a", "b"], None, Ok("switching")).await;
    let (code, _, stderr) = rbuddy(&["failover", "--api", &two.url]).await;
    assert_eq!((code, stderr.as_str()), (2, "error: say which group with --group: a, b\n"));
    assert_eq!(rbuddy(&["failover", "--group", "b", "--api", &two.url]).await.0, 0);
    assert_eq!(two.orders.recv().await, Some(("b".to_owned(), Operation::Failover)));
    assert_eq!(rbuddy(&["failover", "--group", "c", "--api", &two.url]).await.0, 2);
    assert_eq!(rbuddy(&["status", "--group", "c", "--api", &two.url]).await.0, 2);
}

#[tokio::test]
async fn whether_a_replica_may_be_stopped_is_told_by_the_exit_code() {
    let mut one = running(&["main"], None, Ok("readers have 10s to leave")).await;
    let (code, stdout, _) = rbuddy(&["may-stop", "127.0.0.1:6381", "--api", &one.url]).await;
    assert_eq!((code, stdout.as_str()), (0, "127.0.0.1:6381 may be stopped: a test says so\n"));
    let (code, _, stderr) = rbuddy(&["may-stop", "127.0.0.1:6380", "--api", &one.url]).await;
    assert_eq!((code, stderr.as_str()), (4, "error: 127.0.0.1:6380 may not be stopped now: a test says so\n"));
    assert_eq!(rbuddy(&["may-stop", "127.0.0.1:9", "--api", &one.url]).await.0, 2);
    let replica = NodeAddress::new("127.0.0.1", 6380);
    assert_eq!(rbuddy(&["drain", "127.0.0.1:6380", "--api", &one.url]).await.0, 0);
    assert_eq!(one.orders.recv().await, Some(("main".to_owned(), Operation::Drain { replica: replica.clone() })));
    assert_eq!(rbuddy(&["return", "127.0.0.1:6380", "--api", &one.url]).await.0, 0);
    assert_eq!(one.orders.recv().await, Some(("main".to_owned(), Operation::Return { replica })));
}

#[tokio::test]
async fn refusals_are_code_4_and_the_token_comes_from_environment_or_configuration() {
    let running = running(&["main"], Some("s3cret"), Err("no standby is caught up")).await;
    let order = ["failover", "--api", running.url.as_str()];
    let (code, _, stderr) = rbuddy(&order).await;
    assert_eq!((code, stderr.contains("operations need the token")), (4, true), "{stderr}");
    let (code, _, stderr) = rbuddy_in(Path::new("."), &[("RBUDDY_TOKEN", "s3cret")], &order).await;
    assert_eq!((code, stderr.as_str()), (4, "error: no standby is caught up\n"));

    let folder = tempfile::tempdir().expect("a folder");
    let listen = running.url.trim_start_matches("http://");
    let text = format!(
        "api = {{ listen = \"{listen}\", token = \"s3cret\" }}\n[groups.main]\nprimary = \"redis://a\"\nreplicas = [\"redis://b\", \"redis://c\"]\nrelay = {{ listen = \"127.0.0.1:3\" }}\n"
    );
    std::fs::write(folder.path().join("c.toml"), text).expect("writable");
    let (code, _, stderr) = rbuddy_in(folder.path(), &[], &["failover", "--config", "c.toml"]).await;
    assert_eq!((code, stderr.as_str()), (4, "error: no standby is caught up\n"));
}
