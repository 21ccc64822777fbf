//! How much may be under way at once, in items and in bytes.

use std::iter::Peekable;

use tokio::sync::Semaphore;

use super::{Kind, outstanding::Submission};
use crate::Error;

/// Room for items under way. Senders take of it, the driver gives back what is resolved.
#[derive(Debug)]
pub(super) struct Window {
    items: Semaphore,
    bytes: Semaphore,
    items_max: usize,
    bytes_max: u32,
}

impl Window {
    pub(super) fn new(items_max: usize, bytes_max: usize) -> Self {
        let items_max = items_max.clamp(1, 1 << 20);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX >> 1).clamp(1, u32::MAX >> 1);
        let bytes = Semaphore::new(usize::try_from(bytes_max).unwrap_or(Semaphore::MAX_PERMITS));
        Self { items: Semaphore::new(items_max), bytes, items_max, bytes_max }
    }

    /// What an item of this size takes of the window: one larger than the whole window goes alone.
    pub(super) fn bytes_of(&self, encoded_bytes: usize) -> u32 {
        u32::try_from(encoded_bytes).unwrap_or(u32::MAX).min(self.bytes_max)
    }

    /// As many of the next submissions as fit at once into a quarter of the window, one at least, and their bytes.
    pub(super) fn portion<K: Kind>(
        &self,
        submissions: &mut Peekable<impl Iterator<Item = Submission<K>>>,
    ) -> (Vec<Submission<K>>, u32) {
        let (items_max, bytes_max) = ((self.items_max / 4).max(1), self.bytes_max / 4);
        let (mut part, mut bytes) = (Vec::new(), 0_u32);
        while part.len() < items_max {
            let fits = |next: &Submission<K>| part.is_empty() || bytes.saturating_add(next.bytes()) <= bytes_max;
            let Some(submission) = submissions.next_if(fits) else { break };
            bytes = bytes.saturating_add(submission.bytes());
            part.push(submission);
        }
        (part, bytes)
    }

    /// Waits for room and takes it.
    pub(super) async fn enter(&self, items: usize, bytes: u32) -> Result<(), Error> {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let item_room = self.items.acquire_many(items).await.map_err(|_| Error::Closed)?;
        let byte_room = self.bytes.acquire_many(bytes).await.map_err(|_| Error::Closed)?;
        item_room.forget();
        byte_room.forget();
        Ok(())
    }

    /// Gives room back.
    pub(super) fn leave(&self, items: usize, bytes: usize) {
        self.items.add_permits(items);
        self.bytes.add_permits(bytes);
    }

    /// There will be no more room.
    pub(super) fn close(&self) {
        self.items.close();
        self.bytes.close();
    }
}
