//! A proxy between the functions and the AWS they call, which injects faults.

use std::{
    io,
    sync::{Arc, OnceLock},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use reqwest::redirect::Policy;

use crate::server::{Server, Traffic};

/// A running proxy. Dropping it closes its connections.
#[derive(Debug)]
pub struct Proxy {
    server: Server,
    traffic: Arc<Traffic>,
    upstream: Arc<Upstream>,
}

#[derive(Debug)]
struct Upstream {
    /// Absent until it has started: it needs the proxy's address first.
    url: OnceLock<String>,
    http: reqwest::Client,
}

impl Proxy {
    /// Starts serving on loopback, and answers 502 until it has an address to [`Proxy::forward_to`].
    pub fn start() -> io::Result<Self> {
        let (server, listener) = Server::bind("proxy", 0, None)?;
        let http = reqwest::Client::builder().no_proxy().no_gzip().redirect(Policy::none()).build();
        let upstream = Upstream { url: OnceLock::new(), http: http.map_err(io::Error::other)? };
        let upstream = Arc::new(upstream);
        let traffic = Arc::new(Traffic::named(name));
        let app = Router::new().fallback(forward).with_state(Arc::clone(&upstream));
        server.serve(listener, &traffic, app, Router::new());
        Ok(Self { server, traffic, upstream })
    }

    /// Its address, like `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Where calls go from now on; a second address is ignored.
    pub fn forward_to(&self, url: &str) {
        let _ = self.upstream.url.set(url.to_owned());
    }

    /// Every call so far, and faults. Their paths are the service and the action, as in `/sqs/SendMessage`.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

/// Most AWS calls go to the same path, and have the action in a header: `AmazonSQS.SendMessage`.
fn name(request: &Parts) -> String {
    let target = request.headers.get("x-amz-target").and_then(|target| target.to_str().ok());
    match target.and_then(|target| target.split_once('.')) {
        Some((service, action)) => {
            format!("/{}/{action}", service.trim_start_matches("Amazon").to_lowercase())
        }
        None => request.uri.to_string(),
    }
}

async fn forward(State(upstream): State<Arc<Upstream>>, request: Request) -> Response {
    match passed_on(&upstream, request).await {
        Some(response) => response,
        None => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn passed_on(upstream: &Upstream, request: Request) -> Option<Response> {
    let (mut parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.ok()?;
    let url = format!("{}{}", upstream.url.get()?, parts.uri);
    without_connection(&mut parts.headers);
    let call = upstream.http.request(parts.method, url).headers(parts.headers).body(body);
    let answer = call.send().await.ok()?;
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    without_connection(&mut headers);
    let mut response = Response::new(Body::from(answer.bytes().await.ok()?));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Some(response)
}

/// Removes the hop-by-hop headers.
fn without_connection(headers: &mut HeaderMap) {
    for name in
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
    {
        headers.remove(name);
    }
}
