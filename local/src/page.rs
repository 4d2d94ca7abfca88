//! A page that shows what the relay does: webhooks and what became of each, backlog and pause, deliveries, and
//! conversations as a reader sees them.
//!
//! It is only for this machine, and shows message texts, which are untrusted: it is served on loopback, only under a
//! name of loopback (another site's name that resolves to it would make the page that site's), and runs no script but
//! its own file.

mod delivered;
mod extraction;
mod json;
mod state;
mod webhook;

use std::{io, net::Ipv4Addr};

use axum::{
    Json, Router,
    extract::{Query, Request, State},
    http::{HeaderName, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    select,
    sync::{mpsc, oneshot},
};

pub use self::state::Sources;
use self::state::{Collector, PageState};
use crate::stack::StackError;

/// Requests that wait for the collector; more wait for room.
const QUEUE_LENGTH: usize = 8;

/// What the page needs and no more. The browser asks no other server, and shows it in no frame.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A page that is about to be served.
#[derive(Debug)]
pub struct Page {
    listener: TcpListener,
    port: u16,
}

/// A browser's request for the state.
struct StateRequest {
    /// The conversation that is open.
    conversation: Option<String>,
    reply: oneshot::Sender<Result<PageState, StackError>>,
}

impl Page {
    /// Takes a port on loopback, 0 a free one. Browsers can connect from now on and are served from [`Page::serve`] on.
    pub async fn bind(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port })
    }

    /// Its address, like `http://127.0.0.1:40123`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Serves the page, and `more` under the same rules, until it fails. Nothing is collected while no browser asks.
    pub async fn serve(self, sources: Sources<'_>, more: Router) -> io::Result<()> {
        let (requests, mut received) = mpsc::channel(QUEUE_LENGTH);
        let file = |content_type: &'static str, text: &'static str| {
            get(async move || ([(header::CONTENT_TYPE, content_type)], text))
        };
        let app = Router::new()
            .route("/", file("text/html; charset=utf-8", include_str!("page/index.html")))
            .route("/page.css", file("text/css; charset=utf-8", include_str!("page/page.css")))
            .route("/page.js", file("text/javascript; charset=utf-8", include_str!("page/page.js")))
            .route("/state", get(state))
            .with_state(requests)
            .merge(more)
            .layer(middleware::from_fn_with_state(self.port, guard));
        let collect = async {
            let mut collector = Collector::new(sources);
            while let Some(StateRequest { conversation, reply }) = received.recv().await {
                // A browser that no longer waits.
                let _ = reply.send(collector.collect(conversation.as_deref()).await);
            }
        };
        select! {
            served = axum::serve(self.listener, app).into_future() => served,
            () = collect => Ok(()),
        }
    }
}

/// Refuses what was sent to another name than this machine's, and adds the page's headers.
async fn guard(State(port): State<u16>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let names = ["127.0.0.1", "localhost"].map(|name| format!("{name}:{port}"));
    if host.is_none_or(|host| !names.iter().any(|name| name.eq_ignore_ascii_case(host))) {
        let text = format!("Only for this machine: http://{}\n", names[0]);
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    (HEADERS, next.run(request).await).into_response()
}

#[derive(Deserialize)]
struct Opened {
    conversation: Option<String>,
}

async fn state(
    State(requests): State<mpsc::Sender<StateRequest>>,
    Query(Opened { conversation }): Query<Opened>,
) -> Response {
    let (reply, state) = oneshot::channel();
    if requests.send(StateRequest { conversation, reply }).await.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    match state.await {
        Ok(Ok(state)) => Json(state).into_response(),
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}
