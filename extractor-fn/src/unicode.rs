//! JSON that every reader can read: half a character, cut from a text by whoever wrote it, is legal
//! in JSON and refused by most parsers.

/// Replaces escapes of lone surrogates in JSON.
pub(crate) fn replace_lone_surrogates(json: String) -> String {
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
    use super::*;

    #[test]
    fn half_characters_are_replaced_and_nothing_else() {
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
