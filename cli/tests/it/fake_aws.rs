//! A small AWS on loopback: records every call, and answers each operation from a table that the test
//! fills with JSON, whatever the operation's protocol is.
//!
//! ```ignore
//! let aws = FakeAws::start();
//! aws.deployed("acme");                                    // DescribeStacks
//! aws.answers("Invoke", json!({"v": 1, "relayVersion": "0.1.0"}));
//! aws.answers_by("GetParameter", |request| json!({"Parameter": {"Value": request.parameters["Name"]}}));
//! aws.fails("PutParameter", "AccessDeniedException", "User: ada is not authorized to perform: …");
//! let ended = Sandbox::new(&aws).run(&["status", "--stack", "acme"]);
//! assert_eq!((ended.code, aws.calls("Invoke").len()), (0, 1));
//! ```

#![allow(dead_code, reason = "no command needs every helper")]

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Router,
    body::{Bytes, to_bytes},
    extract::{Request, State},
    http::{StatusCode, header::CONTENT_TYPE, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::{allowed::iam_action, cbor};

/// A call that arrived.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// As IAM knows it: `ssm`, `cloudwatch`, …
    pub(crate) service: String,
    /// As the SDK knows it: `GetParameter`, `Invoke`, …; the path of what is no call to AWS, `PUT s3` of
    /// what sam uploads.
    pub(crate) operation: String,
    /// The region that it was signed for.
    pub(crate) region: String,
    /// Its parameters: for the query protocol texts under names such as `Parameters.member.1.Key`, for
    /// Lambda with those of path and query; the payload of `Invoke` is `Payload`.
    pub(crate) parameters: Value,
}

impl Call {
    /// A parameter that is a text.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.parameters[name].as_str().unwrap_or_default()
    }

    /// The action that IAM allows or denies.
    fn action(&self) -> String {
        iam_action(&self.service, &self.operation)
    }
}

/// What a call is answered.
#[derive(Debug, Clone)]
enum Reply {
    Body(Value),
    Bytes(Vec<u8>),
    /// A function that failed: what it answered instead.
    FunctionError(Value),
    Failure {
        code: String,
        message: String,
    },
}

type Handler = Box<dyn FnMut(&Call) -> Reply + Send>;

#[derive(Default)]
struct Table {
    answers: BTreeMap<String, Handler>,
    calls: Vec<Call>,
}

/// The fake. Dropping it ends it.
pub(crate) struct FakeAws {
    url: String,
    table: Arc<Mutex<Table>>,
    runtime: Option<Runtime>,
}

impl Drop for FakeAws {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl FakeAws {
    /// Starts on a free port, with a thread of its own.
    pub(crate) fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let app = Router::new().fallback(answer).with_state(Arc::clone(&table));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        Self { url, table, runtime: Some(runtime) }
    }

    /// The endpoint of every service.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// From now on the operation is answered with this; `Invoke` with this payload.
    pub(crate) fn answers(&self, operation: &str, body: Value) {
        self.set(operation, move |_| Reply::Body(body.clone()));
    }

    /// From now on the operation is answered with these one after the other, and then with the last.
    pub(crate) fn answers_in_turn(&self, operation: &str, bodies: impl IntoIterator<Item = Value>) {
        let mut bodies: VecDeque<_> = bodies.into_iter().collect();
        self.set(operation, move |_| {
            let next = if bodies.len() > 1 { bodies.pop_front() } else { bodies.front().cloned() };
            Reply::Body(next.unwrap_or_default())
        });
    }

    /// From now on the operation is answered with what this makes of the call; `None` is that service's
    /// "not found".
    pub(crate) fn answers_by<T: Into<Option<Value>>>(
        &self,
        operation: &str,
        mut answer: impl FnMut(&Call) -> T + Send + 'static,
    ) {
        self.set(operation, move |call| match answer(call).into() {
            Some(body) => Reply::Body(body),
            None => match &*call.service {
                "cloudformation" => no_stack(call.text("StackName")),
                "ssm" => failure("ParameterNotFound", ""),
                _ => failure("ResourceNotFoundException", ""),
            },
        });
    }

    /// From now on the operation fails with this.
    pub(crate) fn fails(&self, operation: &str, code: &str, message: &str) {
        let reply = failure(code, message);
        self.set(operation, move |_| reply.clone());
    }

