//! Real servers for the tests of this crate: each in a folder of its own, on a free loopback port, killed when dropped.

#![allow(dead_code, reason = "each test file uses its part")]

use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::settings::{Endpoint, Secret};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Server {
    pub(crate) port: u16,
    process: Child,
    pub(crate) folder: tempfile::TempDir,
}

impl Server {
    /// Starts `redis-server` and waits until it accepts connections.
    pub(crate) async fn start(args: &[&str]) -> Server {
        // Another process may take the port between asking and starting: then the next one is tried.
        for _ in 0..10 {
            let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
            let folder = tempfile::tempdir().expect("a folder");
            let process = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes"])
                .args(args)
                .current_dir(folder.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is on PATH");
            let mut server = Server { port, process, folder };
            if server.accepts_connections().await {
                return server;
            }
        }
        panic!("redis-server did not start ten times");
    }

    async fn accepts_connections(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && self.process.try_wait().expect("our child").is_none() {
            if tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        false
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { address: NodeAddress::new("127.0.0.1", self.port), user: None, password: None }
    }

    pub(crate) fn with_password(&self, user: Option<&str>, password: &str) -> Endpoint {
        Endpoint { user: user.map(str::to_owned), password: Some(Secret::new(password)), ..self.endpoint() }
    }

    /// Stops the process without killing it: it accepts and never answers.
    pub(crate) fn freeze(&self) {
        let status = Command::new("kill").args(["-STOP", &self.process.id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("our child");
        self.process.wait().expect("our child");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
