//! SQS and SSM in this process: they read the SDK's own requests, and can fail in every way AWS can.

use std::{
    collections::{BTreeMap, VecDeque},
    future,
    sync::{Arc, Mutex, MutexGuard},
};

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};
use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

use crate::server::lock;

/// SQS's own limit, attributes included.
const MIB: usize = 1 << 20;

/// What every queue's URL begins with.
pub const QUEUES: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/";

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// AWS's own error: status and code.
    Refused(u16, &'static str),
    /// An answer that is not AWS's and, to tempt the logs, repeats what it should not.
    Garbage(u16),
    /// No answer ever.
    Hang,
    /// No connection.
    Reset,
}

/// AWS asks for less.
pub const THROTTLED: Fault =
    Fault::Refused(400, "com.amazon.coral.availability#ThrottlingException");

/// A message that SQS has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The last part of its queue's URL.
    pub queue: String,
    /// Its body.
    pub body: String,
    /// Every attribute's name and value, all of them strings.
    pub attributes: Vec<(String, String)>,
}

/// An account.
#[derive(Debug, Default)]
pub struct State {
    /// The parameters' texts, by name.
    pub parameters: BTreeMap<String, String>,
    /// How SSM fails, for as long as it is set.
    pub ssm_fault: Option<Fault>,
    /// Calls to SSM.
    pub ssm_calls: usize,
    /// How SQS fails at its next calls.
    pub sqs_faults: VecDeque<Fault>,
    /// How SQS fails after those, for as long as it is set.
    pub sqs_fault: Option<Fault>,
    /// Calls to SQS.
    pub sqs_calls: usize,
    /// The messages sent.
    pub messages: Vec<Message>,
    /// The visibility last set, in seconds by receipt handle.
    pub visibility: BTreeMap<String, i64>,
}

/// A handle on one account.
#[derive(Debug, Clone, Default)]
pub struct Aws(Arc<Mutex<State>>);

impl Aws {
    /// What the account holds, and how it fails.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }

    /// Writes a parameter.
    pub fn put(&self, name: &str, text: &str) {
        self.state().parameters.insert(name.to_owned(), text.to_owned());
    }

    /// The settings of an SDK that reaches nothing but this account. Sleeps are tokio's.
    #[must_use]
    pub fn config(&self) -> SdkConfig {
        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("AKIDEXAMPLE", "c", None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }
}

impl HttpConnector for Aws {
    /// # Panics
    ///
    /// On requests that the relay never makes: they fail the test that makes them.
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = |name| request.headers().get(name).unwrap_or_default();
        assert!(header("authorization").starts_with("AWS4-HMAC-SHA256 "), "signed");
        let text = String::from_utf8_lossy(request.body().bytes().unwrap_or_default());
        let asked: Value = serde_json::from_str(&text).unwrap_or_default();

        let mut state = self.state();
        let answer = match (header("content-type"), header("x-amz-target")) {
            ("application/x-amz-json-1.1", "AmazonSSM.GetParameter") => state.parameter(&asked),
            ("application/x-amz-json-1.0", target) => state.sqs(target, &asked),
            other => panic!("not ours to call: {other:?}"),
        };
        let (status, body) = match answer {
            Ok(body) => (200, body.to_string()),
            Err(Fault::Refused(status, code)) => {
                (status, json!({"__type": code, "message": "no"}).to_string())
            }
            Err(Fault::Garbage(status)) => {
                let secrets: String = state.parameters.values().cloned().collect();
                (status, format!(r#"{{"Parameter":{{"Value":"{text}{secrets}"#))
            }
            Err(Fault::Hang) => return HttpConnectorFuture::new(future::pending()),
            Err(Fault::Reset) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("reset".into())));
            }
        };
        let answer = status.try_into().map(|status| HttpResponse::new(status, SdkBody::from(body)));
        HttpConnectorFuture::ready(answer.map_err(|err| ConnectorError::other(Box::new(err), None)))
    }
}

impl State {
    fn parameter(&mut self, asked: &Value) -> Result<Value, Fault> {
        self.ssm_calls += 1;
        assert_eq!(asked["WithDecryption"], true);
        if let Some(fault) = self.ssm_fault {
            return Err(fault);
        }
        let value = self.parameters.get(&text(&asked["Name"]));
        let value = value.ok_or(Fault::Refused(400, "ParameterNotFound"))?;
        Ok(json!({"Parameter": {"Name": asked["Name"], "Value": value}}))
    }

    fn sqs(&mut self, target: &str, asked: &Value) -> Result<Value, Fault> {
        self.sqs_calls += 1;
        if let Some(fault) = self.sqs_faults.pop_front().or(self.sqs_fault) {
            return Err(fault);
        }
        match target {
            "AmazonSQS.SendMessage" => self.send(asked),
            "AmazonSQS.ChangeMessageVisibilityBatch" => Ok(self.change_visibility(asked)),
            other => panic!("not ours to call: {other}"),
        }
    }

    fn send(&mut self, asked: &Value) -> Result<Value, Fault> {
        let body = text(&asked["MessageBody"]);
        let attributes = asked["MessageAttributes"].as_object().into_iter().flatten();
        let attributes: Vec<_> = attributes
            .map(|(name, value)| {
                assert_eq!(value["DataType"], "String");
                (name.clone(), text(&value["StringValue"]))
            })
            .collect();
        let taken = |text: &str| !text.is_empty() && text.chars().all(character_is_taken);
        if !taken(&body) || !attributes.iter().all(|(_, value)| taken(value)) {
            return Err(Fault::Refused(400, "com.amazonaws.sqs#InvalidMessageContents"));
        }
        let extra = |(name, value): &(String, String)| name.len() + "String".len() + value.len();
        if body.len() + attributes.iter().map(extra).sum::<usize>() > MIB {
            return Err(Fault::Refused(400, "com.amazonaws.sqs#InvalidParameterValue"));
        }
        self.messages.push(Message { queue: queue(asked), body, attributes });
        Ok(json!({"MessageId": "m-1", "MD5OfMessageBody": "0"}))
    }

    fn change_visibility(&mut self, asked: &Value) -> Value {
        assert_eq!(queue(asked), "events");
        let entries = asked["Entries"].as_array().map_or(&[][..], |entries| entries);
        assert!((1..=10).contains(&entries.len()), "SQS takes 1 to 10 entries");
        for entry in entries {
            let seconds = entry["VisibilityTimeout"].as_i64().unwrap_or(-1);
            assert!((0..=43_200).contains(&seconds), "SQS takes 0 to 43,200 s");
            self.visibility.insert(text(&entry["ReceiptHandle"]), seconds);
        }
        let done = entries.iter().map(|entry| json!({"Id": entry["Id"]}));
        json!({"Successful": done.collect::<Vec<_>>(), "Failed": []})
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The last part of the queue's URL.
fn queue(asked: &Value) -> String {
    let url = text(&asked["QueueUrl"]);
    assert!(url.starts_with(QUEUES), "not our queue");
    url[QUEUES.len()..].to_owned()
}

/// SQS refuses the others, though JSON may hold them.
fn character_is_taken(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}
