//! JetStream's key-value store, measured like our own: as many operations, as many at once, on the same cores.
//!
//! Its bucket is what its own clients make: one stream of which the last message of each subject is kept, read directly. It
//! runs with its default, which acknowledges before it syncs, and once more with `sync_interval: always`, which is what a
//! durable put is to be held against. Its reads are not recorded anywhere.

use std::{
    fmt, fs, io,
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::Semaphore,
    task::JoinSet,
    time::sleep,
};

use super::{
    super::failure::Failure,
    nats::{self, Connection, Reader, Writer},
    state::{Outcomes, Speed, StateArgs, value},
};

const PROGRAM: &str = "nats-server";
const START_MAX: Duration = Duration::from_secs(10);
/// As many operations under way as a session of ours has.
const IN_FLIGHT_MAX: usize = 1024;
/// How many go out in one write.
const BATCH_MAX: u64 = 64;
/// Synced puts are slow: so many are enough to tell.
const SYNCED_PUTS_MAX: u64 = 5_000;

/// What was measured of it.
#[derive(Debug, Serialize)]
pub(super) struct JetStreamReport {
    /// The server's version.
    version: String,
    /// Acknowledged before they are synced, which is its default.
    pub(super) puts: Speed,
    /// With `sync_interval: always`.
    pub(super) synced_puts: Speed,
    pub(super) gets: Speed,
}

/// Why it was not measured.
#[derive(Debug)]
pub(super) enum Absent {
    NotInstalled,
    Failed(String),
}

impl fmt::Display for Absent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled => write!(f, "`{PROGRAM}` is not on the PATH"),
            Self::Failed(fault) => f.write_str(fault),
        }
    }
}

impl From<io::Error> for Absent {
    fn from(error: io::Error) -> Self {
        Self::Failed(format!("`{PROGRAM}`: {error}"))
    }
}

impl From<Failure> for Absent {
    fn from(failure: Failure) -> Self {
        Self::Failed(match failure {
            Failure::Usage(reason) | Failure::Failed(reason) => reason,
            Failure::Reported | Failure::ReportedUsage | Failure::OutputClosed => "the measurement failed".to_owned(),
        })
    }
}

pub(super) async fn measure(args: StateArgs) -> Result<JetStreamReport, Absent> {
    let server = Server::start(false).await?;
    let puts = server.timed(args, Operation::Put).await?;
    let gets = server.timed(args, Operation::Get).await?;
    let version = server.version.clone();
    drop(server);
    let fewer = StateArgs { operations: args.operations.min(SYNCED_PUTS_MAX), ..args };
    let synced_puts = Server::start(true).await?.timed(fewer, Operation::Put).await?;
    Ok(JetStreamReport { version, puts, synced_puts, gets })
}

/// A server with a temporary store and one bucket, killed when this is dropped.
struct Server {
    address: String,
    version: String,
    _process: Child,
    _temporary: TempDir,
}

