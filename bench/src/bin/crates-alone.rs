//! The crates alone: `lambda_runtime` and `aws-sdk-sqs` as their documentation shows them, sending the message that
//! ingest-fn sends and nothing else. It reads no key and checks none, examines nothing, and writes no line.

use std::env;

use aws_config::BehaviorVersion;
use aws_sdk_sqs::{Client, types::MessageAttributeValue};
use jiff::Timestamp;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    body: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    status_code: u16,
    body: &'static str,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let sqs = Client::new(&aws_config::load_defaults(BehaviorVersion::latest()).await);
    let queue = env::var("EVENTS_QUEUE_URL")?;
    run(service_fn(|event: LambdaEvent<Request>| send(&sqs, &queue, event.payload))).await
}

async fn send(sqs: &Client, queue: &str, request: Request) -> Result<Response, Error> {
    let value = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("CONTACT/MESSAGE_RECEIVED")
        .build()?;
    let (received_at, event) = (Timestamp::now(), request.body);
    let message = format!(r#"{{"v":1,"receivedAt":"{received_at:.3}","event":{event}}}"#);
    let sending = sqs.send_message().queue_url(queue).message_body(message);
    sending.message_attributes("type", value).send().await?;
    Ok(Response { status_code: 200, body: r#"{"status":"queued"}"# })
}