    /// From now on AWS denies the operation to this user.
    pub(crate) fn denies(&self, action: &str) {
        let operation = action.split_once(':').unwrap().1;
        let operation = if operation == "InvokeFunction" { "Invoke" } else { operation };
        let message = format!(
            "User: arn:aws:iam::123456789012:user/ada is not authorized to perform: {action} on resource: x"
        );
        self.fails(operation, "AccessDeniedException", &message);
    }

    /// From now on `Invoke` reports that the function failed with this.
    pub(crate) fn function_fails(&self, error_type: &str, message: &str) {
        let payload = json!({"errorType": error_type, "errorMessage": message});
        self.set("Invoke", move |_| Reply::FunctionError(payload.clone()));
    }

    /// From now on a plain request to this path is answered with these bytes.
    pub(crate) fn serves(&self, path: &str, bytes: &[u8]) {
        let bytes = bytes.to_owned();
        self.set(path, move |_| Reply::Bytes(bytes.clone()));
    }

    fn set(&self, operation: &str, answer: impl FnMut(&Call) -> Reply + Send + 'static) {
        self.table().answers.insert(operation.to_owned(), Box::new(answer));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every call of this operation so far.
    pub(crate) fn calls(&self, operation: &str) -> Vec<Call> {
        let table = self.table();
        table.calls.iter().filter(|call| call.operation == operation).cloned().collect()
    }

    /// The operations called so far, in order.
    pub(crate) fn operations(&self) -> Vec<String> {
        self.table().calls.iter().map(|call| call.operation.clone()).collect()
    }

    /// What IAM would have been asked so far: `ssm:GetParameter`, …
    pub(crate) fn actions(&self) -> BTreeSet<String> {
        let table = self.table();
        let calls = table.calls.iter().filter(|call| !call.service.is_empty());
        let actions = calls.map(Call::action).collect::<BTreeSet<_>>();
        assert!(!actions.is_empty(), "nothing was called");
        actions
    }

    /// Forgets the calls.
    pub(crate) fn forget(&self) {
        self.table().calls.clear();
    }

    /// From now on there is a stack of this name, deployed, and no other.
    pub(crate) fn deployed(&self, name: &str) {
        self.stack(&relay_stack(name));
    }

    /// From now on there is this stack and no other.
    pub(crate) fn stack(&self, stack: &Value) {
        let stack = stack.clone();
        self.set("DescribeStacks", move |call| {
            let asked = call.text("StackName");
            let is_found =
                [&stack["StackName"], &stack["StackId"]].iter().any(|name| *name == asked);
            if asked.is_empty() || is_found {
                Reply::Body(json!({"Stacks": [stack]}))
            } else {
                no_stack(asked)
            }
        });
    }

    /// From now on there is no stack.
    pub(crate) fn no_stack(&self) {
        self.set("DescribeStacks", |call| match call.text("StackName") {
            "" => Reply::Body(json!({"Stacks": []})),
            asked => no_stack(asked),
        });
    }
}

fn failure(code: &str, message: &str) -> Reply {
    Reply::Failure { code: code.into(), message: message.into() }
}

fn no_stack(asked: &str) -> Reply {
    failure("ValidationError", &format!("Stack with id {asked} does not exist"))
}

/// A deployed relay as `DescribeStacks` lists it, with the template's defaults. Change it by its
/// fields: `stack["StackStatus"] = …`, [`set_parameter`].
pub(crate) fn relay_stack(name: &str) -> Value {
    let pairs = |key: &str, value: &str, pairs: &[(&str, &str)]| -> Value {
        pairs.iter().map(|(one, other)| json!({key: one, value: other})).collect()
    };
    let at = "https://sqs.us-east-1.amazonaws.com/123456789012";
    let keys = format!("/{name}/webhook-keys");
    let gladly = format!("/{name}/gladly-token");
    let destination = format!("/{name}/destination-token");
    let parameters = pairs(
        "ParameterKey",
        "ParameterValue",
        &[
            ("GladlyHost", "acme.gladly.com"),
            ("GladlyEmail", "relay@example.com"),
            ("DestinationUrl", "https://destination.example.com/hook"),
            ("WebhookKeysParameter", &keys),
            ("GladlyTokenParameter", &gladly),
            ("DestinationTokenParameter", &destination),
            ("DestinationTokenHeader", "authorization"),
            ("ForwardCustomerContact", "true"),
            ("ForwardNotes", "true"),
            ("DestinationGzip", "false"),
            ("GladlyRequestsPerSecond", "4"),
            ("RetentionDays", "4"),
            ("RenewHeldEvents", "true"),
            ("LogRetentionDays", "30"),
            ("WatchWebhook", "true"),
            ("WebhookRateLimit", "200"),
            ("WebhookBurstLimit", "400"),
            ("AlarmEmail", ""),
            ("PauseAlarmHours", "4"),
            ("SilenceAlarmHours", "24"),
            ("LateAlarmMinutes", "30"),
            ("Architecture", "arm64"),
            ("LogLevel", "INFO"),
            ("XRay", "off"),
        ],
    );
    let dashboard = format!(
        "https://us-east-1.console.aws.amazon.com/cloudwatch/home?region=us-east-1#dashboards:name={name}"
    );
    let outputs = pairs(
        "OutputKey",
        "OutputValue",
        &[
            ("WebhookUrl", "https://abc123.execute-api.us-east-1.amazonaws.com/webhooks/gladly"),
            ("EventsQueueUrl", &format!("{at}/{name}-EventsQueue-1A2B")),
            ("QuarantineQueueUrl", &format!("{at}/{name}-QuarantineQueue-3C4D")),
            ("PauseParameterName", &format!("/{name}/pause")),
            ("IngestFunctionName", &format!("{name}-IngestFunction-5E6F")),
            ("ExtractorFunctionName", &format!("{name}-ExtractorFunction-7A8B")),
            ("EventsMappingId", "1b2c3d4e-0000-4000-8000-000000000000"),
            ("DashboardUrl", &dashboard),
            (
                "AlarmTopicArn",
                &format!("arn:aws:sns:us-east-1:123456789012:{name}-AlarmTopic-9C0D"),
            ),
        ],
    );
    json!({
        "StackName": name,
        "StackId": format!("arn:aws:cloudformation:us-east-1:123456789012:stack/{name}/0a1b2c3d"),
        "StackStatus": "UPDATE_COMPLETE",
        "CreationTime": "2026-01-01T00:00:00Z",
        "Parameters": parameters,
        "Outputs": outputs,
    })
}

/// Gives a stack's parameter another value.
pub(crate) fn set_parameter(stack: &mut Value, key: &str, value: &str) {
    let parameters = stack["Parameters"].as_array_mut().unwrap();
    parameters.retain(|parameter| parameter["ParameterKey"] != key);
    parameters.push(json!({"ParameterKey": key, "ParameterValue": value}));
}

/// How an operation's request and response are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// CloudFormation, STS, SNS.
    Query,
    /// SSM, SQS, CloudWatch Logs.
    Json,
    /// CloudWatch.
    Cbor,
    /// Lambda.
    Rest,
    /// No call to AWS.
    Plain,
}

