//! A webhook whose key has been checked.

use lambda_http::{Body, Request};
use shared::{Incoming, Parameter, ParameterError, Unusable};

use crate::keys::{self, ActiveKeys};

/// An authenticated webhook.
///
/// [`Webhook::authenticate`] is the only way to make one, so nothing unauthenticated can reach a
/// queue: that does not compile.
pub struct Webhook {
    slot: usize,
    body: Body,
}

/// Why a request is turned away before its body is touched.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// No, a wrong, an empty or a doubled key.
    #[error("no right x-api-key")]
    Unauthorized,
    /// We cannot tell a right key from a wrong one.
    #[error("no webhook keys to check against")]
    NoKeys(#[from] ParameterError),
}

impl Webhook {
    /// Checks the request's key.
    pub async fn authenticate(
        request: Request,
        keys: &Parameter<ActiveKeys>,
    ) -> Result<Self, Rejection> {
        let mut presented = request.headers().get_all("x-api-key").into_iter();
        let (Some(key), None) = (presented.next(), presented.next()) else {
            return Err(Rejection::Unauthorized);
        };
        if key.is_empty() {
            return Err(Rejection::Unauthorized);
        }
        let slot = keys::slot(keys, key.as_bytes()).await?.ok_or(Rejection::Unauthorized)?;
        Ok(Self { slot, body: request.into_body() })
    }

    /// The place of its key in the parameter, counted from 1.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// The body as it came.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.body
    }

    /// What Gladly says in it.
    pub fn read(&self) -> Result<(Incoming<'_>, &str), Unusable> {
        let text = str::from_utf8(&self.body).map_err(|_| Unusable::NotUtf8)?;
        Ok((Incoming::read(text)?, text))
    }
}
