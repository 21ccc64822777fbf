//! What each number in the file may be. Below or above its range a broker would not start, serve nobody, or not do what the
//! setting says.
//!
//! In scope: every numeric setting by itself. Out of scope: how two of them go together.

use std::ops::RangeInclusive;

use veribus_proto::codec;

use crate::model::{HISTORY_MAX, QUEUES_SHARE, RECEIVE_SHARE};

/// A setting by its path in the file, and its smallest and largest value.
pub(super) struct Range {
    pub(super) key: &'static str,
    pub(super) values: RangeInclusive<u64>,
}

const fn row(key: &'static str, least: u64, most: u64) -> Range {
    Range { key, values: least..=most }
}

const DAY_S: u64 = 86_400;
/// Timers that end later never do. As a `Duration` it can be added to any time of today.
const YEAR_S: u64 = 366 * DAY_S;
const YEAR_MS: u64 = YEAR_S * 1_000;
/// Where nothing is allocated before it is there, only memory sets a bound; what counts has 32 bits at least.
const COUNT_MAX: u64 = u32::MAX as u64;
/// Semaphores that count bytes give out 32 bits at once.
const ROOM_BYTES_MAX: u64 = u32::MAX as u64;
/// What is only compared.
const BYTES_MAX: u64 = 1 << 50;
/// RFC 9113, section 6.9.1: windows, and section 5.1.1: identifiers of streams.
const HTTP2_MAX: u64 = (1 << 31) - 1;
/// RFC 9113, section 6.9.2: what a peer may send before it has read our settings.
const WINDOW_BYTES_MIN: u64 = 65_535;
/// A call has its path, its content type and a signed token.
const HEADER_LIST_BYTES_MIN: u64 = 4_096;
/// The length of a gRPC message has 32 bits.
const FRAME_BYTES_MAX: u64 = u32::MAX as u64;
/// The smallest that has room for one message of any use.
const FRAME_BYTES_MIN: u64 = 1_024;
/// The share of one prefix, of which half may come at once, has room for two entries at once.
const ANONYMOUS_RECORD_BYTES_PER_DAY_MIN: u64 = 32 * 1024;
/// The store asserts 256 bytes, and reads each page anew with so few.
const STORE_CACHE_BYTES_MIN: u64 = 1 << 20;
/// What an evaluation takes that only looks at its input. Default policies take some thousand.
const EVALUATION_STEPS_MIN: u64 = 1_000;

