use super::*;
use crate::resp::encode;
use crate::resp::request::{RequestLimits, parse};
use proptest::prelude::*;

const OPEN: Door<'static> = Door::Open { detached: false };
const LEAVING: Door<'static> = Door::Leaving { detached: false };

/// A client, its server, and what passed between them.
#[derive(Default)]
struct World {
    dialogue: Dialogue,
    input: Vec<u8>,
    sent: Vec<u8>,
    answers: Vec<String>,
}

impl World {
    fn says(&mut self, words: &[&str]) -> &mut World {
        self.input.extend(encode::request(words));
        self
    }

    /// Carries out steps until none is possible; the step that stopped it.
    fn run(&mut self, door: Door<'_>) -> Step {
        loop {
            let step = self.dialogue.step(&self.input, door).expect("sound requests");
            match &step {
                Step::NeedBytes | Step::WaitReplies | Step::WaitServer => return step,
                Step::Forward(bytes) => self.sent.extend(self.input.drain(..*bytes)),
                Step::Skip(bytes) => drop(self.input.drain(..*bytes)),
                Step::Answer(answer) => {
                    self.answers.push(answer.line.to_string());
                    if answer.then == Then::Close {
                        return step;
                    }
                }
            }
        }
    }

    fn server_replies(&mut self, bytes: &[u8]) -> Result<(), ReplyFault> {
        let mut at = 0;
        while at < bytes.len() {
            at += self.dialogue.reply(&bytes[at..])?.0;
        }
        Ok(())
    }
}

#[test]
fn reads_pass_byte_for_byte_and_the_boundary_is_where_all_are_answered() {
    let mut world = World::default();
    world.says(&["GET", "a"]).says(&["mget", "a", "b"]);
    let asked = world.input.clone();
    assert_eq!(world.run(OPEN), Step::NeedBytes);
    assert_eq!(world.sent, asked);
    assert!(!world.dialogue.is_at_boundary());
    world.server_replies(b"$1\r\nx\r\n*2\r\n$-1\r\n").expect("replies");
    assert!(!world.dialogue.is_at_boundary());
    world.server_replies(b"$-1\r\n").expect("the rest");
    assert!(world.dialogue.is_at_boundary());
    assert_eq!(world.server_replies(b"+more\r\n"), Err(ReplyFault::Unsolicited));
}

#[test]
fn our_answers_wait_for_the_replies_before_them() {
    let mut world = World::default();
    world.says(&["GET", "a"]).says(&["SET", "a", "1"]).says(&["CONFIG", "SET", "a", "1"]).says(&["GET", "b"]);
    assert_eq!(world.run(OPEN), Step::WaitReplies);
    assert_eq!(world.sent, encode::request(&["GET", "a"]));
    world.server_replies(b"$1\r\nx\r\n").expect("a reply");
    assert_eq!(world.run(OPEN), Step::NeedBytes);
    assert_eq!(world.answers.len(), 2);
    assert!(world.answers[0].starts_with("-READONLY "), "{:?}", world.answers);
    assert!(world.answers[1].starts_with("-ERR rbuddy: CONFIG "), "{:?}", world.answers);
    assert_eq!(world.sent, [encode::request(&["GET", "a"]), encode::request(&["GET", "b"])].concat());
}

#[test]
fn no_request_begins_while_the_server_is_left() {
    let mut world = World::default();
    world.says(&["GET", "a"]);
    world.run(OPEN);
    world.says(&["GET", "b"]);
    assert_eq!(world.run(LEAVING), Step::WaitReplies);
    world.server_replies(b"+x\r\n").expect("a reply");
    assert!(world.dialogue.is_at_boundary() && world.dialogue.session().is_movable());
    assert_eq!(world.run(Door::Shut), Step::WaitServer);
    assert_eq!(world.run(OPEN), Step::NeedBytes);
}

#[test]
fn a_transaction_goes_on_while_the_server_is_left_and_nothing_behind_it() {
    let mut world = World::default();
    world.says(&["MULTI"]).says(&["GET", "a"]);
    world.run(OPEN);
    world.server_replies(b"+OK\r\n+QUEUED\r\n").expect("replies");
    world.sent.clear();
    world.says(&["GET", "b"]).says(&["EXEC"]).says(&["MULTI"]);
    assert_eq!(world.run(LEAVING), Step::WaitReplies);
    assert_eq!(world.sent, [encode::request(&["GET", "b"]), encode::request(&["EXEC"])].concat());
    world.server_replies(b"+QUEUED\r\n*2\r\n+x\r\n+y\r\n").expect("replies");
    assert!(world.dialogue.is_at_boundary() && world.dialogue.session().is_movable());
}

#[test]
fn a_transaction_with_a_refused_write_fails_at_its_end() {
    let mut world = World::default();
    world.says(&["MULTI"]);
    world.run(OPEN);
    world.server_replies(b"+OK\r\n").expect("a reply");
    world.says(&["SET", "a", "1"]).says(&["EXEC"]).says(&["GET", "a"]);
    world.run(OPEN);
    assert!(world.answers[0].starts_with("-READONLY"));
    assert!(world.answers[1].starts_with("-EXECABORT"));
    assert_eq!(world.sent, [encode::request(&["MULTI"]), encode::request(&["GET", "a"])].concat());
    assert!(world.dialogue.session().is_movable());
}

