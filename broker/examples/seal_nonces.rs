//! Seals many values with one key in one place, and looks for a (key, nonce) pair that comes twice.
//!
//! The nonce is constant, so that means: a derived key that comes twice. The keys are derived here once more, by the published
//! format (`proto/docs/sealing.md`); that these are the keys the broker used is seen from each text's commitment, and of one
//! in a thousand by opening it. Of each key, the first 16 bytes of its hash are kept.
//!
//! `cargo run --release -p veribus-broker --example seal_nonces -- --count 10000000`

use std::{io::Write as _, num::NonZeroUsize, thread, time::Instant};

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use hkdf::Hkdf;
use indicatif::{ProgressBar, ProgressStyle};
use sha2::{Digest as _, Sha256};
use veribus_broker::{
    model::{Epoch, Revision},
    seal::{Context, ScopeKey, seal},
};

const KEY: [u8; 32] = [1; 32];
const PLAINTEXT: &[u8] = b"the same value each time";
const PROGRESS_STEP: u64 = 10_000;

#[derive(Parser)]
struct Arguments {
    /// How many values to seal.
    #[arg(long, default_value_t = 10_000_000)]
    count: u64,
    /// How many threads seal; as many as there are processors, if it is not said.
    #[arg(long)]
    threads: Option<NonZeroUsize>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let threads = match arguments.threads {
        Some(threads) => threads,
        None => thread::available_parallelism()?,
    };
    let begun = Instant::now();
    let mut seen = seal_in_threads(arguments.count, u64::try_from(threads.get())?)?;
    seen.sort_unstable();
    let repeated = seen.windows(2).filter(|pair| matches!(pair, [one, two] if one == two)).count();
    let elapsed = begun.elapsed().as_secs_f64();
    writeln!(std::io::stdout().lock(), "{} seals in {elapsed:.1} s: {repeated} repeated keys", seen.len())?;
    ensure!(u64::try_from(seen.len())? == arguments.count, "only {} were sealed", seen.len());
    ensure!(repeated == 0, "a (key, nonce) pair came twice");
    Ok(())
}

fn seal_in_threads(count: u64, threads: u64) -> Result<Vec<u128>> {
    let style = ProgressStyle::with_template("{bar:40} {human_pos} of {human_len} ({per_sec}, {eta} left)")?;
    let progress = ProgressBar::new(count).with_style(style);
    let shares = (0..threads).map(|thread| count / threads + u64::from(thread < count % threads));
    let all = thread::scope(|scope| {
        let progress = &progress;
        let running: Vec<_> = shares.map(|share| scope.spawn(move || seal_many(share, progress))).collect();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().ok().context("a thread ended")?;
        running.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    progress.finish_and_clear();
    Ok(all.concat())
}

fn seal_many(count: u64, progress: &ProgressBar) -> Result<Vec<u128>> {
    let key = ScopeKey::from_bytes(&KEY);
    let encoded = encoded_context();
    let mut seen = Vec::with_capacity(usize::try_from(count)?);
    for number in 0..count {
        let derived = derived_key(&seal(&key, &context(), PLAINTEXT)?, &encoded, number % 1_000 == 0)?;
        let hash: [u8; 32] = Sha256::digest(derived).into();
        seen.push(u128::from_be_bytes(*hash.first_chunk().context("a hash")?));
        if number % PROGRESS_STEP == 0 {
            progress.inc(PROGRESS_STEP.min(count - number));
        }
    }
    Ok(seen)
}

/// The key of a sealed text, by the published format; an error where the text is not sealed so.
fn derived_key(sealed: &[u8], encoded: &[u8], is_opened: bool) -> Result<[u8; 32]> {
    let (message_id, rest) =
        sealed.strip_prefix(&[1, 1]).and_then(<[u8]>::split_first_chunk::<32>).context("cut off")?;
    let (commitment, body) = rest.split_first_chunk::<32>().context("cut off")?;
    let hkdf = Hkdf::<Sha256>::new(Some(message_id), &KEY);
    let (mut key, mut expected) = ([0; 32], [0; 32]);
    let digest = Sha256::digest(encoded);
    hkdf.expand_multi_info(&[b"veribus/1/key", &digest], &mut key).ok().context("too long")?;
    hkdf.expand_multi_info(&[b"veribus/1/commit", &digest], &mut expected).ok().context("too long")?;
    ensure!(*commitment == expected, "another commitment: this is not the key that was used");
    if is_opened {
        let aad = [&[1], &message_id[..], encoded, commitment].concat();
        let opened = Aes256Gcm::new(&key.into()).decrypt(&[0; 12].into(), Payload { msg: body, aad: &aad });
        ensure!(opened.is_ok_and(|opened| opened == PLAINTEXT), "it does not open with the derived key");
    }
    Ok(key)
}

const fn context() -> Context<'static> {
    Context {
        scope: "tickets",
        epoch: Epoch(1),
        resource: "tickets/1",
        previous_revision: Revision(0),
        issuer: "issuer",
        subject: "agent",
        token_id: "token",
        confirmation: "",
        token_sha256: &[0; 32],
    }
}

fn encoded_context() -> Vec<u8> {
    let context = context();
    let parts: [&[u8]; 11] = [
        &1_u64.to_be_bytes(),
        &1_u64.to_be_bytes(),
        context.scope.as_bytes(),
        &u64::from(context.epoch.0).to_be_bytes(),
        context.resource.as_bytes(),
        &context.previous_revision.0.to_be_bytes(),
        context.issuer.as_bytes(),
        context.subject.as_bytes(),
        context.token_id.as_bytes(),
        context.confirmation.as_bytes(),
        context.token_sha256,
    ];
    let with_length = |part: &&[u8]| [&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes()[..], *part].concat();
    parts.iter().flat_map(with_length).collect()
}
