//! A primary that DNS names. Every dial resolves the name anew; but where the name was pointed elsewhere while the connection to the former
//! server stays open, nobody would dial. So the name is resolved now and then beside the stream, and a connection to a server that it does not
//! lead to any more is given up.
//!
//! Promise: a resolver that fails, or that gives its answers in turns, gives up nothing: only answers without our server, twice in a row, do.

use super::link::LinkError;
use rbuddy_core::types::NodeAddress;
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Does `work` until the name of the primary, connected at `peer`, leads elsewhere.
pub(super) async fn unless_renamed<T>(
    primary: &NodeAddress,
    peer: Option<IpAddr>,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    let is_name = primary.host.parse::<IpAddr>().is_err();
    let Some(peer) = peer.filter(|_| is_name) else { return work.await };
    tokio::select! {
        done = work => done,
        () = leads_elsewhere(peer, RESOLVE_EVERY, || resolve(primary)) => Err(LinkError::Renamed(primary.host.clone())),
    }
}

/// Ready once two answers in a row do not have `peer` among them.
async fn leads_elsewhere<F>(peer: IpAddr, every: Duration, resolve: impl Fn() -> F)
where
    F: Future<Output = io::Result<Vec<IpAddr>>>,
{
    let mut misses = 0;
    while misses < 2 {
        sleep(every).await;
        match resolve().await {
            Ok(answers) if !answers.is_empty() && !answers.contains(&peer) => misses += 1,
            Ok(_) => misses = 0,
            // Whether it leads elsewhere is not known.
            Err(_) => {}
        }
    }
}

async fn resolve(primary: &NodeAddress) -> io::Result<Vec<IpAddr>> {
    let answers = timeout(RESOLVE_WITHIN, tokio::net::lookup_host((primary.host.as_str(), primary.port))).await??;
    Ok(answers.map(|answer| answer.ip().to_canonical()).collect())
}

const RESOLVE_EVERY: Duration = Duration::from_secs(30);
const RESOLVE_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    /// Whether these answers, in order, and then the last one for ever, lead away from 127.0.0.1.
    async fn leads_away(answers: Vec<io::Result<Vec<IpAddr>>>) -> bool {
        let last = || Ok(vec![ip("127.0.0.1"), ip("::1")]);
        let answers = Mutex::new(answers.into_iter());
        let resolve = || std::future::ready(answers.lock().expect("not poisoned").next().unwrap_or_else(last));
        let waiting = leads_elsewhere(ip("127.0.0.1"), Duration::from_millis(1), resolve);
        timeout(Duration::from_millis(200), waiting).await.is_ok()
    }

    #[tokio::test]
    async fn a_name_that_was_pointed_elsewhere_is_noticed() {
        assert!(leads_away(vec![Ok(vec![ip("127.0.0.2")]), Ok(vec![ip("127.0.0.2")])]).await);
    }

    /// Its clock runs ahead as nothing else is to be done.
    #[tokio::test(start_paused = true)]
    async fn a_connection_to_where_the_name_leads_no_more_is_given_up() {
        let primary = NodeAddress::new("localhost", 6379);
        let hour = Duration::from_secs(3600);
        let stays = |peer| timeout(hour, unless_renamed::<()>(&primary, Some(ip(peer)), std::future::pending()));
        assert!(matches!(stays("127.0.0.9").await, Ok(Err(LinkError::Renamed(name))) if name == "localhost"));
        assert!(stays("127.0.0.1").await.is_err(), "that is where it leads");
        let by_address = NodeAddress::new("127.0.0.1", 6379);
        let is_asked = timeout(hour, unless_renamed::<()>(&by_address, Some(ip("127.0.0.9")), std::future::pending()));
        assert!(is_asked.await.is_err(), "it is no name");
    }

    #[tokio::test]
    async fn a_resolver_in_trouble_or_with_answers_in_turns_gives_up_nothing() {
        let elsewhere = || Ok(vec![ip("127.0.0.2")]);
        assert!(!leads_away(vec![elsewhere(), Ok(vec![ip("127.0.0.1")]), elsewhere()]).await);
        assert!(!leads_away(vec![Err(io::Error::other("no resolver")), Ok(Vec::new()), Err(io::Error::other("no resolver"))]).await);
        assert!(!leads_away(Vec::new()).await, "both answers for localhost");
    }
}
