//! A relay: a stack, its parameters and outputs, and the tasks of its extractor-fn.

use std::collections::BTreeMap;

use aws_config::timeout::TimeoutConfig;
use aws_sdk_lambda::primitives::Blob;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::{DOCUMENT_VERSION, Document, Task};
use tokio::time::Duration;

use crate::{
    error::{Error, Result, explain, full_stop},
    session::Session,
};

/// How long a task may take: the function's own limit, and its start.
const TASK_TIMEOUT: Duration = Duration::from_secs(320);

/// The stack of a relay, which may not exist yet.
pub(crate) struct Relay {
    pub(crate) session: Session,
    /// The stack's name.
    pub(crate) name: String,
    /// CloudFormation's status; `None` if there is no such stack.
    pub(crate) status: Option<String>,
    /// The template's parameters.
    pub(crate) parameters: BTreeMap<String, String>,
    /// The template's outputs.
    pub(crate) outputs: BTreeMap<String, String>,
}

impl Relay {
    /// Looks the stack up.
    pub(crate) async fn find(session: Session) -> Result<Self> {
        let name = session.stack.clone();
        let cloudformation = aws_sdk_cloudformation::Client::new(&session.config);
        let mut pages =
            cloudformation.describe_stacks().stack_name(&name).into_paginator().items().send();
        let stack = match pages.next().await {
            Some(Ok(stack)) => Some(stack),
            None => None,
            Some(Err(err)) => {
                let error = explain("could not look up the stack", &err);
                if !error.sentence.contains("does not exist") {
                    return Err(if session.is_default && error.sentence.contains("cannot reach") {
                        Error::failed("what \"make up\" started has ended; start it again.")
                    } else {
                        error
                    });
                }
                None
            }
        };
        let Some(stack) = stack else {
            let (parameters, outputs) = Default::default();
            return Ok(Self { session, name, status: None, parameters, outputs });
        };
        Ok(Self::of(&session, stack))
    }

    /// A stack as CloudFormation describes it.
    pub(crate) fn of(session: &Session, stack: aws_sdk_cloudformation::types::Stack) -> Self {
        let name = stack.stack_name.unwrap_or_default();
        let parameters = stack.parameters.unwrap_or_default().into_iter();
        let outputs = stack.outputs.unwrap_or_default().into_iter();
        let status = stack.stack_status.map(|status| status.as_str().to_owned());
        Self {
            session: Session { stack: name.clone(), ..session.clone() },
            name,
            status: Some(status.unwrap_or_default()),
            parameters: parameters
                .filter_map(|each| each.parameter_key.zip(each.parameter_value))
                .collect(),
            outputs: outputs.filter_map(|each| each.output_key.zip(each.output_value)).collect(),
        }
    }

    /// Whether the stack exists with what a relay has; a change that never was confirmed leaves one
    /// without anything in it.
    pub(crate) fn is_deployed(&self) -> bool {
        self.outputs.contains_key("PauseParameterName")
    }

    /// The same, of a stack that is a relay.
    ///
    /// # Errors
    ///
    /// There is no such stack, or it is none of a relay.
    pub(crate) fn deployed(self) -> Result<Self> {
        if self.is_deployed() {
            return Ok(self);
        }
        Err(match &self.status {
            None => Error::failed(format!(
                "there is no stack {} in region {} of this AWS account; is the login right?",
                self.name, self.session.region
            )),
            Some(status) if status.contains("REVIEW") || status.contains("ROLLBACK") => {
                Error::failed(format!(
                    "the stack {} is in {status}: its deployment did not succeed; {}.",
                    self.name,
                    self.command("deploy")
                ))
            }
            Some(status) if status.ends_with("IN_PROGRESS") => Error::failed(format!(
                "the stack {} is being changed ({status}); try again when that is done.",
                self.name
            )),
            Some(_) => Error::failed(format!(
                "{} is not a gladly-relay stack (missing outputs PauseParameterName, …).",
                self.name
            )),
        })
    }

