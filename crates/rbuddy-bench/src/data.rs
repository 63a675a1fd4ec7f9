//! A dataset such as applications have: mostly strings of 32 B to 4 KB (a tenth of them with a TTL far away), hashes, lists, sets and
//! sorted sets. The values are noise that LZF cannot shorten, so that the snapshot is about as large as the data.
//!
//! Nothing checks these values: whether data arrive unharmed is for the tests, which use the laboratory's checkable dataset.

use crate::pipeline::Pipeline;
use rbuddy_lab::resp::encode;

/// Bytes that are sent together.
const BATCH: usize = 256 * 1024;
/// Days after the end of any run: a key that expired would change the count of keys.
const TTL_SECONDS: &str = "604800";

/// Text to cut values from. Servers compress each value by itself, so that two values share text shortens neither.
#[derive(Debug)]
pub(crate) struct Noise {
    text: String,
    random: fastrand::Rng,
}

impl Noise {
    pub(crate) fn seeded(seed: u64) -> Noise {
        let mut random = fastrand::Rng::with_seed(seed);
        let text = (0..4 * 1024 * 1024).map(|_| random.alphanumeric()).collect();
        Noise { text, random }
    }

    pub(crate) fn take(&mut self, bytes: usize) -> &str {
        let start = self.random.usize(0..self.text.len() - bytes);
        &self.text[start..start + bytes]
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.random.usize(0..limit)
    }
}

/// What is loaded so far; the same run after run.
#[derive(Debug)]
pub(crate) struct Mix {
    noise: Noise,
    keys: u64,
    bytes: u64,
}

impl Mix {
    pub(crate) fn new() -> Mix {
        Mix { noise: Noise::seeded(1), keys: 0, bytes: 0 }
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    /// Adds keys until keys and values have this many bytes. Blocks.
    pub(crate) fn grow_to(&mut self, bytes: u64, address: &str) -> anyhow::Result<()> {
        let mut pipeline = Pipeline::connect(address)?;
        let mut batch = Vec::with_capacity(2 * BATCH);
        while self.bytes < bytes {
            batch.clear();
            let mut requests = 0;
            while batch.len() < BATCH && self.bytes < bytes {
                self.add_key(&mut batch);
                requests += 1;
            }
            pipeline.send(&batch, requests)?;
        }
        pipeline.finish()
    }

    /// Appends the request that makes the next key.
    fn add_key(&mut self, batch: &mut Vec<u8>) {
        let number = self.keys;
        let key = format!("bench:{number}");
        let request: Vec<String> = match number % 20 {
            0..=11 => {
                // 2 ^ 5 to 2 ^ 12, small ones more often than large ones.
                let bytes = 2f64.powf(5.0 + 7.0 * self.noise.below(1000) as f64 / 1000.0) as usize;
                let value = self.noise.take(bytes).to_owned();
                let ttl = if number.is_multiple_of(20) { vec!["EX".to_owned(), TTL_SECONDS.to_owned()] } else { Vec::new() };
                ["SET".to_owned(), key, value].into_iter().chain(ttl).collect()
            }
            12..=14 => self.collection("HSET", key, 8, |noise, n| vec![format!("field{n}"), noise.take(40).to_owned()]),
            15 | 16 => self.collection("RPUSH", key, 16, |noise, _| vec![noise.take(64).to_owned()]),
            17 | 18 => self.collection("SADD", key, 12, |noise, _| vec![noise.take(24).to_owned()]),
            _ => self.collection("ZADD", key, 24, |noise, n| vec![n.to_string(), noise.take(32).to_owned()]),
        };
        let arguments: Vec<&str> = request.iter().map(String::as_str).collect();
        encode(&arguments, batch);
        self.keys += 1;
        self.bytes += arguments.iter().skip(1).map(|argument| argument.len() as u64).sum::<u64>();
    }

    fn collection(
        &mut self,
        command: &str,
        key: String,
        elements: usize,
        element: impl Fn(&mut Noise, usize) -> Vec<String>,
    ) -> Vec<String> {
        let elements = (0..elements).flat_map(|n| element(&mut self.noise, n)).collect::<Vec<_>>();
        [command.to_owned(), key].into_iter().chain(elements).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_lab::{Binary, Server, ServerOptions};

    #[tokio::test]
    async fn a_server_holds_as_many_keys_and_as_much_data_as_was_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(&Binary::find().expect("a server"), folder.path(), ServerOptions::default()).await.expect("it starts");
        let address = server.address();
        let load = move || {
            let mut mix = Mix::new();
            mix.grow_to(500_000, &address).expect("it takes the data");
            mix.grow_to(2_000_000, &address).expect("and more");
            mix.keys()
        };
        let keys = tokio::task::spawn_blocking(load).await.expect("no panic");
        assert_eq!(server.keys().await.expect("an answer").cast_unsigned(), keys);
        server.save().await.expect("an RDB");
        let snapshot = server.rdb().metadata().expect("an RDB").len();
        assert!((1_800_000..2_400_000).contains(&snapshot), "a snapshot of {snapshot} bytes of 2 MB of data");
    }
}
