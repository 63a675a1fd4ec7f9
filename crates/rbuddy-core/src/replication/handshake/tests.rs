use super::*;
use crate::types::{Flavour, ServerVersion};
use proptest::prelude::*;

/// A relay that remembers what it was told.
#[derive(Default)]
struct Relay {
    followed: Vec<NodeAddress>,
    published: Vec<Vec<u8>>,
}

impl Surroundings for Relay {
    fn report(&self) -> SelfReport {
        SelfReport {
            run_id: "cd".repeat(20).parse().expect("an id"),
            primary: NodeAddress::new("127.0.0.1", 6379),
            is_link_up: false,
            is_sync_in_progress: false,
            last_io_s: None,
            link_down_s: Some(3),
            history: None,
            backlog_bytes: 0,
            connected_replicas: 0,
        }
    }

    fn follow(&mut self, primary: NodeAddress) -> Result<(), OwnAddress> {
        if primary == NodeAddress::new("relay", 6380) {
            return Err(OwnAddress);
        }
        self.followed.push(primary);
        Ok(())
    }

    fn publish(&mut self, message: &[u8]) -> u64 {
        self.published.push(message.to_vec());
        2
    }
}

struct Peer {
    handshake: Handshake,
    relay: Relay,
}

impl Peer {
    fn new(login: Option<Login>) -> Peer {
        Peer { handshake: Handshake::new(login, 7), relay: Relay::default() }
    }

    fn say(&mut self, line: &str) -> Answer {
        let arguments: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        self.handshake.answer(&arguments, &mut self.relay)
    }

    /// The reply as text.
    fn reply(&mut self, line: &str) -> String {
        match self.say(line) {
            Answer::Reply(reply) | Answer::WrongPassword(reply) => String::from_utf8_lossy(&reply).into_owned(),
            other @ (Answer::Silence | Answer::Psync(_) | Answer::Close { .. }) => panic!("{line}: {other:?}"),
        }
    }
}

fn login(password: &str) -> Option<Login> {
    Some(Login { user: None, password: password.into() })
}

#[test]
fn an_unknown_command_is_refused_in_a_line_that_replicas_can_read() {
    let mut peer = Peer::new(None);
    for before in ["PING", "SUBSCRIBE x"] {
        peer.say(before);
        let line = peer.reply(&"\u{1f980}".repeat(100));
        assert!(line.starts_with("-ERR") && line.len() < 255, "{} bytes", line.len());
    }
}

#[test]
fn a_replica_introduces_itself() {
    let mut peer = Peer::new(None);
    assert_eq!(peer.reply("PING"), "+PONG\r\n");
    for line in
        ["REPLCONF listening-port 6380", "replconf ip-address 10.0.0.7", "REPLCONF capa eof capa psync2 capa new", "REPLCONF version 9.1.2"]
    {
        assert_eq!(peer.reply(line), "+OK\r\n", "{line}");
    }
    let expected = Identity {
        listening_port: Some(6380),
        ip_address: Some("10.0.0.7".into()),
        has_psync2: true,
        has_eof: true,
        version: ServerVersion::parse(Flavour::Valkey, "9.1.2").ok(),
    };
    assert_eq!(peer.handshake.identity(), &expected);
    let id = "AB".repeat(20);
    let from = Asked::From(id.parse().expect("an id"), "101".parse().expect("a byte"));
    assert_eq!(peer.say(&format!("pSyNc {id} 101")), Answer::Psync(from));
}

/// It would be shown, compared and written down.
#[test]
fn what_is_no_address_is_not_taken_for_one() {
    for odd in ["[abc", "10.0.0.7\u{1b}[2J", "a/b", &"x".repeat(256), "\u{1f980}"] {
        let mut peer = Peer::new(None);
        assert!(peer.reply(&format!("REPLCONF ip-address {odd}")).starts_with("-ERR REPLCONF ip-address"), "{odd:?}");
        assert_eq!(peer.handshake.identity().ip_address, None, "{odd:?}");
    }
    for sound in ["10.0.0.7", "fd00::7", "replica-1.example"] {
        let mut peer = Peer::new(None);
        assert_eq!(peer.reply(&format!("REPLCONF ip-address {sound}")), "+OK\r\n");
        assert_eq!(peer.handshake.identity().ip_address.as_deref(), Some(sound));
    }
}

