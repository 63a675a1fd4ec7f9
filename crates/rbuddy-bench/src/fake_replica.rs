//! A replica that applies nothing: it takes a full resync, acknowledges what it gets once a second, and notes when each numbered write
//! arrives. A real replica could only be asked, and asking costs more than what is measured here. Blocking sockets, for the same reason:
//! nothing stands between the kernel's wake-up and the timestamp.

use anyhow::Context;
use memchr::memmem;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// How long nothing at all may come.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);
const ACK_EVERY: Duration = Duration::from_secs(1);
/// A primary puts a replica online with the first acknowledgement that finds its child gone: until then they come more often.
const ACK_AT_FIRST: Duration = Duration::from_millis(100);
/// Longest line of a handshake.
const LINE_BYTES_MAX: u64 = 1024;

/// The key whose values are the numbers.
pub(crate) const KEY: &str = "bench:latency";
const DIGITS: usize = 16;
/// What stands before the number in the stream: servers pass on a SET as it was sent.
const MARK: &[u8] = b"$13\r\nbench:latency\r\n$16\r\n";

/// A number as a value: always as long.
pub(crate) fn value_of(number: u64) -> String {
    format!("{number:0DIGITS$}")
}

/// When a number came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) number: u64,
    pub(crate) at: Instant,
}

/// Attached, with the snapshot behind it.
#[derive(Debug)]
pub(crate) struct FakeReplica {
    stream: BufReader<TcpStream>,
    offset: u64,
}

impl FakeReplica {
    /// Does the handshake and takes the snapshot. `listening_port` is announced and must be nobody else's.
    pub(crate) fn attach(address: &str, listening_port: u16) -> anyhow::Result<FakeReplica> {
        let attach = || {
            let stream = TcpStream::connect(address).context("connect")?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PROGRESS_WITHIN))?;
            stream.set_write_timeout(Some(PROGRESS_WITHIN))?;
            let mut stream = BufReader::new(stream);
            let port = listening_port.to_string();
            let handshake: [&[&str]; 3] =
                [&["PING"], &["REPLCONF", "listening-port", &port], &["REPLCONF", "capa", "eof", "capa", "psync2"]];
            for request in handshake {
                send(stream.get_mut(), request)?;
                let answer = line(&mut stream)?;
                anyhow::ensure!(answer.starts_with('+'), "{} was answered {answer:?}", request.join(" "));
            }
            send(stream.get_mut(), &["PSYNC", "?", "-1"])?;
            let answer = line_after_newlines(&mut stream)?;
            let offset = answer.strip_prefix("+FULLRESYNC ").and_then(|rest| rest.split_once(' ')?.1.parse().ok());
            let offset = offset.with_context(|| format!("PSYNC was answered {answer:?}"))?;
            let header = line_after_newlines(&mut stream)?;
            skip_payload(&mut stream, &header)?;
            Ok(FakeReplica { stream, offset })
        };
        attach().with_context(|| format!("follow {address} as a replica"))
    }

    /// Reads until the number `last` has come. Tells `online` the first arrival; gives all.
    pub(crate) fn follow(mut self, last: u64, online: &Sender<()>) -> anyhow::Result<Vec<Arrival>> {
        let offset = Arc::new(AtomicU64::new(self.offset));
        let (hold, ended) = channel();
        let writer = self.stream.get_ref().try_clone().context("a second handle of the connection")?;
        let acked = Arc::clone(&offset);
        let is_online = Arc::new(AtomicBool::new(false));
        let seen_online = Arc::clone(&is_online);
        let acks = thread::spawn(move || acknowledge(writer, &acked, &seen_online, &ended));
        let arrivals = self.read(last, online, &offset, &is_online);
        drop(hold);
        acks.join().map_err(|_| anyhow::anyhow!("the acknowledging thread panicked"))??;
        arrivals
    }

    fn read(&mut self, last: u64, online: &Sender<()>, offset: &AtomicU64, is_online: &AtomicBool) -> anyhow::Result<Vec<Arrival>> {
        let mut scanner = Scanner::default();
        let mut arrivals: Vec<Arrival> = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        while arrivals.last().is_none_or(|arrival| arrival.number < last) {
            let count = self.stream.read(&mut buffer).context("read the stream")?;
            let at = Instant::now();
            anyhow::ensure!(count > 0, "the stream ended after {} writes", arrivals.len());
            offset.fetch_add(count as u64, Ordering::Relaxed);
            let before = arrivals.len();
            scanner.take(&buffer[..count], |number| arrivals.push(Arrival { number, at }));
            if before == 0 && !arrivals.is_empty() {
                is_online.store(true, Ordering::Relaxed);
                // One that does not listen any more has given up.
                let _ = online.send(());
            }
        }
        Ok(arrivals)
    }
}

/// Until the other end of `ended` is dropped.
fn acknowledge(mut stream: TcpStream, offset: &AtomicU64, is_online: &AtomicBool, ended: &Receiver<()>) -> anyhow::Result<()> {
    loop {
        send(&mut stream, &["REPLCONF", "ACK", &offset.load(Ordering::Relaxed).to_string()])?;
        let pause = if is_online.load(Ordering::Relaxed) { ACK_EVERY } else { ACK_AT_FIRST };
        match ended.recv_timeout(pause) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn send(stream: &mut TcpStream, request: &[&str]) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    rbuddy_lab::resp::encode(request, &mut bytes);
    stream.write_all(&bytes).with_context(|| format!("send {}", request.join(" ")))
}

/// One line without its end.
fn line(stream: &mut impl BufRead) -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    stream.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).context("read a line")?;
    anyhow::ensure!(bytes.pop() == Some(b'\n'), "a line without end");
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned())
}

