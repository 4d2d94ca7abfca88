//! The real `template.yaml` with the real binaries, deployed onto the emulated AWS, and operations on it.
//!
//! ```no_run
//! # use local::stack::{Artifacts, EmulatedAws, Queue, Settings};
//! # async fn example() -> Result<(), local::stack::StackError> {
//! let aws = EmulatedAws::start("example", &Artifacts::build().await?).await?;
//! let settings = Settings::new("http://127.0.0.1:4000", "http://127.0.0.1:5000/deliveries");
//! let stack = aws.deploy("example", &settings).await?;
//! let answer = stack.post(&settings.webhook_keys[0], r#"{"type":"PING"}"#).await?;
//! assert_eq!((answer.status, answer.body.as_str()), (200, r#"{"status":"pong"}"#));
//! assert_eq!(stack.counts(Queue::Events).await?.total(), 0);
//! stack.delete().await
//! # }
//! ```

mod artifacts;
mod emulated_aws;
mod error;
mod logs;
mod settings;

pub use self::{
    artifacts::{Artifacts, build_program},
    emulated_aws::EmulatedAws,
    error::StackError,
    logs::NewLines,
    settings::Settings,
};

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Formatter},
    time::{Duration, UNIX_EPOCH},
};

use reqwest::{Body, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    emulator::{Emulator, EmulatorError},
    stack::{artifacts::package, emulated_aws::request},
};

/// A deployed stack.
pub struct Stack<'a> {
    aws: &'a EmulatedAws,
    name: String,
    webhook_url: String,
    events_queue: String,
    quarantine_queue: String,
    pause_parameter: String,
    ingest_function: String,
    extractor_function: String,
    mapping: String,
}

impl Debug for Stack<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack").field("name", &self.name).finish_non_exhaustive()
    }
}

/// One of a stack's queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Queue {
    /// Events that wait to be forwarded.
    Events,
    /// Events that cannot be forwarded.
    Quarantine,
}

/// One of a stack's functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Function {
    /// Takes the webhooks.
    Ingest,
    /// Fetches and forwards.
    Extractor,
}

/// How many messages a queue holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Could be received now.
    pub visible: u64,
    /// Received and not yet deleted or back.
    pub in_flight: u64,
    /// Sent with a delay.
    pub delayed: u64,
}

impl Counts {
    /// Everything that is in the queue.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }
}

/// A received message.
#[derive(Debug, Clone)]
pub struct Message {
    /// The body.
    pub body: String,
    /// The message attributes that are strings.
    pub attributes: BTreeMap<String, String>,
    /// How often it was received, this time included.
    pub receive_count: u64,
    /// To delete it or change its visibility.
    pub receipt_handle: String,
}

impl Message {
    /// The body as JSON; null if it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A message that was read without receiving it.
#[derive(Debug, Clone)]
pub struct Peeked {
    /// The body.
    pub body: String,
    /// How often it was received.
    pub receive_count: u64,
    /// How long it stays hidden from now on, in whole seconds; zero once it can be received.
    pub hidden_for: Duration,
}

/// The response to a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookResponse {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

/// A function's response to an invocation.
#[derive(Debug, Clone, PartialEq)]
pub struct Invocation {
    /// Whether it failed; the payload then has the error.
    pub failed: bool,
    /// The returned JSON.
    pub payload: Value,
}

impl<'a> Stack<'a> {
    fn new(
        aws: &'a EmulatedAws,
        name: &str,
        outputs: &BTreeMap<String, String>,
    ) -> Result<Self, StackError> {
        let output =
            |key: &str| outputs.get(key).cloned().ok_or_else(|| StackError::Output(key.to_owned()));
        let url = output("WebhookUrl")?;
        // AWS gives every API a host name; here, its first label goes into the path.
        let (host, path) = url
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once('/'))
            .ok_or_else(|| StackError::Output(url.clone()))?;
        let api = host.split('.').next().unwrap_or_default();
        let port = aws.emulator.port();
        Ok(Self {
            aws,
            name: name.to_owned(),
            webhook_url: format!("http://localhost:{port}/_aws/execute-api/{api}/{path}"),
            events_queue: output("EventsQueueUrl")?,
            quarantine_queue: output("QuarantineQueueUrl")?,
            pause_parameter: output("PauseParameterName")?,
            ingest_function: output("IngestFunctionName")?,
            extractor_function: output("ExtractorFunctionName")?,
            mapping: output("EventsMappingId")?,
        })
    }

    /// The AWS that it is deployed on.
    #[must_use]
    pub fn aws(&self) -> &EmulatedAws {
        self.aws
    }

