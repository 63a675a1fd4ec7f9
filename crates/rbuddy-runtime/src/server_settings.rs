//! Asks a server what it is set to, where `INFO` does not tell: what must be alike where one server takes over for another.
//!
//! Promises: what a server refuses to say is left out; of passwords and rights nothing is kept but digests under a key that is drawn anew in each process, so
//! that they compare, and tell nothing to whoever reads a journal. Not here: what follows from a difference (core's `drift`).

use crate::admin::{AdminConnection, AdminError, text};
use rbuddy_core::control::drift::{Settings, User};
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// All in one write. The error is the connection's.
pub(crate) async fn ask(server: &AdminConnection) -> Result<Settings, AdminError> {
    let questions: [&[&str]; 3] = [&["CONFIG", "GET", "databases"], &["CONFIG", "GET", "replica-ignore-maxmemory"], &["ACL", "LIST"]];
    let answers = server.pipeline(&questions).await?;
    let mut answers = answers.into_iter().map(Result::ok);
    let mut next = || answers.next().flatten();
    let (databases, ignores_limit, acl) = (next(), next(), next());
    Ok(Settings {
        databases: databases.as_ref().and_then(parameter).and_then(|text| text.parse().ok()),
        ignores_limit: ignores_limit.as_ref().and_then(parameter).map(|text| text == "yes"),
        users: acl.as_ref().and_then(users),
    })
}

/// `[name, value]`; empty where the server does not know it.
fn parameter(answer: &Value) -> Option<String> {
    let Value::Array(pair) = answer else { return None };
    pair.get(1).and_then(text)
}

fn users(answer: &Value) -> Option<BTreeMap<String, User>> {
    let Value::Array(lines) = answer else { return None };
    lines.iter().map(|line| user(&text(line)?)).collect()
}

/// `user app on #<sha256> ~key:* &channel -@all +get`
fn user(line: &str) -> Option<(String, User)> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "user").skip(1);
    let name = words.next()?.to_owned();
    let (mut user, mut passwords, mut rights) = (User::default(), BTreeSet::new(), Vec::new());
    for word in words {
        match word {
            "on" => user.is_on = true,
            "nopass" => user.is_open = true,
            // How careful a server is with RESTORE; not all versions say it.
            "off" | "sanitize-payload" | "skip-sanitize-payload" => {}
            _ if word.starts_with('#') => _ = passwords.insert(digest(word)),
            _ => rights.push(word),
        }
    }
    (user.passwords, user.rights) = (passwords, digest(&in_one_order(rights).join(" ")));
    Some((name, user))
}

/// The same rights may have been given in another order. It matters between `+` and `-` only, and what follows a parenthesis is one piece.
fn in_one_order(mut rights: Vec<&str>) -> Vec<&str> {
    let selectors = rights.iter().position(|word| word.starts_with('(')).unwrap_or(rights.len());
    let selectors = rights.split_off(selectors);
    let (mut commands, mut patterns): (Vec<&str>, Vec<&str>) = rights.into_iter().partition(|word| word.starts_with(['+', '-']));
    patterns.sort_unstable();
    commands.chunk_by_mut(|one, next| one.as_bytes()[0] == next.as_bytes()[0]).for_each(<[&str]>::sort_unstable);
    patterns.into_iter().chain(commands).chain(selectors).collect()
}

fn digest(text: &str) -> u64 {
    static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEY.hash_one(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> User {
        user(line).expect("a user").1
    }

    #[test]
    fn a_user_is_read_and_nothing_of_its_password_is_kept() {
        let (name, user) = user("user bob on #2bb80d537b1d ~a:* resetchannels &ch -@all +@read +config|get").expect("a user");
        assert_eq!((name.as_str(), user.is_on, user.is_open, user.passwords.len()), ("bob", true, false, 1));
        assert!(!format!("{user:?}").contains("2bb80d"));
        assert!(!read("user bob off nopass -@all").is_on && read("user bob off nopass -@all").is_open);
    }

    #[test]
    fn the_same_rights_are_the_same_however_they_are_told() {
        let same = |one: &str, other: &str| read(one).rights == read(other).rights;
        assert!(same("user a on #1 ~x ~y -@all +get +set", "user a on sanitize-payload #2 ~y ~x -@all +set +get"));
        assert!(!same("user a on ~x -@all +get", "user a on ~x -@all +set"));
        assert!(!same("user a on ~x +@all -get", "user a on ~x -get +@all"), "what comes last counts");
        assert!(!same("user a on ~x -@all (~y +get)", "user a on ~x -@all (~z +get)"));
    }
}