    /// An output of the stack.
    pub(crate) fn output(&self, name: &str) -> Result<&str> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            Error::failed(format!(
                "{} is not a gladly-relay stack (missing output {name}).",
                self.name
            ))
        })
    }

    /// Where Gladly posts its webhooks.
    pub(crate) fn webhook_url(&self) -> Result<String> {
        match &self.session.local_webhook_url {
            Some(url) if !url.is_empty() => Ok(url.to_string()),
            _ => self.output("WebhookUrl").map(str::to_owned),
        }
    }

    /// Whether deletions and merges of customers are forwarded.
    pub(crate) fn forwards_erasures(&self) -> bool {
        self.parameters.get("ForwardErasures").is_none_or(|switch| switch != "false")
    }

    /// A command as it has to be typed for this stack.
    pub(crate) fn command(&self, command: &str) -> String {
        suggested(&self.session, command)
    }

    /// Has extractor-fn perform a task, and reads its document.
    pub(crate) async fn task<T: DeserializeOwned>(&self, task: &Task) -> Result<Document<T>> {
        const WHAT: &str = "could not invoke extractor-fn";
        let payload = serde_json::to_vec(task).map_err(|err| Error::failed(err.to_string()))?;
        let patient = aws_sdk_lambda::config::Builder::default().timeout_config(
            TimeoutConfig::builder().operation_attempt_timeout(TASK_TIMEOUT).build(),
        );
        let answer = aws_sdk_lambda::Client::new(&self.session.config)
            .invoke()
            .function_name(self.output("ExtractorFunctionName")?)
            .payload(Blob::new(payload))
            .customize()
            .config_override(patient)
            .send()
            .await
            .map_err(|err| explain(WHAT, &err))?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        read_answer(answer.function_error.as_deref(), &payload, &self.command("deploy"))
    }

    /// A parameter's value, decrypted, and its type; `None` if there is none of that name.
    pub(crate) async fn parameter(
        &self,
        name: &str,
    ) -> Result<Option<aws_sdk_ssm::types::Parameter>> {
        let found = aws_sdk_ssm::Client::new(&self.session.config)
            .get_parameter()
            .name(name)
            .with_decryption(true)
            .send()
            .await;
        match found.map_err(|err| explain(&format!("could not read the parameter {name}"), &err)) {
            Ok(found) => Ok(found.parameter),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a String parameter.
    pub(crate) async fn write(&self, name: &str, value: &str) -> Result<()> {
        let written = aws_sdk_ssm::Client::new(&self.session.config)
            .put_parameter()
            .name(name)
            .value(value)
            .overwrite(true)
            .r#type(aws_sdk_ssm::types::ParameterType::String)
            .send()
            .await;
        written.map(drop).map_err(|err| explain(&format!("could not write {name}"), &err))
    }
}

/// A command as it has to be typed for a session.
pub(crate) fn suggested(session: &Session, command: &str) -> String {
    if session.is_default {
        return format!("gladly-relay {command}");
    }
    format!("gladly-relay {command} --stack {} --region {}", session.stack, session.region)
}

/// Reads what extractor-fn answered: a document of this version, or why there is none.
fn read_answer<T: DeserializeOwned>(
    failed: Option<&str>,
    payload: &[u8],
    deploy: &str,
) -> Result<Document<T>> {
    let answer: Value = serde_json::from_slice(payload).unwrap_or_default();
    let older = || {
        Error::failed(format!(
            "extractor-fn is older than this program ({}); {deploy}, or use the program of its version.",
            env!("CARGO_PKG_VERSION")
        ))
    };
    if failed.is_some() {
        let message = answer["errorMessage"].as_str().unwrap_or("it did not return a reason");
        return Err(if answer["errorType"] == "UnknownInvocation" {
            older()
        } else {
            Error::failed(format!("extractor-fn failed: {}", full_stop(message)))
        });
    }
    match answer["v"].as_u64() {
        Some(version) if version > DOCUMENT_VERSION.into() => Err(Error::failed(format!(
            "extractor-fn ({}) is newer than this program ({}); update the program.",
            answer["relayVersion"].as_str().unwrap_or("version unknown"),
            env!("CARGO_PKG_VERSION")
        ))),
        Some(_) => serde_json::from_value(answer).map_err(|_| older()),
        None => Err(older()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::Redriven;

    use super::*;

    #[test]
    fn documents_of_another_version_are_told_apart() {
        let read = |failed: Option<&str>, payload: Value| {
            read_answer::<Redriven>(failed, payload.to_string().as_bytes(), "gladly-relay deploy")
                .map_err(|err| err.sentence)
        };
        let body =
            json!({"v": 1, "relayVersion": "0.1.0", "redriven": 1, "stayed": 0, "more": false});
        assert_eq!(read(None, body).unwrap().body.redriven, 1);
        for (failed, payload, sentence) in [
            (None, json!({"redriven": 1, "stayed": 0, "more": false}), "older than this program"),
            (None, json!({"v": 1, "relayVersion": "0.1.0"}), "older than this program"),
            (None, json!("a screen"), "older than this program"),
            (None, json!({"v": 2, "relayVersion": "9.0.0"}), "(9.0.0) is newer than this program"),
            (
                Some("Unhandled"),
                json!({"errorType": "UnknownInvocation", "errorMessage": "x"}),
                "older",
            ),
            (
                Some("Unhandled"),
                json!({"errorType": "ControllerError", "errorMessage": "could not find the \"mapping\""}),
                "extractor-fn failed: could not find the \"mapping\".",
            ),
        ] {
            let error = read(failed, payload).unwrap_err();
            assert!(error.contains(sentence), "{error}");
        }
    }
}
