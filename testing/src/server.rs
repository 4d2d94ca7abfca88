//! The common part of the simulator and the destination: a loopback server that records its calls, enforces a rate
//! limit, and injects faults.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, to_bytes},
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderName, Method, StatusCode, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle, Runtime},
    sync::watch,
    time::timeout,
};

use crate::{
    fault::{Fault, covers},
    tls::Tls,
};

/// Locks a mutex even if poisoned: a test that fails must not affect the servers of others.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A server on loopback. Dropping it closes all its connections.
///
/// It runs on its own thread, so that it answers while a test's only thread is busy.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
    tls: Option<Tls>,
    /// Absent only while it is dropped.
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Server {
    /// Takes a port, 0 a free one, for TLS if there is a certificate; callers can connect from now on and are served from [`Server::serve`] on.
    pub(crate) fn bind(name: &str, port: u16, tls: Option<Tls>) -> io::Result<(Self, TcpListener)> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build()?;
        let handle = runtime.handle().clone();
        let _inside = handle.enter();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr()?);
        let listener = TcpListener::from_std(listener)?;
        let server = Self { url, tls, runtime: Some(runtime), handle: handle.clone() };
        Ok((server, listener))
    }

    /// Serves `app` behind `traffic`, and `unrecorded` without recording, rate limit or faults.
    pub(crate) fn serve(
        &self,
        listener: TcpListener,
        traffic: &Arc<Traffic>,
        app: Router,
        unrecorded: Router,
    ) {
        let app = app
            .layer(DefaultBodyLimit::disable())
            .layer(middleware::from_fn_with_state(Arc::clone(traffic), observe))
            .merge(control(Arc::clone(traffic)))
            .merge(unrecorded);
        match &self.tls {
            None => self.handle.spawn(axum::serve(listener, app).into_future()),
            Some(tls) => self.handle.spawn(axum::serve(tls.listener(listener), app).into_future()),
        };
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// For tasks that must end with the server.
    pub(crate) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// One call that arrived.
#[derive(Debug, Clone)]
pub struct Call {
    /// `GET`, `POST`…
    pub method: String,
    /// Path with its query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// When its body had arrived.
    pub at: Instant,
    /// The response's status; none while the call hangs, or if the caller stopped waiting.
    pub status: Option<u16>,
}

/// Every call a server got, its faults, and its rate limit.
#[derive(Debug)]
pub struct Traffic {
    per_second: Option<usize>,
    latency: Duration,
    /// The name of a call in the record and for the faults: its path and query, or a better name.
    name: fn(&Parts) -> String,
    state: Mutex<TrafficState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct TrafficState {
    calls: Vec<Call>,
    faults: Vec<Fault>,
    /// How many calls each kind of fault has hit, by the pattern it was for.
    fault_hits: BTreeMap<(String, String), usize>,
    /// When the admitted calls of the last second arrived.
    window: VecDeque<Instant>,
    throttled: usize,
}

/// What is known of a call before it is answered.
struct Admission {
    number: usize,
    remaining: Option<usize>,
    fault: Option<Fault>,
}

impl Traffic {
    pub(crate) fn new(per_second: Option<usize>, latency: Duration) -> Self {
        let name = |request: &Parts| request.uri.to_string();
        Self { per_second, latency, name, state: Mutex::default(), changed: watch::Sender::new(()) }
    }

    /// Traffic whose calls have other names than their paths.
    pub(crate) fn named(name: fn(&Parts) -> String) -> Self {
        Self { name, ..Self::new(None, Duration::ZERO) }
    }

    /// The calls a pattern [`covers`], oldest first.
    #[must_use]
    pub fn calls(&self, pattern: &str) -> Vec<Call> {
        let mut calls = lock(&self.state).calls.clone();
        calls.retain(|call| {
            let path = call.path.split('?').next().unwrap_or_default();
            covers(pattern, &call.method, path)
        });
        calls
    }

    /// How many calls a pattern [`covers`].
    #[must_use]
    pub fn count(&self, pattern: &str) -> usize {
        self.calls(pattern).len()
    }

    /// How many calls the rate limit rejected (a fault's 429 is not counted).
    #[must_use]
    pub fn throttled(&self) -> usize {
        lock(&self.state).throttled
    }

    /// The most calls that arrived within any one second.
    #[must_use]
    pub fn busiest_second(&self) -> usize {
        let state = lock(&self.state);
        let mut window = VecDeque::new();
        let counts = state.calls.iter().map(|call| {
            window.push_back(call.at);
            while window.front().is_some_and(|first| call.at - *first >= Duration::from_secs(1)) {
                window.pop_front();
            }
            window.len()
        });
        counts.max().unwrap_or_default()
    }

    /// Adds a fault; of several that match a call, the oldest hits.
    pub fn fault(&self, fault: Fault) {
        lock(&self.state).faults.push(fault);
    }

    /// The faults that still apply.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.state).faults.clone()
    }

    /// How many calls each kind of fault has hit so far, by the pattern it was for and its name.
    #[must_use]
    pub fn fault_hits(&self) -> BTreeMap<(String, String), usize> {
        lock(&self.state).fault_hits.clone()
    }

    /// Removes every fault; calls that hang stay hanging.
    pub fn clear_faults(&self) {
        lock(&self.state).faults.clear();
    }

    /// Wakes the waiters of [`Traffic::wait_for`].
    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
    }

    /// Waits until `reached` holds, checking after every change. False at the timeout.
    pub(crate) async fn wait_for(
        &self,
        mut reached: impl FnMut() -> bool,
        at_most: Duration,
    ) -> bool {
        let mut changed = self.changed.subscribe();
        let waiting = async {
            while !reached() {
                // It cannot close: `self` holds its sender.
                let _ = changed.changed().await;
            }
        };
        timeout(at_most, waiting).await.is_ok()
    }

    fn admit(&self, request: &Parts) -> Admission {
        let now = Instant::now();
        let mut state = lock(&self.state);
        let state = &mut *state;
        while state.window.front().is_some_and(|first| now - *first >= Duration::from_secs(1)) {
            state.window.pop_front();
        }
        let admitted = self.per_second.is_none_or(|limit| state.window.len() < limit);
        if admitted {
            state.window.push_back(now);
        } else {
            state.throttled += 1;
        }
        let method = request.method.to_string();
        let path = (self.name)(request);
        let fault = if admitted {
            let path = path.split('?').next().unwrap_or_default();
            let fault = Fault::take(&mut state.faults, &method, path);
            if let Some(fault) = &fault {
                let kind = (fault.on.clone(), fault.to_string());
                *state.fault_hits.entry(kind).or_default() += 1;
            }
            fault
        } else {
            Some(Fault::status(429))
        };
        let protocol = format!("{:?}", request.version);
        state.calls.push(Call { method, path, protocol, at: now, status: None });
        Admission {
            number: state.calls.len() - 1,
            remaining: self.per_second.map(|limit| limit - state.window.len()),
            fault,
        }
    }
}

