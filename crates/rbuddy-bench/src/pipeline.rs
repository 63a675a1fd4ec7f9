//! A blocking client that keeps several batches of requests on their way: as cheap as a writer can be, so that it is never what is
//! measured. It expects one line of answer for each request, and takes an error for the end.

use anyhow::Context;
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Batches that may be unanswered. Their answers are a few bytes each and fit into the socket's buffers, so neither side can block the
/// other.
const UNANSWERED_MAX: usize = 4;
/// How long a server may neither take nor answer anything.
const PROGRESS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Pipeline {
    address: String,
    stream: TcpStream,
    /// Requests of each batch that is on its way.
    unanswered: VecDeque<usize>,
    answers: Answers,
    buffer: Vec<u8>,
}

impl Pipeline {
    pub(crate) fn connect(address: &str) -> anyhow::Result<Pipeline> {
        let open = || {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PROGRESS_WITHIN))?;
            stream.set_write_timeout(Some(PROGRESS_WITHIN))?;
            Ok::<_, std::io::Error>(stream)
        };
        let stream = open().with_context(|| format!("connect to {address}"))?;
        let (unanswered, buffer) = (VecDeque::new(), vec![0; 64 * 1024]);
        Ok(Pipeline { address: address.to_owned(), stream, unanswered, answers: Answers::default(), buffer })
    }

    /// Sends a batch, then waits until there is room for the next.
    pub(crate) fn send(&mut self, batch: &[u8], requests: usize) -> anyhow::Result<()> {
        self.stream.write_all(batch).with_context(|| format!("write to {}", self.address))?;
        self.unanswered.push_back(requests);
        if self.unanswered.len() > UNANSWERED_MAX { self.await_oldest() } else { Ok(()) }
    }

    /// Waits for every answer.
    pub(crate) fn finish(&mut self) -> anyhow::Result<()> {
        while !self.unanswered.is_empty() {
            self.await_oldest()?;
        }
        Ok(())
    }

    fn await_oldest(&mut self) -> anyhow::Result<()> {
        let Some(requests) = self.unanswered.pop_front() else { return Ok(()) };
        while self.answers.complete < requests {
            let count = self.stream.read(&mut self.buffer).with_context(|| format!("wait for an answer of {}", self.address))?;
            anyhow::ensure!(count > 0, "{} closed the writer's connection", self.address);
            self.answers.take(&self.buffer[..count]).with_context(|| format!("write to {}", self.address))?;
        }
        self.answers.complete -= requests;
        Ok(())
    }
}

/// Counts lines of answers, which may come in any pieces.
#[derive(Debug, Default)]
struct Answers {
    /// Not yet given to a batch.
    complete: usize,
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

impl Answers {
    fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = rest.split_at(end + 1);
            let first = self.partial.first().or(line.first());
            if first == Some(&b'-') {
                let text = [self.partial.as_slice(), line].concat();
                anyhow::bail!("refused: {}", String::from_utf8_lossy(&text).trim_end());
            }
            self.partial.clear();
            self.complete += 1;
            rest = after;
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_in_whatever_pieces_they_come() {
        let text = b"+OK\r\n:1\r\n+OK\r\n";
        for cut in 0..=text.len() {
            let mut answers = Answers::default();
            answers.take(&text[..cut]).expect("no error among them");
            answers.take(&text[cut..]).expect("no error among them");
            assert_eq!((answers.complete, answers.partial.len()), (3, 0), "cut at {cut}");
        }
    }

    #[test]
    fn an_error_among_the_answers_is_told_even_when_it_is_cut() {
        let text = b"+OK\r\n-OOM no memory\r\n";
        for cut in 0..text.len() {
            let mut answers = Answers::default();
            let outcome = answers.take(&text[..cut]).and_then(|()| answers.take(&text[cut..]));
            assert_eq!(outcome.expect_err("an error answer").to_string(), "refused: -OOM no memory", "cut at {cut}");
        }
    }
}
