//! Acknowledged publishes and deliveries a second, and how long each takes.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::StreamExt as _;
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use veribus_client::{Client, Message, Pending, Publisher, Subscription};

use super::{
    super::{failure::Failure, output},
    broker::BenchBroker,
    report::{Latency, Machine, histogram, per_s},
};

/// How long a subscriber waits for the next message before it gives up on the rest.
const SILENCE_MAX: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub(in crate::cli) struct PublishArgs {
    /// How many messages are published in all
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    messages: u64,
    /// Payload of one message, in bytes
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(64..=60_000))]
    size: u32,
    /// How many publishers, each with a connection of its own
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=16))]
    publishers: u64,
    /// How many subscribers, each with a connection of its own, each getting every message
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(0..=15))]
    subscribers: u64,
    /// How many messages a publisher hands over at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=1024))]
    batch: u64,
    /// Messages a second over all publishers; as many as possible if absent
    #[arg(long)]
    rate: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    acked_per_s: f64,
    delivered_per_s: f64,
    publish_to_ack: Latency,
    publish_to_delivery: Option<Latency>,
    acked: u64,
    delivered: u64,
    failed: u64,
    seconds: f64,
    messages: u64,
    size_bytes: u32,
    publishers: u64,
    subscribers: u64,
    batch: u64,
    rate: Option<u64>,
    on: [&'static str; 8],
    machine: Machine,
}

const ON: [&str; 8] = [
    "TLS 1.3 on every connection",
    "JWT (ES256), its lifetime checked for each message",
    "content inspection of each message",
    "Rego policy for each message (verdicts remembered under what the policy reads)",
    "salted content digest and hash-chained audit entry for each message",
    "fdatasync before each acknowledgement (group commit)",
    "delivery after the record",
    "broker and load generator on the same cores",
];

pub(super) async fn run(args: PublishArgs) -> Result<(), Failure> {
    let broker = BenchBroker::start().await?;
    let start = Instant::now();
    let mut receiving = JoinSet::new();
    for _ in 0..args.subscribers {
        let subscription = broker.client("compliance-agent").await?.subscribe(["finance.>"]).await?;
        receiving.spawn(receive(subscription, args.messages, start));
    }
    let mut clients = Vec::new();
    for _ in 0..args.publishers {
        clients.push(broker.client("finance-agent").await?);
    }
    let began = Instant::now();
    let mut sending = JoinSet::new();
    for (number, client) in (0..).zip(clients) {
        sending.spawn(send(client, share(&args, number), args.clone(), start));
    }
    let (mut acks, mut failed) = (histogram()?, 0);
    while let Some(sent) = sending.join_next().await {
        let sent = sent.map_err(Failure::failed)??;
        acks.add(&sent.latencies).map_err(Failure::failed)?;
        failed += sent.failed;
    }
    let acked_in = began.elapsed();
    let (mut deliveries, mut delivered_in) = (histogram()?, Duration::ZERO);
    while let Some(received) = receiving.join_next().await {
        let received = received.map_err(Failure::failed)??;
        deliveries.add(&received.latencies).map_err(Failure::failed)?;
        delivered_in = delivered_in.max(received.last.saturating_duration_since(began));
    }
    let (acked, delivered) = (acks.len(), deliveries.len());
    report(
        &Report {
            acked_per_s: per_s(acked, acked_in),
            delivered_per_s: if delivered == 0 { 0.0 } else { per_s(delivered, delivered_in) },
            publish_to_ack: Latency::of(&acks),
            publish_to_delivery: (delivered > 0).then(|| Latency::of(&deliveries)),
            acked,
            delivered,
            failed,
            seconds: acked_in.as_secs_f64(),
            messages: args.messages,
            size_bytes: args.size,
            publishers: args.publishers,
            subscribers: args.subscribers,
            batch: args.batch,
            rate: args.rate,
            on: ON,
            machine: Machine::this(),
        },
        args.json,
    )?;
    let complete = failed == 0 && acked == args.messages && delivered == args.messages * args.subscribers;
    if complete { Ok(()) } else { Err(Failure::failed("some messages were not acknowledged or not delivered")) }
}

/// How many of all messages the publisher of this number sends.
const fn share(args: &PublishArgs, number: u64) -> u64 {
    args.messages / args.publishers + if number < args.messages % args.publishers { 1 } else { 0 }
}

struct Sent {
    latencies: Histogram<u64>,
    failed: u64,
}

