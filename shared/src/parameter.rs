//! A parameter of SSM's Parameter Store, cached for a while, and served stale while SSM is down.

use std::{fmt::Display, str::FromStr, sync::Arc, time::Duration};

use aws_sdk_ssm::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    operation::{get_parameter::GetParameterError, put_parameter::PutParameterError},
    primitives::DateTime,
    types::ParameterType,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::warn;

use crate::{Clock, ClockErrors, error_chain, without_bom};

/// The longest that a read may take, retries included. The shortest promise that depends on it is
/// the pause's: 15 s, of which the cache takes 10.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(3);
/// The longest that one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1_400);
/// How long a failed read is not repeated while there is a cached value to serve.
const FAILURE_TTL: SignedDuration = SignedDuration::from_secs(2);
/// The longest wait between two throttled reads: at first, doubling from there, and at most.
const THROTTLED_WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// SSM's errors that last until the operator writes the parameter or grants access to it.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameter.html>
const LASTING: [&str; 6] = [
    "AccessDenied",
    "AccessDeniedException",
    "InvalidKeyId",
    "ParameterNotFound",
    "ParameterVersionNotFound",
    "ValidationException",
];

/// An SSM client with this module's timeouts and retries.
pub fn ssm_client(config: impl Into<Builder>) -> Client {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(ATTEMPT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT);
    let retries = RetryConfig::standard().with_initial_backoff(Duration::from_millis(50));
    let config = config.into().timeout_config(timeouts.build()).retry_config(retries);
    Client::from_conf(config.retry_classifier(ClockErrors).build())
}

/// A parameter whose text is read as a `T`.
pub struct Parameter<T> {
    ssm: Client,
    clock: Clock,
    name: String,
    ttl: SignedDuration,
    /// The value while there is no such parameter.
    default: Option<Arc<T>>,
    /// Locked during a read, so that many callers share one.
    kept: Mutex<Kept<T>>,
}

struct Kept<T> {
    good: Option<Arc<T>>,
    /// When the good value was written; `None` while there is no such parameter.
    written_at: Option<Timestamp>,
    read_at: Timestamp,
    /// When a read failed, until one succeeds.
    failed_at: Timestamp,
    /// When a value was last read early.
    early_refresh_at: Timestamp,
}

/// Why a parameter has no value.
#[derive(Debug, thiserror::Error)]
pub enum ParameterError {
    /// SSM did not return it.
    #[error("could not read the parameter {name}")]
    Unreadable {
        /// The parameter's name.
        name: String,
        /// SSM's error.
        source: Box<SdkError<GetParameterError>>,
    },
    /// Its value is not valid.
    #[error("the parameter {name} is not valid: {reason}")]
    Invalid {
        /// The parameter's name.
        name: String,
        /// What was expected.
        reason: String,
    },
    /// SSM did not store it.
    #[error("could not write the parameter {name}")]
    NotWritten {
        /// The parameter's name.
        name: String,
        /// SSM's error.
        source: Box<SdkError<PutParameterError>>,
    },
}

impl ParameterError {
    /// Whether it lasts until the operator writes the parameter or grants access to it. Other failures
    /// are transient.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        match self {
            // Any other error, such as throttling, an internal error or an unknown code, is better
            // retried than treated as a missing secret.
            Self::Unreadable { source, .. } => {
                let code = source.as_service_error().and_then(ProvideErrorMetadata::code);
                code.is_some_and(|code| LASTING.contains(&code))
            }
            Self::Invalid { .. } => true,
            Self::NotWritten { .. } => false,
        }
    }

    /// Whether SSM throttled the read: it allows 40 per second and account, unless higher throughput
    /// is enabled
    /// (<https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-throughput.html>).
    fn is_throttled(&self) -> bool {
        let Self::Unreadable { source, .. } = self else { return false };
        let code = source.as_service_error().and_then(ProvideErrorMetadata::code);
        code.is_some_and(|code| code.contains("Throttl") || code == "RequestLimitExceeded")
    }
}

