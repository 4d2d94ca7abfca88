//! An AWS account in this process: SQS, SSM, DynamoDB, S3 and the event source mapping. It parses the SDK's
//! own requests, enforces AWS's limits, and can fail in every way AWS can.

mod dynamodb;
mod lambda;
mod s3;
mod sqs;
mod ssm;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt, future,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_async::{
    rt::sleep::{SharedAsyncSleep, TokioSleep},
    time::{SharedTimeSource, TimeSource},
};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
    stalled_stream_protection::StalledStreamProtectionConfig,
};
use aws_smithy_types::body::SdkBody;
use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::{role::Role, server::lock};

pub use self::{
    lambda::Mapping,
    s3::Object,
    sqs::{Message, Queue, Received, Sqs},
    ssm::{Version, Write},
};

/// Where the account is.
pub const REGION: &str = "eu-west-1";
/// Its number.
pub const ACCOUNT: &str = "123456789012";
/// The event source mapping's UUID.
pub const MAPPING: &str = "a0000000-0000-4000-8000-000000000001";
/// What every queue's URL begins with.
pub const QUEUES: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/";
/// What every queue's ARN begins with.
pub const QUEUE_ARNS: &str = "arn:aws:sqs:eu-west-1:123456789012:";

/// The name of the table of coverage.
pub const TABLE: &str = "relay-coverage";

/// The bucket that deliveries are written to, if any are.
pub const BUCKET: &str = "acme-conversations";
/// What its keys begin with.
pub const KEY_PREFIX: &str = "gladly/";
/// The KMS key that encrypts the bucket, where one does.
pub const BUCKET_KEY: &str = "arn:aws:kms:eu-west-1:123456789012:key/2";
/// The secret of the functions' credentials.
const SECRET_KEY: &str = "c";

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// AWS's own error: status and code.
    Refused(u16, &'static str),
    /// A response that is not AWS's and repeats the request, which must not be logged.
    Garbage(u16),
    /// No response.
    Hang,
    /// No connection.
    Reset,
    /// The call takes effect, and then the connection breaks instead of carrying the answer.
    Lost,
    /// Of a batch, the entries whose bit is set fail.
    Entries(u16),
    /// A message to SQS has no effect, but is answered 200 without a valid confirmation. Other calls
    /// are answered as usual.
    Unconfirmed(Unconfirmed),
}

/// What is wrong with SQS's response to a message.
#[derive(Debug, Clone, Copy)]
pub enum Unconfirmed {
    /// It has no message id.
    NoMessageId,
    /// It has the MD5 of something else.
    OtherMd5,
    /// It has no MD5.
    NoMd5,
}

/// AWS asks for less.
pub const THROTTLED: Fault =
    Fault::Refused(400, "com.amazon.coral.availability#ThrottlingException");

/// The nondeterminism of a real queue and mapping. Without it, messages come once and in order, and
/// transitions take the configured time. With it, messages come roughly in the order of their time,
/// as from SQS, and transitions take up to a minute.
#[derive(Debug, Clone)]
pub struct Disorder {
    /// Decides.
    pub rng: Rng,
    /// How likely a message stays where it is when it is received, or comes back when deleted.
    pub twice: f64,
    /// How likely a receive finds less than there is.
    pub short: f64,
}

