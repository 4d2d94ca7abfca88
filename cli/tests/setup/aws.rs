//! What the program reaches as AWS: passes calls to the emulator, but for the answers that a test prepares.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse as _, Response},
};
use testing::server::lock;
use tokio::net::TcpListener;

use crate::{
    allowed::iam_action,
    metrics::{self, Point},
};

/// What is answered instead.
#[derive(Debug, Clone)]
enum Prepared {
    /// An error of AWS, in the protocol of the call.
    Error { status: u16, code: String, message: String },
    /// This body with 200.
    Body(String),
    /// Nothing, ever.
    Hang,
}

/// A call that arrived: its service as IAM knows it, its action and its body.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    service: String,
    pub(crate) action: String,
    pub(crate) body: String,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    http: reqwest::Client,
    /// By action, and a text that the body holds.
    prepared: Mutex<Vec<(String, String, Prepared)>>,
    /// Replaced in every answer of this action.
    rewritten: Mutex<Vec<(String, String, String)>>,
    calls: Mutex<Vec<Call>>,
    /// What CloudWatch knows of a function.
    function: String,
    points: Mutex<Vec<Point>>,
}

/// A server on loopback in front of the emulator.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

impl Front {
    pub(crate) async fn start(upstream: String, function: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared {
            upstream,
            http: reqwest::Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap(),
            prepared: Mutex::default(),
            rewritten: Mutex::default(),
            calls: Mutex::default(),
            function: function.to_owned(),
            points: Mutex::default(),
        });
        let app = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        tokio::spawn(axum::serve(listener, app).into_future());
        Self { url, shared }
    }

    /// Answers an action whose body holds this text with an error from now on.
    pub(crate) fn refuse(&self, action: &str, part: &str, code: &str, message: &str) {
        let error = Prepared::Error { status: 400, code: code.into(), message: message.into() };
        self.prepare(action, part, error);
    }

    /// Answers an action as AWS does without the permission.
    pub(crate) fn deny(&self, action: &str, permission: &str) {
        let message =
            format!("User: ada is not authorized to perform: {permission} on resource: x because");
        self.refuse(action, "", "AccessDeniedException", &message);
    }

    /// Answers an action with this body from now on.
    pub(crate) fn answer(&self, action: &str, body: &str) {
        self.prepare(action, "", Prepared::Body(body.to_owned()));
    }

    /// Never answers an action whose body holds this text.
    pub(crate) fn hang(&self, action: &str, part: &str) {
        self.prepare(action, part, Prepared::Hang);
    }

    fn prepare(&self, action: &str, part: &str, prepared: Prepared) {
        lock(&self.shared.prepared).insert(0, (action.to_owned(), part.to_owned(), prepared));
    }

    /// Passes an action on again.
    pub(crate) fn forget(&self, action: &str) {
        lock(&self.shared.prepared).retain(|(of, _, _)| of != action);
    }

    /// Replaces a text in the answers of an action.
    pub(crate) fn rewrite(&self, action: &str, from: &str, to: &str) {
        lock(&self.shared.rewritten).push((action.into(), from.into(), to.into()));
    }

    /// Has CloudWatch know a count.
    pub(crate) fn count(&self, point: Point) {
        lock(&self.shared.points).push(point);
    }

    pub(crate) fn calls(&self, action: &str) -> Vec<Call> {
        let mut calls = lock(&self.shared.calls).clone();
        calls.retain(|call| call.action == action);
        calls
    }

    /// How many calls arrived so far.
    pub(crate) fn count_calls(&self) -> usize {
        lock(&self.shared.calls).len()
    }

    /// What IAM was asked for by the calls after the first ones.
    pub(crate) fn actions_after(&self, first: usize) -> BTreeSet<String> {
        let calls = lock(&self.shared.calls);
        calls.iter().skip(first).map(|call| iam_action(&call.service, &call.action)).collect()
    }
}

