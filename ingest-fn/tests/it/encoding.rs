//! The outcome of a body with a `content-encoding`.

use std::io::Write as _;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use flate2::{Compression, write::GzEncoder};
use lambda_http::Request;
use serde_json::{Value, json};
use shared::Metrics;

use crate::{
    EVENT, KEY, Outcome, TestApp, answer,
    body::Expected::{self, Ignored, Pong, Quarantined, Queued, Truncated},
    payload,
};

const MIB: usize = 1 << 20;
const CLOSED: Expected = Queued("CONVERSATION/CLOSED");

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).unwrap();
    encoder.finish().unwrap()
}

/// An event of this many bytes.
fn sized(bytes: usize) -> String {
    let (begin, end) = (r#"{"type":"A","x":""#, r#"","content":{"conversationId":"c"}}"#);
    format!("{begin}{}{end}", "a".repeat(bytes - begin.len() - end.len()))
}

#[tokio::test(start_paused = true)]
async fn a_gzipped_body_is_decompressed() {
    let marked = format!("\u{feff}{EVENT}");
    let no_utf8 = b"{\"type\":\"A\xff\"}";
    let large = sized(2 * MIB);
    let rows: [(&str, &str, &[u8], Expected); 13] = [
        ("an event", "gzip", EVENT.as_bytes(), CLOSED),
        ("in capitals", "GZIP", EVENT.as_bytes(), CLOSED),
        ("by its old name", "x-gzip", EVENT.as_bytes(), CLOSED),
        ("spaces around", " gzip ", EVENT.as_bytes(), CLOSED),
        ("beside identity", "identity, gzip", EVENT.as_bytes(), CLOSED),
        ("an empty place", "gzip,", EVENT.as_bytes(), CLOSED),
        ("a byte order mark", "gzip", marked.as_bytes(), CLOSED),
        ("a ping", "gzip", br#"{"type":"PING"}"#, Pong),
        ("about no conversation", "gzip", br#"{"type":"A"}"#, Ignored),
        ("no event", "gzip", br#"{"content":{}}"#, Quarantined("no-type")),
        ("no text", "gzip", no_utf8, Quarantined("unreadable")),
        ("nothing", "gzip", b"", Quarantined("unreadable")),
        ("more than a message holds", "gzip", large.as_bytes(), Truncated("too-large")),
    ];
    for (name, encoding, body, expected) in rows {
        // The queues hold the decompressed body, so reading it needs no header.
        check(name, encoding, &gzip(body), expected, body).await;
    }
    // RFC 1952, 2.2: members follow one another.
    let (begin, end) = EVENT.split_at(20);
    let members = [gzip(begin.as_bytes()), gzip(end.as_bytes())].concat();
    check("two members", "gzip", &members, CLOSED, EVENT.as_bytes()).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_cannot_be_decompressed_is_quarantined_unchanged() {
    let event = gzip(EVENT.as_bytes());
    let mut corrupt = event.clone();
    let checksum = corrupt.len() - 8;
    corrupt[checksum] ^= 1;
    let rows: [(&str, &str, Vec<u8>); 12] = [
        ("not gzip", "gzip", EVENT.into()),
        ("nothing", "gzip", Vec::new()),
        ("cut", "gzip", event[..event.len() / 2].into()),
        ("cut in its end", "gzip", event[..event.len() - 1].into()),
        ("another checksum", "gzip", corrupt),
        ("something behind", "gzip", [&event[..], b"\n"].concat()),
        ("gzip twice", "gzip, gzip", gzip(&event)),
        ("brotli", "br", b"\x0b\x02\x80{}\x03".into()),
        ("deflate", "deflate", b"\x78\x9c\x03\x00\x00\x00\x00\x01".into()),
        ("falsely declared as compressed", "zstd", EVENT.into()),
        ("an encoding outside ASCII", "gz\u{ef}p", event.clone()),
        ("gzip without its header", "identity", event),
    ];
    for (name, encoding, body) in rows {
        check(name, encoding, &body, Quarantined("unreadable"), &body).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_10_mib_are_decompressed() {
    let limit = sized(10 * MIB);
    check("10 MiB", "gzip", &gzip(limit.as_bytes()), Truncated("too-large"), limit.as_bytes())
        .await;
    let ignored = format!(r#"{{"type":"A"}}{}"#, " ".repeat(10 * MIB - 12));
    check("10 MiB", "gzip", &gzip(ignored.as_bytes()), Ignored, b"").await;
    // Not truncated: compressed, it fits into a message.
    let beyond = gzip(format!("{ignored} ").as_bytes());
    check("a byte more", "gzip", &beyond, Quarantined("too-large"), &beyond).await;
    // A gigabyte when decompressed.
    let bomb = vec![gzip(&vec![0; 10 * MIB + 1]); 100].concat();
    check("a bomb", "gzip", &bomb, Expected::Truncated("too-large"), &bomb).await;
}

#[tokio::test(start_paused = true)]
async fn an_unauthorized_body_is_not_decompressed() {
    let app = TestApp::new();
    let bomb = gzip(&vec![0; 10 * MIB + 1]);
    let headers = json!({"x-api-key": "an unknown key", "content-encoding": "gzip"});
    assert_eq!(app.call(&payload(&headers, &bomb)).await, (401, answer("unauthorized")));
    assert_eq!(app.messages(), []);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_header_is_one_list() {
    for (values, expected) in
        [(["identity", "gzip"], CLOSED), (["gzip", "br"], Quarantined("unreadable"))]
    {
        let (app, body) = (TestApp::new(), gzip(EVENT.as_bytes()));
        let mut request = Request::new(body.as_slice().into());
        request.headers_mut().insert("x-api-key", KEY.parse().unwrap());
        for value in values {
            request.headers_mut().append("content-encoding", value.parse().unwrap());
        }
        let outcome = app.ingest.receive(request, &mut Metrics::default()).await;
        assert_eq!(outcome, expected.response().0);
        let stored = if outcome == Outcome::Queued { EVENT.as_bytes() } else { &body };
        expected.check(&app.messages(), stored);
    }
}

/// Sends a body through Lambda's event, as the HTTP API encodes it.
async fn check(name: &str, encoding: &str, body: &[u8], expected: Expected, stored: &[u8]) {
    let app = TestApp::new();
    let headers = json!({"X-Api-Key": KEY, "Content-Encoding": encoding});
    let mut payload = payload(&headers, b"");
    payload["body"] = BASE64_STANDARD.encode(body).into();
    payload["isBase64Encoded"] = Value::Bool(true);
    assert_eq!(app.call(&payload).await, (200, answer(expected.response().1)), "{name}");
    expected.check(&app.messages(), stored);
}
