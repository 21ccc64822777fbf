//! The whole audit log, as an auditor sees it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, bail, ensure};
use veribus_proto::{
    chain::ChainVerifier,
    v1::{AuditEntry, EntryKind, QueryRequest, Recipient, StoredEntry, TailRequest},
};

use crate::{patiently, raw::Raw};

/// All entries from the first one on. The chain between them is verified.
#[derive(Debug, Clone, Default)]
pub struct Log(Vec<AuditEntry>);

impl Log {
    /// Reads the log to its end.
    ///
    /// # Errors
    /// Where it cannot be read, or its chain is broken.
    pub async fn read(auditor: &Raw) -> Result<Self> {
        let mut responses = auditor.audit().query(QueryRequest::default()).await?.into_inner();
        let (mut log, mut verifier) = (Self::default(), ChainVerifier::from_genesis());
        while let Some(response) = responses.message().await? {
            log.take(response.entries, &mut verifier)?;
        }
        Ok(log)
    }

    /// Reads the log until there is in it what is waited for.
    ///
    /// # Errors
    /// Where that does not come, or the log cannot be read, or its chain is broken.
    pub async fn read_until(auditor: &Raw, is_there: impl Fn(&Self) -> bool) -> Result<Self> {
        let request = TailRequest { from_index: Some(0), ..TailRequest::default() };
        let mut responses = auditor.audit().tail(request).await?.into_inner();
        let (mut log, mut verifier) = (Self::default(), ChainVerifier::from_genesis());
        while !is_there(&log) {
            let response = patiently(responses.message()).await.with_context(|| log.summary())??;
            log.take(response.context("the tail ended")?.entries, &mut verifier)?;
        }
        Ok(log)
    }

    /// One line for each entry.
    #[must_use]
    pub fn summary(&self) -> String {
        let line = |entry: &AuditEntry| {
            let message_id = entry.message.as_ref().map_or("", |message| &message.id);
            format!("{} {:?} {} {message_id} {}\n", entry.index, entry.kind(), entry.resource, entry.detail)
        };
        self.0.iter().map(line).collect()
    }

    fn take(&mut self, entries: Vec<StoredEntry>, verifier: &mut ChainVerifier) -> Result<()> {
        for stored in entries {
            self.0.push(verifier.push(&stored.entry)?);
        }
        Ok(())
    }

    /// In order.
    #[must_use]
    pub fn entries(&self) -> &[AuditEntry] {
        &self.0
    }

    /// Those of one kind, in order.
    pub fn of_kind(&self, kind: EntryKind) -> impl Iterator<Item = &AuditEntry> {
        self.0.iter().filter(move |entry| entry.kind() == kind)
    }

    /// The one at an index.
    ///
    /// # Errors
    /// Where there is none.
    pub fn at(&self, index: u64) -> Result<&AuditEntry> {
        self.0.get(usize::try_from(index)?).with_context(|| format!("the log ends before entry {index}"))
    }

    /// The decisions on messages with this id.
    #[must_use]
    pub fn decisions(&self, message_id: &str) -> Vec<&AuditEntry> {
        let is_meant = |entry: &&AuditEntry| entry.message.as_ref().is_some_and(|message| message.id == message_id);
        self.of_kind(EntryKind::Publish).filter(is_meant).collect()
    }

    /// The decision on the message with this id.
    ///
    /// # Errors
    /// Where there is none, or more than one.
    pub fn decision(&self, message_id: &str) -> Result<&AuditEntry> {
        match self.decisions(message_id).as_slice() {
            [entry] => Ok(entry),
            found => bail!("{} decisions on `{message_id}`", found.len()),
        }
    }

    /// Everybody whom an entry names as audience, wherever they are listed.
    ///
    /// # Errors
    /// Where an entry refers to one that lists nobody.
    pub fn audience(&self, entry: &AuditEntry) -> Result<Vec<Recipient>> {
        let Some(audience) = &entry.audience else { return Ok(Vec::new()) };
        let mut recipients = audience.recipients.clone();
        for &index in &audience.listed_at {
            let listing = self.at(index)?;
            ensure!(listing.audience.is_some() && index < entry.index, "entry {index} lists nobody");
            recipients.extend(self.audience(listing)?);
        }
        Ok(recipients)
    }

    /// The subscriptions of that audience.
    ///
    /// # Errors
    /// As [`Log::audience`].
    pub fn audience_subscriptions(&self, entry: &AuditEntry) -> Result<BTreeSet<String>> {
        Ok(self.audience(entry)?.into_iter().map(|one| one.subscription_id).collect())
    }
}

/// The indexes that an entry reports as undelivered, one by one.
#[must_use]
pub fn undelivered(entry: &AuditEntry) -> Vec<u64> {
    let ranges = entry.undelivered.iter().flat_map(|undelivered| &undelivered.indexes);
    ranges.flat_map(|range| range.first..=range.last).collect()
}
