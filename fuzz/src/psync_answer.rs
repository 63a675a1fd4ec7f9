//! A primary's answer to PSYNC: only what says so is a permission to go on, and what is understood means one thing.

use rbuddy_core::replication::answer::PsyncAnswer;

pub fn check(line: &[u8]) {
    let answer = PsyncAnswer::parse(line);
    let text = String::from_utf8_lossy(line);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match &answer {
        PsyncAnswer::Wait => assert!(words.is_empty()),
        PsyncAnswer::Continue(None) => assert_eq!(words, ["+CONTINUE"]),
        PsyncAnswer::Continue(Some(replid)) => {
            assert_eq!((words[0], words[1].to_ascii_lowercase()), ("+CONTINUE", replid.to_string()));
            assert_eq!(PsyncAnswer::parse(format!("+CONTINUE {replid}").as_bytes()), answer);
        }
        PsyncAnswer::FullResync(at) => {
            assert_eq!((words[0], words[1].to_ascii_lowercase()), ("+FULLRESYNC", at.replid.to_string()));
            assert_eq!(words[2].parse(), Ok(at.offset.get()));
            assert!(at.offset.get() <= i64::MAX as u64);
            assert_eq!(PsyncAnswer::parse(format!("+FULLRESYNC {} {}", at.replid, at.offset).as_bytes()), answer);
        }
        PsyncAnswer::Refused(shown) => {
            assert!(!words.is_empty() && words != ["+CONTINUE"]);
            assert!(text.starts_with(shown.as_str()) && shown.chars().count() <= 200, "{shown:?}");
        }
    }
}
