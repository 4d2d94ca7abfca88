//! As much of an HTTP/1.1 server as the functions' clients need: kept connections, bodies with a
//! length or in chunks, a thread for each connection, optionally over TLS.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, BufWriter, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub(crate) struct Request {
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

pub(crate) enum Body {
    Whole(String),
    /// Written as it goes, in chunks.
    Stream(Box<Writing>),
}

pub(crate) type Writing = dyn FnOnce(&mut dyn Write) -> io::Result<()>;

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Body,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: vec![], body: Body::Whole(body.into()) }
    }
}

/// Answers on a free port of the loopback until the process ends.
pub(crate) fn serve(
    tls: Option<Arc<ServerConfig>>,
    answer: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (answer, tls) = (Arc::clone(&answer), tls.clone());
            // A function that is killed closes its connection in the middle: not an error.
            thread::spawn(move || drop(connected(stream, tls, &*answer)));
        }
    });
    Ok(address)
}

fn connected(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    answer: &dyn Fn(Request) -> Response,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    match tls {
        None => talk(stream, answer),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            talk(StreamOwned::new(connection, stream), answer)
        }
    }
}

fn talk(stream: impl Read + Write, answer: &dyn Fn(Request) -> Response) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        let Response { status, headers, body } = answer(request);
        let mut head = format!("HTTP/1.1 {status} x\r\n");
        for (name, value) in headers {
            head.extend([name, ": ", &value, "\r\n"]);
        }
        let writer = reader.get_mut();
        match body {
            Body::Whole(body) => {
                let length = body.len();
                let bytes = format!("{head}content-length: {length}\r\n\r\n{body}");
                writer.write_all(bytes.as_bytes())?;
            }
            Body::Stream(body) => {
                write!(writer, "{head}transfer-encoding: chunked\r\n\r\n")?;
                let mut chunks = BufWriter::with_capacity(1 << 16, Chunks(&mut *writer));
                body(&mut chunks)?;
                chunks.flush()?;
                drop(chunks);
                write!(writer, "0\r\n\r\n")?;
            }
        }
        writer.flush()?;
    }
    Ok(())
}

/// Makes a chunk of every write.
struct Chunks<'a, W>(&'a mut W);

impl<W: Write> Write for Chunks<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write!(self.0, "{:x}\r\n", bytes.len())?;
        self.0.write_all(bytes)?;
        self.0.write_all(b"\r\n")?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn read(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let first = line(reader)?;
    let Some(path) = first.split(' ').nth(1) else { return Ok(None) };
    let mut headers = HashMap::new();
    loop {
        let line = line(reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![];
    let mut take = |reader: &mut dyn BufRead, length: u64| {
        reader.take(length).read_to_end(&mut body).map(drop)
    };
    if let Some(length) = headers.get("content-length") {
        take(reader, length.parse().map_err(io::Error::other)?)?;
    } else if headers.get("transfer-encoding").is_some_and(|encoding| encoding == "chunked") {
        loop {
            let length = u64::from_str_radix(&line(reader)?, 16).map_err(io::Error::other)?;
            take(reader, length)?;
            line(reader)?;
            if length == 0 {
                break;
            }
        }
    }
    Ok(Some(Request { path: path.to_owned(), headers, body }))
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}
