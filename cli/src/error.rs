//! How a command fails: one sentence with what to do, and an exit code.

use std::process::ExitCode;

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use shared::error_chain;

/// The exit code of a command that Ctrl-C ended, as shells expect it (128 + SIGINT).
pub(crate) const INTERRUPTED: u8 = 130;

/// What kind of failure it is, which is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It failed; a repeat may succeed.
    Failed = 1,
    /// The command was used wrongly: nothing was called.
    Usage = 2,
    /// AWS, Gladly or the destination does not allow it.
    Denied = 3,
    /// What was checked is wrong (`doctor`, `status --check`, `conformance`).
    Wrong = 4,
}

impl From<Kind> for ExitCode {
    fn from(kind: Kind) -> Self {
        Self::from(kind as u8)
    }
}

/// Why a command ended without having done what it is for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub(crate) struct Error {
    pub(crate) kind: Kind,
    /// What happened and what to do, without the command's name and with a full stop.
    pub(crate) sentence: String,
    /// The missing permission (`ssm:PutParameter`), if that is why.
    pub(crate) permission: Option<String>,
    /// AWS's error code, if AWS answered with one.
    pub(crate) code: Option<String>,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(kind: Kind, sentence: impl Into<String>) -> Self {
        Self { kind, sentence: sentence.into(), permission: None, code: None }
    }

    pub(crate) fn failed(sentence: impl Into<String>) -> Self {
        Self::new(Kind::Failed, sentence)
    }

    pub(crate) fn usage(sentence: impl Into<String>) -> Self {
        Self::new(Kind::Usage, sentence)
    }

    pub(crate) fn denied(sentence: impl Into<String>) -> Self {
        Self::new(Kind::Denied, sentence)
    }

    pub(crate) fn wrong(sentence: impl Into<String>) -> Self {
        Self::new(Kind::Wrong, sentence)
    }

    /// The same failure, after something that holds already.
    pub(crate) fn after(self, held: &str) -> Self {
        Self { sentence: format!("{held}; but {}", self.sentence), ..self }
    }

    /// Whether AWS has nothing of the requested name.
    pub(crate) fn is_not_found(&self) -> bool {
        self.code.as_deref().is_some_and(|code| {
            code.contains("NotFound")
                || code.contains("NonExistentQueue")
                || code == "QueueDoesNotExist"
        }) || self.sentence.contains("does not exist")
    }
}

/// Explains why a call to AWS failed; `what` says what could not be done ("could not read the pause
/// parameter").
pub(crate) fn explain<E>(what: &str, err: &SdkError<E, HttpResponse>) -> Error
where
    E: std::error::Error + ProvideErrorMetadata + 'static,
{
    let chain = error_chain(err);
    match err {
        SdkError::ServiceError(_) | SdkError::ResponseError(_) => {
            answered(what, err.code().unwrap_or_default(), err.message().unwrap_or(&chain))
        }
        _ => unanswered(what, &chain),
    }
}

/// AWS answered with an error.
fn answered(what: &str, code: &str, message: &str) -> Error {
    let has = |parts: &[&str]| parts.iter().any(|part| code.contains(part));
    let error =
        if has(&["ExpiredToken", "InvalidClientTokenId", "UnrecognizedClient", "InvalidSignature"])
        {
            Error::denied(format!("{what}: {NO_CREDENTIALS}"))
        } else if has(&["AccessDenied", "NotAuthorized", "UnauthorizedOperation"])
            || message.contains("not authorized")
        {
            let permission =
                message.split("perform: ").nth(1).and_then(|rest| rest.split_whitespace().next());
            let permission = permission.map(str::to_owned);
            let sentence = match &permission {
                Some(permission) => format!("{what}: you lack the permission {permission}."),
                None => format!("{what}: access denied by AWS: {}", full_stop(message)),
            };
            Error { permission, ..Error::denied(sentence) }
        } else if has(&["Throttl", "TooManyRequests", "RequestLimitExceeded"])
            || message.contains("ate exceeded")
        {
            Error::failed(format!("{what}: AWS is throttling requests; try again in a minute."))
        } else {
            Error::failed(format!(
                "{what}: {}",
                full_stop(if message.is_empty() { code } else { message })
            ))
        };
    Error { code: Some(code.to_owned()), ..error }
}

/// AWS was not reached, or not called at all.
fn unanswered(what: &str, chain: &str) -> Error {
    let text = chain.to_lowercase();
    let has = |parts: &[&str]| parts.iter().any(|part| text.contains(part));
    if has(&["credential", "sso", "assume role", "no providers in chain", "login session"]) {
        // The chain names the profile and the file that is wrong, never a secret.
        let detail = chain.rsplit(": ").next().unwrap_or_default();
        Error::denied(format!("{what}: {NO_CREDENTIALS} ({})", detail.trim_end_matches('.')))
    } else {
        Error::failed(format!("{what}: {UNREACHABLE}"))
    }
}

pub(crate) const NO_CREDENTIALS: &str =
    "no valid AWS credentials; log in first, for example with \"aws sso login\".";
pub(crate) const UNREACHABLE: &str =
    "cannot reach AWS; is there a network, and is the region right?";

/// A text as the end of a sentence.
pub(crate) fn full_stop(text: &str) -> String {
    let text = text.trim();
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aws_answers_becomes_one_sentence_and_a_kind() {
        let denied = "User: ada is not authorized to perform: ssm:PutParameter on resource: x";
        for (code, message, kind, sentence) in [
            (
                "AccessDeniedException",
                denied,
                Kind::Denied,
                "x: you lack the permission ssm:PutParameter.",
            ),
            ("ExpiredToken", "expired", Kind::Denied, "x: no valid AWS credentials"),
            ("ThrottlingException", "Rate exceeded", Kind::Failed, "x: AWS is throttling requests"),
            (
                "ValidationError",
                "Stack with id a does not exist",
                Kind::Failed,
                "x: Stack with id a does not exist.",
            ),
            ("InternalError", "", Kind::Failed, "x: InternalError."),
        ] {
            let error = answered("x", code, message);
            assert!(error.kind == kind && error.sentence.starts_with(sentence), "{error:?}");
        }
        assert_eq!(
            answered("x", "AccessDenied", denied).permission.as_deref(),
            Some("ssm:PutParameter")
        );
        assert!(answered("x", "ParameterNotFound", "").is_not_found());
    }

    #[test]
    fn what_never_reached_aws_is_told_apart() {
        let unreachable = unanswered("x", "dispatch failure: io error: connection refused");
        assert!(
            unreachable.kind == Kind::Failed && unreachable.sentence.contains("cannot reach AWS")
        );
        let login =
            unanswered("x", "dispatch failure: other: the credential provider was not enabled");
        assert_eq!(login.kind, Kind::Denied);
    }
}
