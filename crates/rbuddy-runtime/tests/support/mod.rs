//! Real servers and a running relay for tests. `RBUDDY_TEST_SERVER` names the server binary; else `redis-server` from PATH.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod raw;
pub(crate) mod scripted;

use rbuddy_core::control::relay::{RelayOrders, RelayView};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{DatasetId, NodeAddress};
use rbuddy_runtime::clock::Clock;
use rbuddy_runtime::relay::{RelayConfig, RelayError, bind};
use rbuddy_runtime::settings::{Endpoint, RelaySettings, Secret};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A server process with its folder. It is killed when this is dropped.
pub(crate) struct Server {
    child: Child,
    binary: PathBuf,
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    extra: Vec<String>,
}

impl Server {
    pub(crate) async fn start(extra: &[&str]) -> Server {
        Server::of(&default_binary(), extra).await
    }

    /// One of this binary.
    pub(crate) async fn of(binary: &Path, extra: &[&str]) -> Server {
        let dir = tempfile::tempdir().expect("a folder");
        let port = free_port();
        let extra: Vec<String> = extra.iter().map(|text| (*text).to_owned()).collect();
        let child = spawn(binary, port, dir.path().into(), &extra);
        let server = Server { child, binary: binary.to_owned(), port, dir, extra };
        server.wait_until_up().await;
        server
    }

    pub(crate) fn address(&self) -> NodeAddress {
        NodeAddress::new("127.0.0.1", self.port)
    }

    /// What it was told to ask for, on the command line.
    pub(crate) fn password(&self) -> Option<&str> {
        let name = self.extra.iter().position(|text| text == "--requirepass")?;
        self.extra.get(name + 1).map(String::as_str)
    }

    fn url(&self) -> String {
        let login = self.password().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{login}127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// `STOP` makes it hang, `CONT` lets it go on.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -{name}");
    }

    /// The same port and folder, a new process.
    pub(crate) async fn restart(&mut self) {
        self.child = spawn(&self.binary, self.port, self.dir.path().into(), &self.extra);
        self.wait_until_up().await;
    }

    async fn wait_until_up(&self) {
        eventually("server answers PING", || async { self.try_command(&["PING"]).await.map(|_| ()) }).await;
    }

    pub(crate) async fn try_command(&self, words: &[&str]) -> Result<redis::Value, String> {
        let client = redis::Client::open(self.url()).map_err(|error| error.to_string())?;
        // The machine may be busy with other tests.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE)).set_connection_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.map_err(|error| error.to_string())?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        command.query_async(&mut connection).await.map_err(|error| error.to_string())
    }

    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub(crate) async fn text(&self, words: &[&str]) -> String {
        redis::from_redis_value(self.command(words).await).expect("a text")
    }

    pub(crate) async fn info(&self) -> ServerInfo {
        ServerInfo::parse(&self.text(&["INFO", "everything"]).await)
    }

    /// Writes keys in one go, as effects that replicate.
    pub(crate) async fn fill(&self, prefix: &str, count: u32) {
        let script = "for i = 1, tonumber(ARGV[2]) do redis.call('SET', ARGV[1] .. i, i .. string.rep('x', 50)) end return 1";
        self.command(&["EVAL", script, "0", prefix, &count.to_string()]).await;
    }

    /// Writes, and has `WAIT` count the replicas that have it. On one connection: `WAIT` is about what its own connection wrote.
    pub(crate) async fn written_and_waited_for(&self, patience_ms: u32) -> i64 {
        let client = redis::Client::open(self.url()).expect("an address");
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.expect("it answers");
        let mut pipeline = redis::pipe();
        pipeline.cmd("INCR").arg("waited for").ignore().cmd("WAIT").arg(1).arg(patience_ms);
        let (reached,): (i64,) = pipeline.query_async(&mut connection).await.expect("it obeys");
        reached
    }

    pub(crate) async fn follow(&self, port: u16) {
        self.command(&["REPLICAOF", "127.0.0.1", &port.to_string()]).await;
    }

    pub(crate) async fn digest(&self) -> String {
        self.text(&["DEBUG", "DIGEST"]).await
    }

