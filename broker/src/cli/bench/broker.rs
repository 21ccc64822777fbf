//! A broker in a process of its own, in a temporary directory.

use std::{env, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};
use veribus_client::{Client, Error};

use super::super::failure::Failure;
use crate::dev::{DevDirectory, DevOptions};

const START_MAX: Duration = Duration::from_secs(30);

/// The process, killed when this is dropped.
pub(super) struct BenchBroker {
    directory: DevDirectory,
    url: String,
    _process: Child,
    /// Kept open, so that the process can say what it has to say.
    _output: Lines<BufReader<ChildStdout>>,
    _temporary: TempDir,
}

impl BenchBroker {
    pub(super) async fn start() -> Result<Self, Failure> {
        let temporary = tempfile::tempdir().map_err(Failure::failed)?;
        let directory =
            DevDirectory::create_or_reuse(temporary.path(), DevOptions::default()).map_err(Failure::failed)?;
        let mut process = Command::new(env::current_exe().map_err(Failure::failed)?)
            .args(["dev", "--listen", "127.0.0.1:0", "--dir"])
            .arg(temporary.path())
            .env("VERIBUS_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Failure::failed)?;
        let output = process.stdout.take().ok_or_else(|| Failure::failed("the broker has no output"))?;
        let mut lines = BufReader::new(output).lines();
        let ready = timeout(START_MAX, lines.next_line()).await;
        let ready = ready.ok().and_then(Result::ok).flatten();
        let url = ready.as_deref().and_then(|line| line.strip_prefix("ready "));
        let url =
            url.and_then(|rest| rest.split(' ').next()).ok_or_else(|| Failure::failed("the broker did not start"))?;
        let url = url.to_owned();
        Ok(Self { directory, url, _process: process, _output: lines, _temporary: temporary })
    }

    pub(super) async fn client(&self, agent: &str) -> Result<Client, Error> {
        let directory = &self.directory;
        let builder = Client::builder(&self.url).ca_file(directory.ca_path());
        builder.token_file(directory.token_path(agent)).connect().await
    }
}
