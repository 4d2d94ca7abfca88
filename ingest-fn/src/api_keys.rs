//! The keys that Gladly may present.

use std::{str::FromStr, time::Duration};

use jiff::SignedDuration;
use sha2::{Digest, Sha256};
use shared::{KEY_LIMIT, Parameter, ParameterError, WebhookKey, webhook_keys};
use subtle::ConstantTimeEq;
use tracing::error;

/// How long the keys are cached.
pub(crate) const KEYS_TTL: SignedDuration = SignedDuration::from_secs(60);
/// How long the keys are read for before the first request: Lambda allows 10 s in all
/// (<https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html>), and Gladly waits
/// 15 s for the answer, this included.
const WARM_UP_LIMIT: Duration = Duration::from_secs(8);
/// How long a request reads the keys if there are none yet. Even after a failed warm-up it is answered
/// in time.
const FIRST_READ_LIMIT: Duration = Duration::from_secs(5);
/// The least time between two early reads for an unknown key.
const EARLY_REFRESH_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// The active keys, as SHA-256 digests: comparing those reveals neither length nor content, and the
/// keys themselves are not kept.
#[derive(Debug)]
pub struct ActiveKeys(Vec<[u8; 32]>);

impl FromStr for ActiveKeys {
    type Err = &'static str;

    /// One or two keys, one per line. A key that cannot be used is ignored with an ERROR; the others
    /// still count.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut digests = Vec::with_capacity(KEY_LIMIT);
        for WebhookKey { line, key } in webhook_keys(text) {
            match key {
                Ok(key) => digests.push(digest(key.as_bytes())),
                Err(reason) => error!(webhook_key.line = line, reason, "ignoring a webhook key"),
            }
        }
        if digests.is_empty() {
            return Err(
                "expected one or two keys, one per line, each of 32 or more printable ASCII characters",
            );
        }
        Ok(Self(digests))
    }
}

impl ActiveKeys {
    /// The slot of the presented key, counted from 1. Every key is compared, whichever matches.
    #[must_use]
    pub fn slot(&self, presented: &[u8]) -> Option<usize> {
        let presented = digest(presented);
        (1..).zip(&self.0).fold(None, |found, (slot, key)| {
            if bool::from(key.ct_eq(&presented)) { Some(slot) } else { found }
        })
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// Reads the keys ahead of the first request.
pub(crate) async fn warm_up(keys: &Parameter<ActiveKeys>) -> Result<(), ParameterError> {
    keys.value_within(WARM_UP_LIMIT).await.map(drop)
}

/// The slot of the presented key in the parameter. For an unknown key the parameter is read early, so
/// that a key just added works at once.
pub(crate) async fn slot(
    keys: &Parameter<ActiveKeys>,
    presented: &[u8],
) -> Result<Option<usize>, ParameterError> {
    if let Some(slot) = keys.value_within(FIRST_READ_LIMIT).await?.slot(presented) {
        return Ok(Some(slot));
    }
    Ok(keys.refresh_if_older(EARLY_REFRESH_INTERVAL).await?.slot(presented))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "0123456789abcdef0123456789abcdef";
    const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

    #[test]
    fn one_or_two_keys_are_active_and_nothing_else() {
        let cases = [
            ("one key", OLD.to_owned(), Ok((Some(1), None))),
            ("two keys", format!("{OLD}\n{NEW}"), Ok((Some(1), Some(2)))),
            (
                "Windows lines, blank ones, spaces",
                format!("\r\n {NEW} \r\n\r\n{OLD}\r\n"),
                Ok((Some(2), Some(1))),
            ),
            ("a short one beside a good one", format!("short\n{NEW}"), Ok((None, Some(1)))),
            (
                "a third one",
                format!("{}\n{}\n{NEW}", "a".repeat(32), "b".repeat(32)),
                Ok((None, None)),
            ),
            ("none", String::new(), Err(())),
            ("blank lines", "\n \n".to_owned(), Err(())),
            ("only short ones", OLD[1..].to_owned(), Err(())),
            ("a byte order mark first", format!("\u{feff}{OLD}\r\n{NEW}"), Ok((Some(1), Some(2)))),
            ("one in the middle", format!("{NEW}\n\u{feff}{OLD}"), Ok((None, Some(1)))),
            ("a zero-width space", format!("\u{200b}{OLD}\n{NEW}"), Ok((None, Some(1)))),
            ("a zero-width space inside", format!("{OLD}\n{NEW}\u{200b}a"), Ok((Some(1), None))),
            ("NUL", format!("{OLD}\0\n{NEW}"), Ok((None, Some(1)))),
            ("a tab inside", format!("{OLD}\ta\n{NEW}"), Ok((None, Some(1)))),
            ("quotation marks", format!("\"{OLD}\"\n{NEW}"), Ok((None, Some(1)))),
            ("apostrophes", format!("'{OLD}'\n`{NEW}`"), Err(())),
            ("typographic ones", format!("\u{201c}{OLD}\u{201d}"), Err(())),
            ("letters outside ASCII", "k\u{e9}".repeat(32), Err(())),
        ];
        for (name, text, expected) in cases {
            let slots = text.parse::<ActiveKeys>().map_err(|_| ());
            let slots = slots.map(|keys| (keys.slot(OLD.as_bytes()), keys.slot(NEW.as_bytes())));
            assert_eq!(slots, expected, "{name}");
        }
    }

    #[test]
    fn a_key_may_be_anything_that_a_header_carries() {
        for key in [
            "two words, and one more than those",
            "'0123456789abcdef0123456789abcdef",
            "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        ] {
            assert_eq!(key.parse::<ActiveKeys>().unwrap().slot(key.as_bytes()), Some(1), "{key}");
        }
    }

    #[test]
    fn almost_the_key_is_not_the_key() {
        let keys: ActiveKeys = OLD.parse().unwrap();
        for presented in
            ["", &OLD[1..], &format!("{OLD}0"), &format!(" {OLD}"), &OLD.to_uppercase()]
        {
            assert_eq!(keys.slot(presented.as_bytes()), None, "{presented:?}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        assert!(!format!("{:?}", OLD.parse::<ActiveKeys>().unwrap()).contains(OLD));
    }
}
