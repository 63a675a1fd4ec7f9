//! Commands with one reply and nothing more, which may therefore stand in a transaction: what Sentinels and monitors ask.

use super::reply::{bulk, error, integer, ok, wrong_number};
use super::{Surroundings, subscriptions};
use crate::types::NodeAddress;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Ping,
    Info,
    Role,
    Client,
    Config,
    Command,
    /// `SLAVEOF`, `REPLICAOF`.
    Follow,
    Publish,
}

/// What a connection is called, and the number by which it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Label {
    pub(super) number: u64,
    pub(super) name: Vec<u8>,
}

impl Plain {
    pub(super) fn named(command: &str) -> Option<Plain> {
        Some(match command {
            "PING" => Plain::Ping,
            "INFO" => Plain::Info,
            "ROLE" => Plain::Role,
            "CLIENT" => Plain::Client,
            "CONFIG" => Plain::Config,
            "COMMAND" => Plain::Command,
            "SLAVEOF" | "REPLICAOF" => Plain::Follow,
            "PUBLISH" => Plain::Publish,
            _ => return None,
        })
    }

    /// Carries it out. `arguments` stand behind the command's name.
    pub(super) fn carry_out(self, arguments: &[Vec<u8>], label: &mut Label, surroundings: &mut impl Surroundings) -> Vec<u8> {
        match self {
            Plain::Ping => ping(arguments),
            Plain::Info => surroundings.report().info(arguments),
            Plain::Role => surroundings.report().role(),
            Plain::Client => label.client(arguments),
            Plain::Config => config(arguments),
            Plain::Command => command(arguments),
            Plain::Follow => follow(arguments, surroundings),
            Plain::Publish => publish(arguments, surroundings),
        }
    }
}

fn ping(arguments: &[Vec<u8>]) -> Vec<u8> {
    match arguments {
        [] => b"+PONG\r\n".to_vec(),
        [text] => bulk(text),
        [..] => wrong_number("ping"),
    }
}

impl Label {
    fn client(&mut self, arguments: &[Vec<u8>]) -> Vec<u8> {
        let what = arguments.first().map(|word| word.to_ascii_uppercase());
        match (what.as_deref(), arguments.get(1..).unwrap_or_default()) {
            (Some(b"SETNAME"), [name]) => self.set_name(name),
            (Some(b"GETNAME"), []) if self.name.is_empty() => b"$-1\r\n".to_vec(),
            (Some(b"GETNAME"), []) => bulk(&self.name),
            (Some(b"SETINFO"), [_, _]) => ok(),
            (Some(b"ID"), []) => integer(self.number),
            // A Sentinel has the clients of a reconfigured replica thrown out, since they may still take it for a primary. Nobody does that here.
            (Some(b"KILL"), [filter, _]) if filter.eq_ignore_ascii_case(b"TYPE") => integer(0),
            (Some(b"SETNAME" | b"GETNAME" | b"SETINFO" | b"ID" | b"KILL"), _) => error("ERR syntax error"),
            _ => error("ERR unknown subcommand"),
        }
    }

    pub(super) fn set_name(&mut self, name: &[u8]) -> Vec<u8> {
        if name.len() > NAME_BYTES_MAX || !name.iter().all(u8::is_ascii_graphic) {
            return error("ERR Client names cannot contain spaces, newlines or special characters.");
        }
        self.name = name.to_vec();
        ok()
    }
}

fn config(arguments: &[Vec<u8>]) -> Vec<u8> {
    let what = arguments.first().map(|word| word.to_ascii_uppercase());
    match (what.as_deref(), arguments.len()) {
        // Part of a Sentinel's frame. There is no file to rewrite: what the relay is told is kept by whoever acts on it.
        (Some(b"REWRITE"), 1) => ok(),
        // No parameter of a server is one of the relay's.
        (Some(b"GET"), 2..) => b"*0\r\n".to_vec(),
        _ => error("ERR rbuddy's relay is configured by rbuddy's configuration alone"),
    }
}

fn command(arguments: &[Vec<u8>]) -> Vec<u8> {
    match arguments.first() {
        Some(what) if what.eq_ignore_ascii_case(b"COUNT") => integer(0),
        // Shells ask for help texts, libraries for key positions. Without data there are none of interest.
        _ => b"*0\r\n".to_vec(),
    }
}

/// `SLAVEOF host port`: a Sentinel's word after a failover of the primary (protocol fact 8.3).
fn follow(arguments: &[Vec<u8>], surroundings: &mut impl Surroundings) -> Vec<u8> {
    let [host, port] = arguments else { return wrong_number("slaveof") };
    if host.eq_ignore_ascii_case(b"NO") && port.eq_ignore_ascii_case(b"ONE") {
        return error("ERR rbuddy's relay cannot become a primary: it holds no data");
    }
    let Some(primary) = address(host, port) else { return error("ERR Invalid master host or port") };
    match surroundings.follow(primary) {
        Ok(()) => ok(),
        Err(OwnAddress) => error("ERR that is the address of rbuddy's relay itself"),
    }
}

/// The relay was told to follow itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnAddress;

fn address(host: &[u8], port: &[u8]) -> Option<NodeAddress> {
    let (host, port) = (std::str::from_utf8(host).ok()?, std::str::from_utf8(port).ok()?.parse().ok()?);
    host_and_port(host, port)
}

/// What a peer says is an address, if it may be one. Written down and read again it must be the same, as everywhere in rbuddy.
pub(super) fn host_and_port(host: &str, port: u16) -> Option<NodeAddress> {
    let is_sound = host.len() <= HOST_BYTES_MAX && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:%".contains(c));
    let address = NodeAddress::new(host, port);
    address.to_string().parse().ok().filter(|read: &NodeAddress| *read == address && is_sound)
}

fn publish(arguments: &[Vec<u8>], surroundings: &mut impl Surroundings) -> Vec<u8> {
    match arguments {
        [channel, message] if channel == subscriptions::HELLO => integer(surroundings.publish(message)),
        [_, _] => error("ERR rbuddy's relay passes on messages of the channel __sentinel__:hello only"),
        [..] => wrong_number("publish"),
    }
}

/// More than any library's name for itself.
const NAME_BYTES_MAX: usize = 256;
/// As long as a name in DNS may be.
const HOST_BYTES_MAX: usize = 255;
