//! A small RESP2 client over a raw socket. The readers measure with it, so it adds nothing to what the network does: one write, one
//! answer, no reconnects, no queue in between. It is not the client under test either: scenario tests that want an independent
//! client take the `redis` crate.

use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `+OK`
    Simple(String),
    /// `-LOADING …`
    Error(String),
    /// `:1`
    Integer(i64),
    /// `$3`
    Bulk(Vec<u8>),
    /// `$-1`, `*-1`
    Nil,
    /// `*2`
    Array(Vec<Value>),
}

/// A connection that answers one request after another.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// Longest line, longest bulk and deepest nesting that we read: a peer that announces more is broken.
const LINE_BYTES_MAX: u64 = 64 * 1024;
const BULK_BYTES_MAX: usize = 64 * 1024 * 1024;
const DEPTH_MAX: usize = 4;

impl Connection {
    /// Connects to `host:port`.
    pub async fn open(address: &str, within: Duration) -> io::Result<Connection> {
        let stream = tokio::time::timeout(within, TcpStream::connect(address)).await.map_err(|_| late("connect"))??;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::with_capacity(16 * 1024, stream) })
    }

    /// One request, one answer. After a timeout the connection is of no use any more: the answer may still come.
    pub async fn command(&mut self, arguments: &[&str], within: Duration) -> io::Result<Value> {
        let exchange = async {
            let mut request = Vec::with_capacity(64);
            encode(arguments, &mut request);
            self.send(&request).await?;
            self.receive().await
        };
        tokio::time::timeout(within, exchange).await.map_err(|_| late("answer"))?
    }

    /// Writes already encoded requests.
    pub async fn send(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.write_all(requests).await
    }

    /// Reads one answer. No deadline of its own.
    pub async fn receive(&mut self) -> io::Result<Value> {
        self.receive_nested(0).await
    }

    async fn receive_nested(&mut self, depth: usize) -> io::Result<Value> {
        let line = self.line().await?;
        let (kind, rest) = line.split_at_checked(1).ok_or_else(|| broken("an empty line"))?;
        match kind {
            "+" => Ok(Value::Simple(rest.to_owned())),
            "-" => Ok(Value::Error(rest.to_owned())),
            ":" => rest.parse().map(Value::Integer).map_err(|_| broken(&line)),
            "$" => self.bulk(rest).await,
            "*" => match rest.parse::<i64>() {
                Ok(-1) => Ok(Value::Nil),
                Ok(count @ 0..=1_000_000) if depth < DEPTH_MAX => {
                    let mut items = Vec::new();
                    for _ in 0..count {
                        items.push(Box::pin(self.receive_nested(depth + 1)).await?);
                    }
                    Ok(Value::Array(items))
                }
                Ok(_) | Err(_) => Err(broken(&line)),
            },
            _ => Err(broken(&line)),
        }
    }

    async fn bulk(&mut self, length: &str) -> io::Result<Value> {
        if length == "-1" {
            return Ok(Value::Nil);
        }
        let length = length.parse::<usize>().ok().filter(|length| *length <= BULK_BYTES_MAX).ok_or_else(|| broken(length))?;
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes).await?;
        bytes.truncate(length);
        Ok(Value::Bulk(bytes))
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await?;
        match line.as_slice() {
            [] => Err(ErrorKind::UnexpectedEof.into()),
            [text @ .., b'\r', b'\n'] => Ok(String::from_utf8_lossy(text).into_owned()),
            [..] => Err(broken("a line without end")),
        }
    }
}

impl Value {
    /// The text of a simple string or bulk.
    pub fn text(&self) -> Option<String> {
        match self {
            Value::Simple(text) => Some(text.clone()),
            Value::Bulk(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::Error(_) | Value::Integer(_) | Value::Nil | Value::Array(_) => None,
        }
    }
}

/// Appends one request.
pub fn encode(arguments: &[&str], request: &mut Vec<u8>) {
    request.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        request.extend_from_slice(format!("${}\r\n", argument.len()).as_bytes());
        request.extend_from_slice(argument.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
}

fn late(what: &str) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no {what} in time"))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("not RESP: {:?}", what.chars().take(80).collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn answer_with(bytes: &'static [u8]) -> io::Result<Value> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        let server = async {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(bytes).await
        };
        let client = async { Connection::open(&address, Duration::from_secs(5)).await?.receive().await };
        let (served, answer) = tokio::join!(server, client);
        served?;
        answer
    }

    #[tokio::test]
    async fn every_kind_of_answer_is_read() {
        let nested = answer_with(b"*5\r\n+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n*1\r\n$-1\r\n").await.expect("an answer");
        let expected = [
            Value::Simple("OK".into()),
            Value::Error("ERR no".into()),
            Value::Integer(-7),
            Value::Bulk(b"a\r\n".to_vec()),
            Value::Array(vec![Value::Nil]),
        ];
        assert_eq!(nested, Value::Array(expected.to_vec()));
    }

    #[tokio::test]
    async fn broken_answers_are_errors_and_not_panics() {
        for bytes in [&b"\r\n"[..], b"?what\r\n", b"$99999999999\r\n", b"*-5\r\n", b"$3\r\na", b"+half", b"", b":x\r\n", b"\xff\xfe\r\n"] {
            assert!(answer_with(bytes).await.is_err(), "{bytes:?} was taken for an answer");
        }
    }
}
