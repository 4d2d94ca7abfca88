//! As much of an HTTP/1.1 server as the functions' clients need: kept connections, bodies with a
//! length or in chunks, a thread for each connection.

use std::{
    collections::HashMap,
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

pub(crate) struct Request {
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Default)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn new(status: u16, body: impl Into<String>) -> Self {
        Self { status, headers: vec![], body: body.into() }
    }
}

/// Answers on a free port of the loopback until the process ends.
pub(crate) fn serve(
    answer: impl Fn(Request) -> Response + Send + Sync + 'static,
) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = Arc::clone(&answer);
            // A function that is killed hangs up in the middle: no news.
            thread::spawn(move || drop(talk(&stream, &*answer)));
        }
    });
    Ok(address)
}

fn talk(stream: &TcpStream, answer: &dyn Fn(Request) -> Response) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(request) = read(&mut reader)? {
        let response = answer(request);
        let headers = response.headers.iter().map(|(name, value)| [*name, ": ", value, "\r\n"]);
        let headers: String = headers.flatten().collect();
        let (status, length) = (response.status, response.body.len());
        let bytes = format!(
            "HTTP/1.1 {status} x\r\n{headers}content-length: {length}\r\n\r\n{}",
            response.body
        );
        writer.write_all(bytes.as_bytes())?;
    }
    Ok(())
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
