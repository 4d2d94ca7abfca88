//! A bucket that deliveries are written to, over the process's own connector, and what S3's responses mean.

use std::sync::atomic::{AtomicI64, Ordering};

use aws_config::SdkConfig;
use jiff::{SignedDuration, Timestamp};
use shared::{Bucket, BucketUrl, Clock, FailureStatus, error_chain};
use tokio::time::Instant;

use crate::{
    client::{
        destination::{
            ndjson::{Object, objects},
            result::{DeliveryResult, OPERATION_TIMEOUT, failure},
        },
        http::{Http, Response, Wanted},
        retry::Retry,
    },
    gate::Permission,
};

/// What S3 calls an error that another attempt may not meet
/// (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>). Every attempt has its own signature: with the
/// credentials as they are then, and by S3's time once it has shown that this machine's clock is wrong.
const TRANSIENT: [&str; 5] =
    ["ExpiredToken", "InternalError", TOO_SKEWED, "RequestTimeout", "SlowDown"];
/// This machine's clock differs from S3's by more than 15 minutes.
const TOO_SKEWED: &str = "RequestTimeTooSkewed";

/// What every object is sent with. Not content-encoding: clients would decompress what is
/// compressed by its name.
const HEADERS: [(&str, &str); 2] =
    [("content-type", "application/gzip"), ("user-agent", crate::USER_AGENT)];

/// The bucket's client.
pub(crate) struct S3 {
    http: Http,
    bucket: Bucket,
    /// What all keys begin with.
    key_prefix: String,
    clock: Clock,
    /// How far S3's clock is ahead of this machine's, in seconds; 0 until S3 has rejected a signature's time.
    clock_offset: AtomicI64,
}

impl S3 {
    /// The bucket at this URL, in the region of the SDK's settings, with their credentials.
    pub(crate) fn new(aws: &SdkConfig, http: Http, url: &BucketUrl, clock: Clock) -> Self {
        let (bucket, key_prefix) = (Bucket::new(aws, url.bucket()), url.key_prefix());
        Self { http, bucket, key_prefix, clock, clock_offset: AtomicI64::new(0) }
    }

    /// Writes a delivery's objects one after another, so that a reader never sees an event without its snapshot.
    pub(super) async fn deliver(
        &self,
        json: &[u8],
        deadline: Instant,
        permission: &impl Permission,
        on_failure: impl Fn(FailureStatus),
    ) -> DeliveryResult {
        let objects = match objects(json) {
            Ok(objects) => objects,
            Err(err) => return DeliveryResult::Inconclusive(error_chain(&err)),
        };
        let deadline = deadline.min(Instant::now() + OPERATION_TIMEOUT);
        for object in objects {
            let result = self.put(&object, deadline, permission, &on_failure).await;
            if !matches!(result, DeliveryResult::Accepted) {
                return result;
            }
        }
        DeliveryResult::Accepted
    }

    /// Writes one object, the same bytes under the same key in every attempt.
    async fn put(
        &self,
        object: &Object,
        deadline: Instant,
        permission: &impl Permission,
        on_failure: impl Fn(FailureStatus),
    ) -> DeliveryResult {
        let key = format!("{}{}", self.key_prefix, object.key);
        let mut retry = Retry::new(deadline.saturating_duration_since(Instant::now()));
        loop {
            if let Err(interrupted) = permission.check().await {
                return DeliveryResult::Interrupted(interrupted);
            }
            let request =
                self.bucket.request("PUT", &key, &HEADERS, &object.body, self.signing_time());
            let request = match request.await {
                Ok(request) => request,
                Err(err) => return DeliveryResult::Inconclusive(error_chain(&err)),
            };
            let answer = retry.send(&self.http, request, Wanted::Error).await;
            if let Some(status) = failure(&answer) {
                on_failure(status);
            }
            let (why, retry_after) = match answer {
                Ok(Response { status: 200..=299, .. }) => return DeliveryResult::Accepted,
                Ok(answer) => {
                    let (code, now) = (error_code(&answer.body), self.clock.now());
                    let why = match code {
                        Some(code) => format!("S3 answered {} {code}", answer.status),
                        None => format!("S3 answered {}", answer.status),
                    };
                    if !is_transient(answer.status, code) {
                        return DeliveryResult::Fatal(why);
                    }
                    if let Some(time) = answer.date().filter(|_| code == Some(TOO_SKEWED)) {
                        let offset = time.duration_since(now).as_secs();
                        self.clock_offset.store(offset, Ordering::Relaxed);
                    }
                    (why, answer.retry_after(now))
                }
                Err(err) => (format!("could not reach S3: {}", error_chain(&err)), None),
            };
            if !retry.backoff(retry_after).await {
                return DeliveryResult::NotReady { why, retry_after };
            }
        }
    }

    /// The time by S3's clock, as far as it is known.
    fn signing_time(&self) -> Timestamp {
        let offset = SignedDuration::from_secs(self.clock_offset.load(Ordering::Relaxed));
        let now = self.clock.now();
        now.checked_add(offset).unwrap_or(now)
    }
}

/// Whether another attempt may succeed. Anything else needs the operator: S3 refuses no content.
fn is_transient(status: u16, code: Option<&str>) -> bool {
    code.is_some_and(|code| TRANSIENT.contains(&code)) || (500..=599).contains(&status)
}

/// The code of S3's error, which is XML; `None` if there is none that may be logged.
fn error_code(body: &[u8]) -> Option<&str> {
    let (_, rest) = str::from_utf8(body).ok()?.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    let is_code = (1..=64).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_alphanumeric());
    is_code.then_some(code)
}
