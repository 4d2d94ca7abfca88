//! JSON that others write, read leniently: a malformed field or entry costs only itself.

use std::{borrow::Cow, collections::HashMap};

use serde::Deserialize;
use serde_json::value::RawValue;
use shared::exceeds_max_depth;

/// A field that may be missing, null, or of any type.
pub(crate) type Field<'a> = Option<&'a RawValue>;

/// An object's fields. Of duplicates the last one counts, as for most readers.
#[derive(Debug, Default)]
pub(crate) struct Fields<'a>(HashMap<Cow<'a, str>, &'a RawValue>);

impl<'a> Fields<'a> {
    /// `None` if it is not an object.
    pub(crate) fn read(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok().map(Self)
    }

    /// No fields at all if it is not an object.
    pub(crate) fn of(field: Field<'a>) -> Self {
        field.and_then(|raw| Self::read(raw.get())).unwrap_or_default()
    }

    /// A field that is present and not null.
    pub(crate) fn get(&self, name: &str) -> Field<'a> {
        self.0.get(name).copied().filter(|raw| raw.get() != "null")
    }

    pub(crate) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        text(self.get(name)?)
    }

    /// The entries of a list.
    pub(crate) fn list(&self, name: &str) -> Option<Vec<&'a RawValue>> {
        list(self.get(name)?.get())
    }

    /// An object, unchanged, that is not nested too deeply for other readers.
    pub(crate) fn object(&self, name: &str) -> Field<'a> {
        self.get(name).filter(|raw| raw.get().starts_with('{') && !exceeds_max_depth(raw.get()))
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, raw)| (&**name, *raw))
    }
}

/// A text that is not empty: Gladly also writes unset fields as empty texts.
pub(crate) fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let Text(text) = serde_json::from_str(raw.get()).ok()?;
    (!text.is_empty()).then_some(text)
}

/// The entries of a list. Null counts as an empty list: some servers write it so.
pub(crate) fn list(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::from_str::<Option<Vec<&RawValue>>>(json).ok().map(Option::unwrap_or_default)
}

/// Who did something, as Gladly gives it, without an `id` or `type` that is not a text. `None` if it
/// is not an object, or if it had only malformed ones.
pub(crate) fn participant(raw: &RawValue) -> Option<Box<RawValue>> {
    let is_named = |name: &str| matches!(name, "id" | "type");
    let is_malformed = |depth: usize, name: &str, value: &str| {
        depth == 1 && is_named(name) && !value.starts_with('"')
    };
    let fields = Fields::read(raw.get())?;
    let (texts, others): (Vec<_>, Vec<_>) = fields
        .iter()
        .filter(|(name, _)| is_named(name))
        .partition(|(_, raw)| raw.get().starts_with('"'));
    match (texts.is_empty(), others.is_empty()) {
        (_, true) => Some(raw.to_owned()),
        (false, false) => RawValue::from_string(without(raw.get(), is_malformed)).ok(),
        (true, false) => None,
    }
}

/// JSON without the members that `unwanted` selects by depth, name and value; the outermost have
/// depth 1. Everything else stays byte for byte. The text must be valid JSON and not nested too
/// deeply ([`exceeds_max_depth`]).
pub(crate) fn without(json: &str, unwanted: impl Fn(usize, &str, &str) -> bool) -> String {
    let out = String::with_capacity(json.len());
    let mut copy = Copying { json, at: 0, out, unwanted };
    copy.spaces();
    copy.value(0);
    copy.spaces();
    copy.out
}

/// A copy that has come as far as `at`.
struct Copying<'a, F> {
    json: &'a str,
    at: usize,
    out: String,
    unwanted: F,
}

impl<F: Fn(usize, &str, &str) -> bool> Copying<'_, F> {
    fn next(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    /// Copies this many bytes.
    fn take(&mut self, bytes: usize) {
        let end = self.at.saturating_add(bytes).min(self.json.len());
        self.out.push_str(&self.json[self.at..end]);
        self.at = end;
    }

    fn take_while(&mut self, wanted: impl Fn(&u8) -> bool) {
        let rest = &self.json.as_bytes()[self.at..];
        self.take(rest.iter().take_while(|byte| wanted(byte)).count());
    }

    fn spaces(&mut self) {
        self.take_while(u8::is_ascii_whitespace);
    }

    fn string(&mut self) {
        let mut escaped = true;
        let rest = &self.json.as_bytes()[self.at..];
        let end = rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            // The opening quote is passed as if it were escaped.
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        self.take(end.map_or(rest.len(), |end| end + 1));
    }

    fn value(&mut self, depth: usize) {
        match self.next() {
            Some(b'{') => self.entries(depth + 1, true),
            Some(b'[') => self.entries(depth + 1, false),
            Some(b'"') => self.string(),
            _ => self.take_while(|byte| !matches!(byte, b',' | b'}' | b']')),
        }
    }

    /// A list, or an object without its unwanted members.
    fn entries(&mut self, depth: usize, named: bool) {
        self.take(1);
        let mut is_first = true;
        loop {
            let before = self.out.len();
            if !is_first {
                self.out.push(',');
            }
            self.spaces();
            if matches!(self.next(), None | Some(b'}' | b']')) {
                break;
            }
            if self.entry(depth, named) {
                is_first = false;
            } else {
                self.out.truncate(before);
            }
            if self.next() != Some(b',') {
                break;
            }
            self.at += 1;
        }
        self.take(1);
    }

    /// Copies an entry and the space after it, and returns whether to keep it.
    fn entry(&mut self, depth: usize, named: bool) -> bool {
        let mut name = None;
        if named {
            let begin = self.at;
            self.string();
            name = Some(&self.json[begin..self.at]);
            self.spaces();
            self.take(1);
            self.spaces();
        }
        let begin = self.at;
        self.value(depth);
        let value = &self.json[begin..self.at];
        self.spaces();
        name.is_none_or(|name| !(self.unwanted)(depth, &unescaped(name), value))
    }
}

