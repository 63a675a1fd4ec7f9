//! Circles of replication: a relay that follows itself, or that would feed the primary which feeds it. Found before they turn.
//!
//! Told by addresses: a server is where it says that it listens. Not here: what the primary's INFO tells of it ([`super::inquiry`]).

use super::listener::Door;
use super::roster::is_this_machine;
use rbuddy_core::replication::handshake::Identity;
use rbuddy_core::types::NodeAddress;
use std::net::IpAddr;

/// Who asked for the stream and must not get it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Circle {
    #[error("the relay follows itself")]
    Itself,
    #[error("{0} is the primary that the relay follows")]
    Primary(NodeAddress),
}

impl Circle {
    /// What a human should do about it.
    pub(super) fn remedy(&self) -> &'static str {
        match self {
            Circle::Itself => "its primary's address leads to its own port: name the primary's",
            Circle::Primary(_) => {
                "say REPLICAOF NO ONE to the primary; if it is another server that looks like it, set replica-announce-ip and -port there"
            }
        }
    }
}

impl Door {
    /// The circle that a replica would close, if it would.
    pub(super) async fn circle(&self, identity: &Identity, peer: IpAddr, local: IpAddr) -> Option<Circle> {
        let port = identity.listening_port?;
        let shown = identity.ip_address.clone().filter(|address| !address.is_empty()).unwrap_or_else(|| peer.to_canonical().to_string());
        if self.is_own(&NodeAddress::new(shown, port)) {
            return Some(Circle::Itself);
        }
        let primary = self.hub.lock().primary.clone()?;
        self.roster.is_at(&primary, identity, peer, local).await.then_some(Circle::Primary(primary))
    }

    /// The address is the relay's, under its announced name or any address of this machine.
    pub(super) fn is_own(&self, address: &NodeAddress) -> bool {
        let announced = &self.hub.config.settings.announce;
        let is_announced = address.port == announced.port && address.host.eq_ignore_ascii_case(&announced.host);
        is_announced || ([announced.port, self.listen_port].contains(&address.port) && is_this_machine(&address.host))
    }
}
