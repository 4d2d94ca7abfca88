//! JSON as CBOR and back, as far as CloudWatch's protocol needs it.

use serde_json::{Map, Value};

/// The key of an object that stands for a time, in seconds since 1970: `{"$time": 1767225600}`.
pub(crate) const TIME: &str = "$time";

/// Writes a document.
pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(value, &mut bytes);
    bytes
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(0xf6),
        Value::Bool(value) => out.push(if *value { 0xf5 } else { 0xf4 }),
        Value::Number(number) => {
            if let Some(number) = number.as_u64() {
                return head(0, number, out);
            }
            out.push(0xfb);
            out.extend(number.as_f64().unwrap().to_be_bytes());
        }
        Value::String(text) => {
            head(3, text.len() as u64, out);
            out.extend(text.as_bytes());
        }
        Value::Array(items) => {
            head(4, items.len() as u64, out);
            for item in items {
                write(item, out);
            }
        }
        Value::Object(fields) => {
            if let Some(seconds) = fields.get(TIME) {
                head(6, 1, out);
                out.push(0xfb);
                return out.extend(seconds.as_f64().unwrap().to_be_bytes());
            }
            head(5, fields.len() as u64, out);
            for (name, field) in fields {
                write(&Value::String(name.clone()), out);
                write(field, out);
            }
        }
    }
}

fn head(major: u8, argument: u64, out: &mut Vec<u8>) {
    out.push(major << 5 | 0x1b);
    out.extend(argument.to_be_bytes());
}

/// Reads a document; a time is its seconds.
pub(crate) fn decode(bytes: &[u8]) -> Value {
    let mut rest = bytes;
    read(&mut rest).unwrap_or_default()
}

fn read(rest: &mut &[u8]) -> Option<Value> {
    const BREAK: u8 = 0xff;
    let first = take(rest, 1)?[0];
    let (major, low) = (first >> 5, first & 0x1f);
    if major == 7 {
        return float(low, rest);
    }
    let is_indefinite = low == 31;
    let argument = match low {
        0..=23 => low.into(),
        24 => take(rest, 1)?[0].into(),
        25 => u16::from_be_bytes(take(rest, 2)?.try_into().ok()?).into(),
        26 => u32::from_be_bytes(take(rest, 4)?.try_into().ok()?).into(),
        27 => u64::from_be_bytes(take(rest, 8)?.try_into().ok()?),
        _ => u64::MAX,
    };
    let ends = |rest: &mut &[u8]| {
        let ends = is_indefinite && rest.first() == Some(&BREAK);
        ends.then(|| take(rest, 1)).is_some()
    };
    Some(match major {
        0 => argument.into(),
        1 => (-1 - i64::try_from(argument).ok()?).into(),
        2 | 3 => {
            let text = take(rest, usize::try_from(argument).ok()?)?;
            String::from_utf8_lossy(text).into_owned().into()
        }
        4 => {
            let mut items = Vec::new();
            while (items.len() as u64) < argument && !ends(rest) {
                items.push(read(rest)?);
            }
            items.into()
        }
        5 => {
            let mut fields = Map::new();
            while (fields.len() as u64) < argument && !ends(rest) {
                let name = read(rest)?.as_str()?.to_owned();
                fields.insert(name, read(rest)?);
            }
            fields.into()
        }
        _ => read(rest)?,
    })
}

fn float(low: u8, rest: &mut &[u8]) -> Option<Value> {
    Some(match low {
        20 => false.into(),
        21 => true.into(),
        26 => f32::from_be_bytes(take(rest, 4)?.try_into().ok()?).into(),
        27 => f64::from_be_bytes(take(rest, 8)?.try_into().ok()?).into(),
        _ => Value::Null,
    })
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(count)?;
    *rest = left;
    Some(taken)
}

#[test]
fn what_is_encoded_is_decoded() {
    let document = serde_json::json!({
        "Values": [1, 2.5, true, null], "At": {"$time": 1_767_225_600}, "Name": "é"
    });
    let mut expected = document.clone();
    expected["At"] = 1_767_225_600.0.into();
    assert_eq!(decode(&encode(&document)), expected);
    assert_eq!(decode(b"\xbf\x61a\x9f\x01\x20\xff\xff"), serde_json::json!({"a": [1, -1]}));
}
