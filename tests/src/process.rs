//! The binary itself, as a process that can be killed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdout, Command as AsyncCommand},
};
use veribus_broker::dev::{DevDirectory, DevOptions};

use crate::{
    messages::{OPEN_POLICY, SMALL_RULES},
    patiently,
    raw::{Raw, RawOptions},
};

/// The binary `veribus`, built as this test was, and a copy of it that no later build replaces.
pub struct Binary {
    path: PathBuf,
    _place: TempDir,
}

impl Binary {
    /// Builds it.
    ///
    /// # Errors
    /// Where it does not build.
    pub fn build() -> Result<Self> {
        // TARGET/PROFILE/deps/TEST
        let test = env::current_exe()?;
        let profile = test.ancestors().nth(2).context("a test stands in a profile's folder")?;
        let target = profile.parent().context("a profile stands in the target folder")?;
        let name = profile.file_name().context("a profile has a name")?.to_string_lossy().into_owned();
        let name = if name == "debug" { "dev".to_owned() } else { name };
        // With this package named as well, the features of all dependencies are those that are built already.
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--package", "veribus-broker", "--package", "veribus-tests", "--bin", "veribus"])
            .args(["--profile", &name])
            .arg("--target-dir")
            .arg(target)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()?;
        ensure!(status.success(), "the binary does not build");
        let place = tempfile::tempdir()?;
        let path = place.path().join("veribus");
        fs::copy(profile.join("veribus"), &path)?;
        Ok(Self { path, _place: place })
    }

    /// Starts `veribus dev` on a directory, and waits until it is ready.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub async fn dev(&self, directory: &Path) -> Result<Process> {
        self.dev_logging(directory, "error", Stdio::inherit()).await
    }

    /// The same, with its log on this level and to there.
    ///
    /// # Errors
    /// Where it does not get ready.
    pub async fn dev_logging(&self, directory: &Path, level: &str, log: Stdio) -> Result<Process> {
        let mut child = AsyncCommand::new(&self.path)
            .args(["dev", "--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--dir"])
            .arg(directory)
            .env("VERIBUS_LOG", level)
            .stderr(log)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("piped")?).lines();
        let ready = patiently(output.next_line()).await??.context("it ended before it was ready")?;
        let url = ready.split(' ').nth(1).with_context(|| ready.clone())?;
        let address = url.trim_start_matches("https://").parse().with_context(|| ready.clone())?;
        let metrics = ready.split_once("(metrics http://").and_then(|(_, rest)| rest.split('/').next()?.parse().ok());
        let metrics = metrics.with_context(|| ready.clone())?;
        Ok(Process { child, metrics, address, ca: directory.join("ca.pem"), _output: output })
    }
}

/// A directory for `veribus dev` with a policy that leaves everything to permissions.
///
/// # Errors
/// Where it cannot be made.
pub fn open_directory(path: &Path) -> Result<DevDirectory> {
    let directory = DevDirectory::create_or_reuse(path, DevOptions::default())?;
    for entry in fs::read_dir(directory.policies_path())? {
        fs::remove_file(entry?.path())?;
    }
    fs::write(directory.policies_path().join("test.rego"), OPEN_POLICY)?;
    fs::write(directory.root().join("rules.toml"), SMALL_RULES)?;
    let config = fs::read_to_string(directory.config_path())?;
    let config = config.replace("[record]\n", "[record]\nfree_disk_bytes_min = 0\n");
    fs::write(directory.config_path(), format!("{config}\n[inspection]\nrules_file = \"rules.toml\"\n"))?;
    Ok(directory)
}

/// A broker in a process of its own. It is killed when this is dropped.
pub struct Process {
    child: Child,
    address: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
    ca: PathBuf,
    _output: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Generated clients on a connection of their own.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn raw(&self, token: &str) -> Result<Raw> {
        Raw::connect(self.address, &self.ca, Some(token), RawOptions::default()).await
    }

    /// Its metrics, as text.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub async fn metrics(&self) -> Result<String> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        let mut text = String::new();
        patiently(stream.read_to_string(&mut text)).await??;
        Ok(text)
    }

    /// Kills it: SIGKILL, no last words.
    ///
    /// # Errors
    /// Where it was dead already.
    pub async fn kill(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "it ended by itself: {ended:?}");
        Ok(self.child.kill().await?)
    }
}

/// Every file below, by path.
///
/// # Errors
/// Where one cannot be read.
pub fn files(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.insert(path.clone(), fs::read(&path)?);
        }
    }
    Ok(found)
}
