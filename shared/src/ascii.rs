//! JSON in ASCII alone: SQS refuses messages with some Unicode characters (U+FFFE, U+FFFF and
//! most control characters), all of which JSON can spell as escapes.

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

    // Raw JSON holds non-ASCII characters inside its strings only, so the same escape is right.
    fn write_raw_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        escape(writer, fragment)
    }
}

fn escape<W: ?Sized + Write>(writer: &mut W, mut text: &str) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn characters_that_sqs_refuses_are_escaped() {
        let text = "\u{fffe}\u{ffff}\u{0}\u{1f600}é";
        assert_eq!(to_string(&text).unwrap(), r#""\ufffe\uffff\u0000\ud83d\ude00\u00e9""#);
    }

    #[test]
    fn escapes_that_came_in_stay_as_they_came() {
        let raw = RawValue::from_string(r#"{"a":"\ud800 \u0000 é"}"#.to_owned()).unwrap();
        assert_eq!(to_string(&raw).unwrap(), r#"{"a":"\ud800 \u0000 \u00e9"}"#);
    }

    proptest! {
        #[test]
        fn any_text_comes_back_whole_from_ascii_alone(text in any::<String>()) {
            let json = to_string(&text).unwrap();
            prop_assert!(json.bytes().all(|byte| (0x20..0x80).contains(&byte)));
            prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text.clone());
            prop_assert_eq!(text.chars().map(escaped_len).sum::<usize>() + 2, json.len());
        }
    }
}
