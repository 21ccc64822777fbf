//! How much may be under way at once, in messages and in bytes.

use std::iter::Peekable;

use tokio::sync::Semaphore;

use super::outstanding::Submission;
use crate::Error;

/// Room for messages under way. Senders take of it, the driver gives back what is resolved.
#[derive(Debug)]
pub(super) struct Window {
    messages: Semaphore,
    bytes: Semaphore,
    messages_max: usize,
    bytes_max: u32,
}

impl Window {
    pub(super) fn new(messages_max: usize, bytes_max: usize) -> Self {
        let messages_max = messages_max.clamp(1, 1 << 20);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX >> 1).clamp(1, u32::MAX >> 1);
        let bytes = Semaphore::new(usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS));
        Self { messages: Semaphore::new(messages_max), bytes, messages_max, bytes_max }
    }

    /// What a message of this size takes of the window: one larger than the whole window goes alone.
    pub(super) fn bytes_of(&self, encoded_bytes: usize) -> u32 {
        u32::try_from(encoded_bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }

    /// As many of the next submissions as fit at once into a quarter of the window, one at least, and their bytes.
    pub(super) fn portion(
        &self,
        submissions: &mut Peekable<impl Iterator<Item = Submission>>,
    ) -> (Vec<Submission>, u32) {
        let (messages_max, bytes_max) = ((self.messages_max / 4).max(1), self.bytes_max / 4);
        let (mut part, mut bytes) = (Vec::new(), 0_u32);
        while part.len() < messages_max {
            let fits = |next: &Submission| part.is_empty() || bytes.saturating_add(next.bytes()) <= bytes_max;
            let Some(submission) = submissions.next_if(fits) else { break };
            bytes = bytes.saturating_add(submission.bytes());
            part.push(submission);
        }
        (part, bytes)
    }

    /// Waits for room and takes it.
    pub(super) async fn enter(&self, messages: usize, bytes: u32) -> Result<(), Error> {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        let message_room = self.messages.acquire_many(messages).await.map_err(|_| Error::Closed)?;
        let byte_room = self.bytes.acquire_many(bytes).await.map_err(|_| Error::Closed)?;
        message_room.forget();
        byte_room.forget();
        Ok(())
    }

    /// Gives room back.
    pub(super) fn leave(&self, messages: usize, bytes: usize) {
        self.messages.add_permits(messages);
        self.bytes.add_permits(bytes);
    }

    /// There will be no more room.
    pub(super) fn close(&self) {
        self.messages.close();
        self.bytes.close();
    }
}