/// The service that the call was signed for.
fn service(headers: &HeaderMap) -> String {
    let signed = headers.get(header::AUTHORIZATION).unwrap().to_str().unwrap();
    match signed.split('/').nth(3).unwrap() {
        "monitoring" => "cloudwatch",
        service => service,
    }
    .to_owned()
}

/// The action, wherever the protocol has it: a header, the path, or the form.
fn action(request: &Parts, body: &str) -> String {
    let path = request.uri.path();
    // IAM's name for HeadBucket.
    if request.method == Method::HEAD {
        return "ListBucket".to_owned();
    }
    if let Some(target) = request.headers.get("x-amz-target") {
        return target.to_str().unwrap().rsplit('.').next().unwrap().to_owned();
    }
    if let Some((_, action)) = path.split_once("/operation/") {
        return action.to_owned();
    }
    if path.ends_with("/account-settings") {
        return "GetAccountSettings".to_owned();
    }
    if path.contains("/event-source-mappings/") {
        return "GetEventSourceMapping".to_owned();
    }
    if path.ends_with("/invocations") {
        return "Invoke".to_owned();
    }
    let field = body.split('&').find_map(|field| field.strip_prefix("Action="));
    field.unwrap_or(path).to_owned()
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let text = String::from_utf8_lossy(&body).into_owned();
    let action = action(&parts, &text);
    let service = service(&parts.headers);
    lock(&shared.calls).push(Call { service, action: action.clone(), body: text.clone() });
    let prepared = lock(&shared.prepared)
        .iter()
        .find(|(of, part, _)| *of == action && text.contains(part))
        .map(|(_, _, prepared)| prepared.clone());
    match prepared {
        Some(Prepared::Error { status, code, message }) => {
            error(&parts.headers, status, &code, &message)
        }
        Some(Prepared::Body(body)) => body.into_response(),
        Some(Prepared::Hang) => std::future::pending().await,
        None if action.starts_with("GetMetric") => {
            let points = lock(&shared.points).clone();
            match metrics::answer(&action, &body, &shared.function, &points) {
                Ok(body) => cbor(body),
                Err(message) => error(&parts.headers, 400, "InvalidParameterCombination", &message),
            }
        }
        None => pass_on(&shared, &action, parts, body.to_vec()).await,
    }
}

/// An error in the protocol of the call.
fn error(request: &HeaderMap, status: u16, code: &str, message: &str) -> Response {
    let form = request
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    let mut response = if request.contains_key("smithy-protocol") {
        let mut body = vec![0xa2];
        for text in ["__type", code, "message", message] {
            let length = u8::try_from(text.len()).unwrap();
            body.extend([0x78, length]);
            body.extend(text.as_bytes());
        }
        cbor(body)
    } else if form {
        let code = format!("<Code>{code}</Code><Message>{message}</Message>");
        format!("<ErrorResponse><Error><Type>Sender</Type>{code}</Error></ErrorResponse>")
            .into_response()
    } else {
        serde_json::json!({"__type": code, "message": message}).to_string().into_response()
    };
    response.headers_mut().insert("x-amzn-errortype", HeaderValue::from_str(code).unwrap());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn cbor(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
    response
}

async fn pass_on(shared: &Shared, action: &str, mut parts: Parts, body: Vec<u8>) -> Response {
    let connection =
        [header::HOST, header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    for name in &connection {
        parts.headers.remove(name);
    }
    let url = format!("{}{}", shared.upstream, parts.uri);
    let call = shared.http.request(parts.method, url).headers(parts.headers).body(body);
    let found = call.send().await.unwrap();
    let (status, mut headers) = (found.status(), found.headers().clone());
    for name in &connection {
        headers.remove(name);
    }
    let mut body = found.bytes().await.unwrap().to_vec();
    for (of, from, to) in lock(&shared.rewritten).iter() {
        if of == action {
            body = String::from_utf8_lossy(&body).replace(from, to).into_bytes();
        }
    }
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
