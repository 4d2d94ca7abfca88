//! The keys that Gladly may present in `x-api-key`, as the keys parameter holds them: one or two, one
//! per line.

use crate::without_bom;

/// Shorter keys are ignored: they can be guessed.
pub const KEY_LENGTH: usize = 32;
/// The key in use and, during a rotation, its successor.
pub const KEY_LIMIT: usize = 2;

/// A line of the keys parameter that is not blank.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct WebhookKey<'a> {
    /// The line, counted from 1.
    pub line: usize,
    /// The key, or why it is ignored.
    pub key: Result<&'a str, &'static str>,
}

/// The lines of the keys parameter, in their order: the first [`KEY_LIMIT`] usable keys are active.
pub fn webhook_keys(text: &str) -> impl Iterator<Item = WebhookKey<'_>> {
    let mut active = 0;
    let lines = (1..).zip(without_bom(text).lines().map(str::trim));
    lines.filter(|(_, key)| !key.is_empty()).map(move |(line, key)| {
        let rejection =
            why_unusable(key).or((active == KEY_LIMIT).then_some("two other keys are active"));
        active += usize::from(rejection.is_none());
        WebhookKey { line, key: rejection.map_or(Ok(key), Err) }
    })
}

/// Why a key cannot be used, if it cannot. It may be pasted with invisible characters, such as a byte
/// order mark or a zero-width space, or with quotation marks.
#[must_use]
pub fn why_unusable(key: &str) -> Option<&'static str> {
    let ends = (key.chars().next(), key.chars().next_back());
    if !key.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
        Some("a character that is not printable ASCII, which no header can carry")
    } else if matches!(
        ends,
        (Some('"'), Some('"')) | (Some('\''), Some('\'')) | (Some('`'), Some('`'))
    ) {
        Some("enclosed in quotation marks")
    } else if key.len() < KEY_LENGTH {
        Some("shorter than 32 characters")
    } else {
        None
    }
}
