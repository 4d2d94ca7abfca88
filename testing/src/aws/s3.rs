//! S3: the bucket of deliveries, as far as they are written to it. It verifies every signature as S3 does.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp, civil::DateTime, fmt::strtime, tz::Offset};
use sha2::{Digest as _, Sha256};

use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

use super::{Fault, SECRET_KEY, State};

/// How far a signature's time may be from S3's.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(15);
/// The most bytes of a key.
const KEY_BYTES: usize = 1_024;

/// An object that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The bucket's name.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its `content-type`.
    pub content_type: String,
    /// Its content.
    pub body: Vec<u8>,
}

impl State {
    /// Writes an object, unless the request is not signed as S3 expects it.
    pub(super) fn s3(&mut self, request: &HttpRequest, now: Timestamp) -> Result<(), Fault> {
        assert_eq!(request.method(), "PUT", "the relay only writes");
        let (bucket, key) = place(request.uri());
        let header = |name| request.headers().get(name).unwrap_or_default();
        check_signature(request, now)?;
        if key.len() > KEY_BYTES {
            return Err(Fault::Refused(400, "KeyTooLongError"));
        }
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let content_type = header("content-type").to_owned();
        self.objects.push(Object { bucket, key, content_type, body });
        Ok(())
    }
}

/// Bucket and key of a request: the bucket is in the host, or the path's first segment.
pub(super) fn place(uri: &str) -> (String, String) {
    let rest = uri.strip_prefix("https://").unwrap_or(uri);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (bucket, key) = match host.split_once(".s3.") {
        Some((bucket, _)) => (bucket, path),
        None => path.split_once('/').unwrap_or((path, "")),
    };
    (bucket.to_owned(), decoded(key))
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits: Option<String> =
            (byte == b'%').then(|| rest.by_ref().take(2).map(char::from).collect());
        let coded = digits.and_then(|digits| u8::from_str_radix(&digits, 16).ok());
        bytes.push(coded.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'-' | b'.' | b'_' | b'~' | b'/' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

/// Computes the signature once more, from what arrived
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html>).
fn check_signature(request: &HttpRequest, now: Timestamp) -> Result<(), Fault> {
    const WRONG: Fault = Fault::Refused(403, "SignatureDoesNotMatch");
    let header = |name: &str| request.headers().get(name).unwrap_or_default();
    let field = |name: &str| {
        let fields = header("authorization").split([' ', ',']);
        fields.filter_map(|field| field.split_once('=')).find(|(field, _)| *field == name)
    };
    let [scope, signed, signature] = ["Credential", "SignedHeaders", "Signature"].map(field);
    let (Some((_, scope)), Some((_, signed)), Some((_, signature))) = (scope, signed, signature)
    else {
        return Err(Fault::Refused(403, "AccessDenied"));
    };
    let at = header("x-amz-date");
    let time = strtime::parse("%Y%m%dT%H%M%SZ", at).and_then(|time| time.to_datetime());
    let time = time.and_then(|time: DateTime| Offset::UTC.to_timestamp(time));
    if time.map_err(|_| WRONG)?.duration_since(now).abs() > MAX_SKEW {
        return Err(Fault::Refused(403, "RequestTimeTooSkewed"));
    }
    let hash = hex(&Sha256::digest(request.body().bytes().unwrap_or_default()));
    if header("x-amz-content-sha256") != hash {
        return Err(Fault::Refused(400, "XAmzContentSHA256Mismatch"));
    }
    let rest = request.uri().strip_prefix("https://").unwrap_or_default();
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let value = |name: &str| if name == "host" { host } else { header(name).trim() };
    let headers: Vec<_> =
        signed.split(';').map(|name| format!("{name}:{}\n", value(name))).collect();
    let headers = headers.concat();
    // Whatever the path's own encoding is, S3 encodes the key by its own rule.
    let path = encoded(&decoded(path));
    let canonical = format!("PUT\n/{path}\n\n{headers}\n{signed}\n{hash}");
    let [_, date, region, service, end] = scope.split('/').collect::<Vec<_>>()[..] else {
        return Err(WRONG);
    };
    let canonical = hex(&Sha256::digest(canonical));
    let text = format!("AWS4-HMAC-SHA256\n{at}\n{date}/{region}/{service}/{end}\n{canonical}");
    let key = [date, region, "s3", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET_KEY}").into_bytes(), |key, part| keyed(&key, part));
    let required = ["host", "x-amz-content-sha256", "x-amz-date"];
    let covers = required.iter().all(|name| signed.split(';').any(|signed| signed == *name));
    if covers && hex(&keyed(&key, &text)) == signature { Ok(()) } else { Err(WRONG) }
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    // A key of any length is one.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return Vec::new() };
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}