impl<T: FromStr<Err: Display>> Parameter<T> {
    /// A parameter whose value is cached for `ttl`.
    #[must_use]
    pub fn new(ssm: Client, name: String, ttl: SignedDuration, clock: Clock) -> Self {
        let kept = Kept {
            good: None,
            written_at: None,
            read_at: Timestamp::MIN,
            failed_at: Timestamp::MIN,
            early_refresh_at: Timestamp::MIN,
        };
        Self { ssm, clock, name, ttl, default: None, kept: Mutex::new(kept) }
    }

    /// The same parameter, with this value if it is missing.
    #[must_use]
    pub fn with_default(self, default: T) -> Self {
        Self { default: Some(Arc::new(default)), ..self }
    }

    /// The value, at most `ttl` old. If it cannot be read, the last good one; an error only if there
    /// has never been one.
    pub async fn value(&self) -> Result<Arc<T>, ParameterError> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(good) = &kept.good
            && (within(kept.read_at, now, self.ttl) || within(kept.failed_at, now, FAILURE_TTL))
        {
            return Ok(Arc::clone(good));
        }
        self.renew(&mut kept, now).await
    }

    /// The value as from [`Parameter::value`]. If there is none yet and SSM throttles, the read is
    /// retried for `limit`, with exponential back-off and full jitter, so that many environments that
    /// start at once do not retry in step.
    pub async fn value_within(&self, limit: Duration) -> Result<Arc<T>, ParameterError> {
        let until = Instant::now() + limit;
        let (mut longest, most) = THROTTLED_WAITS;
        let mut err = match self.value().await {
            Err(err) if err.is_throttled() => err,
            answer => return answer,
        };
        loop {
            let next = Instant::now() + longest.mul_f64(fastrand::f64());
            if next >= until {
                return Err(err);
            }
            sleep_until(next).await;
            longest = (longest * 2).min(most);
            // The SDK's own attempts take time too.
            err = match timeout_at(until, self.value()).await {
                Ok(Err(err)) if err.is_throttled() => err,
                Ok(answer) => return answer,
                Err(_) => return Err(err),
            };
        }
    }

    /// The value as from [`Parameter::value`], but read early, since it may have changed; at most once
    /// per `interval`, so that unauthenticated requests cannot cause more reads.
    pub async fn refresh_if_older(
        &self,
        interval: SignedDuration,
    ) -> Result<Arc<T>, ParameterError> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(good) = &kept.good
            && within(kept.early_refresh_at, now, interval)
        {
            return Ok(Arc::clone(good));
        }
        kept.early_refresh_at = now;
        self.renew(&mut kept, now).await
    }

    /// The current value, and when it was written. An error if that cannot be read, even if there is
    /// a cached value.
    pub async fn fetch(&self) -> Result<(Arc<T>, Option<Timestamp>), ParameterError> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        let (value, written_at) = self.read().await?;
        kept.keep(Arc::clone(&value), written_at, now);
        Ok((value, written_at))
    }

    /// The last good value, however old it is, and when it was written. Reads nothing.
    pub async fn last(&self) -> Option<(Arc<T>, Option<Timestamp>)> {
        let kept = self.kept.lock().await;
        kept.good.as_ref().map(|good| (Arc::clone(good), kept.written_at))
    }

    /// Writes a value, and caches it.
    pub async fn write(&self, text: String) -> Result<(), ParameterError> {
        let value = text.parse().map_err(|err| self.invalid(&err))?;
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        let request = self.ssm.put_parameter().name(&self.name).value(text).overwrite(true);
        let written = Box::pin(request.r#type(ParameterType::String).send()).await;
        written.map_err(|err| ParameterError::NotWritten {
            name: self.name.clone(),
            source: Box::new(err),
        })?;
        kept.keep(Arc::new(value), Some(now), now);
        Ok(())
    }

    async fn renew(&self, kept: &mut Kept<T>, now: Timestamp) -> Result<Arc<T>, ParameterError> {
        match self.read().await {
            Ok((value, written_at)) => {
                // Dated before the read, which may miss a concurrent write.
                kept.keep(Arc::clone(&value), written_at, now);
                Ok(value)
            }
            Err(err) => {
                kept.failed_at = self.clock.now();
                let Some(good) = &kept.good else {
                    return Err(err);
                };
                warn!(
                    parameter = self.name,
                    error = error_chain(&err),
                    "could not refresh parameter; using the cached value"
                );
                Ok(Arc::clone(good))
            }
        }
    }

    async fn read(&self) -> Result<(Arc<T>, Option<Timestamp>), ParameterError> {
        let request = self.ssm.get_parameter().name(&self.name).with_decryption(true);
        // Boxed: the SDK's futures are large, and this one is part of many others.
        let answer = match (Box::pin(request.send()).await, &self.default) {
            (Ok(answer), _) => answer,
            (Err(err), Some(default)) if is_missing(&err) => {
                return Ok((Arc::clone(default), None));
            }
            (Err(err), _) => {
                return Err(ParameterError::Unreadable {
                    name: self.name.clone(),
                    source: Box::new(err),
                });
            }
        };
        let found = answer.parameter();
        let text = found.and_then(|parameter| parameter.value()).unwrap_or_default();
        let text = without_bom(text);
        let value = text.parse().map_err(|err| self.invalid(&err))?;
        let written_at = found.and_then(|parameter| parameter.last_modified_date());
        let instant = |at: &DateTime| {
            Timestamp::new(at.secs(), at.subsec_nanos().try_into().unwrap_or_default()).ok()
        };
        Ok((Arc::new(value), written_at.and_then(instant)))
    }

    fn invalid(&self, reason: &T::Err) -> ParameterError {
        ParameterError::Invalid { name: self.name.clone(), reason: reason.to_string() }
    }
}

