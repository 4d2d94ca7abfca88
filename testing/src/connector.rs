//! A connector in this process: its user decides how each request is answered, as an HTTP client sees it.

use std::{convert::Infallible, fmt, future, io, sync::Arc, time::Duration};

use aws_smithy_runtime_api::client::{
    http::{HttpConnector, HttpConnectorFuture, SharedHttpConnector},
    orchestrator::{HttpRequest, HttpResponse},
    result::ConnectorError,
};
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use futures::{channel::mpsc, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::Value;
use tokio::time::sleep;

/// What a server does with a request.
#[derive(Debug, Clone)]
pub enum Reply {
    /// It answers.
    Response {
        /// The status. An invalid one breaks the connection.
        status: u16,
        /// Names and values. Invalid headers are left out.
        headers: Vec<(String, String)>,
        /// The body.
        body: Body,
    },
    /// It replies after a wait.
    Late(Duration, Box<Reply>),
    /// The connection fails.
    Reset,
    /// It never answers.
    Hang,
}

/// The body of a response.
#[derive(Debug, Clone)]
pub enum Body {
    /// Complete.
    Whole(Vec<u8>),
    /// Complete, as JSON.
    Json(Value),
    /// In parts.
    Stream {
        /// Each part with the wait before it.
        parts: Vec<(Duration, String)>,
        /// Whether the connection breaks after the last part.
        cut: bool,
    },
    /// It never ends.
    Endless,
}

impl Reply {
    /// 200 with JSON.
    #[must_use]
    pub fn json(body: Value) -> Self {
        Self::response(200, Body::Json(body))
    }

    /// 200 with this body.
    pub fn text(body: impl Into<Vec<u8>>) -> Self {
        Self::response(200, Body::Whole(body.into()))
    }

    /// A status with an empty body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::response(status, Body::Whole(Vec::new()))
    }

    /// 200 with a body in parts, each with the wait before it.
    #[must_use]
    pub fn stream(parts: Vec<(Duration, String)>) -> Self {
        Self::response(200, Body::Stream { parts, cut: false })
    }

    /// The same, and then the connection breaks.
    #[must_use]
    pub fn cut(parts: Vec<(Duration, String)>) -> Self {
        Self::response(200, Body::Stream { parts, cut: true })
    }

    /// A status with a body that never ends.
    #[must_use]
    pub fn endless(status: u16) -> Self {
        Self::response(status, Body::Endless)
    }

    /// A status with this body.
    #[must_use]
    pub fn response(status: u16, body: Body) -> Self {
        Self::Response { status, headers: Vec::new(), body }
    }

    /// The response with one header more.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        if let Self::Response { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.into()));
        }
        self
    }

    /// The same after a wait.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self::Late(wait, Box::new(self))
    }

    /// The status, if it answers without a wait.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Response { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The reply as the client gets it.
    pub async fn send(self) -> Result<HttpResponse, ConnectorError> {
        let mut reply = self;
        while let Self::Late(wait, late) = reply {
            sleep(wait).await;
            reply = *late;
        }
        match reply {
            Self::Response { status, headers, body } => {
                let status =
                    status.try_into().map_err(|_| ConnectorError::io("not HTTP".into()))?;
                let mut response = HttpResponse::new(status, body.into());
                for (name, value) in headers {
                    let _ = response.headers_mut().try_insert(name, value);
                }
                Ok(response)
            }
            Self::Late(..) | Self::Reset => Err(ConnectorError::io("reset".into())),
            Self::Hang => future::pending().await,
        }
    }
}

impl From<Body> for SdkBody {
    fn from(body: Body) -> Self {
        match body {
            Body::Whole(bytes) => Self::from(bytes),
            Body::Json(json) => Self::from(json.to_string()),
            Body::Stream { parts, cut } => {
                let (send, receive) = mpsc::unbounded();
                tokio::spawn(async move {
                    for (wait, text) in parts {
                        sleep(wait).await;
                        let _ = send.unbounded_send(Ok(Frame::data(Bytes::from(text))));
                    }
                    if cut {
                        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
                        let _ = send.unbounded_send(Err(reset));
                    }
                });
                Self::from_body_1_x(StreamBody::new(receive))
            }
            Body::Endless => {
                let body = stream::pending::<Result<Frame<Bytes>, Infallible>>();
                Self::from_body_1_x(StreamBody::new(body))
            }
        }
    }
}

/// Every server that a client reaches, as a function from a request to a reply.
#[derive(Clone)]
pub struct FakeConnector(Arc<dyn Fn(&HttpRequest) -> Reply + Send + Sync>);

impl FakeConnector {
    /// A connector that answers like this.
    pub fn new(answer: impl Fn(&HttpRequest) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(answer))
    }

    /// The connector as a client takes it.
    #[must_use]
    pub fn shared(self) -> SharedHttpConnector {
        SharedHttpConnector::new(self)
    }
}

impl fmt::Debug for FakeConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeConnector")
    }
}

impl HttpConnector for FakeConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        HttpConnectorFuture::new((self.0)(&request).send())
    }
}
