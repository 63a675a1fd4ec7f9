//! What a primary answers PSYNC, as the relay reads it. A line that is none of these is a refusal: the relay keeps its state and asks
//! again later, and never turns a refusal into `PSYNC ? -1`.

use crate::types::{Offset, Position, ReplId};

/// The answer to PSYNC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PsyncAnswer {
    /// An empty line: the primary is alive and will answer later.
    Wait,
    /// `+CONTINUE`, with the history's current id where the primary tells it.
    Continue(Option<ReplId>),
    /// `+FULLRESYNC`: a snapshot of this position follows.
    FullResync(Position),
    /// Anything else, as it was said.
    Refused(String),
}

impl PsyncAnswer {
    /// Reads one line, without its line end.
    pub fn parse(line: &[u8]) -> PsyncAnswer {
        let text = String::from_utf8_lossy(line);
        let mut words = text.split_ascii_whitespace();
        let understood = match words.next() {
            None => Some(PsyncAnswer::Wait),
            Some("+CONTINUE") => match words.next() {
                None => Some(PsyncAnswer::Continue(None)),
                Some(id) => id.parse().ok().map(|id| PsyncAnswer::Continue(Some(id))),
            },
            Some("+FULLRESYNC") => full_resync(words.next(), words.next()).map(PsyncAnswer::FullResync),
            Some(_) => None,
        };
        understood.unwrap_or_else(|| PsyncAnswer::Refused(text.chars().take(LINE_SHOWN_MAX).collect()))
    }
}

fn full_resync(id: Option<&str>, offset: Option<&str>) -> Option<Position> {
    let offset: Offset = offset?.parse().ok()?;
    Some(Position::new(id?.parse().ok()?, offset))
}

/// How much of a primary's words is shown.
const LINE_SHOWN_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_and_all_else_is_a_refusal() {
        let id = "ab".repeat(20);
        let replid: ReplId = id.parse().expect("an id");
        assert_eq!(PsyncAnswer::parse(b""), PsyncAnswer::Wait);
        assert_eq!(PsyncAnswer::parse(b"+CONTINUE"), PsyncAnswer::Continue(None));
        assert_eq!(PsyncAnswer::parse(format!("+CONTINUE {id}").as_bytes()), PsyncAnswer::Continue(Some(replid)));
        let at = Position::new(replid, Offset::new(105).expect("in range"));
        assert_eq!(PsyncAnswer::parse(format!("+FULLRESYNC {id} 105").as_bytes()), PsyncAnswer::FullResync(at));
        for line in ["-NOMASTERLINK no", "+CONTINUE abc", "+FULLRESYNC", &format!("+FULLRESYNC {id} -1"), "+OK", "\u{fffd}"] {
            assert!(matches!(PsyncAnswer::parse(line.as_bytes()), PsyncAnswer::Refused(_)), "{line}");
        }
    }
}
