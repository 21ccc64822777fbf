//! The limits of a connection that HTTP/2 itself is abused against: streams, resets, and silence.

use std::time::{Duration, Instant};

use crate::ALONE;
use anyhow::{Context as _, Result};
use h2::Reason;
use veribus_broker::config::LimitsConfig;
use veribus_tests::{
    broker::{Setup, TestBroker},
    frames::{Frames, GO_AWAY, RESET, SETTINGS, headers, resets},
    patiently,
    wire::Wire,
};

async fn start(limit: impl FnOnce(&mut LimitsConfig) + Send + 'static) -> Result<TestBroker> {
    Setup::default().open_policy().configure(|config| limit(&mut config.limits)).start().await
}

async fn connect(broker: &TestBroker, frames: &[u8]) -> Result<Frames> {
    Frames::connect(broker.address(), &broker.directory().ca_path(), frames).await
}

#[tokio::test]
async fn one_connection_has_only_so_many_streams() -> Result<()> {
    let _beside = ALONE.read().await;
    const STREAMS: u32 = 5;
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    let broker = start(|limits| limits.streams_per_connection_max = STREAMS).await?;
    let opened: Vec<u8> = (0..=STREAMS).flat_map(|number| headers(2 * number + 1)).collect();
    let (frames, is_open) = connect(&broker, &opened).await?.through_ping().await?;
    assert!(is_open, "{frames:?}");
    let settings = frames.iter().find(|frame| frame.kind == SETTINGS).context("settings")?;
    let said = [&MAX_CONCURRENT_STREAMS.to_be_bytes()[..], &STREAMS.to_be_bytes()].concat();
    assert!(settings.payload.chunks(6).any(|setting| setting == said), "{settings:?}");
    let refused = frames.iter().filter(|frame| frame.error_code() == Some(Reason::REFUSED_STREAM));
    assert_eq!(refused.map(|frame| (frame.kind, frame.stream)).collect::<Vec<_>>(), [(RESET, 2 * STREAMS + 1)]);
    Ok(())
}

#[tokio::test]
async fn a_connection_with_too_many_streams_reset_before_they_were_accepted_is_closed() -> Result<()> {
    let _beside = ALONE.read().await;
    // Neither the library's own limit, 20, nor the broker's.
    const RESETS: u32 = 40;
    let broker = start(|limits| limits.pending_accept_resets_max = RESETS as usize).await?;
    let (frames, is_open) = connect(&broker, &resets(RESETS)).await?.through_ping().await?;
    assert!(is_open, "{frames:?}");
    let (frames, is_open) = connect(&broker, &resets(RESETS + 1)).await?.through_ping().await?;
    let told = frames.iter().find(|frame| frame.kind == GO_AWAY).and_then(veribus_tests::frames::Frame::error_code);
    assert_eq!((is_open, told), (false, Some(Reason::ENHANCE_YOUR_CALM)));
    Ok(())
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_cut_off_and_one_that_does_stays() -> Result<()> {
    let _beside = ALONE.read().await;
    const INTERVAL_MS: u64 = 100;
    const TIMEOUT_MS: u64 = 1_000;
    let broker = start(|limits| {
        limits.keepalive_interval_ms = INTERVAL_MS;
        limits.keepalive_timeout_ms = TIMEOUT_MS;
        limits.first_authenticated_call_ms_max = 60_000;
    })
    .await?;
    let mut answering = Wire::connect(broker.address(), &broker.directory().ca_path()).await?;
    let opened = Instant::now();
    let mut silent = connect(&broker, &[]).await?;
    while silent.next().await?.is_some() {}
    let cut_off_after = opened.elapsed();
    assert!(cut_off_after >= Duration::from_millis(TIMEOUT_MS), "{cut_off_after:?}");
    assert!(cut_off_after < Duration::from_secs(10), "{cut_off_after:?}");
    // The other one is older.
    patiently(answering.call("/veribus.v1.BrokerService/Publish", None).await?.answer()).await??;
    let ended = tokio::time::timeout(Duration::from_millis(3 * INTERVAL_MS), answering.ended()).await;
    assert!(ended.is_err(), "{ended:?}");
    Ok(())
}
