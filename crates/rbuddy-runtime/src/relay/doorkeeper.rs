//! How many connections an address may hold open before PSYNC, how fast it may come, and how long it waits after a wrong password.
//!
//! Promises: strangers take no place from others, as no address can hold more than its share, and all that never logged in together no more than theirs;
//! what is remembered of them is bounded; the log has one line per address and minute at the most. A replica that said PSYNC is a session and holds no
//! place here. Limits are far above what replicas, Sentinels and monitors need, since whoever is turned away has to come again. Not here: the password
//! itself, sockets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Shared by all connections of a relay.
#[derive(Debug)]
pub(super) struct Doorkeeper(Mutex<Book>);

/// Leave to be connected. Dropped when the connection ends or becomes a session.
#[derive(Debug)]
pub(super) struct Pass {
    keeper: Arc<Doorkeeper>,
    from: IpAddr,
    is_strangers: bool,
}

/// Turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TurnedAway {
    pub(super) why: Why,
    /// Worth a line in the log.
    pub(super) is_news: bool,
}

/// Why a connection is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Why {
    #[error("the relay has {STRANGERS_MAX} connections from addresses where nobody has logged in yet")]
    Full,
    #[error("this address has {0} connections that are not replicas'")]
    TooMany(u32),
    #[error("this address connects more than {0} times a second")]
    TooFast(u32),
}

#[derive(Debug)]
struct Book {
    /// Places that strangers hold.
    strangers: usize,
    full_told_at: Option<Instant>,
    addresses: BTreeMap<IpAddr, Entry>,
}

/// What is known of one address.
#[derive(Debug)]
struct Entry {
    open: u32,
    /// Somebody there knew the password.
    is_known: bool,
    /// Connections that it may make at once, as of `seen_at`.
    allowance: f64,
    seen_at: Instant,
    told_at: Option<Instant>,
    /// Wrong passwords of the last time: each is forgotten after [`FORGIVEN_AFTER`].
    wrong: u32,
    wrong_at: Instant,
}

/// An address's share.
#[derive(Debug, Clone, Copy)]
struct Share {
    open: u32,
    per_second: u32,
    at_once: u32,
}

impl Doorkeeper {
    pub(super) fn new() -> Doorkeeper {
        Doorkeeper(Mutex::new(Book { strangers: 0, full_told_at: None, addresses: BTreeMap::new() }))
    }

