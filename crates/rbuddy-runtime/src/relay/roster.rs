//! Which configured replica is it that connects? Told by the address it announces (else the one it comes from) and the port it announces.
//!
//! Names are resolved at start, and again when somebody unknown comes: addresses move.

use rbuddy_core::replication::handshake::Identity;
use rbuddy_core::types::NodeAddress;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The group's replicas and their resolved addresses.
#[derive(Debug)]
pub(super) struct Roster {
    replicas: Vec<NodeAddress>,
    /// Whoever is not listed is let in under the address it announces.
    open: bool,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: BTreeMap<NodeAddress, Vec<IpAddr>>,
    resolved_at: Option<Instant>,
}

impl Roster {
    /// Resolves every name once.
    pub(super) async fn new(replicas: Vec<NodeAddress>, open: bool) -> Roster {
        let roster = Roster { replicas, open, known: Mutex::default() };
        roster.resolve().await;
        roster
    }

    /// The replica that this is; else the address under which it came.
    pub(super) async fn find(&self, identity: &Identity, peer: IpAddr, local: IpAddr) -> Result<NodeAddress, String> {
        let Some(port) = identity.listening_port else { return Err(format!("{peer} (it announced no port)")) };
        let announced = identity.ip_address.as_deref().filter(|address| !address.is_empty());
        let ip = seen_at(announced, peer, local);
        let shown = NodeAddress::new(announced.map_or_else(|| peer.to_canonical().to_string(), str::to_owned), port);
        if let Some(found) = self.matching(announced, ip, port) {
            return Ok(found);
        }
        self.resolve().await;
        match self.matching(announced, ip, port) {
            Some(found) => Ok(found),
            None if self.open => Ok(shown),
            None => Err(shown.to_string()),
        }
    }

    /// Whether it is the server at this address, which need not be a replica's.
    pub(super) async fn is_at(&self, server: &NodeAddress, identity: &Identity, peer: IpAddr, local: IpAddr) -> bool {
        if identity.listening_port != Some(server.port) {
            return false;
        }
        let announced = identity.ip_address.as_deref().filter(|address| !address.is_empty());
        if announced.is_some_and(|name| name.eq_ignore_ascii_case(&server.host)) {
            return true;
        }
        let Some(ip) = seen_at(announced, peer, local) else { return false };
        // Asked anew each time: a PSYNC comes seldom, and an address of yesterday would let a circle close.
        let looked_up = timeout(RESOLVE_PATIENCE, tokio::net::lookup_host((server.host.as_str(), server.port))).await;
        looked_up.is_ok_and(|found| found.is_ok_and(|mut found| found.any(|address| canonical(address.ip()) == ip)))
    }

    fn matching(&self, announced: Option<&str>, ip: Option<IpAddr>, port: u16) -> Option<NodeAddress> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |replica: &&NodeAddress| {
            let by_name = announced.is_some_and(|name| name.eq_ignore_ascii_case(&replica.host));
            let by_address = || ip.is_some_and(|ip| known.addresses.get(*replica).is_some_and(|addresses| addresses.contains(&ip)));
            replica.port == port && (by_name || by_address())
        };
        self.replicas.iter().find(is_it).cloned()
    }

    /// Not more often than once a second, whoever knocks.
    async fn resolve(&self) {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.resolved_at.is_some_and(|at| at.elapsed() < RESOLVE_EVERY) {
                return;
            }
            known.resolved_at = Some(Instant::now());
        }
        for replica in &self.replicas {
            let looked_up = timeout(RESOLVE_PATIENCE, tokio::net::lookup_host((replica.host.as_str(), replica.port))).await;
            match looked_up {
                Ok(Ok(found)) => {
                    let addresses = found.map(|address| canonical(address.ip())).collect();
                    self.known.lock().unwrap_or_else(PoisonError::into_inner).addresses.insert(replica.clone(), addresses);
                }
                // What was known stays: a name server that is away does not make a replica a stranger.
                Ok(Err(error)) => tracing::warn!(replica = %replica, %error, "replica's name not resolved"),
                Err(_) => tracing::warn!(replica = %replica, "replica's name not resolved in time"),
            }
        }
    }
}

