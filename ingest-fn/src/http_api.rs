//! Converts the HTTP API's event (payload 2.0) to a request, and an outcome to its response.
//!
//! `lambda_http`'s own reader panics on bad base64 and rejects a whole event for a non-ASCII header.
//! Both fail the invocation, so an unauthenticated request could raise the error alarm. Here no event
//! fails: what cannot be read is left out, and a request without a readable key is unauthorized.

use std::{borrow::Cow, fmt};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use lambda_http::{
    Body,
    aws_lambda_events::apigw::ApiGatewayV2httpResponse,
    http::{HeaderMap, HeaderName, HeaderValue, header::CONTENT_ENCODING},
};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};

/// The HTTP API's response.
pub type Response = ApiGatewayV2httpResponse;

/// The header that carries the key.
pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The headers that decide anything. Gladly and the HTTP API send some fifteen others, which cost more to
/// keep than the key to check.
const USED: [HeaderName; 2] = [API_KEY, CONTENT_ENCODING];

/// A request of the HTTP API, without path, query, method and the headers that are not used.
#[derive(Debug)]
pub struct Request(pub(crate) lambda_http::Request);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    #[serde(default)]
    headers: Option<Headers>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: Option<bool>,
}

impl<'de> Deserialize<'de> for Request {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let payload = Payload::deserialize(deserializer)?;
        let text = payload.body.unwrap_or_default();
        let body = match payload.is_base64_encoded {
            // Invalid base64 is kept unchanged: if authenticated, it is quarantined.
            Some(true) => {
                BASE64_STANDARD.decode(&text).map_or_else(|_| Body::Text(text), Body::Binary)
            }
            _ => Body::Text(text),
        };
        let mut request = lambda_http::Request::new(body);
        *request.headers_mut() = payload.headers.unwrap_or_default().0;
        Ok(Self(request))
    }
}

/// The headers that are used, by names in any case. One that appears twice has two values.
#[derive(Default)]
struct Headers(HeaderMap);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeadersVisitor)
    }
}

struct HeadersVisitor;

impl<'de> Visitor<'de> for HeadersVisitor {
    type Value = Headers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("headers")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Headers, A::Error> {
        let mut headers = HeaderMap::new();
        while let Some(Name(given_name)) = given.next_key()? {
            let used = USED.into_iter().find(|used| given_name.eq_ignore_ascii_case(used.as_str()));
            let Some(name) = used else {
                given.next_value::<IgnoredAny>()?;
                continue;
            };
            let value: Option<String> = given.next_value()?;
            if let Ok(value) = HeaderValue::try_from(value.unwrap_or_default()) {
                headers.append(name, value);
            }
        }
        Ok(Headers(headers))
    }
}

/// A header's name, which is copied only if JSON escapes it.
#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A response in the HTTP API's form.
pub(crate) fn to_response(response: lambda_http::Response<Body>) -> Response {
    let (head, body) = response.into_parts();
    let mut answer = Response::default();
    answer.status_code = head.status.as_u16().into();
    answer.headers = head.headers;
    answer.body = Some(body);
    answer
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(payload: Value) -> lambda_http::Request {
        serde_json::from_value::<Request>(payload).unwrap().0
    }

    #[test]
    fn a_call_is_read_with_header_names_in_any_case() {
        let request = request(json!({
            "version": "2.0", "rawPath": "/x", "requestContext": {"http": {"method": "POST"}},
            "headers": {"X-API-Key": "k", "content-type": "text/plain"},
            "body": "{}", "isBase64Encoded": false,
        }));
        assert_eq!(request.headers()["x-api-key"], "k");
        assert_eq!(request.body().as_ref(), b"{}");
    }

    #[test]
    fn a_base64_body_is_decoded_and_a_bad_one_kept() {
        let body = |text: &str| request(json!({"body": text, "isBase64Encoded": true})).into_body();
        assert_eq!(body("/wA=").as_ref(), b"\xff\x00");
        assert_eq!(body("not base64!").as_ref(), b"not base64!");
    }

    #[test]
    fn any_call_can_be_read() {
        for payload in [
            json!({}),
            json!({"headers": null, "body": null, "isBase64Encoded": null}),
            json!({"headers": {"bad name": "x", "é": "x", "x-api-key": "a\u{0}b", "x": null}}),
        ] {
            assert!(request(payload).headers().get("x-api-key").is_none());
        }
        let text = r#"{"headers": {"x-api-key": "a", "X-Api-Key": "b", "x-\u0061pi-key": "c"}}"#;
        let repeated = serde_json::from_str::<Request>(text).unwrap().0;
        let values: Vec<_> = repeated.headers().get_all("x-api-key").iter().collect();
        assert_eq!(values, ["a", "b", "c"], "none replaces another");
        let accented = request(json!({"headers": {"x-api-key": "kéy"}}));
        assert_eq!(accented.headers()["x-api-key"].as_bytes(), "kéy".as_bytes());
    }
}
