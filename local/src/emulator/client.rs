//! Plain calls to an emulated AWS.

use reqwest::{Method, RequestBuilder, Response};
use serde_json::Value;

use crate::emulator::{EmulatorError, texts};

/// Calls an emulated AWS, which may be another process's.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: String,
    http: reqwest::Client,
}

impl Client {
    /// A client of the emulated AWS at this URL.
    pub fn new(endpoint: &str) -> Result<Self, EmulatorError> {
        // Connections are not kept: tests share an emulator, and each has a runtime that takes its connections along.
        let http = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build()?;
        Ok(Self { endpoint: endpoint.to_owned(), http })
    }

    /// Where AWS clients send their calls.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Calls SSM, as in `ssm("GetParameter", json!({"Name": …}))`.
    pub async fn ssm(&self, action: &str, body: Value) -> Result<Value, EmulatorError> {
        self.json("ssm", "AmazonSSM", action, body).await
    }

    /// Whether the emulator answers and is ready.
    pub(super) async fn is_ready(&self) -> bool {
        let ready = format!("{}/_ministack/ready", self.endpoint);
        self.http.get(&ready).send().await.is_ok_and(|response| response.status().is_success())
    }

    /// Calls a service by AWS's JSON protocol.
    pub(super) async fn json(
        &self,
        service: &str,
        prefix: &str,
        action: &str,
        body: Value,
    ) -> Result<Value, EmulatorError> {
        let call = self
            .request(service, Method::POST, "/")
            .header("x-amz-target", format!("{prefix}.{action}"))
            .header("content-type", "application/x-amz-json-1.0")
            .body(body.to_string());
        let text = answer(action, call).await?.text().await?;
        // Some actions have an empty response.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// MiniStack reads the service off the signature's scope, and checks nothing else of it.
    pub(super) fn request(&self, service: &str, method: Method, path: &str) -> RequestBuilder {
        let scope = format!("test/20260101/us-east-1/{service}/aws4_request");
        self.http.request(method, format!("{}{path}", self.endpoint)).header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=none"),
        )
    }
}

/// Sends a call; an HTTP status of failure is an error.
pub(super) async fn answer(action: &str, call: RequestBuilder) -> Result<Response, EmulatorError> {
    let response = call.send().await?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await?;
    // CloudFormation's error message is in XML.
    let body = texts(&body, "Message").pop().unwrap_or(body);
    Err(EmulatorError::Refused { action: action.to_owned(), status: status.as_u16(), body })
}
