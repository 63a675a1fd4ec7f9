//! A world for the reader endpoint's tests: real servers, a raw client, and an endpoint that follows whatever assignment the test gives.

use rbuddy_core::control::assignment::{ActiveReplica, Assignment, DrainingReplica};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::reader::view::ReaderView;
use rbuddy_core::resp::encode;
use rbuddy_core::resp::frame::ReplyFramer;
use rbuddy_core::types::{Generation, NodeAddress, Offset, Position, Time};
use rbuddy_runtime::handle::Fed;
use rbuddy_runtime::reader::{ReaderConfig, bind};
use rbuddy_runtime::settings::{Endpoint, ReaderSettings, Secret};
use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take before the test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A `redis-server`, killed on drop.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    password: Option<&'static str>,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(password: Option<&'static str>) -> Server {
        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        Server::start_at(port, password).await
    }

    pub(crate) async fn start_at(port: u16, password: Option<&'static str>) -> Server {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"]);
        command.args(["--dir", dir.path().to_str().expect("a plain path"), "--proto-max-bulk-len", "64mb"]);
        if let Some(password) = password {
            command.args(["--requirepass", password]);
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("redis-server is on PATH");
        let server = Server { child, port, password, _dir: dir };
        wait_for("the server answers", async || {
            let mut wire = Wire::try_connect(server.address_socket()).await?;
            wire.ask(&["PING"]).await.starts_with(['+', '-']).then_some(())
        })
        .await;
        server
    }

    /// A server with these keys that calls itself a replica: of nobody, since it stands for one that is held.
    pub(crate) async fn replica(password: Option<&'static str>, keys: &[(&str, &str)]) -> Server {
        let server = Server::start(password).await;
        let mut wire = server.wire().await;
        for (key, value) in keys {
            assert_eq!(wire.ask(&["SET", key, value]).await, "+OK\r\n");
        }
        assert_eq!(wire.ask(&["REPLICAOF", "127.0.0.1", "1"]).await, "+OK\r\n");
        server
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it was ours");
        self.child.wait().expect("it ends");
    }

    /// It neither answers nor closes, like a machine that swaps.
    pub(crate) fn hang(&self) {
        let stopped = Command::new("kill").args(["-STOP", &self.child.id().to_string()]).status().expect("kill is on PATH");
        assert!(stopped.success());
    }

    pub(crate) fn address(&self) -> NodeAddress {
        NodeAddress::new("127.0.0.1", self.port)
    }

    fn address_socket(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// A connection around the endpoint, logged in.
    pub(crate) async fn wire(&self) -> Wire {
        let mut wire = Wire::connect(self.address_socket()).await;
        if let Some(password) = self.password {
            assert_eq!(wire.ask(&["AUTH", password]).await, "+OK\r\n");
        }
        wire
    }

    pub(crate) async fn info(&self) -> ServerInfo {
        ServerInfo::parse(&self.wire().await.ask(&["INFO"]).await)
    }

    /// This server as the controller would describe it.
    pub(crate) async fn active(&self) -> ActiveReplica {
        let info = self.info().await;
        ActiveReplica {
            address: self.address(),
            run_id: info.run_id.expect("INFO has it"),
            detached: false,
            replids: info.replid.into_iter().collect(),
            offset_at_least: Offset::ZERO,
            newer: Vec::new(),
        }
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.address(), user: None, password: self.password.map(Secret::new) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that speaks RESP and shows the bytes.
pub(crate) struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Wire {
        Wire::try_connect(address).await.expect("connects")
    }

    async fn try_connect(address: SocketAddr) -> Option<Wire> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Wire { stream, input: Vec::new() })
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the connection stands");
    }

    pub(crate) async fn say(&mut self, words: &[&str]) {
        self.send(&encode::request(words)).await;
    }

    /// One request and its reply.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> String {
        self.say(words).await;
        String::from_utf8_lossy(&self.reply().await.expect("a reply")).into_owned()
    }

    /// The next reply or push as it came; `None` at the end of the connection.
    pub(crate) async fn reply(&mut self) -> Option<Vec<u8>> {
        let mut framer = ReplyFramer::default();
        let mut framed = 0;
        loop {
            while framed < self.input.len() {
                let fed = framer.feed(&self.input[framed..]).expect("sound replies");
                framed += fed.used;
                if fed.ended.is_some() {
                    return Some(self.input.drain(..framed).collect());
                }
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("a reply in time");
            if read.unwrap_or(0) == 0 {
                assert_eq!(framed, 0, "the connection ended inside a reply");
                return None;
            }
        }
    }

    pub(crate) fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// An endpoint, and the assignment that it follows.
pub(crate) struct World {
    pub(crate) address: SocketAddr,
    pub(crate) view: watch::Receiver<ReaderView>,
    assignments: watch::Sender<Arc<Assignment>>,
    fed: Arc<Mutex<BTreeMap<NodeAddress, Position>>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl World {
    pub(crate) async fn new(servers: &[&Server]) -> World {
        World::with(servers, 100, Duration::from_secs(5)).await
    }

    pub(crate) async fn with(servers: &[&Server], max_clients: usize, park: Duration) -> World {
        let fed = Arc::<Mutex<BTreeMap<NodeAddress, Position>>>::default();
        let config = ReaderConfig {
            group: "main".parse().expect("a name"),
            clock: rbuddy_runtime::clock::Clock::start(),
            settings: ReaderSettings { listen: "127.0.0.1:0".to_owned(), max_clients, park },
            replicas: servers.iter().map(|server| server.endpoint()).collect(),
            fed: Fed::new({
                let fed = Arc::clone(&fed);
                move |replica| fed.lock().expect("nobody panicked").get(replica).copied().into_iter().collect()
            }),
        };
        let reader = bind(config).await.expect("a free port");
        let (address, view) = (reader.local_addr(), reader.view());
        let (assignments, follow) = watch::channel(Arc::new(Assignment {
            group: "main".parse().expect("a name"),
            generation: Generation(0),
            actives: Vec::new(),
            standby: None,
            draining: Vec::new(),
            reason: Some("starting".to_owned()),
        }));
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let task = tokio::spawn(async move { reader.run(follow, token).await.expect("it serves") });
        World { address, view, assignments, fed, cancel, task }
    }

    /// The relay has fed this server so far.
    pub(crate) fn has_fed(&self, server: &Server, position: Position) {
        self.fed.lock().expect("nobody panicked").insert(server.address(), position);
    }

    /// The next assignment: these are active, this one is being left for so long.
    pub(crate) fn assign(&self, actives: Vec<ActiveReplica>, draining: Option<(&Server, Duration)>) {
        self.assignments.send_modify(|assignment| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
            let until = |drain: Duration| Time::from_unix_ms(u64::try_from((now + drain).as_millis()).expect("fits"));
            *assignment = Arc::new(Assignment {
                generation: assignment.generation.next(),
                reason: actives.is_empty().then(|| "nobody is left".to_owned()),
                actives,
                draining: draining
                    .map(|(server, drain)| DrainingReplica { address: server.address(), until: Some(until(drain)) })
                    .into_iter()
                    .collect(),
                ..Assignment::clone(assignment)
            });
        });
    }

    pub(crate) async fn client(&self) -> Wire {
        Wire::connect(self.address).await
    }

    /// Waits until the view is as wanted.
    pub(crate) async fn view_shows(&mut self, what: &str, wanted: impl Fn(&ReaderView) -> bool) -> ReaderView {
        let seen =
            tokio::time::timeout(PATIENCE, self.view.wait_for(|view| wanted(view))).await.map(|view| view.expect("it serves").clone());
        seen.unwrap_or_else(|_| panic!("{what}: last seen {:?}", self.view.borrow()))
    }

    /// Stops the endpoint; how long it took.
    pub(crate) async fn stop(self) -> Duration {
        let since = Instant::now();
        self.cancel.cancel();
        tokio::time::timeout(PATIENCE, self.task).await.expect("it stops").expect("without a panic");
        since.elapsed()
    }
}

/// Asks until there is something.
pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