impl Server {
    async fn start(is_synced: bool) -> Result<Self, Absent> {
        let temporary = tempfile::tempdir()?;
        let configuration = temporary.path().join("nats.conf");
        fs::write(&configuration, settings(temporary.path(), is_synced))?;
        let process = Command::new(PROGRAM)
            .args(["--addr", "127.0.0.1", "--port", "-1", "--config"])
            .arg(&configuration)
            .arg("--ports_file_dir")
            .arg(temporary.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(
                |error| if error.kind() == io::ErrorKind::NotFound { Absent::NotInstalled } else { error.into() },
            )?;
        let address = address(temporary.path()).await?;
        let mut connection = Connection::open(&address).await?;
        let version = connection.version().to_owned();
        let made = connection.request("$JS.API.STREAM.CREATE.KV_bench", &bucket()).await?;
        if !nats::is_success(&made) {
            return Err(Absent::Failed("JetStream made no bucket".to_owned()));
        }
        Ok(Self { address, version, _process: process, _temporary: temporary })
    }

    async fn timed(&self, args: StateArgs, operation: Operation) -> Result<Speed, Failure> {
        let mut connections = Vec::new();
        for _ in 0..args.sessions {
            connections.push(Connection::open(&self.address).await.map_err(Failure::failed)?);
        }
        let began = Instant::now();
        let mut tasks = JoinSet::new();
        for (number, connection) in (0..).zip(connections) {
            tasks.spawn(operate(connection, number, args, operation));
        }
        Ok(Speed::of(&Outcomes::of(tasks).await?, began.elapsed()))
    }
}

fn settings(store: &Path, is_synced: bool) -> String {
    let sync = if is_synced { "sync_interval: always" } else { "" };
    format!("jetstream {{ store_dir: {:?}\n{sync}\n}}\n", store.join("store"))
}

/// As the clients of NATS make it.
fn bucket() -> Vec<u8> {
    json!({
        "name": "KV_bench", "subjects": ["$KV.bench.>"], "max_msgs_per_subject": 1, "discard": "new",
        "allow_rollup_hdrs": true, "deny_delete": true, "allow_direct": true, "storage": "file", "num_replicas": 1,
        "retention": "limits", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_msg_size": -1,
    })
    .to_string()
    .into_bytes()
}

/// Where the server listens, which it writes to a file.
async fn address(directory: &Path) -> Result<String, Absent> {
    let began = Instant::now();
    while began.elapsed() < START_MAX {
        if let Some(address) = written_address(directory)? {
            return Ok(address);
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(Absent::Failed(format!("`{PROGRAM}` did not start")))
}

fn written_address(directory: &Path) -> io::Result<Option<String>> {
    for file in fs::read_dir(directory)? {
        let path = file?.path();
        if path.extension().is_some_and(|extension| extension == "ports") {
            let ports: Value = serde_json::from_slice(&fs::read(path)?).unwrap_or_default();
            let url = ports.pointer("/nats/0").and_then(Value::as_str);
            return Ok(url.and_then(|url| url.strip_prefix("nats://")).map(str::to_owned));
        }
    }
    Ok(None)
}

#[derive(Debug, Clone, Copy)]
enum Operation {
    Put,
    Get,
}

impl Operation {
    fn subject(self, name: &str) -> String {
        match self {
            Self::Put => format!("$KV.bench.{name}"),
            Self::Get => format!("$JS.API.DIRECT.GET.KV_bench.$KV.bench.{name}"),
        }
    }
}

async fn operate(
    connection: Connection,
    number: u64,
    args: StateArgs,
    operation: Operation,
) -> Result<Outcomes, Failure> {
    // The server closes a connection whose sending side is closed: the writer stays until all is answered.
    let (mut writer, reader) = connection.split();
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let (sent, times) = tokio::sync::mpsc::unbounded_channel();
    let answers = tokio::spawn(answers(reader, times, Arc::clone(&room), args.share(number)));
    send(&mut writer, number, args, operation, (&room, &sent)).await?;
    answers.await.map_err(Failure::failed)?
}

type Sent = tokio::sync::mpsc::UnboundedSender<(Instant, u64)>;

async fn send(
    writer: &mut Writer,
    session: u64,
    args: StateArgs,
    operation: Operation,
    (room, sent): (&Semaphore, &Sent),
) -> Result<(), Failure> {
    let put = value(args.size);
    let payload: &[u8] = if let Operation::Put = operation { &put } else { &[] };
    let (mut next, end) = (0, args.share(session));
    while next < end {
        room.acquire().await.map_err(Failure::failed)?.forget();
        let first = next;
        loop {
            writer.add(&operation.subject(&args.name(session, next)), next, payload);
            next += 1;
            if next == end || next - first == BATCH_MAX {
                break;
            }
            let Ok(more) = room.try_acquire() else { break };
            more.forget();
        }
        sent.send((Instant::now(), next - first)).map_err(|_| Failure::failed("the receiver of answers is gone"))?;
        writer.flush().await.map_err(Failure::failed)?;
    }
    Ok(())
}

/// Answers name the operation that they are to.
async fn answers(
    mut reader: Reader,
    mut batches: tokio::sync::mpsc::UnboundedReceiver<(Instant, u64)>,
    room: Arc<Semaphore>,
    expected: u64,
) -> Result<Outcomes, Failure> {
    let (mut outcomes, mut times) = (Outcomes::none()?, Vec::new());
    for _ in 0..expected {
        let (number, is_success) = reader.next().await.map_err(Failure::failed)?;
        let number = usize::try_from(number).map_err(Failure::failed)?;
        while times.len() <= number {
            let (at, count) = batches.recv().await.ok_or_else(|| Failure::failed("an answer to no question"))?;
            times.extend((0..count).map(|_| at));
        }
        let at = times.get(number).copied().ok_or_else(|| Failure::failed("an answer to no question"))?;
        outcomes.note(at, is_success);
        room.add_permits(1);
    }
    Ok(outcomes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_ports_file() {
        let directory = tempfile::tempdir().expect("a directory");
        assert_eq!(written_address(directory.path()).expect("read"), None);
        let ports = r#"{"nats":["nats://127.0.0.1:4711"],"monitoring":[]}"#;
        fs::write(directory.path().join("nats-server_7.ports"), ports).expect("written");
        assert_eq!(written_address(directory.path()).expect("read").as_deref(), Some("127.0.0.1:4711"));
    }
}