#[test]
fn what_cannot_be_continued_never_looks_as_if_it_could() {
    let mut peer = Peer::new(None);
    assert_eq!(peer.say("PSYNC ? -1"), Answer::Psync(Asked::Nothing));
    assert_eq!(peer.say("PSYNC abc 5"), Answer::Psync(Asked::Nothing));
    let id = "ab".repeat(20);
    for next in ["-1", "0", "x", "9223372036854775808"] {
        let Answer::Psync(Asked::From(_, byte)) = peer.say(&format!("PSYNC {id} {next}")) else { panic!("{next}") };
        assert_eq!(byte.have(), None, "{next}");
    }
}

#[test]
fn nothing_is_given_without_the_password() {
    let mut peer = Peer::new(login("se cret"));
    for line in ["PING", "PSYNC ? -1", "INFO", "REPLCONF capa eof", "MULTI", "SLAVEOF 10.0.0.1 6379", "SUBSCRIBE a", "EXEC", "SYNC"] {
        assert_eq!(peer.reply(line), "-NOAUTH Authentication required.\r\n", "{line}");
    }
    assert!(peer.reply("HELLO 2").starts_with("-NOAUTH "));
    for attempt in [["AUTH", "secret"].as_slice(), &["AUTH", ""], &["AUTH", "se cret2"], &["AUTH", "admin", "se cret"]] {
        let arguments: Vec<Vec<u8>> = attempt.iter().map(|word| word.as_bytes().to_vec()).collect();
        let answer = peer.handshake.answer(&arguments, &mut peer.relay);
        assert!(matches!(answer, Answer::WrongPassword(ref reply) if reply.starts_with(b"-WRONGPASS ")), "{attempt:?}: {answer:?}");
    }
    let arguments = [b"auth".to_vec(), b"default".to_vec(), b"se cret".to_vec()];
    assert_eq!(peer.handshake.answer(&arguments, &mut peer.relay), Answer::Reply(b"+OK\r\n".to_vec()));
    assert_eq!(peer.reply("PING"), "+PONG\r\n");
    assert!(!format!("{:?}", peer.handshake).contains("se cret"));
    assert_eq!(peer.reply("RESET"), "+RESET\r\n");
    assert!(peer.reply("PING").starts_with("-NOAUTH "), "RESET forgets the password");
    assert!(peer.relay.followed.is_empty());
}

#[test]
fn hello_logs_in_and_stays_with_resp2() {
    let mut peer = Peer::new(login("pw"));
    assert!(peer.reply("HELLO 3 AUTH default pw").starts_with("-NOPROTO "));
    assert!(matches!(peer.say("HELLO 2 AUTH default guess"), Answer::WrongPassword(_)));
    assert!(peer.reply("HELLO 2 NOSUCH").starts_with("-ERR "));
    let greeting = peer.reply("HELLO 2 AUTH default pw SETNAME me");
    assert!(
        greeting.starts_with("*14\r\n$6\r\nserver\r\n") && greeting.contains("proto\r\n:2\r\n") && greeting.contains("id\r\n:7\r\n"),
        "{greeting}"
    );
    assert_eq!(peer.reply("CLIENT GETNAME"), "$2\r\nme\r\n");
    assert!(peer.reply("HELLO").starts_with("*14\r\n"));
}

#[test]
fn a_primary_that_wants_to_hand_over_is_refused_with_an_error() {
    let mut peer = Peer::new(None);
    let answer = peer.say(&format!("PSYNC {} 101 FAILOVER", "ab".repeat(20)));
    assert!(matches!(answer, Answer::Close { ref reply, .. } if reply.starts_with(b"-ERR")), "{answer:?}");
    assert!(matches!(peer.say("SYNC"), Answer::Close { ref reply, .. } if reply.is_empty()));
}

