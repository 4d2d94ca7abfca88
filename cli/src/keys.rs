//! Webhook keys: those that ingest-fn accepts, and new ones.

use shared::{KEY_LENGTH, WebhookKey, webhook_keys, why_unusable};

use crate::error::{Error, Result};

/// What the keys parameter holds.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// The keys that ingest-fn accepts, the older one first; each once.
    pub(crate) active: Vec<String>,
    /// The lines that are ignored, counted from 1, and why.
    pub(crate) ignored: Vec<(usize, &'static str)>,
}

impl Keys {
    pub(crate) fn read(text: &str) -> Self {
        let mut keys = Self::default();
        for WebhookKey { line, key } in webhook_keys(text) {
            match key {
                Ok(key) if keys.active.iter().any(|active| active == key) => {
                    keys.ignored.push((line, "a repeated key"));
                }
                Ok(key) => keys.active.push(key.to_owned()),
                Err(reason) => keys.ignored.push((line, reason)),
            }
        }
        keys
    }

    /// The one that Gladly is to send.
    pub(crate) fn newest(&self) -> Option<&str> {
        self.active.last().map(String::as_str)
    }
}

/// A strong key.
pub(crate) fn generate() -> Result<String> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random).map_err(|err| {
        Error::failed(format!("could not read random numbers of the system: {err}."))
    })?;
    Ok(hex::encode(random))
}

/// The key that was chosen, or a strong one for none and for `generate`.
pub(crate) fn chosen(key: Option<&str>) -> Result<String> {
    let key = match key {
        None | Some("generate") => return generate(),
        Some(key) => key,
    };
    let reason = why_unusable(key).or(key.contains(' ').then_some("a space"));
    match reason {
        None => Ok(key.to_owned()),
        Some(reason) => Err(Error::usage(format!(
            "expected a webhook key of at least {KEY_LENGTH} characters, all of them printable ASCII, without \
             spaces and quotation marks around it; got {reason}. WEBHOOK_KEY=generate generates one."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_that_ingest_fn_accepts_and_each_once() {
        let (one, two) = ("1".repeat(32), "2".repeat(40));
        let keys = Keys::read(&format!("\u{feff}{one}\nshort\n\n{two}\n"));
        assert_eq!(keys.active, [one.clone(), two]);
        assert_eq!(keys.ignored, [(2, "shorter than 32 characters")]);
        let keys = Keys::read(&format!("{one}\n{one}"));
        assert_eq!((keys.active.len(), keys.ignored.len(), keys.newest()), (1, 1, Some(&*one)));
    }

    #[test]
    fn a_key_is_generated_or_checked() {
        let (one, two) = (chosen(None).unwrap(), chosen(Some("generate")).unwrap());
        assert!(one.len() == 64 && one != two, "{one} {two}");
        for key in ["only-thirty-one-characters-long", "'0123456789abcdef0123456789abcdef'"] {
            assert!(chosen(Some(key)).is_err(), "{key}");
        }
        assert!(chosen(Some("0123456789abcdef 0123456789abcdef")).is_err());
        assert!(chosen(Some("0123456789abcdef-0123456789abcdef")).is_ok());
    }
}
