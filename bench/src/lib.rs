//! The least client that an exchange over HTTP can have, for what everything else is measured by.

use std::{
    error::Error,
    io::{Read, Write},
    net::TcpStream,
};

/// One kept connection.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Peer {
    /// Connects to `host:port`.
    pub fn at(address: &str) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: vec![0; 1 << 16] })
    }

    /// Sends a request, takes its whole response, and returns the invocation's id where it has one.
    pub fn exchange(
        &mut self,
        method: &str,
        path: &str,
        target: &str,
        body: &str,
    ) -> Result<String, Box<dyn Error>> {
        self.send(method, path, target, body)?;
        self.receive()
    }

    /// Sends a request, in one write.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        target: &str,
        body: &str,
    ) -> Result<(), Box<dyn Error>> {
        let length = body.len();
        // Whole before it is written: `write!` on the socket would make a system call of every piece.
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nx-amz-target: {target}\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        Ok(self.stream.write_all(request.as_bytes())?)
    }

    /// Takes a whole answer of at most 64 KiB.
    pub fn receive(&mut self) -> Result<String, Box<dyn Error>> {
        let mut filled = 0;
        loop {
            filled += match self.stream.read(&mut self.bytes[filled..])? {
                0 => return Err("the other side hung up".into()),
                read => read,
            };
            let text = str::from_utf8(&self.bytes[..filled])?;
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let header = |name| {
                let line = head.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|line| line.strip_prefix(": "))
            };
            if body.len() >= header("content-length").unwrap_or("0").parse()? {
                let id = header("lambda-runtime-aws-request-id");
                return Ok(id.unwrap_or_default().to_owned());
            }
        }
    }
}
