//! Building requests and replies.

/// A request as a RESP array of bulk strings.
pub fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + arguments.iter().map(|a| a.as_ref().len() + 16).sum::<usize>());
    out.extend_from_slice(format!("*{}\r\n", arguments.len()).as_bytes());
    for argument in arguments {
        bulk(&mut out, argument.as_ref());
    }
    out
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, value: &[u8]) {
    out.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends an error line. Line breaks in `text` would end it early, so they become spaces.
pub fn error(out: &mut Vec<u8>, text: &str) {
    out.push(b'-');
    out.extend(text.bytes().map(|b| if b == b'\r' || b == b'\n' { b' ' } else { b }));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_arrays_of_bulk_strings() {
        assert_eq!(request(&["PSYNC", "?", "-1"]), b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n");
    }

    #[test]
    fn an_error_stays_one_line() {
        let mut out = Vec::new();
        error(&mut out, "ERR two\r\nlines");
        assert_eq!(out, b"-ERR two  lines\r\n");
    }
}
