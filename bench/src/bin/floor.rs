//! The least that the job can cost: ingest-fn's exchanges with the Runtime API, SSM and SQS, and
//! nothing else. It checks no key, reads no JSON and signs nothing.

use std::{
    env,
    error::Error,
    io::{Read, Write},
    net::TcpStream,
};

fn main() -> Result<(), Box<dyn Error>> {
    let api = env::var("AWS_LAMBDA_RUNTIME_API")?;
    let endpoint = env::var("AWS_ENDPOINT_URL")?.replace("http://", "");
    let queue = env::var("EVENTS_QUEUE_URL")?;
    let keys = env::var("WEBHOOK_KEYS_PARAMETER")?;
    let (mut api, mut aws) = (Peer::at(&api)?, Peer::at(&endpoint)?);

    let ask = format!(r#"{{"Name":"{keys}","WithDecryption":true}}"#);
    aws.exchange("POST", "/", "AmazonSSM.GetParameter", &ask)?;
    let send = format!(
        r#"{{"QueueUrl":"{queue}","MessageBody":"{{\"v\":1,\"receivedAt\":\"2026-01-02T03:04:05.678Z\",\"event\":{{}}}}","MessageAttributes":{{"type":{{"DataType":"String","StringValue":"x"}}}}}}"#
    );
    let answer = r#"{"statusCode":200,"headers":{"content-type":"application/json"},"body":"{\"status\":\"queued\"}","isBase64Encoded":false,"cookies":[]}"#;
    loop {
        let id = api.exchange("GET", "/2018-06-01/runtime/invocation/next", "-", "")?;
        aws.exchange("POST", "/", "AmazonSQS.SendMessage", &send)?;
        let path = format!("/2018-06-01/runtime/invocation/{id}/response");
        api.exchange("POST", &path, "-", answer)?;
    }
}

/// One kept connection.
struct Peer {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Peer {
    fn at(address: &str) -> Result<Self, Box<dyn Error>> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, bytes: vec![0; 1 << 16] })
    }

    /// Sends a request, takes its whole answer, and tells the invocation's id where it has one.
    fn exchange(
        &mut self,
        method: &str,
        path: &str,
        target: &str,
        body: &str,
    ) -> Result<String, Box<dyn Error>> {
        let length = body.len();
        write!(
            self.stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nx-amz-target: {target}\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
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