/// Every numeric setting there is.
pub(super) const RANGES: &[Range] = &[
    row("server.drain_ms_max", 0, YEAR_MS),
    row("identity.token_cache_entries_max", 1, COUNT_MAX),
    row("identity.token_cache_bytes_max", 1, BYTES_MAX),
    row("identity.token_lifetime_s_max", 1, 100 * YEAR_S),
    row("identity.revocations_max", 1, COUNT_MAX),
    row("identity.dpop_max_age_s", 1, DAY_S),
    row("identity.dpop_proofs_max", 1, COUNT_MAX),
    row("identity.dpop_proofs_per_agent_max", 1, COUNT_MAX),
    // A withdrawn key that counts for longer than a day is no longer withdrawn.
    row("identity.keys_ttl_s", 1, DAY_S),
    row("identity.keys_refresh_interval_s_min", 1, DAY_S),
    row("policy.evaluation_steps_max", EVALUATION_STEPS_MIN, 1 << 40),
    row("policy.decision_cache_entries_max", 1, COUNT_MAX),
    row("record.commit_entries_max", 1, COUNT_MAX),
    // The writer stands still meanwhile.
    row("record.commit_linger_us_max", 0, 1_000_000),
    row("record.writer_queue_submissions_max", 1, COUNT_MAX),
    row("record.writer_queue_bytes_max", 1, ROOM_BYTES_MAX),
    row("record.verify_at_start_entries_max", 0, BYTES_MAX),
    row("record.free_disk_bytes_min", 0, BYTES_MAX),
    row("record.dedup_ids_per_sender_max", 1, COUNT_MAX),
    // Allocated at start, some 40 bytes each.
    row("record.dedup_senders_max", 1, 1 << 20),
    row("record.store_cache_bytes_max", STORE_CACHE_BYTES_MIN, BYTES_MAX),
    row("record.backup_journal_bytes_max", 1, BYTES_MAX),
    row("state.histories.versions", 1, HISTORY_MAX as u64),
    row("state.gone_kept_s", 0, 100 * YEAR_S),
    row("state.scopes_max", 1, COUNT_MAX),
    row("state.scopes_per_level_max", 1, COUNT_MAX),
    row("state.read_bytes_max", 0, ROOM_BYTES_MAX),
    row("delivery.queue_messages_max", 1, COUNT_MAX),
    row("delivery.queue_bytes_max", 1, BYTES_MAX / QUEUES_SHARE as u64),
    row("delivery.stall_ms_max", 1, YEAR_MS),
    row("delivery.queues_bytes_max", FRAME_BYTES_MIN * QUEUES_SHARE as u64, BYTES_MAX),
    row("limits.message_bytes_max", 1, FRAME_BYTES_MAX - 1),
    row("limits.frame_bytes_max", FRAME_BYTES_MIN, FRAME_BYTES_MAX),
    row("limits.frame_messages_max", 1, codec::ITEMS_MAX as u64),
    row("limits.frame_ms_max", 1, YEAR_MS),
    row("limits.receive_bytes_max", FRAME_BYTES_MIN * RECEIVE_SHARE as u64, BYTES_MAX),
    row("limits.publish_in_flight_messages_max", 1, COUNT_MAX),
    row("limits.publish_in_flight_bytes_max", 1, ROOM_BYTES_MAX),
    row("limits.subscription_patterns_max", 1, COUNT_MAX),
    row("limits.connections_max", 1, COUNT_MAX),
    row("limits.connections_per_address_max", 1, COUNT_MAX),
    row("limits.connections_per_identity_max", 1, COUNT_MAX),
    row("limits.health_connections_max", 1, COUNT_MAX),
    row("limits.health_connections_per_address_max", 1, COUNT_MAX),
    row("limits.streams_per_connection_max", 1, HTTP2_MAX),
    // The decoder multiplies it by some.
    row("limits.header_list_bytes_max", HEADER_LIST_BYTES_MIN, 16 << 20),
    row("limits.tls_handshake_ms_max", 10, YEAR_MS),
    row("limits.first_authenticated_call_ms_max", 10, YEAR_MS),
    // Pings without a pause, and answers that cannot be there in time.
    row("limits.keepalive_interval_ms", 10, YEAR_MS),
    row("limits.keepalive_timeout_ms", 10, YEAR_MS),
    // Below, connections end as they begin.
    row("limits.connection_age_ms_max", 1_000, YEAR_MS),
    row("limits.stream_window_bytes", WINDOW_BYTES_MIN, HTTP2_MAX),
    row("limits.connection_window_bytes", WINDOW_BYTES_MIN, HTTP2_MAX),
    row("limits.pending_accept_resets_max", 1, COUNT_MAX),
    row("limits.local_error_resets_max", 1, COUNT_MAX),
    row("limits.authentication_refusals_recorded_per_s_max", 0, COUNT_MAX),
    row("limits.anonymous_record_bytes_per_day_max", ANONYMOUS_RECORD_BYTES_PER_DAY_MIN, BYTES_MAX),
    row("quotas.messages_per_s_max", 1, COUNT_MAX),
    row("quotas.bytes_per_s_max", 1, BYTES_MAX),
    row("quotas.burst_s", 1, DAY_S),
    row("quotas.streams_max", 1, COUNT_MAX),
    row("quotas.subscriptions_max", 1, COUNT_MAX),
    row("quotas.agents_max", 1, COUNT_MAX),
];

#[cfg(test)]
mod tests;