async fn send(client: Client, messages: u64, args: PublishArgs, start: Instant) -> Result<Sent, Failure> {
    let publisher = client.publisher();
    let (pending, receiver) = mpsc::unbounded_channel();
    let acking = tokio::spawn(acknowledge(receiver));
    let filler = filler(args.size);
    let pace = args.rate.map(|rate| Pace { began: Instant::now(), per_s: (rate / args.publishers).max(1) });
    let mut left = messages;
    while left > 0 {
        let batch = left.min(args.batch);
        if let Some(pace) = &pace {
            pace.wait(messages - left).await;
        }
        submit(&publisher, batch, &filler, args.size, start, &pending).await?;
        left -= batch;
    }
    drop(pending);
    acking.await.map_err(Failure::failed)?
}

async fn submit(
    publisher: &Publisher,
    batch: u64,
    filler: &str,
    size: u32,
    start: Instant,
    pending: &mpsc::UnboundedSender<(Instant, Vec<Pending>)>,
) -> Result<(), Failure> {
    let messages = (0..batch).map(|_| transaction(filler, size, start)).collect();
    let sent = Instant::now();
    let waiting = publisher.send_batch(messages).await?;
    pending.send((sent, waiting)).map_err(|_| Failure::failed("the receiver of acknowledgements is gone"))
}

async fn acknowledge(mut pending: mpsc::UnboundedReceiver<(Instant, Vec<Pending>)>) -> Result<Sent, Failure> {
    let mut sent = Sent { latencies: histogram()?, failed: 0 };
    while let Some((at, batch)) = pending.recv().await {
        for one in batch {
            match one.await {
                Ok(_) => sent.latencies.saturating_record(nanoseconds(at.elapsed())),
                Err(_) => sent.failed += 1,
            }
        }
    }
    Ok(sent)
}

struct Received {
    latencies: Histogram<u64>,
    last: Instant,
}

async fn receive(mut subscription: Subscription, messages: u64, start: Instant) -> Result<Received, Failure> {
    let mut received = Received { latencies: histogram()?, last: start };
    while received.latencies.len() < messages {
        let Ok(Some(delivery)) = timeout(SILENCE_MAX, subscription.next()).await else { break };
        let delivery = delivery?;
        received.last = Instant::now();
        let sent = sent_at(&delivery.message.data);
        received.latencies.saturating_record(nanoseconds(start.elapsed()).saturating_sub(sent));
    }
    Ok(received)
}

/// Keeps to a rate.
struct Pace {
    began: Instant,
    per_s: u64,
}

impl Pace {
    async fn wait(&self, sent: u64) {
        #[expect(clippy::cast_precision_loss, reason = "counts lie far below 2^52")]
        let due = Duration::from_secs_f64(sent as f64 / self.per_s as f64);
        tokio::time::sleep_until((self.began + due).into()).await;
    }
}

/// A JSON transaction of exactly `size` bytes that says when it was sent.
fn transaction(filler: &str, size: u32, start: Instant) -> Message {
    let text = transaction_text(filler, size, start);
    Message::json("finance.transactions", "finance.transaction", text).to("role:compliance")
}

fn transaction_text(filler: &str, size: u32, start: Instant) -> String {
    let head = format!(r#"{{"at_ns":"{:020}","note":""#, nanoseconds(start.elapsed()));
    let room = (size as usize).saturating_sub(head.len() + 2);
    format!("{head}{}\"}}", filler.get(..room).unwrap_or_default())
}

/// The twenty digits after `{"at_ns":"`.
fn sent_at(data: &[u8]) -> u64 {
    let digits = data.get(10..30).and_then(|digits| std::str::from_utf8(digits).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

pub(super) fn filler(size: u32) -> String {
    const TEXT: &str =
        "Payment for the goods of the second quarter, as agreed with the supplier and approved by the desk. ";
    TEXT.repeat(size as usize / TEXT.len() + 1)
}

pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn report(report: &Report, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return Ok(output::json(report)?);
    }
    output::line(format_args!("acknowledged     {:>10.0} messages/s   {}", report.acked_per_s, report.publish_to_ack))?;
    if let Some(latency) = &report.publish_to_delivery {
        output::line(format_args!("delivered        {:>10.0} messages/s   {latency}", report.delivered_per_s))?;
    }
    output::line(format_args!(
        "\n{} messages of {} bytes, {} publisher(s) in batches of {}, {} subscriber(s), {:.1} s",
        report.messages, report.size_bytes, report.publishers, report.batch, report.subscribers, report.seconds
    ))?;
    output::line(&report.machine)?;
    output::line("on:")?;
    for stage in report.on {
        output::line(format_args!("  {stage}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bench_message_has_the_size_asked_for_and_says_when_it_was_sent() {
        let start = Instant::now();
        for size in [64, 512, 60_000] {
            let data = transaction_text(&filler(size), size, start);
            assert_eq!(data.len(), size as usize);
            let parsed: serde_json::Value = serde_json::from_str(&data).expect("JSON");
            assert_eq!(parsed["at_ns"].as_str().and_then(|digits| digits.parse().ok()), Some(sent_at(data.as_bytes())));
        }
    }
}