    /// Where Gladly would post its webhooks.
    #[must_use]
    pub fn webhook_url(&self) -> &str {
        &self.webhook_url
    }

    /// The URL of a queue.
    #[must_use]
    pub fn queue_url(&self, queue: Queue) -> &str {
        match queue {
            Queue::Events => &self.events_queue,
            Queue::Quarantine => &self.quarantine_queue,
        }
    }

    /// The name that a function was deployed under.
    #[must_use]
    pub fn function_name(&self, function: Function) -> &str {
        match function {
            Function::Ingest => &self.ingest_function,
            Function::Extractor => &self.extractor_function,
        }
    }

    /// The SSM parameter that pauses the extraction.
    #[must_use]
    pub fn pause_parameter(&self) -> &str {
        &self.pause_parameter
    }

    /// The id of the event source mapping.
    #[must_use]
    pub fn mapping_id(&self) -> &str {
        &self.mapping
    }

    /// A POST to the webhook's URL, with neither key nor body yet.
    pub fn request(&self) -> RequestBuilder {
        self.aws.http.post(&self.webhook_url)
    }

    /// Posts a webhook with a key.
    pub async fn post(
        &self,
        key: &str,
        body: impl Into<Body>,
    ) -> Result<WebhookResponse, StackError> {
        let request = self.request().header("x-api-key", key).body(body);
        let response = request.send().await.map_err(EmulatorError::from)?;
        let status = response.status().as_u16();
        let body = response.text().await.map_err(EmulatorError::from)?;
        Ok(WebhookResponse { status, body })
    }

    /// Deploys other settings, or the same again, over this stack.
    pub async fn update(&self, settings: &Settings) -> Result<(), StackError> {
        self.change(&self.aws.template, settings).await
    }

    /// Deploys another build of the code with other settings over this stack.
    pub async fn upgrade(&self, build: &str, settings: &Settings) -> Result<(), StackError> {
        let template = package(&self.aws.emulator, &self.aws.artifacts, build).await?;
        self.change(&template, settings).await
    }

    async fn change(&self, template: &str, settings: &Settings) -> Result<(), StackError> {
        let request = request(&self.name, template, settings);
        self.aws.emulator.cloudformation("UpdateStack", request).await?;
        self.aws.wait(&self.name, "UPDATE_COMPLETE").await?;
        Ok(())
    }

    /// Deletes the stack; its queues stay, as they do on AWS.
    pub async fn delete(self) -> Result<(), StackError> {
        let name = vec![("StackName".to_owned(), self.name)];
        self.aws.emulator.cloudformation("DeleteStack", name).await?;
        Ok(())
    }