    /// Somebody connected.
    pub(super) fn enter(self: &Arc<Doorkeeper>, peer: IpAddr, now: Instant) -> Result<Pass, TurnedAway> {
        let from = counted_as(peer);
        let is_strangers = self.book().enter(from, now)?;
        Ok(Pass { keeper: Arc::clone(self), from, is_strangers })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    /// It logged in: whatever strangers do, there is a place for its address from now on.
    pub(super) fn logged_in(&self) {
        if let Some(entry) = self.keeper.book().addresses.get_mut(&self.from) {
            entry.is_known = true;
        }
    }

    /// It said a wrong password: how long the answer has to wait. Only that one waits: a replica with the right password behind the same address is
    /// never kept from its data.
    pub(super) fn wrong_password(&self, now: Instant) -> Duration {
        match self.keeper.book().addresses.get_mut(&self.from) {
            Some(entry) => entry.wrong_password(now),
            None => DELAY_MAX,
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut book = self.keeper.book();
        book.strangers = book.strangers.saturating_sub(usize::from(self.is_strangers));
        if let Some(entry) = book.addresses.get_mut(&self.from) {
            entry.open = entry.open.saturating_sub(1);
        }
    }
}

impl Book {
    /// Whether the place is one of strangers.
    fn enter(&mut self, from: IpAddr, now: Instant) -> Result<bool, TurnedAway> {
        let is_stranger = !from.is_loopback() && self.addresses.get(&from).is_none_or(|entry| !entry.is_known);
        if is_stranger && self.strangers >= STRANGERS_MAX {
            return Err(TurnedAway { why: Why::Full, is_news: tell(&mut self.full_told_at, now) });
        }
        self.make_room(from);
        let share = if from.is_loopback() { OWN_MACHINE } else { ELSEWHERE };
        let entry = self.addresses.entry(from).or_insert_with(|| Entry::new(share, now));
        match entry.enter(share, now) {
            Ok(()) => {
                self.strangers += usize::from(is_stranger);
                Ok(is_stranger)
            }
            Err(why) => Err(TurnedAway { why, is_news: tell(&mut entry.told_at, now) }),
        }
    }

    /// Forgets the address that has been away for longest, a stranger's first.
    fn make_room(&mut self, newcomer: IpAddr) {
        if self.addresses.len() < ADDRESSES_MAX || self.addresses.contains_key(&newcomer) {
            return;
        }
        let idle = self.addresses.iter().filter(|(_, entry)| entry.open == 0);
        let oldest = idle.min_by_key(|(_, entry)| (entry.is_known, entry.seen_at)).map(|(address, _)| *address);
        if let Some(oldest) = oldest {
            self.addresses.remove(&oldest);
        }
    }
}

impl Entry {
    fn new(share: Share, now: Instant) -> Entry {
        Entry { open: 0, is_known: false, allowance: f64::from(share.at_once), seen_at: now, told_at: None, wrong: 0, wrong_at: now }
    }

    fn enter(&mut self, share: Share, now: Instant) -> Result<(), Why> {
        let regained = now.saturating_duration_since(self.seen_at).as_secs_f64() * f64::from(share.per_second);
        self.allowance = (self.allowance + regained).min(f64::from(share.at_once));
        self.seen_at = self.seen_at.max(now);
        if self.open >= share.open {
            return Err(Why::TooMany(share.open));
        }
        if self.allowance < 1.0 {
            return Err(Why::TooFast(share.per_second));
        }
        self.allowance -= 1.0;
        self.open += 1;
        Ok(())
    }

    fn wrong_password(&mut self, now: Instant) -> Duration {
        let forgiven = now.saturating_duration_since(self.wrong_at).as_secs() / FORGIVEN_AFTER.as_secs();
        self.wrong = self.wrong.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX)).saturating_add(1);
        self.wrong_at = now;
        (DELAY_EACH * self.wrong.min(DELAY_STEPS_MAX)).min(DELAY_MAX)
    }
}

/// Once a minute.
fn tell(told_at: &mut Option<Instant>, now: Instant) -> bool {
    let is_news = told_at.is_none_or(|at| now.saturating_duration_since(at) >= TOLD_EVERY);
    if is_news {
        *told_at = Some(now);
    }
    is_news
}

/// An IPv6 network is one address here: whoever has one of its addresses has all of them.
fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        own_or_v4 @ (IpAddr::V4(_) | IpAddr::V6(_)) => own_or_v4,
    }
}

