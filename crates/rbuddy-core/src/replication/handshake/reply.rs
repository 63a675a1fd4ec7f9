//! Small replies.

use crate::resp::encode;

pub(super) fn ok() -> Vec<u8> {
    b"+OK\r\n".to_vec()
}

pub(super) fn error(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    encode::error(&mut out, text);
    out
}

pub(super) fn integer(value: u64) -> Vec<u8> {
    format!(":{value}\r\n").into_bytes()
}

pub(super) fn bulk(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::bulk(&mut out, text);
    out
}

pub(super) fn wrong_number(command: &str) -> Vec<u8> {
    error(&format!("ERR wrong number of arguments for '{}' command", command.to_ascii_lowercase()))
}

/// The relay is no server with data; whoever takes it for one shall read that.
pub(super) fn unknown(command: &str) -> Vec<u8> {
    let command = shown(command);
    error(&format!("ERR unknown command '{command}': rbuddy's relay holds no data, ask the primary or a replica"))
}

/// As much of a command's name as fits into a line: replicas read at most 255 bytes of one (protocol fact 1.2), and a character may take four.
pub(super) fn shown(command: &str) -> String {
    command.chars().take(32).collect()
}
