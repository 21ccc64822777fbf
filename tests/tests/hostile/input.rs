//! Ten thousand inputs that are wrong in every way: random bytes, broken frames, changed messages and tokens.

use std::{collections::BTreeMap, fs, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use prost::Message as _;
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::Code;
use veribus_proto::v1::{
    Decision, EntryKind, Message, PublishRequest, PublishStreamRequest, PublishStreamResponse, publish_result::Outcome,
};
use veribus_tests::{
    broker::{Setup, TestBroker},
    frames::{Frames, resets},
    log::Log,
    messages::wire,
    patiently,
    raw::{client_config, tls_connect},
    wire::{Wire, frame},
};

use super::{ALONE, count_panics, panics};

const PUBLISH: &str = "/veribus.v1.BrokerService/Publish";
const PUBLISH_STREAM: &str = "/veribus.v1.BrokerService/PublishStream";
/// What this process may grow by, in bytes: caches of tokens and decisions, and buffers.
const GROWTH_BYTES_MAX: u64 = 64 << 20;
/// What is sent meanwhile, at least: a third of it, kept, would be seen.
const SENT_BYTES_MIN: u64 = 3 * GROWTH_BYTES_MAX;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_hostile_inputs_get_nowhere() -> Result<()> {
    let _alone = ALONE.write().await;
    count_panics();
    let broker = Setup::default().open_policy().start().await?;
    let seed = rand::random();
    println!("seed {seed}");
    let mut attack = Attack { random: StdRng::seed_from_u64(seed), inputs: 0, sent: 0, accepted: BTreeMap::new() };
    // Once around first, so that memory is measured when everything is in place.
    attack.all(&broker, 20).await?;
    let before = resident_bytes()?;
    attack.sent = 0;
    while attack.inputs < 10_000 || attack.sent < SENT_BYTES_MIN {
        attack.all(&broker, 1).await?;
    }
    let grown = resident_bytes()?.saturating_sub(before);
    let (inputs, accepted, sent) = (attack.inputs, attack.accepted.len(), attack.sent >> 20);
    println!("{inputs} inputs of {sent} MiB, {accepted} accepted, {} MiB more", grown >> 20);
    assert!(grown < GROWTH_BYTES_MAX, "{grown} bytes");
    assert_eq!(panics(), 0);
    let agent = broker.client(&broker.token("a", &["publish:>"])?).await?;
    agent.publish(veribus_client::Message::text("x", "test", "still there").id("after")).await?;
    attack.check(&broker.log().await?)
}

struct Attack {
    random: StdRng,
    inputs: usize,
    /// Bodies, in bytes.
    sent: u64,
    /// What the broker took although it was changed, by audit index.
    accepted: BTreeMap<u64, Message>,
}

impl Attack {
    /// One round of everything, its size divided by `part`.
    async fn all(&mut self, broker: &TestBroker, part: usize) -> Result<()> {
        self.random_bytes_over_tcp(broker, 100 / part).await?;
        self.random_bytes_in_tls(broker, 60 / part).await?;
        self.random_frames(broker, 500 / part).await?;
        self.changed_messages(broker, 700 / part).await?;
        self.large_messages(broker, 20 / part).await?;
        self.changed_frames_of_a_stream(broker, 200 / part).await?;
        self.changed_tokens(broker, 800 / part).await?;
        self.endless_headers(broker, 20 / part).await?;
        self.rapid_resets(broker, 400 / part).await
    }

    fn bytes(&mut self, length_max: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.random.random_range(0..=length_max)];
        self.random.fill_bytes(&mut bytes);
        bytes
    }

    /// Changes some bytes, cuts or lengthens.
    fn changed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..self.random.random_range(1..=4) {
            let at = self.random.random_range(0..=changed.len());
            match (self.random.random_range(0..4), changed.get_mut(at)) {
                (0, Some(byte)) => *byte ^= 1 << self.random.random_range(0..8),
                (1, Some(byte)) => *byte = self.random.random(),
                (2, _) => changed.truncate(at),
                _ => changed.insert(at, self.random.random()),
            }
        }
        changed
    }

    async fn random_bytes_over_tcp(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        for _ in 0..inputs {
            self.inputs += 1;
            let mut bytes = self.bytes(300);
            if self.random.random() {
                // Dressed as a handshake.
                bytes.splice(0..0, [22, 3, 1, 0, self.random.random(), 1, 0, 0]);
            }
            let mut tcp = TcpStream::connect(broker.address()).await?;
            tcp.write_all(&bytes).await.ok();
            tcp.shutdown().await.ok();
            patiently(tcp.read_to_end(&mut Vec::new())).await?.ok();
        }
        Ok(())
    }

    async fn random_bytes_in_tls(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let tls = TlsConnector::from(Arc::new(client_config(&broker.directory().ca_path())?));
        for _ in 0..inputs {
            self.inputs += 1;
            let mut bytes = self.bytes(2_000);
            if self.random.random() {
                // A good beginning, and then frames of anything.
                bytes.splice(0..0, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".iter().copied());
            }
            let mut stream = tls_connect(&tls, broker.address()).await?;
            stream.write_all(&bytes).await.ok();
            stream.shutdown().await.ok();
            patiently(stream.read_to_end(&mut Vec::new())).await?.ok();
        }
        Ok(())
    }

    /// Calls `path` with these bytes as the whole body; `None` where the connection did not survive it.
    async fn call(&mut self, wire: &Wire, path: &str, token: &str, body: Vec<u8>) -> Result<Option<(Bytes, i32)>> {
        self.sent += body.len() as u64;
        let Ok(mut call) = wire.call(path, Some(token)).await else { return Ok(None) };
        if call.requests.send_data(body.into(), true).is_err() {
            return Ok(None);
        }
        Ok(patiently(call.answer()).await?.ok())
    }

    async fn random_frames(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = broker.token("random-frames", &["publish:open.>"])?;
        let mut wire = connect(broker).await?;
        for _ in 0..inputs {
            self.inputs += 1;
            let mut body = self.bytes(400);
            match self.random.random_range(0..3) {
                0 => body = frame(&body).to_vec(),
                // Lengths that promise what does not come, and compression that nobody agreed on.
                1 => body
                    .splice(0..0, [self.random.random_range(0..3), 0, 0, self.random.random_range(0..9), 0])
                    .for_each(drop),
                _ => {}
            }
            let path = if self.random.random() { PUBLISH } else { PUBLISH_STREAM };
            match self.call(&wire, path, &token, body.clone()).await? {
                Some((_, status)) => ensure!(path == PUBLISH_STREAM || status != 0, "accepted: {body:?}"),
                None => wire = connect(broker).await?,
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Message {
        let mut message = wire(&format!("hostile-{}", self.inputs), "open.x", "a text of no great length");
        message.subject = "subject".to_owned();
        message.correlation_id = "case".to_owned();
        message.attributes.insert("key".to_owned(), "value".to_owned());
        message
    }

    async fn changed_messages(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = broker.token("changed-messages", &["publish:open.>"])?;
        let mut wire = connect(broker).await?;
        for _ in 0..inputs {
            self.inputs += 1;
            let request = PublishRequest { message: Some(self.message()) }.encode_to_vec();
            let changed = self.changed(&request);
            match self.call(&wire, PUBLISH, &token, frame(&changed).to_vec()).await? {
                Some((answer, 0)) => {
                    let answer = answer.get(5..).context("a frame")?;
                    let receipt = veribus_proto::v1::PublishResponse::decode(answer)?.receipt.context("a receipt")?;
                    let message = PublishRequest::decode(&*changed)?.message.context("accepted without a message")?;
                    self.accepted.insert(receipt.audit_index, message);
                }
                Some((_, status)) => ensure!(is_a_refusal(status), "{status}: {changed:?}"),
                None => wire = connect(broker).await?,
            }
        }
        Ok(())
    }

    /// Messages that are refused for their size, or their frames for theirs.
    async fn large_messages(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = broker.token("large-messages", &["publish:open.>"])?;
        let mut wire = connect(broker).await?;
        for _ in 0..inputs {
            self.inputs += 1;
            let mut message = self.message();
            message.data = vec![b'x'; self.random.random_range(1_100_000..5_000_000)].into();
            let body = frame(&PublishRequest { message: Some(message) }.encode_to_vec()).to_vec();
            match self.call(&wire, PUBLISH, &token, body).await? {
                Some((_, status)) => ensure!(is_a_refusal(status), "{status}"),
                None => wire = connect(broker).await?,
            }
        }
        Ok(())
    }

    async fn changed_frames_of_a_stream(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = broker.token("changed-frames", &["publish:open.>"])?;
        let mut wire = connect(broker).await?;
        for _ in 0..inputs {
            self.inputs += 1;
            let request = PublishStreamRequest { messages: vec![self.message()], refresh: None }.encode_to_vec();
            let changed = self.changed(&request);
            let Some((answer, status)) = self.call(&wire, PUBLISH_STREAM, &token, frame(&changed).to_vec()).await?
            else {
                wire = connect(broker).await?;
                continue;
            };
            ensure!(status == 0 || is_a_refusal(status), "{status}: {changed:?}");
            let answers = PublishStreamResponse::decode(answer.get(5..).unwrap_or_default())?;
            let sent = PublishStreamRequest::decode(&*changed).unwrap_or_default().messages;
            ensure!(answers.results.is_empty() || answers.results.len() == sent.len(), "one result for each");
            for (result, message) in answers.results.into_iter().zip(sent) {
                if let Some(Outcome::Receipt(receipt)) = result.outcome {
                    self.accepted.insert(receipt.audit_index, message);
                }
            }
        }
        Ok(())
    }

    async fn changed_tokens(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = broker.token("changed-tokens", &["publish:>"])?;
        let mut wire = connect(broker).await?;
        for _ in 0..inputs {
            self.inputs += 1;
            let Some(changed) = self.changed_token(&token) else { continue };
            let body = frame(&PublishRequest { message: Some(self.message()) }.encode_to_vec()).to_vec();
            match self.call(&wire, PUBLISH, &changed, body).await? {
                Some((_, status)) => ensure!(Code::from_i32(status) == Code::Unauthenticated, "{status}: {changed}"),
                None => wire = connect(broker).await?,
            }
        }
        Ok(())
    }

    /// Another text that can be sent as a header; half of them still look like base64url.
    fn changed_token(&mut self, token: &str) -> Option<String> {
        let mut bytes = token.as_bytes().to_vec();
        if self.random.random() {
            bytes = self.changed(&bytes);
        } else {
            let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
            let at = self.random.random_range(0..bytes.len());
            *bytes.get_mut(at)? = *letters.get(self.random.random_range(0..letters.len()))?;
        }
        let text = String::from_utf8(bytes).ok()?;
        let is_sendable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        // White space at the end is not part of a header's value.
        (is_sendable && text.trim() != token).then_some(text)
    }

    async fn endless_headers(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        let token = format!("Bearer {}", broker.token("headers", &["publish:>"])?);
        let long = "x".repeat(4_000);
        for _ in 0..inputs {
            self.inputs += 1;
            let wire = connect(broker).await?;
            let names: Vec<_> = (0..self.random.random_range(5..40)).map(|number| format!("x-{number}")).collect();
            let mut headers = vec![("authorization", &*token)];
            headers.extend(names.iter().map(|name| (&**name, &*long)));
            let Ok(mut call) = wire.call_with(PUBLISH, &headers).await else { continue };
            let body = frame(&PublishRequest { message: Some(self.message()) }.encode_to_vec());
            call.requests.send_data(body, true).ok();
            // Either the stream or the connection does not survive it.
            if let Ok((_, status)) = patiently(call.answer()).await? {
                ensure!(status != 0, "{} headers of {} bytes were accepted", names.len(), long.len());
            }
        }
        Ok(())
    }

    /// Streams that are opened and reset in one write: each such connection is closed (CVE-2023-44487).
    async fn rapid_resets(&mut self, broker: &TestBroker, inputs: usize) -> Result<()> {
        const STREAMS: u32 = 40;
        for _ in 0..inputs.div_ceil(STREAMS as usize) {
            self.inputs += STREAMS as usize;
            let ca = broker.directory().ca_path();
            let mut attacker = Frames::connect(broker.address(), &ca, &resets(STREAMS)).await?;
            let (_, is_open) = attacker.through_ping().await?;
            ensure!(!is_open, "{STREAMS} resets at once, and the connection goes on");
        }
        Ok(())
    }

    /// What was accepted was a message like any other, permitted, and recorded as what it was.
    fn check(&self, log: &Log) -> Result<()> {
        for (index, message) in &self.accepted {
            let entry = log.at(*index)?;
            ensure!(entry.kind() == EntryKind::Publish, "{entry:?}");
            ensure!(entry.resource == message.topic && message.topic.starts_with("open."), "{entry:?}");
            let facts = entry.message.as_ref().context("facts")?;
            ensure!(facts.r#type == message.r#type && facts.destination == message.destination, "{entry:?}");
            ensure!(message.id.is_empty() || facts.id == message.id, "{entry:?}");
        }
        for entry in log.of_kind(EntryKind::Publish) {
            let allowed = entry.decision.as_ref().is_some_and(|decision| decision.decision() == Decision::Allow);
            let agent = entry.actor.as_ref().map_or("", |actor| &actor.agent);
            ensure!(!allowed || agent == "a" || entry.resource.starts_with("open."), "{entry:?}");
            ensure!(agent != "changed-tokens" && agent != "headers", "{entry:?}");
        }
        Ok(())
    }
}

async fn connect(broker: &TestBroker) -> Result<Wire> {
    Wire::connect(broker.address(), &broker.directory().ca_path()).await
}

/// Refused for what it is, and not for something that broke in the broker.
fn is_a_refusal(status: i32) -> bool {
    let broken = [Code::Unknown, Code::Internal, Code::Unavailable, Code::DataLoss, Code::Aborted];
    let code = Code::from_i32(status);
    code != Code::Ok && !broken.contains(&code)
}

/// The memory of this process, broker and attackers together.
fn resident_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split_whitespace().nth(1).context("statm")?.parse()?;
    Ok(pages * 4096)
}