/// Reads the whole request first: an answer given before that may break the caller's connection while it still sends.
async fn observe(State(traffic): State<Arc<Traffic>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, usize::MAX).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let admission = traffic.admit(&parts);
    traffic.notify();
    if !traffic.latency.is_zero() {
        tokio::time::sleep(traffic.latency).await;
    }
    let server = next.run(Request::from_parts(parts, Body::from(body)));
    let mut response = match admission.fault {
        Some(fault) => fault.answer(server).await,
        None => server.await,
    };
    if let (Some(limit), Some(remaining)) = (traffic.per_second, admission.remaining) {
        for (name, value) in
            [("ratelimit-limit-second", limit), ("ratelimit-remaining-second", remaining)]
        {
            response.headers_mut().entry(HeaderName::from_static(name)).or_insert(value.into());
        }
    }
    if let Some(call) = lock(&traffic.state).calls.get_mut(admission.number) {
        call.status = Some(response.status().as_u16());
    }
    traffic.notify();
    response
}

/// The part of `/_sim` that every server has, itself neither recorded nor limited.
fn control(traffic: Arc<Traffic>) -> Router {
    let calls = async |State(traffic): State<Arc<Traffic>>| {
        let mut statuses = BTreeMap::<String, usize>::new();
        let calls = traffic.calls("");
        for call in &calls {
            let path = call.path.split('?').next().unwrap_or_default();
            let status =
                call.status.map_or_else(|| "no answer".to_owned(), |status| status.to_string());
            *statuses.entry(format!("{} {path} -> {status}", call.method)).or_default() += 1;
        }
        Json(json!({
            "total": calls.len(),
            "throttled": traffic.throttled(),
            "busiestSecond": traffic.busiest_second(),
            "calls": statuses,
        }))
    };
    let list = async |State(traffic): State<Arc<Traffic>>| Json(traffic.faults());
    let change =
        async |State(traffic): State<Arc<Traffic>>, method: Method, fault: Option<Json<Fault>>| {
            match fault {
                Some(Json(fault)) if method == Method::POST => traffic.fault(fault),
                _ if method == Method::DELETE => traffic.clear_faults(),
                _ => return StatusCode::BAD_REQUEST,
            }
            StatusCode::NO_CONTENT
        };
    Router::new()
        .route("/_sim/calls", get(calls))
        .route("/_sim/faults", get(list).post(change).delete(change))
        .with_state(traffic)
}