#[test]
fn a_sentinels_frame_is_followed() {
    let mut peer = Peer::new(None);
    assert_eq!(peer.reply("CLIENT SETNAME sentinel-0123abcd-cmd"), "+OK\r\n");
    assert_eq!(peer.reply("MULTI"), "+OK\r\n");
    for line in ["SLAVEOF 10.0.0.7 6381", "CONFIG REWRITE", "CLIENT KILL TYPE normal", "CLIENT KILL TYPE pubsub"] {
        assert_eq!(peer.reply(line), "+QUEUED\r\n", "{line}");
    }
    assert!(peer.relay.followed.is_empty(), "not before EXEC");
    assert_eq!(peer.reply("EXEC"), "*4\r\n+OK\r\n+OK\r\n:0\r\n:0\r\n");
    assert_eq!(peer.relay.followed, [NodeAddress::new("10.0.0.7", 6381)]);
    assert_eq!(peer.reply("replicaof ::1 6382"), "+OK\r\n");
    assert_eq!(peer.relay.followed.last(), Some(&NodeAddress::new("::1", 6382)));
}

#[test]
fn the_relay_follows_neither_nobody_nor_itself_nor_garbage() {
    let mut peer = Peer::new(None);
    let long = "h".repeat(256);
    for words in
        ["no one", "relay 6380", "10.0.0.7 0", "10.0.0.7 65536", "10.0.0.7 x", "10.0.0.7 -1", "[::1] 1", " 1", &format!("{long} 1")]
    {
        let refused = peer.reply(&format!("SLAVEOF {words}"));
        assert!(refused.starts_with("-ERR "), "{words}: {refused}");
        peer.reply("MULTI");
        assert_eq!(peer.reply(&format!("SLAVEOF {words}")), "+QUEUED\r\n");
        let executed = peer.reply("EXEC");
        assert!(executed.starts_with("*1\r\n-ERR "), "{words}: {executed}");
    }
    assert!(peer.reply("SLAVEOF 10.0.0.7").starts_with("-ERR wrong number"));
    assert!(peer.relay.followed.is_empty());
}

#[test]
fn transactions_end_as_on_a_server() {
    let mut peer = Peer::new(None);
    assert_eq!(peer.reply("EXEC"), "-ERR EXEC without MULTI\r\n");
    assert_eq!(peer.reply("DISCARD"), "-ERR DISCARD without MULTI\r\n");
    peer.reply("MULTI");
    assert_eq!(peer.reply("MULTI"), "-ERR MULTI calls can not be nested\r\n");
    peer.reply("SLAVEOF 10.0.0.7 6381");
    assert_eq!(peer.reply("DISCARD"), "+OK\r\n");
    assert_eq!(peer.reply("EXEC"), "-ERR EXEC without MULTI\r\n");
    for spoiler in ["GET a", "PSYNC ? -1", "SUBSCRIBE a", "AUTH x"] {
        peer.reply("MULTI");
        peer.reply("SLAVEOF 10.0.0.7 6381");
        assert!(peer.reply(spoiler).starts_with("-ERR "), "{spoiler}");
        assert!(peer.reply("EXEC").starts_with("-EXECABORT "), "{spoiler}");
    }
    peer.reply("MULTI");
    (0..16).for_each(|_| assert_eq!(peer.reply("PING"), "+QUEUED\r\n"));
    assert!(peer.reply("PING").starts_with("-ERR "), "a bounded queue");
    assert!(peer.reply("EXEC").starts_with("-EXECABORT "));
    assert!(peer.relay.followed.is_empty());
}

