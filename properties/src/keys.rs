//! The webhook keys parameter, and the key that a request presents.

use ingest_fn::ActiveKeys;

use crate::redaction::assert_log_redacted;

/// The parameter's text, and after the first NUL the presented key. The key is accepted only if it is
/// one of the first two lines with 32 or more characters that a header can carry, not enclosed in
/// quotation marks, and as that line's slot.
pub fn keys(input: &[u8]) {
    let (text, presented) = match input.iter().position(|byte| *byte == 0) {
        Some(end) => (&input[..end], &input[end + 1..]),
        None => (input, input),
    };
    let text = String::from_utf8_lossy(text);
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().map(str::trim);
    let active: Vec<_> = lines.filter(|key| is_usable(key)).take(2).collect();

    let read = assert_log_redacted(|| text.parse::<ActiveKeys>());
    let Ok(keys) = read else {
        assert!(active.is_empty(), "a good key was refused");
        return;
    };
    let slot = |presented: &[u8]| keys.slot(presented);
    for (place, key) in active.iter().enumerate() {
        let last = active.iter().rposition(|other| other == key).map(|place| place + 1);
        assert_eq!(slot(key.as_bytes()), last, "the key in place {place} is its own");
    }
    let expected = active.iter().rposition(|key| key.as_bytes() == presented);
    assert_eq!(slot(presented), expected.map(|place| place + 1));
    let lines = text.lines().map(str::as_bytes);
    for near in lines.chain(active.iter().map(|key| &key.as_bytes()[1..])) {
        if active.iter().all(|key| key.as_bytes() != near) {
            assert_eq!(slot(near), None, "almost the key is not the key");
        }
    }
}

fn is_usable(key: &str) -> bool {
    let quoted = ['"', '\'', '`'].iter().any(|mark| key.starts_with(*mark) && key.ends_with(*mark));
    key.len() >= 32 && key.chars().all(|c| matches!(c, ' '..='~')) && !quoted
}
