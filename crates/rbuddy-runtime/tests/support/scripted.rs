//! A primary of which a test plays the part from PSYNC on.

use super::{PATIENCE, Server, config};
use rbuddy_core::resp::request::{RequestLimits, parse};
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::relay::RelayConfig;
use rbuddy_runtime::settings::PrimaryPlace;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// It, and a relay that follows it and has this replica.
pub(crate) async fn primary(replica: &Server, dir: &Path) -> (TcpListener, RelayConfig) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let mut config = config(replica, &[replica], dir);
    config.primary.place = PrimaryPlace::Fixed(NodeAddress::new("127.0.0.1", port));
    (listener, config)
}

/// What it is asked with the next PSYNC; `info` is what it says of itself each time, `None` if it may not be asked. Where a PSYNC may be one full resync too
/// early the relay ends the connection and comes again.
pub(crate) async fn next_psync(listener: &TcpListener, info: impl Fn() -> Option<String>) -> (TcpStream, String) {
    loop {
        let accepting = tokio::time::timeout(PATIENCE, listener.accept()).await;
        let (stream, _) = accepting.expect("the relay dials").expect("accepted");
        if let Some(asked) = psync_on(stream, &info).await {
            return asked;
        }
    }
}

/// `None`: the relay ended it before.
async fn psync_on(mut stream: TcpStream, info: &impl Fn() -> Option<String>) -> Option<(TcpStream, String)> {
    let mut input = Vec::new();
    loop {
        if let Some((arguments, used)) = parse(&input, RequestLimits::SMALL).expect("RESP") {
            input.drain(..used);
            let words: Vec<String> = arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect();
            let answer = match words[0].as_str() {
                "PING" => "+PONG\r\n".to_owned(),
                "INFO" => info().map_or_else(|| "-NOPERM no\r\n".to_owned(), |text| format!("${}\r\n{text}\r\n", text.len())),
                "PSYNC" => return Some((stream, words[1..].join(" "))),
                _ => "+OK\r\n".to_owned(),
            };
            stream.write_all(answer.as_bytes()).await.expect("sent");
            continue;
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut input)).await.expect("in time").expect("read");
        if read == 0 {
            return None;
        }
    }
}

/// What a server without keys gives to a replica.
pub(crate) async fn empty_snapshot() -> Vec<u8> {
    let server = Server::start(&[]).await;
    server.command(&["SAVE"]).await;
    let config: Vec<String> = redis::from_redis_value(server.command(&["CONFIG", "GET", "dir"]).await).expect("two texts");
    std::fs::read(Path::new(&config[1]).join("dump.rdb")).expect("an RDB")
}