#[test]
fn what_was_not_answered_is_asked_again_and_nothing_else() {
    let mut world = World::default();
    world.says(&["GET", "a"]).says(&["GET", "b"]);
    world.input.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$1\r\n");
    world.run(OPEN);
    world.server_replies(b"$1\r\nx\r\n$1\r").expect("one reply and a half");
    assert_eq!(world.dialogue.lose_server(), Loss::AskAgain);
    let expected = [encode::request(&["GET", "b"]), b"*2\r\n$3\r\nGET\r\n$1\r\n".to_vec()].concat();
    assert_eq!(world.dialogue.kept(), expected);
    world.input.extend_from_slice(b"c\r\n");
    world.run(OPEN);
    world.server_replies(b"$1\r\ny\r\n$1\r\nz\r\n").expect("replies");
    assert!(world.dialogue.is_at_boundary());
    assert_eq!(world.dialogue.lose_server(), Loss::Idle);
}

#[test]
fn a_reply_that_has_begun_to_reach_the_client_cannot_be_asked_for_again() {
    let mut world = World::default();
    world.says(&["GET", "a"]);
    world.run(OPEN);
    world.server_replies(b"$100\r\nxxx").expect("a part");
    world.dialogue.delivers_a_part();
    assert_eq!(world.dialogue.errors_due(), 0, "an error line would become part of the value");
    assert_eq!(world.dialogue.lose_server(), Loss::Broken);
}

#[test]
fn a_request_that_kills_its_servers_is_not_asked_for_ever() {
    let mut world = World::default();
    world.says(&["GET", "poison"]);
    world.run(OPEN);
    assert_eq!(
        [world.dialogue.lose_server(), world.dialogue.lose_server(), world.dialogue.lose_server()],
        [Loss::AskAgain, Loss::AskAgain, Loss::Broken]
    );
}

#[test]
fn more_than_is_kept_cannot_be_asked_again_until_all_is_answered() {
    let mut world = World::default();
    world.says(&["GET", &"k".repeat(KEPT_BYTES_MAX)]).says(&["GET", "b"]);
    world.run(OPEN);
    assert_eq!(world.dialogue.lose_server(), Loss::Broken);
    world.server_replies(b"$-1\r\n$-1\r\n").expect("replies");
    world.says(&["GET", "c"]);
    world.run(OPEN);
    assert_eq!(world.dialogue.lose_server(), Loss::AskAgain);
}

#[test]
fn without_a_server_each_request_gets_one_error() {
    let mut world = World::default();
    world.says(&["GET", "a"]).says(&["GET", "b"]);
    world.input.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
    world.run(OPEN);
    assert_eq!(world.dialogue.lose_server(), Loss::AskAgain);
    assert_eq!(world.dialogue.fail_outstanding("no active"), 2, "the third has not ended");
    world.input.extend_from_slice(b"$1\r\nc\r\n");
    world.says(&["GET", "d"]);
    assert_eq!(world.run(Door::Refuse("still none")), Step::NeedBytes);
    assert_eq!(world.answers, ["-MASTERDOWN rbuddy: no active", "-MASTERDOWN rbuddy: still none"]);
    assert!(world.dialogue.is_at_boundary());
}

