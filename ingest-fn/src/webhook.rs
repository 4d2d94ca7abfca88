//! A webhook whose key has been checked.

use std::io::Read;

use flate2::bufread::MultiGzDecoder;
use jiff::Timestamp;
use lambda_http::{
    Body, Request,
    http::{HeaderMap, header::CONTENT_ENCODING},
};
use shared::{
    ERASURE_EVENT_TYPES, Id, InvalidEvent, Origin, Parameter, ParameterError, QueueMessage,
    SettleWindow, WebhookEvent,
};

use crate::{
    api_keys::{self, ActiveKeys},
    http_api,
};

/// The largest decompressed body: the HTTP API's limit of an uncompressed one
/// (<https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-quotas.html>).
const DECOMPRESSED_LIMIT: usize = 10 << 20;

/// An authenticated webhook.
///
/// [`Webhook::authenticate`] is the only way to make one, so nothing unauthenticated can reach a
/// queue: that does not compile.
pub struct Webhook {
    slot: usize,
    body: Body,
    /// Why the body could not be decompressed, if it could not.
    undecoded: Option<InvalidEvent>,
}

/// Why a request is rejected before its body is read.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// A missing, wrong, empty or repeated key.
    #[error("no valid x-api-key")]
    Unauthorized,
    /// There are no keys to compare with.
    #[error("no webhook keys to check against")]
    NoKeys(#[from] ParameterError),
}

impl Webhook {
    /// Checks the request's key, then decodes its `content-encoding`.
    pub async fn authenticate(
        request: Request,
        keys: &Parameter<ActiveKeys>,
    ) -> Result<Self, Rejection> {
        let mut presented = request.headers().get_all(http_api::API_KEY).into_iter();
        let (Some(key), None) = (presented.next(), presented.next()) else {
            return Err(Rejection::Unauthorized);
        };
        if key.is_empty() {
            return Err(Rejection::Unauthorized);
        }
        let slot = api_keys::slot(keys, key.as_bytes()).await?.ok_or(Rejection::Unauthorized)?;
        let (head, body) = request.into_parts();
        let (body, undecoded) = match decoded(&head.headers, &body) {
            Ok(None) => (body, None),
            Ok(Some(json)) => (json.into(), None),
            Err(why) => (body, Some(why)),
        };
        Ok(Self { slot, body, undecoded })
    }

    /// Its key's slot in the parameter, counted from 1.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The body, decompressed if that was possible. Only this is stored: it is read later without the
    /// header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// What to do with it.
    pub(crate) fn action(
        &self,
        received_at: Timestamp,
        settle_window: SettleWindow,
        forwards_erasures: bool,
    ) -> Result<Action, InvalidEvent> {
        if let Some(why) = &self.undecoded {
            return Err(why.clone());
        }
        let text = str::from_utf8(&self.body).map_err(|_| InvalidEvent::NotUtf8)?;
        let event = match WebhookEvent::read(text)? {
            WebhookEvent::Ping => return Ok(Action::Pong),
            WebhookEvent::Event(event) => event,
        };
        let is_erasure = ERASURE_EVENT_TYPES.contains(&&*event.event_type);
        if is_erasure && !forwards_erasures {
            return Ok(Action::Ignore);
        }
        Ok(match event.subject {
            None if is_erasure => Action::IgnoreErasure(event.id),
            None => Action::Ignore,
            Some(_) => Action::Enqueue(QueuedEvent {
                body: QueueMessage::wrap(text, received_at, Origin::Webhook)?.to_json()?,
                type_attribute: QueueMessage::type_attribute(&event.event_type),
                delay_seconds: settle_window.seconds(&event.event_type),
            }),
        })
    }
}

/// What to do with a webhook that can be read.
pub(crate) enum Action {
    /// Gladly tests the endpoint.
    Pong,
    /// It is about nothing that the relay forwards.
    Ignore,
    /// A deletion or a merge that does not name its customer. The event's id, if it has one.
    IgnoreErasure(Option<Id>),
    /// It is to be extracted.
    Enqueue(QueuedEvent),
}

/// An event for the queue.
pub(crate) struct QueuedEvent {
    pub(crate) body: String,
    pub(crate) type_attribute: String,
    /// How long SQS hides it first.
    pub(crate) delay_seconds: u16,
}

/// The decoded body, or `None` without a `content-encoding`. Only a single `gzip` is decoded, in one
/// member or several; no sender of webhooks uses more.
fn decoded(headers: &HeaderMap, body: &[u8]) -> Result<Option<Vec<u8>>, InvalidEvent> {
    let values = headers.get_all(CONTENT_ENCODING).into_iter();
    let mut encodings = values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"identity"));
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(None),
        (Some(name), None)
            if [&b"gzip"[..], b"x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip)) =>
        {
            gunzip(body).map(Some)
        }
        _ => Err(InvalidEvent::UnknownEncoding),
    }
}

fn gunzip(body: &[u8]) -> Result<Vec<u8>, InvalidEvent> {
    let mut json = Vec::new();
    let bounded = MultiGzDecoder::new(body).take(DECOMPRESSED_LIMIT as u64 + 1);
    { bounded }.read_to_end(&mut json).map_err(|_| InvalidEvent::BrokenGzip)?;
    if json.len() > DECOMPRESSED_LIMIT {
        return Err(InvalidEvent::DecompressedTooLarge(DECOMPRESSED_LIMIT));
    }
    Ok(json)
}
