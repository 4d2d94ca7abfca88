//! Silent or broken connections are retired.
//!
//! An HTTP/2 connection stays in the pool while requests wait on it. One that reports an error
//! leaves the pool by itself; one that falls silent never does, and every retry would wait on it
//! again. So an exchange that does not end poisons its connection: the pool then opens another one
//! for the next request. This is done in the connector, not by its callers, because most timeouts,
//! including the AWS SDK's own per attempt, drop a request silently.
//!
//! The alternatives: the SDK's client offers no keep-alive pings, and HTTP/1.1 alone would exclude
//! a server that supports only HTTP/2. A slow answer on a healthy connection costs a handshake.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use aws_smithy_runtime_api::client::{
    connection::CaptureSmithyConnection,
    http::{HttpConnector, HttpConnectorFuture},
    orchestrator::HttpRequest,
};
use aws_smithy_types::body::{Error, SdkBody};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// A connector that reuses a connection only after a response that was read to its end.
#[derive(Debug)]
pub(crate) struct Retiring<C>(pub(crate) C);

impl<C: HttpConnector> HttpConnector for Retiring<C> {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        // The SDK captures the connections of its requests already, for its own retries.
        let captured = request.extension::<CaptureSmithyConnection>().cloned();
        let connection = captured.unwrap_or_else(|| {
            let connection = CaptureSmithyConnection::new();
            request.add_extension(connection.clone());
            connection
        });
        let exchange = Exchange(Some(connection));
        let response = self.0.call(request);
        HttpConnectorFuture::new(async move {
            let mut response = response.await?;
            let body = mem::replace(response.body_mut(), SdkBody::taken());
            *response.body_mut() = SdkBody::from_body_1_x(TrackedBody::new(body, exchange));
            Ok(response)
        })
    }
}

/// An exchange on a connection, which is poisoned unless the exchange ends.
struct Exchange(Option<CaptureSmithyConnection>);

impl Exchange {
    fn end(&mut self) {
        self.0 = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        // `None` while it is being opened, and once the pool has dropped it.
        if let Some(connection) = self.0.take().and_then(|captured| captured.get()) {
            connection.poison();
        }
    }
}

/// A response's body, at whose end the exchange ends.
struct TrackedBody {
    body: SdkBody,
    exchange: Exchange,
}

impl TrackedBody {
    fn new(body: SdkBody, exchange: Exchange) -> Self {
        let mut answer = Self { body, exchange };
        answer.notice_end();
        answer
    }

    fn notice_end(&mut self) {
        if self.body.is_end_stream() {
            self.exchange.end();
        }
    }
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let answer = self.get_mut();
        let frame = ready!(Pin::new(&mut answer.body).poll_frame(context));
        match &frame {
            None => answer.exchange.end(),
            // A reader that knows the length may not poll again.
            Some(Ok(_)) => answer.notice_end(),
            Some(Err(_)) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_runtime_api::client::{
        http::{HttpConnector as _, SharedHttpConnector},
        orchestrator::HttpResponse,
    };
    use futures::poll;
    use http_body_util::BodyExt as _;
    use testing::{
        destination::{Destination, Options},
        fault::Fault,
        tls::Tls,
    };
    use tokio::time::{Duration, timeout};

    use super::*;
    use crate::sdk::https_connector_trusting;

    /// An HTTP/2 server over TLS, and a client that trusts it.
    struct TestServer {
        tls: Tls,
        server: Destination,
        client: SharedHttpConnector,
    }

    impl TestServer {
        fn new() -> Self {
            let tls = Tls::new().unwrap();
            let client = https_connector_trusting([tls.root()]).unwrap();
            let options = Options { tls: Some(tls.clone()), ..Options::default() };
            Self { server: Destination::start(options).unwrap(), tls, client }
        }

        fn call(&self) -> HttpConnectorFuture {
            let mut request = HttpRequest::new(SdkBody::empty());
            request.set_uri(format!("{}/deliveries", self.server.url())).unwrap();
            self.client.call(request)
        }

        /// The response to a request, which a silent connection would not return.
        async fn answer(&self) -> HttpResponse {
            let answer = timeout(Duration::from_secs(20), self.call()).await;
            answer.expect("the connection is silent").unwrap()
        }
    }

    async fn read(response: HttpResponse) -> bool {
        response.into_body().collect().await.is_ok()
    }

    #[tokio::test]
    async fn a_connection_is_reused_after_a_response_that_was_read() {
        let test = TestServer::new();
        for _ in 0..3 {
            assert!(read(test.answer().await).await);
        }
        assert_eq!(test.tls.connections(), 1);
        let calls = test.server.traffic().calls("");
        let protocols: Vec<_> = calls.iter().map(|call| &*call.protocol).collect();
        assert_eq!(protocols, ["HTTP/2.0"; 3]);
    }

    #[tokio::test]
    async fn a_connection_is_retired_after_a_request_dropped_on_it() {
        let test = TestServer::new();
        assert!(read(test.answer().await).await);
        test.tls.stall();
        let mut waiting = Box::pin(test.call());
        assert!(poll!(&mut waiting).is_pending());
        drop(waiting);
        assert!(read(test.answer().await).await);
        assert_eq!(test.tls.connections(), 2);
    }

    #[tokio::test]
    async fn a_connection_is_retired_after_a_response_that_is_cut_off_or_not_read_to_its_end() {
        let test = TestServer::new();
        test.server.fault(Fault::large(1).times(1));
        drop(test.answer().await);
        test.server.fault(Fault::cut().times(1));
        assert!(!read(test.answer().await).await);
        assert!(read(test.answer().await).await);
        assert_eq!(test.tls.connections(), 3);
    }
}