/// A group has a handful of replicas, each with one handshake at a time, and each Sentinel has two connections.
const ELSEWHERE: Share = Share { open: 64, per_second: 20, at_once: 100 };
/// Many servers may share this machine, and who is on it could do worse than connect.
const OWN_MACHINE: Share = Share { open: 512, per_second: 500, at_once: 1000 };
const STRANGERS_MAX: usize = 1024;
/// Some hundred bytes each.
const ADDRESSES_MAX: usize = 4096;
const TOLD_EVERY: Duration = Duration::from_secs(60);
const DELAY_EACH: Duration = Duration::from_millis(100);
const DELAY_STEPS_MAX: u32 = 20;
/// Less than the 5 s for which a replica waits with its event loop standing still.
const DELAY_MAX: Duration = Duration::from_secs(2);
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_takes_its_share_of_places_and_no_more() {
        let (keeper, now) = (Arc::new(Doorkeeper::new()), Instant::now());
        let mut passes: Vec<Pass> = (0..ELSEWHERE.open).map(|_| keeper.enter(ip("192.0.2.1"), now).expect("its share")).collect();
        assert_eq!(keeper.enter(ip("192.0.2.1"), now).err(), Some(TurnedAway { why: Why::TooMany(64), is_news: true }));
        assert_eq!(keeper.enter(ip("192.0.2.1"), now).err(), Some(TurnedAway { why: Why::TooMany(64), is_news: false }));
        let later = now + TOLD_EVERY;
        assert!(keeper.enter(ip("192.0.2.1"), later).is_err_and(|turned| turned.is_news), "once a minute");
        assert!(keeper.enter(ip("192.0.2.2"), now).is_ok(), "others are not hindered");
        passes.pop();
        assert!(keeper.enter(ip("192.0.2.1"), later).is_ok(), "a place that became free");
    }

    #[test]
    fn an_address_connects_no_faster_than_its_share() {
        let (keeper, now) = (Arc::new(Doorkeeper::new()), Instant::now());
        let come = |at| keeper.enter(ip("192.0.2.1"), at).map(drop);
        assert_eq!((0..200).filter(|_| come(now).is_ok()).count(), 100);
        assert!(come(now).is_err_and(|turned| turned.why == Why::TooFast(20)));
        assert_eq!((0..200).filter(|_| come(now + Duration::from_secs(1)).is_ok()).count(), 20);
        assert_eq!((0..200).filter(|_| keeper.enter(ip("127.0.0.1"), now).map(drop).is_ok()).count(), 200, "the own machine may do more");
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        assert_eq!(counted_as(ip("2001:db8:1:2:3::4")), counted_as(ip("2001:db8:1:2:ffff::1")));
        assert_ne!(counted_as(ip("2001:db8:1:2::1")), counted_as(ip("2001:db8:1:3::1")));
        assert_eq!(counted_as(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert!(counted_as(ip("::1")).is_loopback());
    }

    #[test]
    fn nobody_fills_the_relay_or_its_memory() {
        let (keeper, now) = (Arc::new(Doorkeeper::new()), Instant::now());
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        for number in 0..10_000 {
            assert!(keeper.enter(address(number), now + Duration::from_millis(number.into())).is_ok(), "each came once and left");
        }
        assert_eq!(keeper.book().addresses.len(), ADDRESSES_MAX);
        assert!(keeper.book().addresses.contains_key(&address(9_999)) && !keeper.book().addresses.contains_key(&address(0)));
        let held: Vec<Pass> = (0..10_000).filter_map(|number| keeper.enter(address(number), now).ok()).collect();
        assert_eq!(held.len(), STRANGERS_MAX);
        assert!(keeper.enter(address(20_000), now).is_err_and(|turned| turned.why == Why::Full));
        assert!(keeper.enter(ip("127.0.0.1"), now).is_ok(), "the own machine is no stranger");
        drop(held);
        assert_eq!(keeper.book().strangers, 0);
        assert!(keeper.book().addresses.values().all(|entry| entry.open == 0));
    }

    #[test]
    fn strangers_take_no_place_from_an_address_where_somebody_logged_in() {
        let (keeper, now) = (Arc::new(Doorkeeper::new()), Instant::now());
        let address = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        keeper.enter(ip("192.0.2.1"), now).expect("a place").logged_in();
        let _held: Vec<Pass> = (0..10_000).filter_map(|number| keeper.enter(address(number), now).ok()).collect();
        assert!(keeper.enter(ip("192.0.2.2"), now).is_err_and(|turned| turned.why == Why::Full));
        let own: Vec<Pass> = (0..100).filter_map(|_| keeper.enter(ip("192.0.2.1"), now).ok()).collect();
        assert_eq!(own.len(), ELSEWHERE.open as usize, "its share, as always");
    }

    #[test]
    fn each_wrong_password_makes_the_next_wait_longer() {
        let (keeper, now) = (Arc::new(Doorkeeper::new()), Instant::now());
        let guess = |address: &str, at| keeper.enter(ip(address), at).expect("a place").wrong_password(at);
        let waits: Vec<u128> = (0..4).map(|_| guess("192.0.2.1", now).as_millis()).collect();
        assert_eq!(waits, [100, 200, 300, 400]);
        assert_eq!((0..50).map(|_| guess("192.0.2.1", now)).max(), Some(DELAY_MAX), "bounded");
        assert_eq!(guess("192.0.2.2", now), DELAY_EACH, "another address");
        assert_eq!(guess("192.0.2.1", now + Duration::from_secs(3600)), DELAY_EACH, "forgiven");
    }
}