    /// Until this replica has what the primary has.
    pub(crate) async fn equals(&self, primary: &Server) {
        eventually("replica equals primary", || async {
            let (own, other) = (self.info().await, primary.info().await);
            match own.is_link_up && own.replid == other.replid && own.offset == other.offset {
                true => Ok(()),
                false => Err(format!("replica {:?} link up {}, primary {:?}", own.position(), own.is_link_up, other.position())),
            }
        })
        .await;
        assert_eq!(self.digest().await, primary.digest().await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn default_binary() -> PathBuf {
    std::env::var_os("RBUDDY_TEST_SERVER").map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// A version in `.servers/`, as `scripts/test-servers` fetches them; `None` (and a word about it) where it is missing.
#[allow(clippy::print_stderr, reason = "what was skipped is told to whoever runs the tests")]
pub(crate) fn fetched(name: &str) -> Option<PathBuf> {
    let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join(".servers").join(name));
    let binaries = folders.flat_map(|folder| ["redis-server", "valkey-server"].map(|binary| folder.join(binary)));
    let found = binaries.into_iter().find(|binary| binary.is_file());
    if found.is_none() {
        eprintln!("skipped: .servers/{name} is missing");
    }
    found
}

fn spawn(binary: &Path, port: u16, dir: PathBuf, extra: &[String]) -> Child {
    let version = Command::new(binary).arg("--version").output().expect("it tells its version");
    let mut command = Command::new(binary);
    // Before 7.0 DEBUG is always on, and the option is unknown.
    if !String::from_utf8_lossy(&version.stdout).contains("v=6.") {
        command.args(["--enable-debug-command", "yes"]);
    }
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.args(["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1", "--dir"]).arg(dir);
    command.args(extra).stdout(Stdio::null()).spawn().expect("the server starts")
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A running relay.
pub(crate) struct Relay {
    pub(crate) port: u16,
    pub(crate) orders: Arc<watch::Sender<RelayOrders>>,
    pub(crate) view: watch::Receiver<RelayView>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), RelayError>>,
}

pub(crate) fn config(primary: &Server, replicas: &[&Server], dir: &std::path::Path) -> RelayConfig {
    let endpoint = |server: &Server| Endpoint { address: server.address(), user: None, password: server.password().and_then(password) };
    RelayConfig {
        group: "test".parse().expect("a name"),
        primary: endpoint(primary).into(),
        settings: RelaySettings {
            backlog_bytes: 4 << 20,
            upstream_timeout: Duration::from_secs(5),
            replica_timeout: Duration::from_secs(10),
            ..RelaySettings::listening("127.0.0.1:0", NodeAddress::new("127.0.0.1", 1))
        },
        replicas: replicas.iter().map(|server| endpoint(server)).collect(),
        dir: dir.into(),
        clock: Clock::start(),
        open: false,
    }
}

pub(crate) fn password(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}

/// A controller that permits every full resync.
async fn permit(mut view: watch::Receiver<RelayView>, orders: Arc<watch::Sender<RelayOrders>>) {
    loop {
        let needed = view.borrow_and_update().upstream.full_resync_needed.map(|need| need.replid);
        orders.send_if_modified(|orders| std::mem::replace(&mut orders.full_resync, needed) != needed);
        if view.changed().await.is_err() {
            return;
        }
    }
}

impl Relay {
    /// With a controller that permits every full resync.
    pub(crate) async fn start(config: RelayConfig, orders: RelayOrders) -> Relay {
        let relay = Relay::start_strict(config, orders).await;
        tokio::spawn(permit(relay.view.clone(), Arc::clone(&relay.orders)));
        relay
    }

    /// Nothing happens that the test does not order.
    pub(crate) async fn start_strict(config: RelayConfig, orders: RelayOrders) -> Relay {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let relay = bind(config).await.expect("the relay binds");
        let (orders, received) = watch::channel(orders);
        let cancel = CancellationToken::new();
        let (port, view) = (relay.local_addr().port(), relay.view());
        let task = tokio::spawn(relay.run(received, cancel.clone()));
        Relay { port, orders: Arc::new(orders), view, cancel, task }
    }

    pub(crate) fn order(&self, change: impl FnOnce(&mut RelayOrders)) {
        self.orders.send_modify(change);
    }

    pub(crate) async fn until(&mut self, what: &str, condition: impl Fn(&RelayView) -> bool) -> RelayView {
        let mut view = self.view.clone();
        let waited = tokio::time::timeout(PATIENCE, view.wait_for(|view| condition(view))).await;
        match waited {
            Ok(view) => view.expect("the relay runs").clone(),
            Err(_) => panic!("not within {PATIENCE:?}: {what}; last seen {:#?}", *self.view.borrow()),
        }
    }

    /// Until there is a complete snapshot.
    pub(crate) async fn snapshot(&mut self) -> DatasetId {
        let view = self.until("a snapshot is ready", |view| view.ready_snapshot().is_some()).await;
        view.ready_snapshot().map(|snapshot| snapshot.dataset).expect("just seen")
    }

    /// The replica may be filled, as the process that it is now.
    pub(crate) async fn seed(&self, replica: &Server, dataset: DatasetId) {
        let (address, run_id) = (replica.address(), replica.info().await.run_id.expect("it has one"));
        self.order(|orders| {
            orders.judged.insert(address.clone(), run_id);
            orders.permits.insert(address, Permit::Seed(dataset));
        });
    }

    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic").expect("no error");
    }
}

/// Asks again until it is so.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut attempt: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    let mut every = tokio::time::interval(Duration::from_millis(25));
    loop {
        every.tick().await;
        match attempt().await {
            Ok(_) => return,
            Err(last) => assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}; last seen {last}"),
        }
    }
}
