//! `MULTI … EXEC`: commands that wait in a small queue, as Sentinels send their word in one (protocol fact 8.3).

use super::plain::{Label, Plain};
use super::reply::{error, unknown};
use super::{Answer, Surroundings};

/// An open transaction.
#[derive(Debug, Clone, Default)]
pub(super) struct Transaction {
    queued: Vec<(Plain, Vec<Vec<u8>>)>,
    bytes: usize,
    /// Something in it was refused: none of it will be done.
    is_spoilt: bool,
}

impl Transaction {
    pub(super) fn queue(&mut self, command: &str, arguments: &[Vec<u8>]) -> Answer {
        let refusal = match Plain::named(command) {
            Some(plain) => {
                self.bytes += arguments.iter().map(Vec::len).sum::<usize>();
                if self.queued.len() < COMMANDS_MAX && self.bytes <= BYTES_MAX {
                    self.queued.push((plain, arguments.to_vec()));
                    return Answer::Reply(b"+QUEUED\r\n".to_vec());
                }
                error("ERR the transaction is longer than rbuddy's relay takes")
            }
            None if OUTSIDE_ONLY.contains(&command) => error("ERR Command not allowed inside a transaction"),
            None => unknown(command),
        };
        self.is_spoilt = true;
        Answer::Reply(refusal)
    }

    pub(super) fn exec(self, label: &mut Label, surroundings: &mut impl Surroundings) -> Vec<u8> {
        if self.is_spoilt {
            return error("EXECABORT Transaction discarded because of previous errors.");
        }
        let mut out = format!("*{}\r\n", self.queued.len()).into_bytes();
        for (plain, arguments) in &self.queued {
            out.extend(plain.carry_out(arguments, label, surroundings));
        }
        out
    }
}

/// What is known, but is no matter of one reply.
const OUTSIDE_ONLY: [&str; 9] = ["AUTH", "HELLO", "REPLCONF", "PSYNC", "SYNC", "SUBSCRIBE", "PSUBSCRIBE", "UNSUBSCRIBE", "PUNSUBSCRIBE"];
/// A Sentinel's frame has four.
const COMMANDS_MAX: usize = 16;
const BYTES_MAX: usize = 16 * 1024;
