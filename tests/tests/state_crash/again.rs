//! A few keys written again and again and watched: what a watcher sees of each is in order, over all kills, and comes to the
//! last version that was acknowledged.

use veribus_proto::v1::WatchBatch;

use super::*;

const KEYS: usize = 8;
const KILLS: usize = 10;
/// How many times at most each key is written between two kills.
const NUMBERS: u64 = 1 << 32;

/// A version: the number that was written, and its revision. The numbers of a key grow, over all restarts.
type Version = (u64, u64);

#[derive(Default)]
struct Seen {
    through: u64,
    /// The newest of each key.
    newest: BTreeMap<String, Version>,
    /// Which keys the watch that is open has shown.
    shown: BTreeSet<String>,
}

impl Seen {
    fn take(&mut self, batch: WatchBatch) -> Result<()> {
        for change in batch.changes {
            let Some(Change::Put(value)) = change.change else { bail!("nothing is ever deleted: {change:?}") };
            let about = value.metadata.context("metadata")?;
            let version = (std::str::from_utf8(&value.value)?.parse()?, about.revision);
            let earlier = self.newest.insert(about.key.clone(), version).unwrap_or_default();
            let is_newer = version.0 > earlier.0 && version.1 > earlier.1;
            // What was shown ahead of the rest comes again after a restart, as it was.
            let is_first = self.shown.insert(about.key.clone());
            ensure!(is_newer || is_first && version == earlier, "`{}`: {version:?} after {earlier:?}", about.key);
            ensure!(version.1 > self.through, "{version:?} is not after {}", self.through);
        }
        ensure!(batch.through_revision >= self.through, "{} after {}", batch.through_revision, self.through);
        self.through = batch.through_revision;
        Ok(())
    }
}

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|key| format!("again/{key}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_sees_keys_that_are_written_again_and_again_in_order_up_to_the_last_acknowledged_over_ten_kills()
-> Result<()> {
    let binary = Binary::build()?;
    let place = tempfile::tempdir()?;
    let directory = open_directory(&place.path().join("dev"))?;
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (mut told, mut seen) = (BTreeMap::new(), Seen::default());
    for round in 0..KILLS {
        let mut broker = binary.dev(directory.root()).await?;
        check_newest(&broker, &directory, &told).await.with_context(|| format!("round {round}"))?;
        let raw = broker.raw(&token(&directory, "watcher", &["state.read:>"])?).await?;
        let watch = StateWatch::open(&raw, "again", seen.through).await?;
        let (shown, all_shown) = oneshot::channel();
        let watching = tokio::spawn(watch_on(watch, std::mem::take(&mut seen), shown));
        let raw = broker.raw(&token(&directory, "writer", &["state.write:>"])?).await?;
        let writing = tokio::spawn(write_on(raw, NUMBERS * round as u64));
        if patiently(all_shown).await.context("the watcher starves")?.is_err() {
            patiently(watching).await???;
            bail!("the watch ended before it showed every key");
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(1..100))).await;
        broker.kill().await?;
        told.extend(patiently(writing).await???);
        seen = patiently(watching).await???;
    }
    let broker = binary.dev(directory.root()).await?;
    let newest = check_newest(&broker, &directory, &told).await?;
    let raw = broker.raw(&token(&directory, "watcher", &["state.read:>"])?).await?;
    let mut watch = StateWatch::open(&raw, "again", seen.through).await?;
    seen.shown.clear();
    while seen.through < watch.began_at {
        seen.take(watch.batch().await?)?;
    }
    ensure!(seen.newest == newest, "shown: {:?}, there: {newest:?}", seen.newest);
    let (puts, _) = recorded(&broker, &directory).await?;
    for (revision, (key, _)) in &told {
        ensure!(puts.get(revision) == Some(key), "`{key}` has no entry at {revision}");
    }
    println!("{} acknowledged", told.len());
    ensure!(told.len() > KILLS * KEYS, "each key was written again");
    Ok(())
}

/// What was acknowledged: by revision, the key and its number.
type Acknowledged = BTreeMap<u64, (String, u64)>;

/// Writes all keys over and over until the stream breaks, some requests ahead of the answers.
async fn write_on(raw: Raw, first: u64) -> Result<Acknowledged> {
    let mut session = StateSession::open(&raw).await?;
    let mut acknowledged = BTreeMap::new();
    let mut answered = first;
    for number in first + 1.. {
        let operations = keys().map(|key| Operation::Put(put(&key, &number.to_string()))).collect();
        let is_over = session.send(operations, None).await.is_err();
        if number < first + UNDER_WAY as u64 && !is_over {
            continue;
        }
        let Ok(Some(answers)) = session.answers().await else { break };
        answered += 1;
        for (key, answer) in keys().zip(answers) {
            let Answer::Put(written) = answer else { bail!("{answer:?}") };
            let earlier = acknowledged.insert(written.revision, (key, answered));
            ensure!(earlier.is_none(), "{} was used twice", written.revision);
        }
    }
    Ok(acknowledged)
}

/// Watches until the stream breaks, and tells when it was shown every key.
async fn watch_on(mut watch: StateWatch, mut seen: Seen, all_shown: oneshot::Sender<()>) -> Result<Seen> {
    let mut all_shown = Some(all_shown);
    seen.shown.clear();
    while let Ok(Some(Response::Batch(batch))) = watch.response().await {
        seen.take(batch)?;
        if let Some(all_shown) = all_shown.take_if(|_| seen.shown.len() == KEYS) {
            all_shown.send(()).ok();
        }
    }
    Ok(seen)
}

/// Under each key stands what was last acknowledged, or something that was written after that and before the kill.
async fn check_newest(
    broker: &Process,
    directory: &DevDirectory,
    told: &Acknowledged,
) -> Result<BTreeMap<String, Version>> {
    let raw = broker.raw(&token(directory, "checker", &["state.read:>"])?).await?;
    // In the order of their revisions, so that the newest stays.
    let last: BTreeMap<_, _> = told.iter().map(|(revision, (key, number))| (key, (*number, *revision))).collect();
    let mut newest = BTreeMap::new();
    for (key, acknowledged) in last {
        let value = raw.state().get(get(key)).await?.into_inner().value.context("a value")?;
        let about = value.metadata.context("metadata")?;
        let there: Version = (std::str::from_utf8(&value.value)?.parse()?, about.revision);
        let is_later = there.0 > acknowledged.0 && there.1 > acknowledged.1;
        ensure!(there == acknowledged || is_later, "`{key}`: {there:?} stands there, not {acknowledged:?}");
        newest.insert(key.clone(), there);
    }
    Ok(newest)
}
