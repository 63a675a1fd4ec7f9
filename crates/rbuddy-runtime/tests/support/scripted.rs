//! A primary of which a test plays the part from PSYNC on.

use super::PATIENCE;
use rbuddy_core::resp::request::{RequestLimits, parse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

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
