//! How long this node has been running, over all its starts, and since when revocations seem to be over.
//!
//! Both are kept beside the log: a clock that is wrong for a moment, even across a restart, must not end a revocation for good.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;

use crate::{
    authenticate::Revocations,
    engine::{LogStore, ReadError, Record},
    model::{Clock, UnixMicros, UnixSeconds},
};

/// Under what the running time is kept, in seconds, and the moment that was confirmed then, in microseconds.
const TOTAL: &[u8] = b"running/total";
/// Under what it is kept since when a revocation seems to be over, in seconds of running time; the audit index follows.
const OVER: &[u8] = b"running/over/";

/// The running time is kept at least this often; what a crash takes of it makes revocations last longer, never shorter.
const KEEP_EVERY: Duration = Duration::from_secs(60);

/// A revocation is forgotten this long after its end, on the clock and in running time.
pub(super) const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// The running time of this node, and what goes by it.
pub(super) struct RunningTime {
    clock: Clock,
    before: Duration,
    started: Duration,
    kept: Duration,
    over_since: BTreeMap<u64, Duration>,
}

impl RunningTime {
    /// `last` is what the clock said at the log's last entry. Nothing later is confirmed by what the clock says now.
    pub(super) fn load(store: &dyn LogStore, clock: Clock, last: Option<UnixMicros>) -> Result<Self, ReadError> {
        let kept = store.record(TOTAL)?.map(|value| total_and_moment(&value)).transpose()?;
        let before = kept.map_or(Duration::ZERO, |(total, _)| total);
        if let Some(moment) = kept.map(|(_, moment)| moment).or(last) {
            clock.begin_at(moment);
        }
        let over = store.records(OVER)?.into_iter();
        let over = over.map(|(key, value)| Ok((index(&key)?, seconds(&value)?))).collect::<Result<_, ReadError>>()?;
        let started = clock.running();
        Ok(Self { clock, before, started, kept: before, over_since: over })
    }

    fn total(&self) -> Duration {
        self.before.saturating_add(self.clock.running().saturating_sub(self.started))
    }

    /// What is to be kept of the time that has passed, if enough has.
    pub(super) fn record(&mut self) -> Option<Record> {
        let total = self.total();
        if total < self.kept.saturating_add(KEEP_EVERY) {
            return None;
        }
        self.kept = total;
        let value = [encoded(total), Bytes::copy_from_slice(&self.clock.confirmed().0.to_be_bytes())].concat();
        Some(Record { key: Bytes::from_static(TOTAL), value: Some(value.into()) })
    }

    /// Looks which revocations seem to be over: what is to be kept of that, and those that have been for long enough.
    pub(super) fn look(&mut self, revocations: &Revocations) -> (Vec<Record>, Vec<u64>) {
        let (now, total) = (self.clock.now().seconds(), self.total());
        let over = revocations.over(now);
        let mut records = Vec::new();
        // The clock was set back: they are not over after all.
        self.over_since.retain(|index, _| {
            let is_over = over.iter().any(|(one, _)| one == index);
            records.extend((!is_over).then(|| forgotten(*index)));
            is_over
        });
        let mut ended = Vec::new();
        for (index, end) in over {
            let since = *self.over_since.entry(index).or_insert_with(|| {
                records.push(Record { key: key(index), value: Some(encoded(total)) });
                total
            });
            if total >= since.saturating_add(FORGET_AFTER) && is_long_past(end, now) {
                ended.push(index);
            }
        }
        (records, ended)
    }

    /// A revocation is not kept any more.
    pub(super) fn forget(&mut self, index: u64) -> Option<Record> {
        self.over_since.remove(&index).map(|_| forgotten(index))
    }
}

fn is_long_past(end: UnixSeconds, now: UnixSeconds) -> bool {
    end.0.saturating_add_unsigned(FORGET_AFTER.as_secs()) <= now.0
}

fn forgotten(index: u64) -> Record {
    Record { key: key(index), value: None }
}

fn key(index: u64) -> Bytes {
    [OVER, &index.to_be_bytes()].concat().into()
}

fn index(key: &[u8]) -> Result<u64, ReadError> {
    let index = key.strip_prefix(OVER).and_then(|index| index.try_into().ok());
    index.map(u64::from_be_bytes).ok_or(ReadError::Damaged(u64::MAX))
}

/// Whole seconds: a part of one that is lost makes it less, and so what goes by it later.
fn encoded(duration: Duration) -> Bytes {
    Bytes::copy_from_slice(&duration.as_secs().to_be_bytes())
}

fn total_and_moment(value: &[u8]) -> Result<(Duration, UnixMicros), ReadError> {
    let (total, moment) = value.split_first_chunk::<8>().ok_or(ReadError::Damaged(u64::MAX))?;
    let moment = moment.try_into().map(i64::from_be_bytes).map_err(|_| ReadError::Damaged(u64::MAX))?;
    Ok((seconds(total)?, UnixMicros(moment)))
}

fn seconds(value: &[u8]) -> Result<Duration, ReadError> {
    let seconds = value.try_into().map(u64::from_be_bytes).map_err(|_| ReadError::Damaged(u64::MAX))?;
    Ok(Duration::from_secs(seconds))
}