#[test]
fn sentinels_channel_is_passed_on_and_no_other() {
    let mut peer = Peer::new(None);
    assert_eq!(peer.reply("PUBLISH __sentinel__:hello 10.0.0.1,26379"), ":2\r\n");
    assert!(peer.reply("PUBLISH other message").starts_with("-ERR "));
    assert_eq!(peer.relay.published, [b"10.0.0.1,26379".to_vec()]);
    peer.reply("SUBSCRIBE __sentinel__:hello");
    assert!(peer.handshake.subscriptions().hear_hello());
    assert_eq!(peer.reply("PING"), "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
    for line in ["INFO", "PSYNC ? -1", "MULTI", "PUBLISH __sentinel__:hello x"] {
        assert!(peer.reply(line).starts_with("-ERR Can't execute '"), "{line}");
    }
    assert_eq!(peer.reply("UNSUBSCRIBE"), "*3\r\n$11\r\nunsubscribe\r\n$18\r\n__sentinel__:hello\r\n:0\r\n");
    assert_eq!(peer.reply("PING"), "+PONG\r\n");
}

#[test]
fn monitors_and_shells_get_answers() {
    let mut peer = Peer::new(None);
    for (line, answer) in [
        ("CLIENT GETNAME", "$-1\r\n"),
        ("CLIENT ID", ":7\r\n"),
        ("CLIENT SETINFO LIB-NAME redis-py", "+OK\r\n"),
        ("CLIENT KILL TYPE normal", ":0\r\n"),
        ("COMMAND", "*0\r\n"),
        ("COMMAND DOCS", "*0\r\n"),
        ("COMMAND COUNT", ":0\r\n"),
        ("CONFIG GET *", "*0\r\n"),
        ("CONFIG REWRITE", "+OK\r\n"),
        ("INFO nosuch", "$0\r\n\r\n"),
        ("PING text", "$4\r\ntext\r\n"),
    ] {
        assert_eq!(peer.reply(line), answer, "{line}");
    }
    for line in ["CLIENT", "CLIENT NOSUCH", "CLIENT SETNAME a\nb", "CONFIG SET a b", "GET key", "SELECT 0", "SHUTDOWN", "PING a b"] {
        assert!(peer.reply(line).starts_with("-ERR "), "{line}");
    }
    assert!(peer.reply("GET key").contains("holds no data"));
    assert!(peer.reply("ROLE").starts_with("*5\r\n$5\r\nslave\r\n"));
}

const WORDS: [&str; 24] = [
    "PING",
    "AUTH",
    "HELLO",
    "REPLCONF",
    "PSYNC",
    "INFO",
    "CLIENT",
    "SELECT",
    "ROLE",
    "MULTI",
    "EXEC",
    "DISCARD",
    "SLAVEOF",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "UNSUBSCRIBE",
    "PUNSUBSCRIBE",
    "PUBLISH",
    "CONFIG",
    "COMMAND",
    "RESET",
    "SYNC",
    "__sentinel__:hello",
    "REPLICAOF",
];

fn word() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => proptest::sample::select(WORDS.to_vec()).prop_map(|word| word.as_bytes().to_vec()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
        1 => (0u32..70_000).prop_map(|number| number.to_string().into_bytes()),
    ]
}

proptest! {
    #[test]
    fn whatever_is_said_is_answered_once_and_gives_nothing_away(requests in proptest::collection::vec(proptest::collection::vec(word(), 1..6), 1..30)) {
        let mut peer = Peer::new(login("never said"));
        for request in &requests {
            match peer.handshake.answer(request, &mut peer.relay) {
                Answer::Reply(reply) | Answer::WrongPassword(reply) => prop_assert!(
                    reply.starts_with(b"-") || reply == b"+RESET\r\n",
                    "{:?}", String::from_utf8_lossy(&reply)
                ),
                Answer::Silence => prop_assert!(request[0].is_empty()),
                Answer::Close { reply, .. } => prop_assert_eq!(reply, b"+OK\r\n".to_vec()),
                Answer::Psync(_) => prop_assert!(false, "without a password"),
            }
        }
        prop_assert!(peer.relay.followed.is_empty() && peer.relay.published.is_empty());
    }

    #[test]
    fn no_conversation_makes_it_panic_or_grow(requests in proptest::collection::vec(proptest::collection::vec(word(), 0..6), 1..60)) {
        let mut peer = Peer::new(None);
        for request in &requests {
            if let Answer::Reply(reply) = peer.handshake.answer(request, &mut peer.relay) {
                prop_assert!(reply.ends_with(b"\r\n"));
            }
        }
        prop_assert!(peer.relay.followed.iter().all(|address| address.port != 0 && !address.host.is_empty()));
        let kept = format!("{:?}", peer.handshake).len();
        prop_assert!(kept < 200_000, "{kept}");
    }
}
