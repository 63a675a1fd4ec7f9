//! What a connection listens to, and how a message of Sentinels' channel reaches it. Promises: bounded per connection; answers as servers give them.

use super::reply::{bulk, error};
use crate::resp::encode;

/// The one channel whose messages the relay passes on: Sentinels tell each other there that they exist (protocol fact 8.1).
pub(super) const HELLO: &[u8] = b"__sentinel__:hello";

/// Channels and patterns of one connection, in the order in which they were named.
#[derive(Debug, Clone, Default)]
pub struct Subscriptions {
    channels: Vec<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
}

/// What is listened to by name or by pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Name,
    Pattern,
}

impl Subscriptions {
    /// Nothing is listened to.
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    /// A message of [`HELLO`] would reach this connection.
    pub fn hear_hello(&self) -> bool {
        self.channels.iter().any(|channel| channel == HELLO) || self.patterns.iter().any(|pattern| matches(pattern, HELLO))
    }

    /// A message of [`HELLO`] as this connection gets it: once by name, and once by each pattern that fits.
    pub fn deliver(&self, message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for _ in self.channels.iter().filter(|channel| *channel == HELLO) {
            array(&mut out, &[b"message", HELLO, message]);
        }
        for pattern in self.patterns.iter().filter(|pattern| matches(pattern, HELLO)) {
            array(&mut out, &[b"pmessage", pattern, HELLO, message]);
        }
        out
    }

    pub(super) fn subscribe(&mut self, by: By, named: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Vec::new();
        for name in named {
            if name.len() > NAME_BYTES_MAX || (self.count() >= SUBSCRIPTIONS_MAX && !self.of(by).contains(name)) {
                out.extend(error("ERR rbuddy's relay takes no more subscriptions of this connection"));
                continue;
            }
            if !self.of(by).contains(name) {
                self.of(by).push(name.clone());
            }
            let kind: &[u8] = if by == By::Name { b"subscribe" } else { b"psubscribe" };
            acknowledge(&mut out, kind, Some(name), self.count());
        }
        out
    }

    /// Without names: all of that kind.
    pub(super) fn unsubscribe(&mut self, by: By, named: &[Vec<u8>]) -> Vec<u8> {
        let kind: &[u8] = if by == By::Name { b"unsubscribe" } else { b"punsubscribe" };
        let named = if named.is_empty() { self.of(by).clone() } else { named.to_vec() };
        let mut out = Vec::new();
        for name in &named {
            self.of(by).retain(|kept| kept != name);
            acknowledge(&mut out, kind, Some(name), self.count());
        }
        if named.is_empty() {
            acknowledge(&mut out, kind, None, self.count());
        }
        out
    }

    fn of(&mut self, by: By) -> &mut Vec<Vec<u8>> {
        match by {
            By::Name => &mut self.channels,
            By::Pattern => &mut self.patterns,
        }
    }

    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }
}

/// `PING` of a connection that listens.
pub(super) fn pong(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    array(&mut out, &[b"pong", text]);
    out
}

fn acknowledge(out: &mut Vec<u8>, kind: &[u8], name: Option<&[u8]>, count: usize) {
    out.extend_from_slice(b"*3\r\n");
    encode::bulk(out, kind);
    match name {
        Some(name) => encode::bulk(out, name),
        None => out.extend_from_slice(b"$-1\r\n"),
    }
    out.extend_from_slice(format!(":{count}\r\n").as_bytes());
}

fn array(out: &mut Vec<u8>, items: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", items.len()).as_bytes());
    items.iter().for_each(|item| out.extend_from_slice(&bulk(item)));
}

