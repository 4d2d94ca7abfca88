//! Sends recovered events to the queue, several requests at once.

use futures::{StreamExt as _, stream::FuturesUnordered};
use shared::error_chain;
use tracing::warn;

use crate::client::{
    message::Message,
    sqs::{Queue, QueueError},
};

/// Messages per request to SQS.
const BATCH_MESSAGES: usize = 10;
/// Requests to SQS at once.
const MAX_REQUESTS: usize = 8;

/// Sends events in batches, some at once. Events are durable after a flush.
pub(super) struct Sender<'a> {
    /// `None` where events are only counted.
    queue: Option<&'a Queue>,
    batch: Vec<Message>,
    sending: FuturesUnordered<Sending<'a>>,
    /// Events that are durable.
    pub(super) queued: u64,
}

type Sending<'a> = std::pin::Pin<Box<dyn Future<Output = Result<u64, QueueError>> + Send + 'a>>;

impl<'a> Sender<'a> {
    pub(super) fn new(queue: &'a Queue) -> Self {
        Self { queue: Some(queue), ..Self::counting() }
    }

    /// Sends nothing: counts what would be sent.
    pub(super) fn counting() -> Self {
        Self { queue: None, batch: Vec::new(), sending: FuturesUnordered::new(), queued: 0 }
    }

    pub(super) fn is_counting(&self) -> bool {
        self.queue.is_none()
    }

    pub(super) async fn add(&mut self, message: Message) -> Result<(), QueueError> {
        self.batch.push(message);
        if self.batch.len() >= BATCH_MESSAGES {
            self.send().await?;
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), QueueError> {
        while self.sending.len() >= MAX_REQUESTS {
            self.sent().await?;
        }
        let batch = std::mem::take(&mut self.batch);
        let Some(queue) = self.queue else {
            self.queued += batch.len() as u64;
            return Ok(());
        };
        self.sending.push(Box::pin(async move {
            let count = batch.len() as u64;
            queue.send_new(&batch).await.map(|()| count)
        }));
        Ok(())
    }

    async fn sent(&mut self) -> Result<(), QueueError> {
        if let Some(sent) = self.sending.next().await {
            self.queued += sent.inspect_err(|err| {
                warn!(error = error_chain(err), "could not queue recovered events");
            })?;
        }
        Ok(())
    }

    pub(super) async fn flush(&mut self) -> Result<(), QueueError> {
        if !self.batch.is_empty() {
            self.send().await?;
        }
        while !self.sending.is_empty() {
            self.sent().await?;
        }
        Ok(())
    }
}
