//! A snapshot's file into a replica's socket, without a copy through this process: so any number of replicas costs one file in the page cache.
//!
//! Reading the disk may block, so it is done on a thread for that; a full socket never blocks it, since the socket does not. Not here: patience.

use super::files::Spool;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// One file on its way into one socket.
#[derive(Debug)]
pub(super) struct FileOnItsWay {
    socket: Arc<OwnedFd>,
    spool: Arc<Spool>,
    sent: u64,
}

impl FileOnItsWay {
    pub(super) fn new(stream: &TcpStream, spool: Arc<Spool>) -> io::Result<FileOnItsWay> {
        // The same socket under another number, which a thread can hold.
        let socket = Arc::new(stream.as_fd().try_clone_to_owned()?);
        Ok(FileOnItsWay { socket, spool, sent: 0 })
    }

    pub(super) fn sent_bytes(&self) -> u64 {
        self.sent
    }

    /// Sends as much as the socket takes now. `stream` is the one that this was made for, and seemed writable.
    pub(super) async fn advance(&mut self, stream: &TcpStream) -> io::Result<()> {
        let (socket, spool, from) = (Arc::clone(&self.socket), Arc::clone(&self.spool), self.sent);
        let until = self.spool.facts.bytes.min(from + BURST_BYTES);
        let sending = tokio::task::spawn_blocking(move || send(&socket, spool.snapshot.as_file(), from, until));
        let (sent, is_full) = sending.await.map_err(io::Error::other)??;
        self.sent = sent;
        if is_full {
            wait_for_room(stream)?;
        }
        Ok(())
    }
}

/// How far it came, and whether it ended because the socket takes no more.
fn send(socket: &OwnedFd, file: &File, from: u64, until: u64) -> io::Result<(u64, bool)> {
    let mut at = from;
    while at < until {
        let count = usize::try_from(until - at).unwrap_or(usize::MAX);
        match rustix::fs::sendfile(socket, file, Some(&mut at), count) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok((at, true)),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((at, false))
}

/// Tells the runtime that the socket is not writable, if that is still so: then it is told when it is again.
fn wait_for_room(stream: &TcpStream) -> io::Result<()> {
    let looked = stream.try_io(Interest::WRITABLE, || {
        let mut sockets = [PollFd::new(stream, PollFlags::OUT)];
        match poll(&mut sockets, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        }
    });
    match looked {
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A session looks up between two of these.
const BURST_BYTES: u64 = 8 << 20;