/// An account.
#[derive(Debug, Default)]
pub struct State {
    /// Whose calls these are, if IAM is to judge them.
    pub role: Option<Arc<Role>>,
    /// What the role was needed for: actions with their resources, in the template's words.
    pub used: BTreeSet<(String, String)>,
    /// What the role did not allow: actions with the ARN of their resource.
    pub denied: BTreeSet<(String, String)>,
    /// The parameters' texts, by name.
    pub parameters: BTreeMap<String, String>,
    /// The names of those that are encrypted.
    pub secure: BTreeSet<String>,
    /// When each was last written.
    pub modified: BTreeMap<String, Timestamp>,
    /// The versions that are kept of each, oldest first.
    pub versions: BTreeMap<String, Vec<Version>>,
    /// What was written by calls.
    pub writes: Vec<Write>,
    /// How SSM fails at its next calls, each of which may also succeed.
    pub ssm_faults: VecDeque<Option<Fault>>,
    /// How SSM fails after those, for as long as it is set.
    pub ssm_fault: Option<Fault>,
    /// Parameters, each with a text that another writer puts there right before the next
    /// `PutParameter` of that name takes effect.
    pub ssm_between: VecDeque<(String, String)>,
    /// Calls to SSM.
    pub ssm_calls: usize,
    /// How SQS fails at its next calls.
    pub sqs_faults: VecDeque<Fault>,
    /// How SQS fails after those, for as long as it is set.
    pub sqs_fault: Option<Fault>,
    /// Calls to SQS.
    pub sqs_calls: usize,
    /// The messages sent, in their order, wherever they are now.
    pub messages: Vec<Message>,
    /// The messages handed out to calls, by queue and id, with the time each was sent.
    pub receives: Vec<(String, String, Timestamp)>,
    /// The visibility last set, in seconds by receipt handle.
    pub visibility: BTreeMap<String, i64>,
    /// The queues.
    pub sqs: Sqs,
    /// How Lambda fails, for as long as it is set.
    pub lambda_fault: Option<Fault>,
    /// Calls to Lambda.
    pub lambda_calls: usize,
    /// The event source mapping.
    pub mapping: Mapping,
    /// The items of the table of coverage, by conversation, as DynamoDB writes them.
    pub coverage: BTreeMap<String, Value>,
    /// How many keys each read of the table named.
    pub coverage_reads: Vec<usize>,
    /// How DynamoDB fails at its next calls.
    pub dynamodb_faults: VecDeque<Fault>,
    /// How DynamoDB fails after those, for as long as it is set.
    pub dynamodb_fault: Option<Fault>,
    /// Calls to DynamoDB.
    pub dynamodb_calls: usize,
    /// The objects written, repeats included, in their order.
    pub objects: Vec<Object>,
    /// Whether [`BUCKET_KEY`] encrypts the bucket.
    pub encrypts_bucket: bool,
    /// How S3 fails at its next calls, each of which may also succeed.
    pub s3_faults: VecDeque<Option<Fault>>,
    /// How S3 fails after those, for as long as it is set.
    pub s3_fault: Option<Fault>,
    /// Calls to S3.
    pub s3_calls: usize,
    /// How far S3's clock is ahead of everyone's.
    pub s3_ahead_by: SignedDuration,
    /// The nondeterminism, if any.
    pub disorder: Option<Disorder>,
}

/// A handle on one account.
#[derive(Clone)]
pub struct Aws(Arc<Account>);

struct Account {
    state: Mutex<State>,
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
}

/// The parts of AWS that the relay calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Parameters.
    Ssm,
    /// Queues.
    Sqs,
    /// The mapping.
    Lambda,
    /// The table of coverage.
    DynamoDb,
    /// The bucket of deliveries.
    S3,
}

impl Service {
    /// The service that a request goes to, if it goes to AWS.
    #[must_use]
    pub fn of(request: &HttpRequest) -> Option<Self> {
        let host = request.uri().strip_prefix("https://")?.split('/').next()?;
        let (service, rest) = host.split_once('.')?;
        let service = if host.contains(".s3.") { "s3" } else { service };
        match (service, rest.ends_with(".amazonaws.com")) {
            ("s3", true) => Some(Self::S3),
            ("ssm", true) => Some(Self::Ssm),
            ("sqs", true) => Some(Self::Sqs),
            ("lambda", true) => Some(Self::Lambda),
            ("dynamodb", true) => Some(Self::DynamoDb),
            _ => None,
        }
    }
}

impl Default for Aws {
    /// An account on the machine's own clock.
    fn default() -> Self {
        Self::new(Timestamp::now)
    }
}

impl fmt::Debug for Aws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aws")
    }
}

impl TimeSource for Aws {
    fn now(&self) -> SystemTime {
        (self.0.now)().into()
    }
}