/// A primary that is not ready sends a newline a second.
fn line_after_newlines(stream: &mut impl BufRead) -> anyhow::Result<String> {
    loop {
        let line = line(stream)?;
        if !line.is_empty() {
            return Ok(line);
        }
    }
}

/// Reads the snapshot away, in either framing.
fn skip_payload(stream: &mut impl BufRead, header: &str) -> anyhow::Result<()> {
    if let Some(mark) = header.strip_prefix("$EOF:") {
        anyhow::ensure!(mark.len() == 40, "an end mark of {} bytes", mark.len());
        let mut end: Vec<u8> = Vec::new();
        // Byte by byte through the buffer: the snapshots here are small, and nothing comes after the mark until it is acknowledged.
        while end != mark.as_bytes() {
            let mut byte = [0];
            stream.read_exact(&mut byte).context("read the snapshot")?;
            if end.len() == mark.len() {
                end.remove(0);
            }
            end.push(byte[0]);
        }
        return Ok(());
    }
    let bytes: u64 =
        header.strip_prefix('$').and_then(|length| length.parse().ok()).with_context(|| format!("no snapshot but {header:?}"))?;
    let read = std::io::copy(&mut stream.take(bytes), &mut std::io::sink()).context("read the snapshot")?;
    anyhow::ensure!(read == bytes, "the snapshot ended after {read} of {bytes} bytes");
    Ok(())
}

/// Finds the numbers in a stream that comes in any pieces.
#[derive(Debug, Default)]
struct Scanner {
    pending: Vec<u8>,
}

impl Scanner {
    fn take(&mut self, bytes: &[u8], mut found: impl FnMut(u64)) {
        self.pending.extend_from_slice(bytes);
        while let Some(start) = memmem::find(&self.pending, MARK) {
            let end = start + MARK.len() + DIGITS;
            let Some(digits) = self.pending.get(start + MARK.len()..end) else {
                self.pending.drain(..start);
                return;
            };
            // Other values under this key are none of ours.
            if let Some(number) = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()) {
                found(number);
            }
            self.pending.drain(..end);
        }
        let keep = self.pending.len().min(MARK.len() - 1);
        self.pending.drain(..self.pending.len() - keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_lab::{Binary, Port, Server, ServerOptions};

    fn write_of(number: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        rbuddy_lab::resp::encode(&["SET", KEY, &value_of(number)], &mut bytes);
        bytes
    }

    #[test]
    fn numbers_are_found_in_whatever_pieces_the_stream_comes() {
        let stream = [b"*1\r\n$4\r\nPING\r\n".to_vec(), write_of(7), write_of(8), b"*1\r\n$4\r\nPING\r\n".to_vec(), write_of(9)].concat();
        for size in 1..=stream.len() {
            let (mut scanner, mut found) = (Scanner::default(), Vec::new());
            stream.chunks(size).for_each(|piece| scanner.take(piece, |number| found.push(number)));
            assert_eq!(found, [7, 8, 9], "in pieces of {size} bytes");
            assert!(scanner.pending.len() < MARK.len());
        }
    }

    #[test]
    fn a_snapshot_is_skipped_to_its_end_in_both_framings_and_not_further() {
        let mark = "m".repeat(40);
        let framings = [("$5".to_owned(), b"REDIS+".to_vec()), (format!("$EOF:{mark}"), format!("mmREDIS{mark}+").into_bytes())];
        for (header, bytes) in framings {
            let mut stream = bytes.as_slice();
            skip_payload(&mut stream, &header).expect("a snapshot");
            assert_eq!(stream, b"+", "after {header}");
        }
        assert!(skip_payload(&mut &b"RED"[..], "$5").is_err(), "cut");
        assert!(skip_payload(&mut &b"RED"[..], &format!("$EOF:{mark}")).is_err(), "cut");
        assert!(skip_payload(&mut &b""[..], "-ERR no").is_err());
    }

    #[tokio::test]
    async fn a_real_primary_takes_it_for_a_replica_and_every_write_arrives() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(&Binary::find().expect("a server"), folder.path(), ServerOptions::default()).await.expect("it starts");
        let (address, port) = (server.address(), Port::reserve().expect("a port"));
        let (online, is_online) = channel();
        let number = port.number();
        let replica = tokio::task::spawn_blocking(move || FakeReplica::attach(&address, number)?.follow(100, &online));
        while is_online.try_recv().is_err() {
            server.command(&["SET", KEY, &value_of(0)]).await.expect("a write");
        }
        for number in 1..=100 {
            server.command(&["SET", KEY, &value_of(number)]).await.expect("a write");
        }
        let arrivals = replica.await.expect("no panic").expect("all of them");
        let after_warm_up: Vec<u64> = arrivals.iter().map(|arrival| arrival.number).filter(|number| *number > 0).collect();
        assert_eq!(after_warm_up, (1..=100).collect::<Vec<_>>());
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at));
    }
}