impl<T> Kept<T> {
    fn keep(&mut self, value: Arc<T>, written_at: Option<Timestamp>, read_at: Timestamp) {
        self.good = Some(value);
        self.written_at = written_at;
        self.read_at = read_at;
        self.failed_at = Timestamp::MIN;
    }
}

fn is_missing(err: &SdkError<GetParameterError>) -> bool {
    err.as_service_error().is_some_and(GetParameterError::is_parameter_not_found)
}

/// Whether `then` is less than `age` ago; `false` if the clock was set back.
fn within(then: Timestamp, now: Timestamp, age: SignedDuration) -> bool {
    let ago = now.duration_since(then);
    !ago.is_negative() && ago < age
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use testing::aws::{Aws, Fault, THROTTLED};

    use super::*;
    use crate::Secret;

    #[tokio::test]
    async fn a_value_is_cached_then_read_again_then_served_stale() {
        let (aws, now) = (Aws::default(), Arc::new(AtomicI64::new(0)));
        let clock = {
            let now = Arc::clone(&now);
            Clock::new(move || Timestamp::from_second(now.load(Ordering::Relaxed)).unwrap())
        };
        let minute = SignedDuration::from_mins(1);
        let parameter =
            Parameter::<u32>::new(ssm_client(&aws.config()), "/p".into(), minute, clock);
        let at = async |second: i64, text: &str| {
            now.store(second, Ordering::Relaxed);
            aws.state().ssm_fault = text.is_empty().then_some(THROTTLED);
            aws.put("/p", text);
            *parameter.value().await.unwrap()
        };
        assert_eq!(at(1_000, "1").await, 1, "read");
        assert_eq!(at(1_059, "2").await, 1, "kept");
        assert_eq!(at(1_060, "2").await, 2, "read again");
        assert_eq!(at(1_120, "").await, 2, "SSM fails: the last good value");
        assert_eq!(at(1_121, "3").await, 2, "not retried at once");
        assert_eq!(at(1_122, "not a number").await, 2, "an invalid value is a failure too");
        assert_eq!(at(1_124, "3").await, 3, "recovered");
        assert_eq!(at(1_000, "4").await, 4, "a clock set back expires the cache");
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_first_read_is_retried_until_the_limit() {
        let (aws, minute) = (Aws::default(), SignedDuration::from_mins(1));
        aws.put("/p", "7");
        let parameter = |aws: &Aws| {
            Parameter::<u32>::new(ssm_client(&aws.config()), "/p".into(), minute, Clock::system())
        };
        let limit = Duration::from_secs(8);
        for faults in [1, 10, 25] {
            aws.state().ssm_faults = vec![Some(THROTTLED); faults].into();
            assert_eq!(*parameter(&aws).value_within(limit).await.unwrap(), 7, "{faults}");
        }

        aws.state().ssm_fault = Some(THROTTLED);
        let (parameter, began) = (parameter(&aws), Instant::now());
        assert!(parameter.value_within(limit).await.unwrap_err().is_throttled());
        let took = began.elapsed();
        assert!((Duration::from_secs(7)..=limit).contains(&took), "{took:?}");

        // Other failures are not retried.
        aws.state().ssm_fault = Some(Fault::Refused(400, "AccessDeniedException"));
        aws.state().ssm_calls = 0;
        parameter.value_within(limit).await.unwrap_err();
        assert_eq!(aws.state().ssm_calls, 1);
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_not_part_of_the_value() {
        let (aws, minute) = (Aws::default(), SignedDuration::from_mins(1));
        aws.put("/p", "\u{feff}s3cret\r\n");
        let ssm = ssm_client(&aws.config());
        let parameter = Parameter::<Secret>::new(ssm, "/p".into(), minute, Clock::system());
        assert_eq!(parameter.value().await.unwrap().expose(), "s3cret");
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_request_is_retried() {
        let (aws, minute) = (Aws::default(), SignedDuration::from_mins(1));
        aws.put("/p", "7");
        let ssm = ssm_client(&aws.config());
        let parameter = Parameter::<u32>::new(ssm, "/p".into(), minute, Clock::system());
        for code in ["RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"] {
            aws.state().ssm_faults = vec![Some(Fault::Refused(400, code))].into();
            assert!(parameter.fetch().await.is_ok(), "{code}");
        }
    }

    #[tokio::test]
    async fn without_a_good_value_the_error_has_the_reason_but_not_the_text() {
        let (aws, minute) = (Aws::default(), SignedDuration::from_mins(1));
        let ssm = ssm_client(&aws.config());
        let parameter = Parameter::<Secret>::new(ssm, "/p".into(), minute, Clock::system());

        let error = error_chain(&parameter.value().await.unwrap_err());
        assert!(error.contains("/p") && error.contains("ParameterNotFound"), "{error}");
        aws.put("/p", "s3cret\u{7}");
        assert_eq!(
            parameter.value().await.unwrap_err().to_string(),
            "the parameter /p is not valid: expected one line of printable ASCII"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_parameter_is_lasting_and_a_failure_of_ssm_is_transient() {
        for (fault, lasts) in [
            (None, true),
            (Some(Fault::Refused(400, "AccessDeniedException")), true),
            (Some(Fault::Refused(400, "InvalidKeyId")), true),
            (Some(Fault::Refused(503, "ServiceUnavailable")), false),
            (Some(Fault::Refused(503, "ServiceUnavailableException")), false),
            (Some(Fault::Refused(500, "InternalServerError")), false),
            (Some(Fault::Refused(500, "InternalFailure")), false),
            (Some(Fault::Refused(400, "RequestTimeoutException")), false),
            (Some(Fault::Refused(400, "RequestLimitExceeded")), false),
            (Some(Fault::Refused(429, "TooManyRequestsException")), false),
            (Some(Fault::Refused(400, "RequestExpired")), false),
            (Some(THROTTLED), false),
            (Some(Fault::Garbage(502)), false),
            (Some(Fault::Garbage(200)), false),
            (Some(Fault::Reset), false),
            (Some(Fault::Hang), false),
        ] {
            let aws = Aws::default();
            aws.state().ssm_fault = fault;
            let minute = SignedDuration::from_mins(1);
            let ssm = ssm_client(&aws.config());
            let parameter = Parameter::<Secret>::new(ssm, "/p".into(), minute, Clock::system());
            let err = parameter.value().await.unwrap_err();
            assert_eq!(err.is_lasting(), lasts, "{fault:?}: {}", error_chain(&err));
        }
    }
}
