//! Masks what must not be shown when a line of the configuration is quoted.
//!
//! Works on the raw text, not on the parsed tree: a line that is quoted because it does not parse may hold a password too. It errs
//! on the side of masking: a value is shown only if its key is known to hold no secret, and even then without `user:password@`
//! and, for webhooks, without the path (many receivers put their key there). Bytes are replaced one for one, so that positions
//! still fit; all that is given away is a length.

/// Keys whose values may be quoted. `primary`, `replicas` and `url` are shown without their credentials.
const SHOWN: &[&str] = &[
    "state_dir",
    "listen",
    "announce",
    "backlog",
    "upstream_timeout",
    "replica_timeout",
    "max_clients",
    "park",
    "active",
    "standby",
    "consistency",
    "max_unavailable",
    "freeze",
    "drain",
    "bytes",
    "time",
    "min_keys_ratio",
    "min_keys",
    "drift",
    "size",
    "files",
    "dead_after",
    "format",
    "primary",
    "replicas",
    "url",
    "sentinel",
    "name",
    "user",
    "sentinel_user",
];

/// The same text, byte for byte as long, with `*` for every secret.
pub(crate) fn redact(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut key = String::new();
    let mut at = 0;
    while at < bytes.len() {
        at = match bytes[at] {
            b'#' => line_end(&bytes, at),
            b'"' | b'\'' => string(&mut bytes, at, &mut key),
            b'=' => value_start(&mut bytes, at + 1, &key),
            b if is_bare(b) => {
                let end = (at..bytes.len()).find(|&i| !is_bare(bytes[i])).unwrap_or(bytes.len());
                // Only what stands before a `=` (or a dot of a dotted key) is a key: a bare value must not change what is known.
                if is_key(&bytes, end) {
                    key = String::from_utf8_lossy(&bytes[at..end]).into_owned();
                }
                end
            }
            _ => at + 1,
        };
    }
    // Only whole bytes of secrets became `*`; a character cut in half by that is not text any more.
    String::from_utf8(bytes)
        .unwrap_or_else(|error| error.into_bytes().iter().map(|&b| if b.is_ascii() { b as char } else { '*' }).collect())
}

/// Handles the string literal at `at`; gives the first byte behind it.
fn string(bytes: &mut [u8], at: usize, key: &mut String) -> usize {
    let quote = bytes[at];
    let is_long = bytes[at..].starts_with(&[quote; 3]);
    let start = at + if is_long { 3 } else { 1 };
    let mut end = start;
    loop {
        match bytes.get(end) {
            None => break,
            // A string that is not closed: whatever follows in the line may belong to it.
            Some(b'\n') if !is_long => break,
            Some(b'\\') if quote == b'"' => end += 2,
            Some(_) if is_long && bytes[end..].starts_with(&[quote; 3]) => break,
            Some(b) if !is_long && *b == quote => break,
            Some(_) => end += 1,
        }
    }
    let end = end.min(bytes.len());
    let behind = (end + if is_long { 3 } else { 1 }).min(bytes.len());
    if is_key(bytes, behind) {
        *key = String::from_utf8_lossy(&bytes[start..end]).into_owned();
    } else {
        mask_value(&mut bytes[start..end], key);
    }
    behind
}

/// A value without quotes is either a number, or a mistake that may be a password.
fn value_start(bytes: &mut [u8], at: usize, key: &str) -> usize {
    let start = (at..bytes.len()).find(|&i| !matches!(bytes[i], b' ' | b'\t')).unwrap_or(bytes.len());
    if matches!(bytes.get(start), None | Some(b'"' | b'\'' | b'{' | b'[' | b'\n' | b'\r')) {
        return start;
    }
    if SHOWN.contains(&key) {
        let end = (start..bytes.len()).find(|&i| matches!(bytes[i], b',' | b'}' | b']' | b'\n')).unwrap_or(bytes.len());
        mask_value(&mut bytes[start..end], key);
        return end;
    }
    let end = line_end(bytes, start);
    bytes[start..end].fill(b'*');
    end
}

fn mask_value(value: &mut [u8], key: &str) {
    if !SHOWN.contains(&key) {
        value.fill(b'*');
        return;
    }
    let host = value.windows(3).position(|window| window == b"://").map_or(0, |at| at + 3);
    let credentials_end = match value.iter().rposition(|&b| b == b'@') {
        Some(at) if at > host => at,
        // `redis://:password` whose `@host` was forgotten.
        Some(_) | None if value.get(host) == Some(&b':') && host > 0 => value.len(),
        Some(_) | None => host,
    };
    value[host..credentials_end].fill(b'*');
    if key == "url"
        && let Some(path) = value[credentials_end..].iter().position(|&b| matches!(b, b'/' | b'?' | b'#'))
    {
        value[credentials_end + path + 1..].fill(b'*');
    }
}

/// Whether what ends before `at` is followed by `=` or continues as a dotted key.
fn is_key(bytes: &[u8], at: usize) -> bool {
    bytes[at..].iter().find(|b| !matches!(b, b' ' | b'\t')).is_some_and(|b| matches!(b, b'=' | b'.'))
}

fn is_bare(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b == b'-'
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |end| at + end)
}

#[cfg(test)]
mod tests {
    use super::redact;

    #[test]
    fn secrets_are_masked_wherever_they_stand() {
        for (text, shown) in [
            ("primary = \"redis://user:hunter2@db:6379\"", "primary = \"redis://************@db:6379\""),
            ("primary = 'redis://:p@ss/w@db:6379'", "primary = 'redis://*******@db:6379'"),
            ("primary = redis://:hunter2@db", "primary = redis://********@db"),
            ("primary = \"user:hunter2@db:1\"", "primary = \"************@db:1\""),
            ("primary = \"redis://:hunter2\"", "primary = \"redis://********\""),
            ("relay = { listen = \"a:1\", auth = \"u:pw\" }", "relay = { listen = \"a:1\", auth = \"****\" }"),
            ("api.token = 'abc'\nstate_dir = \"/x\"", "api.token = '***'\nstate_dir = \"/x\""),
            ("\"token\" = \"a\\\"bc\"", "\"token\" = \"*****\""),
            ("tokn = \"abc\"", "tokn = \"***\""),
            ("token = \"abc", "token = \"***"),
            ("token = a b # c", "token = *******"),
            ("token = \"\"\"a\nb\"\"\"", "token = \"\"\"***\"\"\""),
            (
                "primary = { sentinel = [\"a:1\"], sentinel_user = \"u\", sentinel_password = \"pw\" }",
                "primary = { sentinel = [\"a:1\"], sentinel_user = \"u\", sentinel_password = \"**\" }",
            ),
            ("auth = { user = \"u\", password = \"pw\" }", "auth = { user = \"u\", password = \"**\" }"),
            ("notify = [{ url = \"https://h.example/T0/B1?k=2\" }]", "notify = [{ url = \"https://h.example/*********\" }]"),
            ("token = \"pässword\"", "token = \"*********\""),
        ] {
            assert_eq!(redact(text), shown);
            assert_eq!(redact(text).len(), text.len(), "positions must still fit");
        }
    }
}
