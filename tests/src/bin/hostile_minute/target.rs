//! The broker under attack: a process of its own, and the ways to it.

use std::{
    env, fmt, fs,
    fs::File,
    net::SocketAddr,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use veribus_broker::{
    dev::{DevDirectory, DevOptions, client_url},
    model::Clock,
};
use veribus_client::Client;
use veribus_tests::{
    messages::OPEN_POLICY,
    patiently,
    process::files,
    raw::{Raw, RawOptions},
    wire::Wire,
};

/// How to reach the broker, and to be whoever one wants to be.
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) ca: PathBuf,
    directory: DevDirectory,
}

impl Target {
    /// A token for an agent with these permissions, which may read all shared state that they let it read.
    pub(crate) fn token(&self, agent: &str, permissions: &[&str]) -> Result<String> {
        let issuer = self.directory.issuer();
        let claims = issuer.claims(agent, Clock::system().now().seconds(), Duration::from_secs(3_600)).decrypt(">");
        let claims = permissions.iter().fold(claims, |claims, one| claims.permission(*one));
        Ok(issuer.issue(&claims)?)
    }

    pub(crate) async fn client(&self, token: &str) -> Result<Client> {
        Ok(Client::builder(client_url(self.address)).ca_file(&self.ca).token(token).connect().await?)
    }

    pub(crate) async fn raw(&self, token: Option<&str>) -> Result<Raw> {
        Raw::connect(self.address, &self.ca, token, RawOptions::default()).await
    }

    /// A connection of a client that never ends it by itself, however many small frames it leaves unread.
    pub(crate) async fn wire(&self) -> Result<Wire> {
        let mut builder = h2::client::Builder::new();
        builder.data_frame_budget(usize::MAX >> 1);
        Wire::connect_with(self.address, &self.ca, builder).await
    }
}

/// The binary `veribus dev`, running. It is killed when this is dropped.
pub(crate) struct BrokerProcess {
    child: Child,
    pid: u32,
    target: Arc<Target>,
    log: PathBuf,
    _output: Lines<BufReader<ChildStdout>>,
    _place: TempDir,
}

impl BrokerProcess {
    pub(crate) async fn start() -> Result<Self> {
        let this = env::current_exe()?;
        let folder = this.parent().context("an executable stands in a folder")?;
        let binary = folder.join("veribus");
        let profile = if folder.ends_with("release") { " --release" } else { "" };
        ensure!(
            binary.is_file(),
            "there is no {}: build it with `cargo build{profile} -p veribus-broker -p veribus-tests --bin veribus`",
            binary.display()
        );
        let place = tempfile::tempdir()?;
        let directory = DevDirectory::create_or_reuse(&place.path().join("veribus"), DevOptions::default())?;
        for entry in fs::read_dir(directory.policies_path())? {
            fs::remove_file(entry?.path())?;
        }
        fs::write(directory.policies_path().join("open.rego"), OPEN_POLICY)?;
        let log = place.path().join("log");
        let mut child = Command::new(&binary)
            .args(["dev", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--dir"])
            .arg(directory.root())
            .env("VERIBUS_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| binary.display().to_string())?;
        let pid = child.id().context("it runs")?;
        let mut output = BufReader::new(child.stdout.take().context("piped")?).lines();
        let ready = patiently(output.next_line()).await??;
        let ready = ready.with_context(|| format!("not ready: {}", fs::read_to_string(&log).unwrap_or_default()))?;
        let url = ready.split(' ').nth(1).with_context(|| ready.clone())?;
        let address = url.trim_start_matches("https://").parse().with_context(|| ready.clone())?;
        let metrics = ready.split_once("(metrics http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        let metrics = metrics.with_context(|| ready.clone())?;
        let target = Arc::new(Target { address, metrics, ca: directory.ca_path(), directory });
        Ok(Self { child, pid, target, log, _output: output, _place: place })
    }

    pub(crate) const fn target(&self) -> &Arc<Target> {
        &self.target
    }

    pub(crate) const fn pid(&self) -> u32 {
        self.pid
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// The size of all that it stores.
    pub(crate) fn data_bytes(&self) -> Result<u64> {
        let stored = files(&self.target.directory.root().join("data"))?;
        Ok(stored.values().map(|bytes| bytes.len() as u64).sum())
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> Result<Vec<String>> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).lines().map(str::to_owned).collect())
    }

    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.ok();
    }
}

/// How much processor time a process has had.
pub(crate) fn processor_time(pid: u32) -> Option<Duration> {
    /// Of Linux, on every machine.
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th value after it.
    let mut values = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut ticks = || values.next()?.parse::<u32>().ok();
    Some(Duration::from_secs_f64(f64::from(ticks()?.checked_add(ticks()?)?) / TICKS_PER_S))
}

/// The memory of a process, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) peak: u64,
    pub(crate) threads: u64,
}

impl Memory {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let kib = |name| value(name).with_context(|| format!("no {name} of process {pid}"));
        let threads = value("Threads:").unwrap_or_default();
        Ok(Self { resident: kib("VmRSS:")? << 10, peak: kib("VmHWM:")? << 10, threads })
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB (peak {} MiB)", self.resident >> 20, self.peak >> 20)
    }
}
