//! A replica of which a test plays the part: what it says and acknowledges is up to the test.

use super::PATIENCE;
use rbuddy_core::resp::encode;
use rbuddy_core::types::{Offset, ReplId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct RawReplica {
    stream: TcpStream,
    input: Vec<u8>,
}

impl RawReplica {
    /// As the replica that listens on this port.
    pub(crate) async fn connect(relay: u16, listening: u16) -> RawReplica {
        RawReplica::with(relay, listening, "psync2").await
    }

    /// As one from before 4.0: it never learns an id.
    pub(crate) async fn connect_old(relay: u16, listening: u16) -> RawReplica {
        RawReplica::with(relay, listening, "eof").await
    }

    async fn with(relay: u16, listening: u16, capability: &str) -> RawReplica {
        let stream = TcpStream::connect(("127.0.0.1", relay)).await.expect("the relay listens");
        let mut replica = RawReplica { stream, input: Vec::new() };
        for said in [["REPLCONF", "listening-port", &listening.to_string()], ["REPLCONF", "capa", capability]] {
            replica.say(&said).await;
            assert_eq!(replica.line().await, "+OK");
        }
        replica
    }

    /// Asks for everything, and takes it. Where it stands then.
    pub(crate) async fn seeded(&mut self) -> (ReplId, Offset) {
        self.say(&["PSYNC", "?", "-1"]).await;
        let answer = self.line().await;
        let words: Vec<&str> = answer.split(' ').collect();
        assert_eq!(words[0], "+FULLRESYNC");
        let length: usize = self.line().await.strip_prefix('$').and_then(|digits| digits.parse().ok()).expect("a length");
        while self.input.len() < length {
            self.read().await;
        }
        self.input.drain(..length);
        (words[1].parse().expect("an id"), words[2].parse().expect("an offset"))
    }

    /// Asks to go on there, and may.
    pub(crate) async fn continues(&mut self, replid: ReplId, behind: Offset) {
        self.say(&["PSYNC", &replid.to_string(), &behind.next_byte().to_string()]).await;
        assert_eq!(self.line().await, format!("+CONTINUE {replid}"));
    }

    pub(crate) async fn ack(&mut self, offset: Offset) {
        self.say(&["REPLCONF", "ACK", &offset.to_string()]).await;
    }

    /// The answer to `PSYNC` behind this position.
    pub(crate) async fn asked(&mut self, replid: ReplId, behind: Offset) -> String {
        self.say(&["PSYNC", &replid.to_string(), &behind.next_byte().to_string()]).await;
        self.line().await
    }

    /// All that comes until the relay ends the connection.
    pub(crate) async fn until_ended(mut self) -> Vec<u8> {
        let reading = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut self.input)).await;
        reading.expect("the relay ends it").expect("read");
        self.input
    }

    async fn say(&mut self, words: &[&str]) {
        self.stream.write_all(&encode::request(words)).await.expect("sent");
    }

    /// The next line that is more than a sign of life.
    async fn line(&mut self) -> String {
        loop {
            let Some(end) = self.input.windows(1).position(|byte| byte == b"\n") else {
                self.read().await;
                continue;
            };
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if !line.is_empty() {
                return line;
            }
        }
    }

    async fn read(&mut self) {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input)).await.expect("in time").expect("read");
        assert!(read > 0, "the relay ended it");
    }
}
