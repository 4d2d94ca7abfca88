//! JSON in ASCII: SQS rejects messages with some Unicode characters (U+FFFE, U+FFFF and most control
//! characters), all of which JSON can write as escapes.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// Writes `value` as JSON with every non-ASCII character escaped.
pub(crate) fn to_string<T: Serialize>(value: &T) -> serde_json::Result<String> {
    let mut bytes = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut bytes, Escaping))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// How many bytes a character takes inside a JSON string written by [`to_string`].
pub(crate) fn escaped_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        ' '..='\u{7f}' => 1,
        _ => 6 * character.len_utf16(),
    }
}

struct Escaping;

impl Formatter for Escaping {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        escape(writer, fragment)
    }

    // Raw JSON has non-ASCII characters only inside its strings, so the same escape is right.
    fn write_raw_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        escape(writer, fragment)
    }
}

fn escape<W: ?Sized + Write>(writer: &mut W, mut text: &str) -> io::Result<()> {
    // Most is ASCII, which is found out several bytes at a time.
    if text.is_ascii() {
        return writer.write_all(text.as_bytes());
    }
    while let Some(at) = text.bytes().position(|byte| !byte.is_ascii()) {
        let (ascii, rest) = text.split_at(at);
        writer.write_all(ascii.as_bytes())?;
        let mut characters = rest.chars();
        for unit in characters.next().into_iter().flat_map(utf16) {
            write!(writer, "\\u{unit:04x}")?;
        }
        text = characters.as_str();
    }
    writer.write_all(text.as_bytes())
}

fn utf16(character: char) -> impl Iterator<Item = u16> {
    let mut units = [0; 2];
    let count = character.encode_utf16(&mut units).len();
    units.into_iter().take(count)
}

/// Replaces escapes of lone surrogates in JSON: half a character, left where a text was truncated,
/// is legal in JSON and rejected by most parsers.
#[must_use]
pub fn replace_lone_surrogates(json: String) -> String {
    let unit = |at: usize| {
        let digits = json.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut lone = Vec::new();
    let mut at = 0;
    while let Some(next) = json.as_bytes()[at..].iter().position(|byte| *byte == b'\\') {
        at += next;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                lone.push(at);
                6
            }
            (Some(_), _) => 6,
            (None, _) => 2,
        };
        at = at.min(json.len());
    }
    let mut json = json;
    for at in lone {
        json.replace_range(at..at + 6, "\\ufffd");
    }
    json
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn characters_that_sqs_rejects_are_escaped() {
        let text = "\u{fffe}\u{ffff}\u{0}\u{1f600}é";
        assert_eq!(to_string(&text).unwrap(), r#""\ufffe\uffff\u0000\ud83d\ude00\u00e9""#);
    }

    #[test]
    fn escapes_in_raw_json_stay_unchanged() {
        let raw = RawValue::from_string(r#"{"a":"\ud800 \u0000 é"}"#.to_owned()).unwrap();
        assert_eq!(to_string(&raw).unwrap(), r#"{"a":"\ud800 \u0000 \u00e9"}"#);
    }

    proptest! {
        #[test]
        fn any_text_survives_the_conversion_to_ascii(text in any::<String>()) {
            let json = to_string(&text).unwrap();
            prop_assert!(json.bytes().all(|byte| (0x20..0x80).contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text.clone());
            prop_assert_eq!(text.chars().map(escaped_len).sum::<usize>() + 2, json.len());
        }
    }

    #[test]
    fn only_lone_surrogates_are_replaced() {
        for (json, expected) in [
            (r#""plain é""#, r#""plain é""#),
            (r#""\ud83d\ude00 \u0041 \n""#, r#""\ud83d\ude00 \u0041 \n""#),
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00\ud83d x""#, r#""\ufffd\ufffd x""#),
            (r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#),
            (r#""a\\ud83d""#, r#""a\\ud83d""#),
            (r#""a\\\ud83d""#, r#""a\\\ufffd""#),
            ("\"a\\", "\"a\\"),
            ("\"\\ué", "\"\\ué"),
        ] {
            assert_eq!(replace_lone_surrogates(json.into()), expected, "{json}");
        }
    }
}
