//! What is around one function: Lambda's Runtime API, and SSM and SQS as far as the functions need
//! them. Every request is checked, so that no peer is fast by doing less.

use std::{
    collections::HashMap,
    error::Error,
    io,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use md5::{Digest, Md5};
use rustls::ServerConfig;
use serde_json::{Map, Value, json};

use crate::http::{Body, Request, Response, serve};

/// How long an invocation may take, as the function sees it.
pub(crate) const INVOCATION_LIMIT: Duration = Duration::from_mins(5);

#[derive(Default)]
struct State {
    /// The next event for the function.
    event: Option<String>,
    /// When and what it answered.
    answer: Option<(Instant, Value)>,
    invocations: u64,
    parameters: HashMap<String, String>,
    /// How often parameters were read.
    reads: u64,
    /// How many messages came in batches.
    batched: u64,
    /// The queue's name and the body of the last message.
    message: Option<(String, Value)>,
    /// What no function should have done.
    complaint: Option<String>,
}

/// A host for one process of one function.
#[derive(Clone)]
pub(crate) struct Host {
    state: Arc<(Mutex<State>, Condvar)>,
    /// How long SQS takes over a batch.
    sqs_delay: Duration,
}

/// Where a host is.
pub(crate) struct Addresses {
    pub(crate) runtime: SocketAddr,
    /// The URL that answers for SSM and SQS.
    pub(crate) aws: String,
}

/// The result of an invocation.
pub(crate) struct Outcome {
    pub(crate) at: Instant,
    pub(crate) answer: Value,
    /// The queue's name and the body of the message that was sent in it.
    pub(crate) message: Option<(String, Value)>,
}

impl Host {
    /// A host with these parameters, whose AWS is reached over TLS or in the clear.
    pub(crate) fn start(
        parameters: &[(&str, &str)],
        tls: Option<Arc<ServerConfig>>,
        sqs_delay: Duration,
    ) -> io::Result<(Self, Addresses)> {
        let host = Self { state: Arc::default(), sqs_delay };
        let owned = parameters.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        host.lock().parameters = owned.collect();
        let (lambda, aws) = (host.clone(), host.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let runtime = serve(None, move |request| lambda.runtime(&request))?;
        let aws = serve(tls, move |request| aws.service(&request))?;
        Ok((host, Addresses { runtime, aws: format!("{scheme}://{aws}") }))
    }

    /// Answers the function's next poll with this event.
    pub(crate) fn give(&self, event: &Value) {
        let mut state = self.lock();
        state.event = Some(event.to_string());
        state.answer = None;
        state.message = None;
        self.state.1.notify_all();
    }

    /// Waits for the answer to it, which may take this long.
    pub(crate) fn outcome(&self, limit: Duration) -> Result<Outcome, Box<dyn Error>> {
        let state = self.lock();
        let waiting = |state: &mut State| state.answer.is_none() && state.complaint.is_none();
        let waited = self.state.1.wait_timeout_while(state, limit, waiting);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(complaint) = state.complaint.take() {
            return Err(complaint.into());
        }
        let (at, answer) =
            state.answer.take().ok_or_else(|| format!("no answer within {} s", limit.as_secs()))?;
        Ok(Outcome { at, answer, message: state.message.take() })
    }

    pub(crate) fn reads(&self) -> u64 {
        self.lock().reads
    }

    pub(crate) fn batched(&self) -> u64 {
        self.lock().batched
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.lock().parameters.get(name).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complain(&self, complaint: String) -> Response {
        self.lock().complaint = Some(complaint);
        self.state.1.notify_all();
        Response::new(400, "{}")
    }

    /// The Runtime API (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>).
    fn runtime(&self, request: &Request) -> Response {
        let at = Instant::now();
        let path = request.path.strip_prefix("/2018-06-01/runtime/").unwrap_or_default();
        match path.rsplit('/').next() {
            Some("next") => self.next(),
            Some("response") => {
                let answer = serde_json::from_slice(&request.body).unwrap_or_default();
                self.lock().answer = Some((at, answer));
                self.state.1.notify_all();
                Response::new(202, r#"{"status":"OK"}"#)
            }
            _ => {
                let body = String::from_utf8_lossy(&request.body);
                self.complain(format!("it called {}: {body}", request.path))
            }
        }
    }

    fn next(&self) -> Response {
        let state = self.lock();
        let waited = self.state.1.wait_while(state, |state| state.event.is_none());
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.invocations += 1;
        let deadline =
            SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + INVOCATION_LIMIT;
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("lambda-runtime-aws-request-id", format!("00000000-{:012}", state.invocations)),
            ("lambda-runtime-deadline-ms", deadline.as_millis().to_string()),
            ("lambda-runtime-invoked-function-arn", ARN.to_owned()),
            ("lambda-runtime-trace-id", "Root=1-0-0;Sampled=0".to_owned()),
        ];
        Response { status: 200, headers, body: Body::Whole(state.event.take().unwrap_or_default()) }
    }

    fn service(&self, request: &Request) -> Response {
        let target = request.headers.get("x-amz-target").map_or("", String::as_str);
        let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let mut status = 200;
        let answer = match target {
            "AmazonSSM.GetParameter" if asked["WithDecryption"] == true => {
                let name = text(&asked["Name"]);
                let mut state = self.lock();
                state.reads += 1;
                if let Some(value) = state.parameters.get(&name) {
                    let parameter = json!({"Name": name, "Type": "SecureString", "Value": value});
                    json!({"Parameter": parameter})
                } else {
                    status = 400;
                    json!({"__type": "ParameterNotFound"})
                }
            }
            "AmazonSSM.PutParameter" => {
                let (name, value) = (text(&asked["Name"]), text(&asked["Value"]));
                self.lock().parameters.insert(name, value);
                json!({"Version": 1})
            }
            "AmazonSQS.SendMessageBatch" => {
                thread::sleep(self.sqs_delay);
                let entries = asked["Entries"].as_array().map_or(&[][..], Vec::as_slice);
                let sent = entries.iter().map(|entry| {
                    let md5 = md5(&text(&entry["MessageBody"]));
                    json!({"Id": entry["Id"], "MessageId": "m", "MD5OfMessageBody": md5})
                });
                let sent: Vec<_> = sent.collect();
                self.lock().batched += sent.len() as u64;
                json!({"Successful": sent, "Failed": []})
            }
            "AmazonSQS.SendMessage" => {
                let body = text(&asked["MessageBody"]);
                let attributes = asked["MessageAttributes"].as_object().map_or(0, Map::len);
                let message: Value = serde_json::from_str(&body).unwrap_or_default();
                if !body.is_ascii() || message["v"] != 1 || attributes != 1 {
                    return self.complain(format!("it sent an unexpected message: {asked}"));
                }
                let queue = text(&asked["QueueUrl"]);
                let queue = queue.rsplit('/').next().unwrap_or_default().to_owned();
                self.lock().message = Some((queue, message));
                let md5 = md5(&body);
                json!({"MessageId": "00000000-0000-0000-0000-000000000000", "MD5OfMessageBody": md5})
            }
            _ => return self.complain(format!("it called {target} of AWS: {asked}")),
        };
        let mut response = Response::new(status, answer.to_string());
        response.headers.push(("content-type", "application/x-amz-json-1.0".into()));
        response
    }
}

/// The MD5 by which SQS confirms what it has stored.
fn md5(body: &str) -> String {
    let digest: [u8; 16] = Md5::digest(body).into();
    format!("{:032x}", u128::from_be_bytes(digest))
}

pub(crate) const ARN: &str = "arn:aws:lambda:eu-west-1:123456789012:function:bench";
