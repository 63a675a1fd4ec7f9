//! Bounds the API's connections: how many at once, and how long one may be silent. A stuck client, or somebody who opens connections
//! and says nothing, ties up one of them for a while, and nothing else.

use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// A listener that accepts only so many.
pub(super) struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    idle_timeout: Duration,
}

/// An accepted connection. Its place is free again when it is dropped.
pub(super) struct Connection {
    stream: TcpStream,
    idle_timeout: Duration,
    idle: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connections {
    pub(super) fn new(listener: TcpListener, places: usize, idle_timeout: Duration) -> Connections {
        Connections { listener, places: Arc::new(Semaphore::new(places)), idle_timeout }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, peer) = loop {
            match self.listener.accept().await {
                Ok(accepted) => break accepted,
                // The peer may be gone already, or there is no descriptor left: neither gets better by asking again at once.
                Err(error) => {
                    tracing::debug!(%error, "accept failed");
                    sleep(Duration::from_millis(50)).await;
                }
            }
        };
        let idle = Box::pin(sleep_until(Instant::now() + self.idle_timeout));
        (Connection { stream, idle_timeout: self.idle_timeout, idle, _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buf) {
            let next = Instant::now() + self.idle_timeout;
            self.idle.as_mut().reset(next);
            return Poll::Ready(read);
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_silent_connection_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let mut connections = Connections::new(listener, 1, Duration::from_millis(20));
        let _silent = TcpStream::connect(address).await.expect("accepted by the kernel");
        let (mut connection, _) = connections.accept().await;
        let error = connection.read_u8().await.expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