/// Under which address it is found; `None`: under a name, which is compared with the configured names as it stands.
fn seen_at(announced: Option<&str>, peer: IpAddr, local: IpAddr) -> Option<IpAddr> {
    match announced.map(str::parse) {
        Some(Ok(ip)) => Some(canonical(ip)),
        Some(Err(_)) => None,
        // Who comes from our own address is on this machine, whatever name the configuration has for it.
        None if peer == local => Some(LOOPBACK),
        None => Some(canonical(peer)),
    }
}

/// Whether this host is surely this machine, without asking anybody.
pub(super) fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|ip| canonical(ip) == LOOPBACK)
}

/// One form for all addresses of this machine, so that `localhost`, `::1` and the machine's own address are the same.
fn canonical(ip: IpAddr) -> IpAddr {
    let ip = ip.to_canonical();
    if ip.is_loopback() || ip.is_unspecified() || is_own(ip) { LOOPBACK } else { ip }
}

/// To an own address one goes from that same address. This opens a socket for a moment and sends nothing. (That it can be bound would not say so: with
/// `net.ipv4.ip_nonlocal_bind`, usual where addresses move between machines, every address can.)
fn is_own(ip: IpAddr) -> bool {
    let any: IpAddr = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let gone_from = || {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect((ip, ANY_PORT))?;
        socket.local_addr()
    };
    gone_from().is_ok_and(|from: SocketAddr| from.ip() == ip)
}

/// Nothing is sent there.
const ANY_PORT: u16 = 9;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const RESOLVE_EVERY: Duration = Duration::from_secs(1);
const RESOLVE_PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(port: u16, ip_address: Option<&str>) -> Identity {
        Identity { listening_port: Some(port), ip_address: ip_address.map(str::to_owned), ..Identity::default() }
    }

    async fn found(roster: &Roster, identity: &Identity, peer: &str) -> Result<String, String> {
        let far: IpAddr = "192.0.2.200".parse().expect("an address");
        roster.find(identity, peer.parse().expect("an address"), far).await.map(|address| address.to_string())
    }

    #[tokio::test]
    async fn a_replica_is_known_by_its_announced_port_and_any_of_its_addresses() {
        let replicas = ["localhost:6380", "192.0.2.7:6381", "replica.invalid:6382"];
        let roster = Roster::new(replicas.iter().map(|text| text.parse().expect("an address")).collect(), false).await;
        for peer in ["127.0.0.1", "::1", "::ffff:127.0.0.1", "127.0.0.5"] {
            assert_eq!(found(&roster, &identity(6380, None), peer).await.as_deref(), Ok("localhost:6380"), "{peer}");
        }
        assert_eq!(found(&roster, &identity(6381, Some("192.0.2.7")), "192.0.2.99").await.as_deref(), Ok("192.0.2.7:6381"));
        assert_eq!(found(&roster, &identity(6382, Some("Replica.invalid")), "192.0.2.99").await.as_deref(), Ok("replica.invalid:6382"));
        assert_eq!(found(&roster, &identity(6381, None), "192.0.2.8").await, Err("192.0.2.8:6381".to_owned()), "another machine");
        assert_eq!(found(&roster, &identity(6390, None), "127.0.0.1").await, Err("127.0.0.1:6390".to_owned()), "another port");
        let own: IpAddr = "192.0.2.200".parse().expect("an address");
        assert!(roster.find(&identity(6380, None), own, own).await.is_ok(), "the same machine under its own address");
    }

    #[tokio::test]
    async fn an_open_relay_takes_everybody_that_announces_a_port() {
        let roster = Roster::new(Vec::new(), true).await;
        assert_eq!(found(&roster, &identity(6390, None), "192.0.2.8").await.as_deref(), Ok("192.0.2.8:6390"));
        assert!(found(&roster, &Identity::default(), "192.0.2.8").await.is_err());
    }
}
