//! A response that is read line by line, as it arrives.

use std::time::Duration;

use aws_smithy_runtime_api::client::{http::HttpConnector as _, orchestrator::HttpRequest};
use aws_smithy_types::body::SdkBody;
use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use tokio::time::timeout;

use crate::client::http::{Http, HttpError, Response};

/// The longest line of a stream that is returned, in bytes.
const LINE_LIMIT: usize = 4 << 20;
/// How long a stream may send nothing.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

impl Http {
    /// Begins an exchange whose response is read as it arrives, from this byte of it on. A server
    /// that ignores the range sends all of it (RFC 9110, 14.2), and the bytes before are skipped.
    /// No lines unless the status is a success.
    pub(crate) async fn lines(
        &self,
        mut request: HttpRequest,
        from: u64,
    ) -> Result<(Response, Option<Lines>), HttpError> {
        if from > 0 {
            request.headers_mut().insert("range", format!("bytes={from}-"));
        }
        let answer = timeout(LINE_TIMEOUT, self.0.call(request)).await;
        let mut response =
            answer.map_err(|_| HttpError::TimedOut)?.map_err(HttpError::ConnectionFailed)?;
        let range = response.headers().get("content-range").unwrap_or_default();
        let begins_there = range.starts_with(&format!("bytes {from}-"));
        let status = response.status().as_u16();
        let left_out = match status {
            200 => Some(from),
            206 if begins_there => Some(0),
            _ => None,
        };
        let body = std::mem::replace(response.body_mut(), SdkBody::empty());
        let lines = left_out.map(|left_out| Lines::new(body, from, left_out));
        Ok((Response { status, body: Vec::new(), head: response }, lines))
    }
}

/// A response that is read line by line, however long it is.
pub(crate) struct Lines {
    body: SdkBody,
    buffer: BytesMut,
    /// How many bytes of the buffer have been searched for a line's end.
    searched: usize,
    /// The line that is being read is too long to be returned.
    skipping: bool,
    /// How many bytes before the requested range are still to be skipped.
    left_out: u64,
    /// Where the next line begins, in bytes from the start of the response.
    position: u64,
    /// How many lines were too long to be returned.
    too_long: u64,
}

impl Lines {
    /// The lines of a body that begins `left_out` bytes before `position`, where the first line begins.
    pub(crate) fn new(body: SdkBody, position: u64, left_out: u64) -> Self {
        Self {
            body,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            left_out,
            position,
            too_long: 0,
        }
    }

    /// Where the next line begins, in bytes from the start of the response.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// How many lines were too long to be returned.
    pub(crate) fn too_long(&self) -> u64 {
        self.too_long
    }

    /// The next line, or `None` after the last. Lines of more than [`LINE_LIMIT`] bytes are skipped.
    pub(crate) async fn next(&mut self) -> Result<Option<BytesMut>, HttpError> {
        loop {
            let unsearched = &self.buffer[self.searched..];
            if let Some(end) = unsearched.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(self.searched + end + 1);
                self.searched = 0;
                self.position += line.len() as u64;
                if !std::mem::take(&mut self.skipping) {
                    return Ok(Some(line));
                }
                continue;
            }
            if self.buffer.len() > LINE_LIMIT {
                self.position += self.buffer.len() as u64;
                self.buffer.clear();
                self.too_long += u64::from(!self.skipping);
                self.skipping = true;
            }
            self.searched = self.buffer.len();
            match timeout(LINE_TIMEOUT, self.body.frame()).await.map_err(|_| HttpError::TimedOut)? {
                Some(frame) => {
                    if let Ok(mut data) = frame.map_err(HttpError::Truncated)?.into_data() {
                        let left_out = self.left_out.min(data.len() as u64);
                        self.left_out -= left_out;
                        data.advance(usize::try_from(left_out).unwrap_or(usize::MAX));
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None if self.buffer.is_empty() || self.skipping => return Ok(None),
                None => {
                    self.searched = 0;
                    self.position += self.buffer.len() as u64;
                    return Ok(Some(self.buffer.split()));
                }
            }
        }
    }
}
