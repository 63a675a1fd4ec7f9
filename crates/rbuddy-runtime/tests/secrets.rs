//! No password reaches a log, whatever its level, and whoever guesses one has to wait.

mod support;

use rbuddy_core::control::relay::{RelayOrders, Start};
use rbuddy_core::replication::psync::Permit;
use rbuddy_runtime::settings::{Credentials, Secret};
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{PATIENCE, Relay, Server, config};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Everything that is logged in this process.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_secret_is_logged_at_any_level_and_guesses_are_slow() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).init();

    let primary = Server::start(&[]).await;
    primary.fill("key:", 100).await;
    primary.command(&["ACL", "SETUSER", "relay", "on", ">s3cret-up", "+psync", "+replconf", "+ping", "+info"]).await;
    let replica = Server::start(&["--masterauth", "s3cret-down"]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    settings.settings.auth = Some(Credentials { user: None, password: Secret::new("s3cret-down") });
    settings.primary.user = Some("relay".to_owned());
    let orders = RelayOrders { start: Some(Start::Fresh), permits: [(replica.address(), Permit::Auto)].into(), ..RelayOrders::default() };
    let refused = {
        settings.primary.password = Some(Secret::new("s3cret-wrong"));
        let mut relay = Relay::start(settings.clone(), orders.clone()).await;
        let view = relay.until("the wrong password is refused", |view| view.upstream.last_error.is_some()).await;
        relay.stop().await;
        format!("{view:?}")
    };
    settings.primary.password = Some(Secret::new("s3cret-up"));
    let shown = format!("{settings:?}");
    let relay = Relay::start(settings, orders).await;
    replica.follow(relay.port).await;
    replica.equals(&primary).await;

    let mut peer = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    let begun = Instant::now();
    let lines = [
        "AUTH s3cret-guess",
        "AUTH default s3cret-guess",
        "AUTHENTICATE s3cret-guess",
        "HELLO 2 AUTH default s3cret-guess",
        "HELLO 3 AUTH default s3cret-down",
        "AUTH s3cret-guess s3cret-guess s3cret-guess",
        "AUTH default s3cret-down",
        "MULTI",
        "AUTH s3cret-down",
        "EXEC",
        "CONFIG SET masterauth s3cret-guess",
        "REPLCONF masterauth s3cret-guess",
        "QUIT",
    ];
    peer.write_all((lines.join("\r\n") + "\r\n").as_bytes()).await.expect("sent");
    let mut answers = String::new();
    tokio::time::timeout(PATIENCE, peer.read_to_string(&mut answers)).await.expect("in time").expect("text");
    assert!(begun.elapsed() >= Duration::from_millis(600), "three wrong passwords: 100, 200 and 300 ms");
    assert_eq!(answers.lines().filter(|line| line.starts_with("-WRONGPASS")).count(), 3, "{answers}");
    relay.stop().await;

    let logged = String::from_utf8_lossy(&log.0.lock().expect("no panic")).into_owned();
    assert!(logged.contains("it said QUIT"), "the log is at its lowest level");
    for text in [&logged, &answers, &shown, &refused] {
        let found = text.lines().find(|line| line.contains("s3cret"));
        assert_eq!(found, None);
    }
}
