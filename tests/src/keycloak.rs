//! A Keycloak that we did not write, and realms in it, by the scripts in `keycloak/`.
//!
//! `VERIBUS_KEYCLOAK` names the directory of an installed one. Without it, tests skip, unless `VERIBUS_KEYCLOAK_REQUIRED=1`.
//! It takes a Java that it runs on, bash and curl.

use std::{
    env,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command as BlockingCommand, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tokio::{process::Command, sync::OnceCell};

use crate::python::run;

/// How long it may take to start, the first time with its settings compiled in.
const START_MAX: Duration = Duration::from_secs(180);
const PASSWORD: &str = "a password of the tests";

/// One for all tests of a program. It ends with the program, whose end of the pipe it waits for.
static RUNNING: OnceCell<Option<Server>> = OnceCell::const_new();

/// A server that runs.
struct Server {
    url: String,
    _process: Child,
}

impl Server {
    async fn start(directory: &Path) -> Result<Self> {
        ensure!(directory.join("bin/kc.sh").is_file(), "no Keycloak in {}", directory.display());
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = BlockingCommand::new(script("keycloak.sh"));
        command.arg(port.to_string()).env("KC_BOOTSTRAP_ADMIN_PASSWORD", PASSWORD);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let (url, started) = (format!("http://127.0.0.1:{port}"), Instant::now());
        while curl(&format!("{url}/realms/master"), &[]).await.is_err() {
            ensure!(process.try_wait()?.is_none(), "Keycloak ended");
            ensure!(started.elapsed() < START_MAX, "Keycloak is not ready");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        Ok(Self { url, _process: process })
    }

    /// None, with a line on standard error, where there is none and none is required.
    async fn find() -> Result<Option<Self>> {
        let directory = env::var_os("VERIBUS_KEYCLOAK");
        let is_required = env::var("VERIBUS_KEYCLOAK_REQUIRED").is_ok_and(|required| required == "1");
        ensure!(directory.is_some() || !is_required, "`VERIBUS_KEYCLOAK` names no Keycloak");
        match directory {
            Some(directory) => Self::start(&PathBuf::from(directory)).await.map(Some),
            None => {
                // Not `eprintln`, which the test runner keeps to itself.
                writeln!(std::io::stderr(), "skipped: `VERIBUS_KEYCLOAK` names no Keycloak")?;
                Ok(None)
            }
        }
    }
}

/// A realm.
pub struct Realm {
    server: &'static Server,
    name: &'static str,
    documented: String,
}

impl Realm {
    /// Makes the realm that the documentation shows, under this name; none where there is no Keycloak and none is required.
    ///
    /// # Errors
    /// Keycloak does not start, or does not make it.
    pub async fn create(name: &'static str) -> Result<Option<Self>> {
        let Some(server) = RUNNING.get_or_try_init(Server::find).await?.as_ref() else { return Ok(None) };
        let mut realm = Self { server, name, documented: String::new() };
        realm.documented = realm.run(&["documented"]).await?;
        Ok(Some(realm))
    }

    /// Changes something in it: arguments of `realm.sh`. What it prints.
    ///
    /// # Errors
    /// Keycloak does not want it.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(script("realm.sh"));
        command.args(arguments).env("KEYCLOAK", &self.server.url).env("REALM", self.name);
        run(command.env("ADMIN_PASSWORD", PASSWORD).env("AGENT_SECRET", PASSWORD), &[]).await
    }

    /// Its `iss`.
    #[must_use]
    pub fn issuer(&self) -> String {
        format!("{}/realms/{}", self.server.url, self.name)
    }

    /// Where it gives out tokens.
    #[must_use]
    pub fn token_url(&self) -> String {
        format!("{}/protocol/openid-connect/token", self.issuer())
    }

    /// The token that the commands in the documentation end with.
    ///
    /// # Errors
    /// They end with something else.
    pub fn documented_token(&self) -> Result<String> {
        access_token(&self.documented)
    }

    /// A token of a client, by its own credentials (RFC 6749, section 4.4).
    ///
    /// # Errors
    /// Keycloak does not give it one.
    pub async fn token(&self, client: &str) -> Result<String> {
        self.token_for(client, &[("grant_type", "client_credentials")], &[]).await
    }

    /// A token by another grant, or with curl's options besides.
    ///
    /// # Errors
    /// Keycloak does not give it one: what it says instead.
    pub async fn token_for(&self, client: &str, form: &[(&str, &str)], options: &[&str]) -> Result<String> {
        let own = [("client_id", client), ("client_secret", PASSWORD)];
        let form: Vec<_> = own.iter().chain(form).map(|(name, value)| format!("{name}={value}")).collect();
        let fields = form.iter().flat_map(|field| ["--data-urlencode", field]);
        access_token(&curl(&self.token_url(), &options.iter().copied().chain(fields).collect::<Vec<_>>()).await?)
    }

    /// A token of the user `ada`, who came through a client.
    ///
    /// # Errors
    /// Keycloak does not give one.
    pub async fn token_of_user(&self, client: &str) -> Result<String> {
        let form = [("grant_type", "password"), ("username", "ada"), ("password", PASSWORD)];
        self.token_for(client, &form, &[]).await
    }
}

async fn curl(url: &str, options: &[&str]) -> Result<String> {
    run(Command::new("curl").args(["-sS", "--noproxy", "*", "--fail-with-body", url]).args(options), &[]).await
}

fn access_token(answer: &str) -> Result<String> {
    let answer: Value = serde_json::from_str(answer).with_context(|| answer.to_owned())?;
    let token = answer.get("access_token").and_then(Value::as_str).with_context(|| answer.to_string())?;
    Ok(token.to_owned())
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keycloak").join(name)
}
