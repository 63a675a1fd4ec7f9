//! The password of a connection: `AUTH` and `HELLO … AUTH` compare with it.

use std::fmt;

/// What a connection must say before it gets anything.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// ACL user; `None` is the default user.
    pub user: Option<String>,
    /// Password.
    pub password: String,
}

impl Login {
    /// Whether this is it. Both parts are compared whole, so that the time taken tells nothing about where they differ.
    pub(super) fn is(&self, user: &[u8], password: &[u8]) -> bool {
        let expected = self.user.as_deref().unwrap_or("default");
        same_bytes(user, expected.as_bytes()) & same_bytes(password, self.password.as_bytes())
    }
}

fn same_bytes(given: &[u8], expected: &[u8]) -> bool {
    let differences = expected.iter().enumerate().fold(0, |sum, (index, byte)| sum | (byte ^ given.get(index).unwrap_or(&!byte)));
    (differences == 0) & (given.len() == expected.len())
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login {{ user: {:?}, password: *** }}", self.user)
    }
}