/// A JSON string's value.
fn unescaped(json: &str) -> Cow<'_, str> {
    match json.strip_prefix('"').and_then(|json| json.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => plain.into(),
        _ => serde_json::from_str::<String>(json).unwrap_or_default().into(),
    }
}

/// A text inside an object.
pub(crate) fn inner(field: Field<'_>, name: &str) -> Option<String> {
    Fields::of(field).text(name).map(Cow::into_owned)
}

pub(crate) fn is_object(raw: &&RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Whether it is shallow enough for every reader.
pub(crate) fn is_readable(raw: &&RawValue) -> bool {
    !exceeds_max_depth(raw.get())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_stays_stays_byte_for_byte() {
        for (given, expected) in [
            ("{}", "{}"),
            (" { } ", " { } "),
            (r#"{"x":1}"#, "{}"),
            (r#"{ "x" : 1 }"#, "{}"),
            (r#"{"x":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{"a":2,"x":1}"#, r#"{"a":2}"#),
            (r#"{"a":1 , "x":[{"b":","}] , "c":3 }"#, r#"{"a":1 , "c":3 }"#),
            (r#"{"x":1,"a":2,"x":3,"a":4}"#, r#"{"a":2,"a":4}"#),
            (r#"{"\u0078":1,"\u0061":"\u0061\"x\\"}"#, r#"{"\u0061":"\u0061\"x\\"}"#),
            (r#"[{"x":1},{"a":{"x":{}}}, "x" ]"#, r#"[{},{"a":{}}, "x" ]"#),
            (
                r#"{"n":[1.10,19.990000000000002,12345678901234567890123,1e999,-0.0,true,null],"x":""}"#,
                r#"{"n":[1.10,19.990000000000002,12345678901234567890123,1e999,-0.0,true,null]}"#,
            ),
            (r#""x""#, r#""x""#),
            ("1e999", "1e999"),
        ] {
            assert_eq!(without(given, |_, name, _| name == "x"), expected, "{given}");
        }
        let outermost =
            without(r#"{"x":1,"a":{"x":1}}"#, |depth, _, value| depth == 1 && value == "1");
        assert_eq!(outermost, r#"{"a":{"x":1}}"#);
    }

    #[test]
    fn a_participant_keeps_what_can_be_read_of_it() {
        for (given, expected) in [
            (
                r#"{"id":"a", "type":"AGENT","new":1}"#,
                Some(r#"{"id":"a", "type":"AGENT","new":1}"#),
            ),
            ("{}", Some("{}")),
            (r#"{"id":null,"type":"AGENT"}"#, Some(r#"{"type":"AGENT"}"#)),
            (r#"{"id":7,"type":"AGENT","id":"a"}"#, Some(r#"{"id":7,"type":"AGENT","id":"a"}"#)),
            (r#"{"id":"a","type":{"id":1},"n":{"id":1}}"#, Some(r#"{"id":"a","n":{"id":1}}"#)),
            (r#"{"id":7}"#, None),
            (r#"{"type":null}"#, None),
            (r#"["a","b"]"#, None),
            (r#""AGENT""#, None),
        ] {
            let raw: &RawValue = serde_json::from_str(given).unwrap();
            assert_eq!(participant(raw).as_deref().map(RawValue::get), expected, "{given}");
        }
    }

    #[test]
    fn malformed_fields_and_entries_cost_only_themselves() {
        let fields = Fields::read(r#"{"a":1,"a":"x","e":"","n":null,"l":[1,"y"]}"#).unwrap();
        assert_eq!(fields.text("a").as_deref(), Some("x"), "the last one counts");
        for name in ["e", "n", "l", "missing"] {
            assert_eq!(fields.text(name), None, "{name}");
        }
        assert_eq!(fields.list("l").unwrap().len(), 2);
        assert!(fields.list("n").is_none() && fields.list("a").is_none());
        assert_eq!(list("null").unwrap().len(), 0);
        assert!(list("{}").is_none() && Fields::read("[]").is_none());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            let name = prop_oneof![Just("x".to_owned()), any::<String>()];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name, inner), 0..6).prop_map(Value::from_iter),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_copy_lacks_what_is_unwanted_and_nothing_else(value in any_json()) {
            fn strip(value: &mut Value) {
                match value {
                    Value::Object(fields) => {
                        fields.remove("x");
                        fields.values_mut().for_each(strip);
                    }
                    Value::Array(values) => values.iter_mut().for_each(strip),
                    _ => {}
                }
            }
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                prop_assert_eq!(&without(&text, |_, _, _| false), &text);
                let copy: Value = serde_json::from_str(&without(&text, |_, name, _| name == "x")).unwrap();
                let mut expected: Value = serde_json::from_str(&text).unwrap();
                strip(&mut expected);
                prop_assert_eq!(copy, expected);
            }
        }
    }
}
