//! A broker in this process.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use veribus_broker::{
    config::Config,
    dev::{DevDirectory, DevOptions, client_url},
    engine::{
        SharedLogStore,
        sled::{OpenError, SledLog},
    },
    issue::Claims,
    model::Clock,
    server::{RunningServer, ServerError, StartOptions, TaskHandles, start},
};
use veribus_client::Client;

use crate::{
    PATIENCE,
    certificates::ClientCertificate,
    log::Log,
    messages::{OPEN_POLICY, SMALL_RULES},
    patiently,
    raw::{Raw, RawOptions, client_config_as},
};

type Configure = Box<dyn FnOnce(&mut Config) + Send>;

/// How a broker is to be set up. Without anything said: the development directory as it is made for users.
#[derive(Default)]
#[must_use]
pub struct Setup {
    policy: Option<String>,
    policy_data: Vec<(String, String)>,
    small_rules: bool,
    configure: Option<Configure>,
    clock: Clock,
    store: Option<SharedLogStore>,
    tasks: TaskHandles,
}

impl Setup {
    /// With [`OPEN_POLICY`] instead of the default one, and [`SMALL_RULES`], which are read faster, instead of those that
    /// ship with the broker.
    pub fn open_policy(mut self) -> Self {
        self.small_rules = true;
        self.policy(OPEN_POLICY)
    }

    /// With this policy instead of the default one.
    pub fn policy(mut self, rego: impl Into<String>) -> Self {
        self.policy = Some(rego.into());
        self
    }

    /// With a data file beside that policy, at a path below its directory.
    pub fn policy_data(mut self, path: &str, text: &str) -> Self {
        self.policy_data.push((path.to_owned(), text.to_owned()));
        self
    }

    /// With other settings.
    pub fn configure(mut self, configure: impl FnOnce(&mut Config) + Send + 'static) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// With another clock.
    pub fn clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// With another store than sled.
    pub fn store(mut self, store: SharedLogStore) -> Self {
        self.store = Some(store);
        self
    }

    /// With its tasks in reach.
    pub fn tasks(mut self, tasks: &TaskHandles) -> Self {
        self.tasks = tasks.clone();
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(self) -> Result<TestBroker> {
        let place = tempfile::tempdir()?;
        let directory = DevDirectory::create_or_reuse(&place.path().join("veribus"), DevOptions::default())?;
        if let Some(policy) = self.policy {
            for entry in fs::read_dir(directory.policies_path())? {
                fs::remove_file(entry?.path())?;
            }
            fs::write(directory.policies_path().join("test.rego"), policy)?;
        }
        for (path, text) in self.policy_data {
            let path = directory.policies_path().join(path);
            fs::create_dir_all(path.parent().context("below the directory")?)?;
            fs::write(path, text)?;
        }
        let mut config = directory.config()?;
        if self.small_rules {
            let file = directory.root().join("rules.toml");
            fs::write(&file, SMALL_RULES)?;
            config.inspection.rules_file = Some(file);
        }
        // The machine that runs the tests may have little disk left; the floor has tests of its own.
        config.record.free_disk_bytes_min = 0;
        if let Some(configure) = self.configure {
            configure(&mut config);
        }
        let options = StartOptions { clock: self.clock.clone(), store: self.store.clone(), tasks: self.tasks };
        let server = start(config.clone(), options).await?;
        let home = Home { directory, config, clock: self.clock, store: self.store, _place: place };
        Ok(TestBroker { home, server })
    }
}

/// What stays of a broker when it stops.
pub struct Home {
    directory: DevDirectory,
    config: Config,
    clock: Clock,
    store: Option<SharedLogStore>,
    _place: TempDir,
}

/// Opens the log that a broker left in `data_directory`. A connection that was cut off by the drain may hold on to it for
/// a moment.
///
/// # Errors
/// What keeps it from opening.
pub async fn left_log(data_directory: &Path) -> Result<SledLog> {
    let opening = patiently(async {
        loop {
            match SledLog::open(data_directory, 1 << 20) {
                Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
                opened => return opened,
            }
        }
    });
    Ok(opening.await??)
}

impl Home {
    /// Starts a broker on what another one left.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start(self) -> Result<TestBroker> {
        let server = patiently(async {
            loop {
                let (clock, store) = (self.clock.clone(), self.store.clone());
                let options = StartOptions { clock, store, ..StartOptions::default() };
                match start(self.config.clone(), options).await {
                    // As in `left_log`.
                    Err(ServerError::Open(OpenError::InUse(_))) => tokio::task::yield_now().await,
                    started => return started,
                }
            }
        });
        let server = server.await??;
        Ok(TestBroker { home: self, server })
    }

    /// Where its data lie.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.config.record.data_directory
    }