#[test]
fn in_a_tunnel_replies_are_not_counted_and_a_write_ends_it() {
    let mut world = World::default();
    world.says(&["SUBSCRIBE", "a", "b"]);
    world.run(OPEN);
    world.server_replies(&b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n".repeat(2)).expect("two for one");
    assert!(!world.dialogue.session().is_movable());
    world.says(&["SET", "a", "1"]);
    let Step::Answer(answer) = world.run(OPEN) else { panic!("a write is answered here") };
    assert_eq!(answer.then, Then::Close);
}

#[test]
fn pushes_answer_nothing() {
    let mut world = World::default();
    world.says(&["CLIENT", "TRACKING", "ON"]).says(&["GET", "a"]);
    world.run(OPEN);
    world.server_replies(b"+OK\r\n>2\r\n+invalidate\r\n*1\r\n+a\r\n").expect("a reply and a push");
    assert_eq!(world.dialogue.errors_due(), 1);
    assert!(!world.dialogue.is_at_boundary());
}

#[test]
fn a_detached_server_gets_known_reads_only() {
    let detached = Door::Open { detached: true };
    let mut world = World::default();
    world.says(&["EVAL", "return 1", "0"]).says(&["JSON.SET", "a"]).says(&["EVAL_RO", "return 1", "0"]).says(&["GET", "a"]);
    world.run(detached);
    assert_eq!(world.answers.len(), 2, "{:?}", world.answers);
    assert_eq!(world.sent, [encode::request(&["EVAL_RO", "return 1", "0"]), encode::request(&["GET", "a"])].concat());
}

#[test]
fn inline_requests_are_judged_by_the_words_that_the_server_will_see() {
    let mut world = World::default();
    world.input.extend_from_slice(b"GET a\r\n  set a 1\r\n\"SET\" a 1\r\nSET\0 a\n\r\nconfig\tset x y\nPING\n");
    world.run(OPEN);
    world.server_replies(b"$-1\r\n").expect("a reply");
    world.run(OPEN);
    assert_eq!(world.sent, b"GET a\r\nPING\n");
    assert_eq!(world.answers.len(), 4, "{:?}", world.answers);
}

#[test]
fn quit_is_answered_behind_everything_else() {
    let mut world = World::default();
    world.says(&["GET", "a"]).says(&["QUIT"]);
    assert_eq!(world.run(OPEN), Step::WaitReplies);
    world.server_replies(b"$-1\r\n").expect("a reply");
    let Step::Answer(answer) = world.run(OPEN) else { panic!("QUIT is answered here") };
    assert_eq!((answer.line.as_ref(), answer.then), ("+OK", Then::Close));
}

fn request() -> impl Strategy<Value = Vec<String>> {
    prop_oneof![
        4 => "[a-z]{1,8}".prop_map(|key| vec!["GET".to_owned(), key]),
        1 => "[a-z]{0,200}".prop_map(|value| vec!["SET".to_owned(), "k".to_owned(), value]),
        1 => Just(vec!["CONFIG".to_owned(), "SET".to_owned(), "a".to_owned(), "b".to_owned()]),
        1 => (0u8..16).prop_map(|database| vec!["SELECT".to_owned(), database.to_string()]),
        1 => Just(vec!["MULTI".to_owned()]),
        1 => Just(vec!["EXEC".to_owned()]),
    ]
}

proptest! {
    /// A server that answers each request at once: what reaches the client is one answer per request, and the server never gets a write.
    #[test]
    fn every_request_gets_one_answer_however_its_bytes_arrive(requests in proptest::collection::vec(request(), 1..20), piece in 1usize..40) {
        let bytes: Vec<u8> = requests.iter().flat_map(|words| encode::request(words)).collect();
        let mut world = World::default();
        let mut framer = RequestFramer::default();
        let mut delivered = 0;
        let mut read = 0;
        for piece in bytes.chunks(piece) {
            world.input.extend_from_slice(piece);
            loop {
                let before = (world.sent.len(), world.answers.len());
                world.run(OPEN);
                while read < world.sent.len() {
                    let fed = framer.feed(&world.sent[read..]).expect("whole requests");
                    read += fed.used;
                    if fed.ended.is_some() {
                        world.server_replies(b"+OK\r\n").expect("an expected reply");
                        delivered += 1;
                    }
                }
                if before == (world.sent.len(), world.answers.len()) {
                    break;
                }
            }
        }
        prop_assert_eq!(delivered + world.answers.len(), requests.len());
        prop_assert!(world.dialogue.is_at_boundary());
        prop_assert_eq!(world.dialogue.requests(), requests.len() as u64);
        prop_assert!(!world.sent.windows(3).any(|word| word == b"SET"));
    }

    /// Servers die between any two bytes, and each time the next one goes on: every request gets its own answer, once and in its place.
    #[test]
    fn answers_stay_in_place_however_often_servers_die(
        requests in proptest::collection::vec(("[a-z]{1,8}", 0u8..4), 1..20),
        piece in 1usize..40,
        deaths in proptest::collection::vec(proptest::bool::weighted(0.2), 40),
    ) {
        let mut world = World::default();
        let mut deaths = deaths.into_iter();
        let mut answers: Vec<String> = Vec::new();
        let bytes: Vec<u8> = requests
            .iter()
            .flat_map(|(key, kind)| encode::request(&[["GET", "SELECT", "DEL", "ECHO"][usize::from(*kind)], key.as_str()]))
            .collect();
        for piece in bytes.chunks(piece) {
            world.input.extend_from_slice(piece);
            loop {
                let before = answers.len();
                world.run(OPEN);
                answers.append(&mut world.answers);
                while let Some((arguments, used)) = parse(&world.sent, RequestLimits::SMALL).expect("whole requests") {
                    let reply = [b"+", arguments[1].as_slice(), b"\r\n"].concat();
                    if deaths.next() == Some(true) {
                        world.server_replies(&reply[..reply.len() / 2]).expect("a part");
                        // A request that was asked again too often ends the connection. Here that is the end of the case.
                        if world.dialogue.lose_server() == Loss::Broken {
                            return Ok(());
                        }
                        world.sent = world.dialogue.kept().to_vec();
                        continue;
                    }
                    world.sent.drain(..used);
                    world.server_replies(&reply).expect("an expected reply");
                    answers.push(String::from_utf8_lossy(&arguments[1]).into_owned());
                }
                if before == answers.len() {
                    break;
                }
            }
        }
        let expected: Vec<String> = requests
            .iter()
            .map(|(key, kind)| if *kind == 2 { "-READONLY You can't write against a read only replica.".to_owned() } else { key.clone() })
            .collect();
        prop_assert_eq!(answers, expected);
        prop_assert!(world.dialogue.is_at_boundary());
    }
}