    /// Reads a parameter, decrypted; `None` if there is none of that name.
    pub async fn parameter(&self, name: &str) -> Result<Option<String>, StackError> {
        let body = json!({"Name": name, "WithDecryption": true});
        match self.aws.emulator.ssm("GetParameter", body).await {
            Ok(found) => Ok(found["Parameter"]["Value"].as_str().map(str::to_owned)),
            Err(EmulatorError::Refused { body, .. }) if body.contains("ParameterNotFound") => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a plain parameter.
    pub async fn put_parameter(&self, name: &str, value: &str) -> Result<(), StackError> {
        let body = json!({"Name": name, "Value": value, "Type": "String", "Overwrite": true});
        self.aws.emulator.ssm("PutParameter", body).await?;
        Ok(())
    }

    /// Writes an encrypted parameter.
    pub async fn put_secret(&self, name: &str, value: &str) -> Result<(), StackError> {
        put_secret(&self.aws.emulator, name, value).await
    }

    /// Deletes a parameter.
    pub async fn delete_parameter(&self, name: &str) -> Result<(), StackError> {
        self.aws.emulator.ssm("DeleteParameter", json!({"Name": name})).await?;
        Ok(())
    }

    /// Writes the pause parameter: `running`, `paused`, or any other text.
    pub async fn set_pause(&self, value: &str) -> Result<(), StackError> {
        self.put_parameter(&self.pause_parameter, value).await
    }

    /// Sends a message to a queue, past ingest-fn.
    pub async fn send(&self, queue: Queue, body: &str) -> Result<(), StackError> {
        let message = json!({"QueueUrl": self.queue_url(queue), "MessageBody": body});
        self.aws.emulator.sqs("SendMessage", message).await?;
        Ok(())
    }

    /// Sends many messages to a queue, past ingest-fn.
    pub async fn send_all(&self, queue: Queue, bodies: &[String]) -> Result<(), StackError> {
        for some in bodies.chunks(10) {
            let entries = some.iter().enumerate();
            let entries: Vec<_> = entries
                .map(|(id, body)| json!({"Id": id.to_string(), "MessageBody": body}))
                .collect();
            let batch = json!({"QueueUrl": self.queue_url(queue), "Entries": entries});
            self.aws.emulator.sqs("SendMessageBatch", batch).await?;
        }
        Ok(())
    }

    /// A queue's attributes by name, as SQS gives them.
    pub async fn queue_attributes(
        &self,
        queue: Queue,
    ) -> Result<BTreeMap<String, String>, StackError> {
        let body = json!({"QueueUrl": self.queue_url(queue), "AttributeNames": ["All"]});
        let found = self.aws.emulator.sqs("GetQueueAttributes", body).await?;
        Ok(strings(&found["Attributes"], Value::as_str))
    }

    /// How many messages a queue holds.
    pub async fn counts(&self, queue: Queue) -> Result<Counts, StackError> {
        let attributes = self.queue_attributes(queue).await?;
        let count = |name: &str| {
            attributes.get(name).and_then(|count| count.parse().ok()).unwrap_or_default()
        };
        Ok(Counts {
            visible: count("ApproximateNumberOfMessages"),
            in_flight: count("ApproximateNumberOfMessagesNotVisible"),
            delayed: count("ApproximateNumberOfMessagesDelayed"),
        })
    }

    /// Receives up to ten messages and hides them for a while; with zero, they stay visible (which also counts as a
    /// receive).
    pub async fn receive(&self, queue: Queue, hide: Duration) -> Result<Vec<Message>, StackError> {
        let body = json!({
            "QueueUrl": self.queue_url(queue),
            "MaxNumberOfMessages": 10,
            "VisibilityTimeout": hide.as_secs(),
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        let found = self.aws.emulator.sqs("ReceiveMessage", body).await?;
        let messages = found["Messages"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(messages.iter().map(message).collect())
    }

    /// Takes everything out of a queue that can be received.
    pub async fn drain(&self, queue: Queue) -> Result<Vec<Message>, StackError> {
        let mut all = Vec::new();
        loop {
            let messages = self.receive(queue, Duration::from_mins(1)).await?;
            if messages.is_empty() {
                return Ok(all);
            }
            for message in messages {
                let handle = json!({
                    "QueueUrl": self.queue_url(queue),
                    "ReceiptHandle": message.receipt_handle,
                });
                self.aws.emulator.sqs("DeleteMessage", handle).await?;
                all.push(message);
            }
        }
    }

    /// Invokes a function and waits for its answer.
    pub async fn invoke(
        &self,
        function: Function,
        event: &Value,
    ) -> Result<Invocation, StackError> {
        let path = format!("/functions/{}/invocations", self.function_name(function));
        let response = self.aws.emulator.lambda(Method::POST, &path, event).await?;
        let failed = response.headers().contains_key("x-amz-function-error");
        let text = response.text().await.map_err(EmulatorError::from)?;
        let payload = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Invocation { failed, payload })
    }

    /// Stops the schedule of the controller, so that a test can switch the mapping.
    pub async fn stop_schedule(&self) -> Result<(), StackError> {
        let prefix = format!("{}-ReconcileSchedule-", self.name);
        Ok(self.aws.emulator.delete_schedules(&prefix).await?)
    }

    /// Switches the event source mapping on or off.
    pub async fn enable_mapping(&self, enabled: bool) -> Result<(), StackError> {
        let path = format!("/event-source-mappings/{}", self.mapping);
        self.aws.emulator.lambda(Method::PUT, &path, &json!({"Enabled": enabled})).await?;
        Ok(())
    }

    /// The event source mapping's state: `Enabled`, `Disabled`, or on its way there.
    pub async fn mapping_state(&self) -> Result<String, StackError> {
        let path = format!("/event-source-mappings/{}", self.mapping);
        let response = self.aws.emulator.lambda(Method::GET, &path, &Value::Null).await?;
        let found: Value = response.json().await.map_err(EmulatorError::from)?;
        Ok(found["State"].as_str().unwrap_or_default().to_owned())
    }

    /// Everything in a queue, hidden messages too. AWS has no such call; here it leaves no trace in the queue.
    pub async fn peek(&self, queue: Queue) -> Result<Vec<Peeked>, StackError> {
        let url = self.queue_url(queue);
        let found = self.aws.emulator.peek(url).await?;
        let queues =
            found["messages"].as_object().into_iter().flat_map(|accounts| accounts.values());
        let regions = queues.filter_map(Value::as_object).flat_map(|regions| regions.values());
        Ok(regions.filter_map(|queues| queues[url].as_array()).flatten().map(peeked).collect())
    }

    /// The inline policies of a function's role, as IAM has them: URL-encoded JSON in XML.
    pub async fn role_policies(&self, function: Function) -> Result<Vec<String>, StackError> {
        let configuration = self.configuration(function).await?;
        let role = configuration["Role"].as_str().unwrap_or_default();
        let name = role.rsplit('/').next().unwrap_or_default();
        Ok(self.aws.emulator.role_policies(name).await?)
    }

    /// One of a function's environment variables.
    pub async fn variable(
        &self,
        function: Function,
        name: &str,
    ) -> Result<Option<String>, StackError> {
        let variables = self.configuration(function).await?["Environment"]["Variables"].take();
        Ok(variables[name].as_str().map(str::to_owned))
    }

    /// Sets one of a function's environment variables, or takes it away. Its environments are replaced.
    pub async fn set_variable(
        &self,
        function: Function,
        name: &str,
        value: Option<&str>,
    ) -> Result<(), StackError> {
        let mut variables = self.configuration(function).await?["Environment"]["Variables"].take();
        if let Some(variables) = variables.as_object_mut() {
            variables.remove(name);
            variables.extend(value.map(|value| (name.to_owned(), json!(value))));
        }
        self.configure(function, &json!({"Environment": {"Variables": variables}})).await
    }

    /// Changes a function's configuration, as in `configure(Function::Ingest, &json!({"Timeout": 3}))`.
    pub async fn configure(&self, function: Function, change: &Value) -> Result<(), StackError> {
        let path = format!("/functions/{}/configuration", self.function_name(function));
        self.aws.emulator.lambda(Method::PUT, &path, change).await?;
        // While it changes, Lambda refuses other changes.
        while self.configuration(function).await?["LastUpdateStatus"] == "InProgress" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    async fn configuration(&self, function: Function) -> Result<Value, StackError> {
        let path = format!("/functions/{}/configuration", self.function_name(function));
        let response = self.aws.emulator.lambda(Method::GET, &path, &Value::Null).await?;
        Ok(response.json().await.map_err(EmulatorError::from)?)
    }

    /// Sets the webhook URL in the extractor's environment: behind the emulator it differs from the template's.
    pub async fn know_webhook(&self) -> Result<(), StackError> {
        self.set_variable(Function::Extractor, "WEBHOOK_URL", Some(&self.webhook_url)).await
    }

    /// Lets at most this many environments of a function run at once.
    pub async fn reserve_concurrency(
        &self,
        function: Function,
        most: u32,
    ) -> Result<(), StackError> {
        let path = format!("/functions/{}/concurrency", self.function_name(function));
        let body = json!({"ReservedConcurrentExecutions": most});
        self.aws.emulator.lambda(Method::PUT, &path, &body).await?;
        Ok(())
    }

    /// Deletes a queue with everything in it.
    pub async fn delete_queue(&self, queue: Queue) -> Result<(), StackError> {
        self.aws.emulator.sqs("DeleteQueue", json!({"QueueUrl": self.queue_url(queue)})).await?;
        Ok(())
    }

    /// Changes one of a queue's attributes.
    pub async fn set_queue_attribute(
        &self,
        queue: Queue,
        name: &str,
        value: &str,
    ) -> Result<(), StackError> {
        let body = json!({"QueueUrl": self.queue_url(queue), "Attributes": {name: value}});
        self.aws.emulator.sqs("SetQueueAttributes", body).await?;
        Ok(())
    }
}

async fn put_secret(emulator: &Emulator, name: &str, value: &str) -> Result<(), StackError> {
    let body = json!({"Name": name, "Value": value, "Type": "SecureString", "Overwrite": true});
    emulator.ssm("PutParameter", body).await?;
    Ok(())
}

fn message(found: &Value) -> Message {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let receives = found["Attributes"]["ApproximateReceiveCount"].as_str();
    Message {
        body: text(&found["Body"]),
        attributes: strings(&found["MessageAttributes"], |value| value["StringValue"].as_str()),
        receive_count: receives.and_then(|count| count.parse().ok()).unwrap_or_default(),
        receipt_handle: text(&found["ReceiptHandle"]),
    }
}

fn peeked(found: &Value) -> Peeked {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    let visible_at = found["VisibleAt"].as_u64().unwrap_or_default();
    Peeked {
        body: found["Body"].as_str().unwrap_or_default().to_owned(),
        receive_count: found["ReceiveCount"].as_u64().unwrap_or_default(),
        hidden_for: Duration::from_secs(visible_at.saturating_sub(now)),
    }
}

fn strings(object: &Value, text: impl Fn(&Value) -> Option<&str>) -> BTreeMap<String, String> {
    let entries = object.as_object().into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), text(value)?.to_owned()))).collect()
}