async fn answer(State(table): State<Arc<Mutex<Table>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let (protocol, call) = read(&parts, &body);
    let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
    table.calls.push(call.clone());
    let reply = table.answers.get_mut(&call.operation).map(|answer| answer(&call));
    let reply = reply.unwrap_or_else(|| Reply::Failure {
        code: "NotFaked".into(),
        message: format!("the test does not fake {}", call.operation),
    });
    write(protocol, &call.operation, reply)
}

fn read(parts: &Parts, body: &Bytes) -> (Protocol, Call) {
    let header = |name: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    };
    // "… Credential=AKID/20260101/us-east-1/ssm/aws4_request, …"
    let mut scope = header("authorization").split('/').skip(2);
    let region = scope.next().unwrap_or_default().to_owned();
    let service = match scope.next().unwrap_or_default() {
        "monitoring" => "cloudwatch",
        service => service,
    };
    let path = parts.uri.path();
    let target = header("x-amz-target");
    let (protocol, operation, parameters) = if service.is_empty() {
        (Protocol::Plain, path.to_owned(), Value::Null)
    } else if service == "s3" {
        (Protocol::Plain, format!("{} s3", parts.method), path.into())
    } else if let Some((_, operation)) = target.split_once('.') {
        (Protocol::Json, operation.to_owned(), serde_json::from_slice(body).unwrap_or_default())
    } else if let Some((_, operation)) = path.split_once("/operation/") {
        (Protocol::Cbor, operation.to_owned(), cbor::decode(body))
    } else if service == "lambda" {
        let (operation, parameters) = lambda(parts, body);
        (Protocol::Rest, operation, parameters)
    } else {
        let fields = form(&String::from_utf8_lossy(body));
        let operation = fields["Action"].as_str().unwrap_or_default().to_owned();
        (Protocol::Query, operation, fields.into())
    };
    (protocol, Call { service: service.to_owned(), operation, region, parameters })
}