impl Aws {
    /// An account in which it is always `now()`.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(Account { state: Mutex::default(), now: Box::new(now) }))
    }

    /// What the account holds, and how it fails.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// Writes a parameter.
    pub fn put(&self, name: &str, text: &str) {
        let now = (self.0.now)();
        self.state().put_parameter(name, text, "", now);
    }

    /// Writes an encrypted parameter; it stays encrypted when overwritten.
    pub fn put_secret(&self, name: &str, text: &str) {
        self.state().secure.insert(name.to_owned());
        self.put(name, text);
    }

    /// What time it is.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        (self.0.now)()
    }

    /// From now on, calls are made under this role of the template: IAM denies what it does not allow.
    pub fn assume(&self, role: &str) {
        self.state().role = Some(Arc::new(Role::named(role)));
    }

    /// The same in a stack that writes deliveries to a bucket.
    pub fn assume_with_a_bucket(&self, role: &str) {
        self.state().role = Some(Arc::new(Role::with_a_bucket(role)));
    }

    /// The settings of an SDK that reaches nothing but this account. Sleeps are tokio's.
    #[must_use]
    pub fn config(&self) -> SdkConfig {
        self.config_over(SharedHttpConnector::new(self.clone()))
    }

    /// The settings of an SDK that reaches this account through another connector.
    #[must_use]
    pub fn config_over(&self, connector: SharedHttpConnector) -> SdkConfig {
        // The SDK counts retries by the region's name for the whole process: with names of their own,
        // no test uses up the retries of another.
        static REGIONS: AtomicU64 = AtomicU64::new(1);
        let region = format!("eu-west-{}", REGIONS.fetch_add(1, Ordering::Relaxed));
        let credentials = Credentials::new("AKIDEXAMPLE", SECRET_KEY, None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(region))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .time_source(SharedTimeSource::new(self.clone()))
            // No body here is slow, and stall detection takes a tenth of a call's time.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }

    /// Answers a request, or fails in the given way.
    ///
    /// # Panics
    ///
    /// On requests that the relay never makes: they fail the test that makes them.
    #[must_use]
    pub fn answer(&self, request: &HttpRequest, fault: Option<Fault>) -> HttpConnectorFuture {
        let header = |name| request.headers().get(name).unwrap_or_default();
        assert!(header("authorization").starts_with("AWS4-HMAC-SHA256 "), "signed");
        let text = String::from_utf8_lossy(request.body().bytes().unwrap_or_default());
        let asked: Value = serde_json::from_str(&text).unwrap_or_default();

        let now = (self.0.now)();
        let mut state = self.state();
        let failed = match fault {
            Some(Fault::Entries(failed)) => failed,
            _ => 0,
        };
        let allowed = state.judge(request, &asked);
        let service = Service::of(request);
        let now = if service == Some(Service::S3) { now + state.s3_ahead_by } else { now };
        let answer = match fault {
            _ if allowed.is_err() => allowed.map(|()| Value::Null),
            Some(Fault::Unconfirmed(how))
                if header("x-amz-target").starts_with("AmazonSQS.SendMessage") =>
            {
                Ok(sqs::unconfirmed(how, &asked))
            }
            None | Some(Fault::Lost | Fault::Entries(_) | Fault::Unconfirmed(_)) => {
                match (service, header("content-type"), header("x-amz-target")) {
                    (Some(Service::Ssm), "application/x-amz-json-1.1", target) => {
                        state.ssm(target, &asked, now)
                    }
                    (Some(Service::Sqs), "application/x-amz-json-1.0", target) => {
                        state.sqs(target, &asked, failed, now)
                    }
                    (Some(Service::DynamoDb), "application/x-amz-json-1.0", target) => {
                        state.dynamodb(target, &asked, failed)
                    }
                    (Some(Service::S3), _, "") => state.s3(request, now).map(|()| Value::Null),
                    (Some(Service::Lambda), _, "") => {
                        state.lambda(request.method(), request.uri(), &asked, now)
                    }
                    other => panic!("the relay never makes this call: {other:?}"),
                }
            }
            Some(fault) => Err(fault),
        };
        let (status, body, code) = match (answer, fault) {
            (_, Some(Fault::Lost)) | (Err(Fault::Reset | Fault::Lost), _) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("reset".into())));
            }
            (Ok(Value::Null), _) => (200, String::new(), None),
            (Ok(body), _) => (200, body.to_string(), None),
            (Err(Fault::Refused(status, code)), _) if service == Some(Service::S3) => {
                let error = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
                (status, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{error}"), None)
            }
            (Err(Fault::Refused(status, code)), _) => {
                (status, json!({"__type": code, "message": "no"}).to_string(), Some(code))
            }
            (Err(Fault::Garbage(status)), _) => {
                let secrets: String = state.parameters.values().cloned().collect();
                (status, format!(r#"{{"Parameter":{{"Value":"{text}{secrets}"#), None)
            }
            (Err(Fault::Hang | Fault::Entries(_) | Fault::Unconfirmed(_)), _) => {
                return HttpConnectorFuture::new(future::pending());
            }
        };
        let answer = status.try_into().map(|status| {
            let mut answer = HttpResponse::new(status, SdkBody::from(body));
            let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            answer.headers_mut().insert("date", date);
            if let Some(code) = code {
                // Lambda reports the error code in this header.
                answer.headers_mut().insert("x-amzn-errortype", code);
            }
            answer
        });
        HttpConnectorFuture::ready(answer.map_err(|err| ConnectorError::other(Box::new(err), None)))
    }
}