/// Glob patterns as servers understand them: `*`, `?`, `[a-c]`, `[^a]`, `\x`. Going back only to the last `*` is enough, and keeps the time bounded by
/// the product of both lengths.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut done) = (0, 0);
    let mut star = None;
    while done < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at + 1, done));
            at += 1;
            continue;
        }
        match one(&pattern[at..], text[done]) {
            Some(used) => (at, done) = (at + used, done + 1),
            None => match star {
                Some((behind, from)) => {
                    star = Some((behind, from + 1));
                    (at, done) = (behind, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// How many bytes of the pattern fit this one byte of text; `None` if it does not fit.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [b'[', set @ ..] => {
            let (is_negated, set) = set.strip_prefix(b"^").map_or((false, set), |rest| (true, rest));
            let end = set.iter().position(|byte| *byte == b']').unwrap_or(set.len());
            let used = pattern.len() - set.len() + (end + 1).min(set.len());
            (in_set(&set[..end], byte) != is_negated).then_some(used)
        }
        [literal, ..] => (*literal == byte).then_some(1),
    }
}

fn in_set(set: &[u8], byte: u8) -> bool {
    match set {
        [] => false,
        [from, b'-', to, rest @ ..] => (*from.min(to)..=*from.max(to)).contains(&byte) || in_set(rest, byte),
        [literal, rest @ ..] => *literal == byte || in_set(rest, byte),
    }
}

/// A Sentinel has one, a library that follows all of them a dozen.
const SUBSCRIPTIONS_MAX: usize = 32;
const NAME_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| text.as_bytes().to_vec()).collect()
    }

    #[test]
    fn messages_reach_whoever_listens_by_name_or_pattern() {
        let mut subscriptions = Subscriptions::default();
        subscriptions.subscribe(By::Name, &names(&["other"]));
        assert!(!subscriptions.hear_hello() && subscriptions.deliver(b"m").is_empty());
        let said = subscriptions.subscribe(By::Name, &names(&["__sentinel__:hello", "other"]));
        let expected = "*3\r\n$9\r\nsubscribe\r\n$18\r\n__sentinel__:hello\r\n:2\r\n*3\r\n$9\r\nsubscribe\r\n$5\r\nother\r\n:2\r\n";
        assert_eq!(String::from_utf8_lossy(&said), expected);
        subscriptions.subscribe(By::Pattern, &names(&["__sent*"]));
        let heard = "*3\r\n$7\r\nmessage\r\n$18\r\n__sentinel__:hello\r\n$1\r\nm\r\n*4\r\n$8\r\npmessage\r\n$7\r\n__sent*\r\n$18\r\n__sentinel__:hello\r\n$1\r\nm\r\n";
        assert_eq!(String::from_utf8_lossy(&subscriptions.deliver(b"m")), heard);
        subscriptions.unsubscribe(By::Name, &[]);
        subscriptions.unsubscribe(By::Pattern, &names(&["__sent*"]));
        assert!(subscriptions.is_empty());
        assert_eq!(subscriptions.unsubscribe(By::Name, &[]), b"*3\r\n$11\r\nunsubscribe\r\n$-1\r\n:0\r\n");
    }

    #[test]
    fn nobody_subscribes_without_end() {
        let mut subscriptions = Subscriptions::default();
        let many: Vec<Vec<u8>> = (0..100).map(|number| format!("c{number}").into_bytes()).collect();
        let said = String::from_utf8(subscriptions.subscribe(By::Name, &many)).expect("text");
        assert_eq!((said.matches("subscribe\r\n").count(), said.matches("-ERR").count()), (32, 68));
        assert_eq!(subscriptions.count(), 32);
    }

    #[test]
    fn patterns_are_globs() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c", "abcd", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[abc", "c", true),
            ("[]", "x", false),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*a*b", "xaxab", true),
            ("", "x", false),
            ("abc", "abc", true),
            ("\\", "\\", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), fits, "{pattern} on {text}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_without_signs_matches_itself_alone(text in "[a-z]{0,12}", other in "[a-z]{0,12}") {
            prop_assert!(matches(text.as_bytes(), text.as_bytes()));
            prop_assert_eq!(matches(text.as_bytes(), other.as_bytes()), text == other);
            let prefix = format!("{}*", text);
            prop_assert_eq!(matches(prefix.as_bytes(), other.as_bytes()), other.starts_with(&text));
        }

        #[test]
        fn no_pattern_makes_it_panic_or_wait(pattern in proptest::collection::vec(proptest::sample::select(b"*?[]^-\\ab".to_vec()), 0..40), text in "[ab]{0,40}") {
            matches(&pattern, text.as_bytes());
        }
    }
}