/// An operation of Lambda, by its path.
fn lambda(parts: &Parts, body: &Bytes) -> (String, Value) {
    let segments: Vec<_> = parts.uri.path().trim_matches('/').split('/').skip(1).collect();
    let mut parameters = serde_json::from_slice::<Map<_, _>>(body).unwrap_or_default();
    let (operation, name) = match (parts.method.as_str(), &*segments) {
        ("POST", ["functions", name, "invocations"]) => {
            let payload = Value::Object(std::mem::take(&mut parameters));
            parameters.insert("Payload".into(), payload);
            ("Invoke", *name)
        }
        ("GET", ["functions", name]) => ("GetFunction", *name),
        ("DELETE", ["functions", name]) => ("DeleteFunction", *name),
        ("GET", ["functions", name, "configuration"]) => ("GetFunctionConfiguration", *name),
        ("PUT", ["functions", name, "code"]) => ("UpdateFunctionCode", *name),
        ("GET", ["functions", name, "versions"]) => ("ListVersionsByFunction", *name),
        ("POST", ["functions", name, "versions"]) => ("PublishVersion", *name),
        ("GET", ["event-source-mappings", id]) => ("GetEventSourceMapping", *id),
        ("GET", ["account-settings"]) => ("GetAccountSettings", ""),
        (method, _) => return (format!("{method} {}", parts.uri.path()), parameters.into()),
    };
    parameters.extend(form(parts.uri.query().unwrap_or_default()));
    let key = if operation == "GetEventSourceMapping" { "UUID" } else { "FunctionName" };
    parameters.insert(key.into(), decoded(name).into());
    (operation.to_owned(), parameters.into())
}

/// The fields of a form or of a query.
fn form(text: &str) -> Map<String, Value> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decoded(name), decoded(value).into())).collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn write(protocol: Protocol, operation: &str, reply: Reply) -> Response {
    let json = [(CONTENT_TYPE, "application/json")];
    match (protocol, reply) {
        (_, Reply::Bytes(bytes)) => bytes.into_response(),
        (_, Reply::FunctionError(payload)) => {
            ([("x-amz-function-error", "Unhandled")], payload.to_string()).into_response()
        }
        (Protocol::Query, Reply::Body(body)) => {
            let body = xml(&body);
            format!("<{operation}Response><{operation}Result>{body}</{operation}Result></{operation}Response>")
                .into_response()
        }
        (Protocol::Cbor, Reply::Body(body)) => cbor(StatusCode::OK, &body),
        (_, Reply::Body(body)) => (json, body.to_string()).into_response(),
        (Protocol::Query, Reply::Failure { code, message }) => {
            let error =
                xml(&json!({"Error": {"Type": "Sender", "Code": code, "Message": message}}));
            (StatusCode::BAD_REQUEST, format!("<ErrorResponse>{error}</ErrorResponse>"))
                .into_response()
        }
        (Protocol::Cbor, Reply::Failure { code, message }) => {
            cbor(StatusCode::BAD_REQUEST, &json!({"__type": code, "message": message}))
        }
        (_, Reply::Failure { code, message }) => {
            let body = json!({"__type": code, "message": message}).to_string();
            (StatusCode::BAD_REQUEST, [("x-amzn-errortype", code)], json, body).into_response()
        }
    }
}

fn cbor(status: StatusCode, body: &Value) -> Response {
    let headers = [("content-type", "application/cbor"), ("smithy-protocol", "rpc-v2-cbor")];
    (status, headers, cbor::encode(body)).into_response()
}

/// A body as the query protocol writes it: a field is an element, an item of a list is a `member`.
fn xml(value: &Value) -> String {
    let element =
        |name: &str, value: &Value| ["<", name, ">", &xml(value), "</", name, ">"].concat();
    match value {
        Value::Object(fields) => fields.iter().map(|(name, field)| element(name, field)).collect(),
        Value::Array(items) => items.iter().map(|item| element("member", item)).collect(),
        Value::String(text) => text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A field that is a blob in JSON.
pub(crate) fn blob(bytes: &[u8]) -> Value {
    BASE64_STANDARD.encode(bytes).into()
}

/// The bytes of a field that is a blob.
pub(crate) fn unblob(value: &Value) -> Vec<u8> {
    BASE64_STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}
