//! Just enough HTTP/1.1 for `GET /active` by a client that has no library for it, and for the receiver of webhooks.

use std::io::{self, ErrorKind};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest message that we read.
const MESSAGE_BYTES_MAX: u64 = 64 * 1024;

/// `GET path` of `host:port`: status and body.
pub async fn get(address: &str, path: &str, within: Duration) -> io::Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MESSAGE_BYTES_MAX).read_to_end(&mut answer).await?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = answer.split_once("\r\n\r\n").ok_or(ErrorKind::InvalidData)?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(ErrorKind::InvalidData)?;
        Ok((status, body.to_owned()))
    };
    tokio::time::timeout(within, exchange).await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?
}

/// `host:port` of the active replica, as `GET /active` tells it: `redis://host:port/`.
pub async fn active(api: &str, within: Duration) -> io::Result<String> {
    let (status, body) = get(api, "/active", within).await?;
    let address = body.trim().strip_prefix("redis://").map(|rest| rest.trim_end_matches('/').to_owned());
    match (status, address) {
        (200, Some(address)) => Ok(address),
        (_, Some(_) | None) => Err(io::Error::other(format!("/active answered {status}: {}", body.trim()))),
    }
}

/// Reads one request: head and body.
pub(crate) async fn receive_request(stream: &mut TcpStream) -> io::Result<(String, String)> {
    let mut message = Vec::new();
    let mut limited = stream.take(MESSAGE_BYTES_MAX);
    loop {
        let text = String::from_utf8_lossy(&message).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len() >= content_length(head)
        {
            return Ok((head.to_owned(), body.to_owned()));
        }
        if limited.read_buf(&mut message).await? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

fn content_length(head: &str) -> usize {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}
