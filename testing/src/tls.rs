//! TLS for the fake servers: HTTP/2 where the client offers it, otherwise HTTP/1.1, and connections that can stall.

use std::{
    error::Error,
    fmt::{self, Debug, Formatter},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use axum::serve::Listener;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// A certificate for this machine, its authority, and the connections that were opened with it.
#[derive(Clone)]
pub struct Tls {
    acceptor: TlsAcceptor,
    root: String,
    connections: Arc<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    opened: AtomicUsize,
    /// This many of them, the oldest, are stalled.
    silent: AtomicUsize,
}

impl Tls {
    /// A new authority with one certificate.
    pub fn new() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let mut params = CertificateParams::new(vec![])?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let root = params.self_signed(&key)?.pem();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate()?;
        let names = ["127.0.0.1", "localhost"].map(str::to_owned);
        let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)?;
        config.alpn_protocols = [&b"h2"[..], b"http/1.1"].map(<[u8]>::to_vec).into();
        Ok(Self { acceptor: Arc::new(config).into(), root, connections: Arc::default() })
    }

    /// The authority's certificate, for clients that are to trust it (PEM).
    #[must_use]
    pub fn root(&self) -> &str {
        &self.root
    }

    /// How many connections were opened.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.opened.load(Ordering::SeqCst)
    }

    /// From now on the open connections neither receive nor send anything, and stay open.
    pub fn stall(&self) {
        self.connections.silent.store(self.connections(), Ordering::SeqCst);
    }

    pub(crate) fn listener(&self, tcp: TcpListener) -> TlsListener {
        TlsListener { tcp, tls: self.clone() }
    }
}

impl Debug for Tls {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("connections", &self.connections).finish_non_exhaustive()
    }
}

pub(crate) struct TlsListener {
    tcp: TcpListener,
    tls: Tls,
}

impl Listener for TlsListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            let (tcp, address) = Listener::accept(&mut self.tcp).await;
            // A client that does not trust the certificate reports the error itself.
            if let Ok(stream) = self.tls.acceptor.accept(tcp).await {
                let connections = Arc::clone(&self.tls.connections);
                let number = connections.opened.fetch_add(1, Ordering::SeqCst) + 1;
                return (Connection { stream, number, connections }, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A connection. A stalled one is never woken again.
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    number: usize,
    connections: Arc<Connections>,
}

impl Connection {
    /// The stream, unless it is stalled.
    fn stream(self: Pin<&mut Self>) -> Poll<Pin<&mut TlsStream<TcpStream>>> {
        if self.number <= self.connections.silent.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        Poll::Ready(Pin::new(&mut self.get_mut().stream))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.stream()).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        std::task::ready!(self.stream()).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.stream()).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        std::task::ready!(self.stream()).poll_shutdown(context)
    }
}