    /// The file with its root key.
    #[must_use]
    pub fn root_key_file(&self) -> PathBuf {
        self.config.state.root_key_file.clone().unwrap_or_default()
    }

    /// The next start goes by another clock, as another process would.
    #[must_use]
    pub fn by_clock(mut self, clock: &Clock) -> Self {
        self.clock = clock.clone();
        self
    }

    /// The settings of the next start.
    pub const fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }
}

/// A broker that runs.
pub struct TestBroker {
    home: Home,
    server: RunningServer,
}

impl TestBroker {
    /// As `veribus dev` starts it.
    ///
    /// # Errors
    /// What keeps it from starting.
    pub async fn start() -> Result<Self> {
        Setup::default().start().await
    }

    /// Its directory.
    #[must_use]
    pub const fn directory(&self) -> &DevDirectory {
        &self.home.directory
    }

    /// The server itself.
    #[must_use]
    pub const fn server(&self) -> &RunningServer {
        &self.server
    }

    /// The server itself.
    pub const fn server_mut(&mut self) -> &mut RunningServer {
        &mut self.server
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// Its address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        client_url(self.address())
    }

    /// Drains it, and leaves its directory for another one.
    ///
    /// # Errors
    /// What went wrong while it drained.
    pub async fn stop(self) -> Result<Home> {
        self.server.drain().await?;
        Ok(self.home)
    }

    /// Takes it apart, so that it can be drained while something else goes on.
    #[must_use]
    pub fn into_parts(self) -> (RunningServer, Home) {
        (self.server, self.home)
    }

    /// Waits until it cannot go on.
    pub async fn failed(&mut self) -> ServerError {
        self.server.failed().await
    }

    /// The token of an example agent.
    ///
    /// # Errors
    /// Where there is no such agent.
    pub fn agent_token(&self, name: &str) -> Result<String> {
        let path = self.home.directory.token_path(name);
        let token = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(token.trim().to_owned())
    }

    /// Claims for an agent, good for an hour from now by the broker's clock. They grant nothing yet.
    #[must_use]
    pub fn claims(&self, agent: &str) -> Claims {
        let now = self.home.clock.now().seconds();
        self.home.directory.issuer().claims(agent, now, Duration::from_secs(3_600))
    }

    /// Signs claims.
    ///
    /// # Errors
    /// Where they cannot be signed.
    pub fn sign(&self, claims: &Claims) -> Result<String> {
        Ok(self.home.directory.issuer().issue(claims)?)
    }

    /// A token for an agent with these permissions.
    ///
    /// # Errors
    /// Where it cannot be signed.
    pub fn token(&self, agent: &str, permissions: &[&str]) -> Result<String> {
        self.sign(&permissions.iter().fold(self.claims(agent), |claims, one| claims.permission(*one)))
    }

    /// An SDK client with this token.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn client(&self, token: &str) -> Result<Client> {
        let builder = Client::builder(self.url()).ca_file(self.home.directory.ca_path()).token(token);
        let (min, max) = (Duration::from_millis(5), Duration::from_millis(50));
        Ok(builder.backoff(min, max).publish_for(PATIENCE).reconnect_for(PATIENCE).connect().await?)
    }

    /// An SDK client of an example agent.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn agent(&self, name: &str) -> Result<Client> {
        self.client(&self.agent_token(name)?).await
    }

    /// Generated clients on a connection of their own, with this token.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn raw(&self, token: &str) -> Result<Raw> {
        self.raw_with(Some(token), RawOptions::default()).await
    }

    /// Generated clients on a connection of their own.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn raw_with(&self, token: Option<&str>, options: RawOptions) -> Result<Raw> {
        Raw::connect(self.address(), &self.home.directory.ca_path(), token, options).await
    }

    /// Generated clients on a connection of their own that shows this certificate.
    ///
    /// # Errors
    /// Why it does not connect.
    pub async fn raw_as(&self, token: Option<&str>, certificate: Option<&ClientCertificate>) -> Result<Raw> {
        let tls = client_config_as(&self.home.directory.ca_path(), certificate)?;
        Raw::connect_by(tls, self.address(), token, RawOptions::default()).await
    }

    /// The whole audit log up to now, its chain verified from the first entry on.
    ///
    /// # Errors
    /// Where it cannot be read, or is broken.
    pub async fn log(&self) -> Result<Log> {
        Log::read(&self.raw(&self.agent_token("auditor")?).await?).await
    }

    /// The same, as soon as there is in it what is waited for: notes are recorded a little after what they are about.
    ///
    /// # Errors
    /// Where that does not come, or the log cannot be read, or is broken.
    pub async fn log_with(&self, is_there: impl Fn(&Log) -> bool) -> Result<Log> {
        Log::read_until(&self.raw(&self.agent_token("auditor")?).await?, is_there).await
    }
}
