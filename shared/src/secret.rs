//! Secrets, which are never printed.

use std::{fmt, str::FromStr};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself, only to be sent.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        let sendable =
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        sendable.then(|| Self(text.to_owned())).ok_or("expected one line of printable ASCII")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let secret: Secret = " t0ken\n".parse().unwrap();
        assert_eq!((secret.expose(), format!("{secret:?}").as_str()), ("t0ken", "Secret(…)"));
    }
}
