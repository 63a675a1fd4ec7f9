//! Writes of every kind, drawn from a seed: all types, small and large values, several databases, transactions, scripts, keys that expire, and now and
//! then a FLUSHALL. Over few keys, so that the dataset stays small however long it goes on.
//!
//! None of them is an error on a server that holds nothing else. Values look like the protocol in places: whoever frames the stream must not fall for it.

use crate::resp::encode;
use fastrand::Rng;

/// Databases that are written to.
const DATABASES: u8 = 4;
/// Keys of each type in each of them.
const KEYS: u32 = 40;
/// What a value may contain.
const BAIT: &str = "\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n7\r\n";

/// The draw.
#[derive(Debug)]
pub struct Mixture {
    rng: Rng,
    database: u8,
}

impl Mixture {
    /// The same seed gives the same writes.
    pub fn new(seed: u64) -> Mixture {
        Mixture { rng: Rng::with_seed(seed), database: 0 }
    }

    /// Appends `count` writes, a transaction counting as one; gives the number of answers that they draw. The connection may be a new one.
    pub fn requests(&mut self, count: u64, requests: &mut Vec<u8>) -> u64 {
        let mut answers = 0;
        let mut add = |arguments: &[&str]| {
            encode(arguments, requests);
            answers += 1;
        };
        add(&["SELECT", &self.database.to_string()]);
        for _ in 0..count {
            match self.rng.u32(0..20_000) {
                0 => add(&["FLUSHALL"]),
                1..3 => add(&["FLUSHDB"]),
                3..6 => add(&["SWAPDB", "0", "1"]),
                6..500 => {
                    self.database = self.rng.u8(..DATABASES);
                    add(&["SELECT", &self.database.to_string()]);
                }
                500..2000 => {
                    add(&["MULTI"]);
                    for _ in 0..self.rng.u8(1..6) {
                        self.one(&mut add);
                    }
                    add(&["EXEC"]);
                }
                2000..2500 => {
                    let script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])";
                    let (string, list, value) = (self.key("string"), self.key("list"), self.value());
                    add(&["EVAL", script, "2", &string, &list, &value]);
                }
                _ => self.one(&mut add),
            }
        }
        answers
    }

    fn one(&mut self, add: &mut impl FnMut(&[&str])) {
        let small = self.rng.u32(0..50).to_string();
        match self.rng.u32(0..18) {
            0..4 => add(&["SET", &self.key("string"), &self.value()]),
            4..6 => {
                let ms = self.rng.u32(50..3000).to_string();
                add(&["SET", &self.key("string"), &self.value(), "PX", &ms]);
            }
            6 => add(&["SETRANGE", &self.key("string"), &small, &self.value()]),
            7 => add(&["INCRBY", &self.key("number"), &small]),
            8 => add(&["LPUSH", &self.key("list"), &self.value()]),
            9 => add(&["LTRIM", &self.key("list"), "0", "20"]),
            10 => add(&["SADD", &self.key("set"), &small]),
            11 => add(&["SPOP", &self.key("set")]),
            12 => add(&["HSET", &self.key("hash"), &small, &self.value()]),
            13 => add(&["ZADD", &self.key("zset"), &small, &format!("member-{small}")]),
            14 => add(&["XADD", &self.key("stream"), "MAXLEN", "20", "*", "field", &self.value()]),
            15 => {
                let (kind, ms) = (self.kind(), self.rng.u32(50..3000).to_string());
                add(&["PEXPIRE", &self.key(kind), &ms]);
            }
            16 => {
                let kind = self.kind();
                add(&["DEL", &self.key(kind), &self.key(kind)]);
            }
            _ => add(&["HDEL", &self.key("hash"), &small]),
        }
    }

    fn kind(&mut self) -> &'static str {
        ["string", "number", "list", "set", "hash", "zset", "stream"][self.rng.usize(..7)]
    }

    fn key(&mut self, kind: &str) -> String {
        format!("mixed:{kind}:{}", self.rng.u32(..KEYS))
    }

    fn value(&mut self) -> String {
        let bytes = match self.rng.u32(0..100) {
            0 => self.rng.usize(1000..40_000),
            1..10 => self.rng.usize(100..1000),
            10..20 => return BAIT.to_owned(),
            _ => self.rng.usize(0..100),
        };
        (0..bytes).map(|_| self.rng.alphanumeric()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_writes() {
        let draw = |seed| {
            let mut requests = Vec::new();
            let answers = Mixture::new(seed).requests(500, &mut requests);
            (requests, answers)
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }
}