impl HttpConnector for Aws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let fault = self.state().fault(Service::of(&request));
        self.answer(&request, fault)
    }
}

impl State {
    /// Counts a call. Returns how it is to fail, if it is.
    fn fault(&mut self, service: Option<Service>) -> Option<Fault> {
        match service? {
            Service::Ssm => {
                self.ssm_calls += 1;
                self.ssm_faults.pop_front().unwrap_or(self.ssm_fault)
            }
            Service::Sqs => {
                self.sqs_calls += 1;
                self.sqs_faults.pop_front().or(self.sqs_fault)
            }
            Service::Lambda => {
                self.lambda_calls += 1;
                self.lambda_fault
            }
            Service::DynamoDb => {
                self.dynamodb_calls += 1;
                self.dynamodb_faults.pop_front().or(self.dynamodb_fault)
            }
            Service::S3 => {
                self.s3_calls += 1;
                self.s3_faults.pop_front().unwrap_or(self.s3_fault)
            }
        }
    }

    /// IAM's decision on a request.
    fn judge(&mut self, request: &HttpRequest, asked: &Value) -> Result<(), Fault> {
        let Some(role) = self.role.clone() else { return Ok(()) };
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default();
        let arn = |service: &str, resource: &str| {
            format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{resource}")
        };
        let name = text(&asked["Name"]);
        let parameter = arn("ssm", &format!("parameter{name}"));
        let (action, resource) = match Service::of(request) {
            Some(Service::Ssm) => (format!("ssm:{operation}"), parameter.clone()),
            // A batch needs the permission for its entries: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazonsqs.html
            Some(Service::Sqs) => (
                format!("sqs:{}", operation.trim_end_matches("Batch")),
                text(&asked["QueueUrl"]).replace(QUEUES, QUEUE_ARNS),
            ),
            Some(Service::DynamoDb) => {
                let tables = asked["RequestItems"].as_object();
                let table = tables.and_then(|tables| tables.keys().next()).cloned();
                let table = format!("table/{}", table.unwrap_or_default());
                (format!("dynamodb:{operation}"), arn("dynamodb", &table))
            }
            Some(Service::Lambda) => lambda::permission(request.method(), request.uri()),
            Some(Service::S3) => {
                let (bucket, key) = s3::place(request.uri());
                ("s3:PutObject".into(), format!("arn:aws:s3:::{bucket}/{key}"))
            }
            None => panic!("the relay never makes this call: {}", request.uri()),
        };
        let mut needed = vec![(action, resource, Vec::new())];
        if operation == "GetParameter" && self.secure.contains(&name) {
            // SSM calls KMS with its caller's permissions.
            let service = format!("ssm.{REGION}.amazonaws.com");
            let context =
                [("kms:ViaService", service), ("kms:EncryptionContext:PARAMETER_ARN", parameter)];
            needed.push(("kms:Decrypt".into(), arn("kms", "key/1"), context.into()));
        }
        if Service::of(request) == Some(Service::S3) && self.encrypts_bucket {
            let context = [("kms:ViaService", format!("s3.{REGION}.amazonaws.com"))];
            needed.push(("kms:GenerateDataKey".into(), BUCKET_KEY.into(), context.into()));
        }
        for (action, resource, context) in needed {
            let context: Vec<_> = context.iter().map(|(key, value)| (*key, &**value)).collect();
            let Some(grant) = role.allows(&action, &resource, &context) else {
                self.denied.insert((action, resource));
                return Err(match Service::of(request) {
                    Some(Service::S3) => Fault::Refused(403, "AccessDenied"),
                    _ => Fault::Refused(400, "AccessDeniedException"),
                });
            };
            self.used.insert(grant.pair());
        }
        Ok(())
    }

    /// Whether what is this likely happens now.
    fn happens(&mut self, how: impl Fn(&Disorder) -> f64) -> bool {
        self.disorder.as_mut().is_some_and(|disorder| disorder.rng.f64() < how(disorder))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
