//! Free loopback ports that stay free. A port found by binding 0 and let go is a race: another test's server, or the
//! local end of any outgoing connection, may take it before (or, worse, while) its server restarts.
//!
//! So a [`Port`] keeps a socket bound, without listening, for as long as it lives. Linux lets a second socket bind and listen
//! there when both set `SO_REUSEADDR` (all servers do), while it never gives such a port to anybody who asks for a free one.

use crate::LabError;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpSocket};

/// A reserved port on 127.0.0.1.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: TcpSocket,
}

impl Port {
    /// Reserves a free one.
    pub fn reserve() -> Result<Port, LabError> {
        let bind = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            Ok(Port { number: socket.local_addr()?.port(), _reservation: socket })
        };
        bind().map_err(LabError::io("reserve a loopback port"))
    }

    /// The number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    /// Listens there, for servers that live in this process.
    pub fn listen(&self) -> Result<TcpListener, LabError> {
        let listen = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from(([127, 0, 0, 1], self.number)))?;
            socket.listen(1024)
        };
        listen().map_err(LabError::io(format!("listen on {}", self.address())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use tokio::net::TcpStream;

    #[tokio::test]
    async fn a_reserved_port_can_be_listened_on_again_and_again_but_is_nobody_elses() {
        let ports: Vec<Port> = (0..50).map(|_| Port::reserve().expect("a port")).collect();
        let numbers: BTreeSet<u16> = ports.iter().map(Port::number).collect();
        assert_eq!(numbers.len(), ports.len(), "the same port was given out twice");
        for _ in 0..3 {
            let listener = ports[0].listen().expect("ours");
            let client = TcpStream::connect(ports[0].address()).await.expect("connect");
            let (accepted, _) = listener.accept().await.expect("accept");
            drop((listener, accepted, client));
            assert!(TcpStream::connect(ports[0].address()).await.is_err(), "nobody listens now");
        }
    }
}
