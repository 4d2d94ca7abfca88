//! SQS and SSM in this process: they read the SDK's own requests, and can fail in every way AWS can.

use std::{
    collections::VecDeque,
    future,
    sync::{Arc, Mutex, MutexGuard},
};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use serde_json::{Value, json};

/// SQS's own limit, attributes included.
const MIB: usize = 1 << 20;

/// How a call fails.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// AWS's own error: status and code.
    Refused(u16, &'static str),
    /// An answer that is not AWS's and, to tempt the logs, repeats what it should not.
    Garbage(u16),
    /// No answer ever.
    Hang,
    /// No connection.
    Reset,
}

pub(crate) const THROTTLED: Fault =
    Fault::Refused(400, "com.amazon.coral.availability#ThrottlingException");

/// A message that SQS has taken.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    /// The last part of its queue's URL.
    pub(crate) queue: String,
    pub(crate) body: String,
    /// Every attribute's name and value, all of them strings.
    pub(crate) attributes: Vec<(String, String)>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The text of the keys' parameter.
    pub(crate) keys: String,
    /// How SSM fails, for as long as it is set.
    pub(crate) ssm_fault: Option<Fault>,
    pub(crate) ssm_calls: usize,
    /// How SQS fails at its next calls.
    pub(crate) sqs_faults: VecDeque<Fault>,
    /// How SQS fails after those, for as long as it is set.
    pub(crate) sqs_fault: Option<Fault>,
    pub(crate) sqs_calls: usize,
    pub(crate) messages: Vec<Message>,
}

/// A handle on one AWS account.
#[derive(Debug, Clone, Default)]
pub(crate) struct Aws(Arc<Mutex<State>>);

impl Aws {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The settings of an SDK that reaches nothing but this account.
    pub(crate) fn config(&self) -> aws_config::SdkConfig {
        use aws_sdk_sqs::config::{Credentials, Region, SharedCredentialsProvider};
        use aws_smithy_async::rt::sleep::{SharedAsyncSleep, TokioSleep};

        let connector = SharedHttpConnector::new(self.clone());
        let credentials = Credentials::new("AKIDEXAMPLE", "c", None, None, "test");
        aws_config::SdkConfig::builder()
            .behavior_version(aws_config::BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .sleep_impl(SharedAsyncSleep::new(TokioSleep::new()))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .build()
    }
}

impl HttpConnector for Aws {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let header = |name| request.headers().get(name).unwrap_or_default();
        assert!(header("authorization").starts_with("AWS4-HMAC-SHA256 "), "signed");
        let text = str::from_utf8(request.body().bytes().unwrap()).unwrap();
        let asked: Value = serde_json::from_str(text).unwrap();

        let answer = match (header("content-type"), header("x-amz-target")) {
            ("application/x-amz-json-1.1", "AmazonSSM.GetParameter") => {
                self.state().parameter(&asked)
            }
            ("application/x-amz-json-1.0", "AmazonSQS.SendMessage") => self.state().send(&asked),
            other => panic!("not ours to call: {other:?}"),
        };
        let (status, body) = match answer {
            Ok(body) => (200, body.to_string()),
            Err(Fault::Refused(status, code)) => {
                (status, json!({"__type": code, "message": "no"}).to_string())
            }
            Err(Fault::Garbage(status)) => {
                let repeated = format!("{}{text}", self.state().keys);
                (status, format!(r#"{{"Parameter":{{"Value":"{repeated}"#))
            }
            Err(Fault::Hang) => return HttpConnectorFuture::new(future::pending()),
            Err(Fault::Reset) => {
                return HttpConnectorFuture::ready(Err(ConnectorError::io("reset".into())));
            }
        };
        let status = status.try_into().unwrap();
        HttpConnectorFuture::ready(Ok(HttpResponse::new(status, SdkBody::from(body))))
    }
}

impl State {
    fn parameter(&mut self, asked: &Value) -> Result<Value, Fault> {
        self.ssm_calls += 1;
        assert_eq!(*asked, json!({"Name": "/relay/webhook-keys", "WithDecryption": true}));
        match self.ssm_fault {
            Some(fault) => Err(fault),
            None => Ok(json!({"Parameter": {"Name": asked["Name"], "Value": self.keys}})),
        }
    }

    fn send(&mut self, asked: &Value) -> Result<Value, Fault> {
        self.sqs_calls += 1;
        if let Some(fault) = self.sqs_faults.pop_front().or(self.sqs_fault) {
            return Err(fault);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let body = text(&asked["MessageBody"]);
        let attributes = asked["MessageAttributes"].as_object().unwrap();
        let attributes: Vec<_> = attributes
            .iter()
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
        let url = text(&asked["QueueUrl"]);
        let queue = url.strip_prefix(QUEUES).unwrap().to_owned();
        self.messages.push(Message { queue, body, attributes });
        Ok(json!({"MessageId": "m-1", "MD5OfMessageBody": "0"}))
    }
}

/// What every queue's URL begins with.
pub(crate) const QUEUES: &str = "https://sqs.eu-west-1.amazonaws.com/123456789012/";

/// SQS refuses the others, though JSON may hold them.
fn character_is_taken(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..)
}
