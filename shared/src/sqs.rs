//! The proof that SQS has stored a message.

use aws_sdk_sqs::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        interceptors::{BeforeSerializationInterceptorContextRef, FinalizerInterceptorContextMut},
    },
    error::BoxError,
    operation::send_message::{SendMessageInput, SendMessageOutput},
};
use aws_smithy_runtime_api::client::{
    interceptors::dyn_dispatch_hint, orchestrator::OrchestratorError,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};
use md5::{Digest, Md5};

/// Whether SQS's response proves that it has stored a message: it has a message id, and its MD5 is
/// that of the body
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
/// A status of 200 alone may come from a proxy.
#[must_use]
pub fn has_stored(body: &str, message_id: Option<&str>, md5: Option<&str>) -> bool {
    is_proof(md5_of(body), message_id, md5)
}

fn is_proof(sent: u128, message_id: Option<&str>, md5: Option<&str>) -> bool {
    message_id.is_some_and(|id| !id.is_empty())
        && md5.is_some_and(|hex| u128::from_str_radix(hex, 16) == Ok(sent))
}

fn md5_of(body: &str) -> u128 {
    u128::from_be_bytes(Md5::digest(body).into())
}

/// Makes `SendMessage` succeed only with the proof of [`has_stored`]. Without it an attempt has
/// failed, and is retried within the call's limits like one whose response was cut off.
#[derive(Debug)]
pub struct ProofOfSending;

/// The MD5 of the body being sent.
#[derive(Debug)]
struct Sent(u128);

impl Storable for Sent {
    type Storer = StoreReplace<Self>;
}

#[dyn_dispatch_hint]
impl Intercept for ProofOfSending {
    fn name(&self) -> &'static str {
        "ProofOfSending"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if let Some(input) = context.input().downcast_ref::<SendMessageInput>() {
            let md5 = md5_of(input.message_body().unwrap_or_default());
            cfg.interceptor_state().store_put(Sent(md5));
        }
        Ok(())
    }

    fn modify_before_attempt_completion(
        &self,
        context: &mut FinalizerInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(answer) = context.output_or_error_mut() else { return Ok(()) };
        let output = answer.as_ref().ok().and_then(|output| output.downcast_ref());
        let Some(output): Option<&SendMessageOutput> = output else { return Ok(()) };
        let is_proof = cfg.load::<Sent>().is_some_and(|Sent(sent)| {
            is_proof(*sent, output.message_id(), output.md5_of_message_body())
        });
        if !is_proof {
            let why = "SQS did not confirm the message with its id and the MD5 of its body";
            *answer = Err(OrchestratorError::response(why.into()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_message_with_an_id_and_the_bodys_md5_is_stored() {
        // The value in RFC 1321.
        const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
        let cases = [
            (Some("m"), Some(MD5), true),
            (Some(""), Some(MD5), false),
            (None, Some(MD5), false),
            (Some("m"), None, false),
            (Some("m"), Some(""), false),
            (Some("m"), Some("d41d8cd98f00b204e9800998ecf8427e"), false),
        ];
        for (message_id, md5, expected) in cases {
            assert_eq!(has_stored("abc", message_id, md5), expected, "{message_id:?} {md5:?}");
        }
    }
}
