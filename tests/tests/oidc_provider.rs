//! Against an OpenID provider that we did not write: npm `oidc-provider`, under Node.js.
//!
//! `npm ci` in `oidc-provider/` installs it. Where it is not, these tests are skipped, unless `VERIBUS_OIDC_REQUIRED=1`.

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use reqwest::{Client, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};
use tonic::Code;
use veribus_broker::config::IssuerConfig;
use veribus_proto::v1::{EntryKind, PublishRequest};
use veribus_tests::{
    PATIENCE,
    broker::{Setup, TestBroker},
    messages::wire,
    patiently,
    raw::{Raw, client_config},
    streams::{PublishStream, receipt},
};

const TTL: Duration = Duration::from_secs(4);
const CREDENTIALS: &str = "grant_type=client_credentials&client_id=finance-agent&client_secret=a%20secret%20of%20the%20tests&scope=publish%3Afinance.%3E";

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oidc-provider")
}

/// Whether the provider is installed; where it must be and is not, the test fails.
async fn is_installed() -> Result<bool> {
    let has_node = Command::new("node").arg("--version").output().await.is_ok_and(|output| output.status.success());
    if has_node && here().join("node_modules/oidc-provider").is_dir() {
        return Ok(true);
    }
    let is_required = env::var("VERIBUS_OIDC_REQUIRED").is_ok_and(|required| required == "1");
    ensure!(!is_required, "no Node.js, or `npm ci` was not run in {}", here().display());
    writeln!(std::io::stderr(), "skipped: no Node.js, or `npm ci` was not run in {}", here().display())?;
    Ok(false)
}

/// The provider, until it is dropped.
struct Provider {
    process: Child,
    issuer: String,
    http: Client,
}

impl Provider {
    async fn start(algorithm: &str, ca: &Path) -> Result<Self> {
        let mut command = Command::new("node");
        command.arg(here().join("provider.mjs")).arg(algorithm);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut process = command.spawn()?;
        let mut lines = BufReader::new(process.stdout.take().context("stdout")?).lines();
        let ready = patiently(lines.next_line()).await??.context("it ended")?;
        let issuer = ready.strip_prefix("ready ").context(ready.clone())?.to_owned();
        // Its address is plain HTTP; a client needs some TLS settings all the same.
        let http = Client::builder().tls_backend_preconfigured(client_config(ca)?).no_proxy().build()?;
        Ok(Self { process, issuer, http })
    }

    /// An access token by client credentials (RFC 6749, section 4.4).
    async fn token(&self) -> Result<String> {
        let request = self.http.post(format!("{}/token", self.issuer));
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(CREDENTIALS);
        let answer: Value = serde_json::from_str(&request.send().await?.text().await?)?;
        let token = answer.get("access_token").and_then(Value::as_str).with_context(|| answer.to_string())?;
        Ok(token.to_owned())
    }

    async fn rotate(&self) -> Result<()> {
        self.http.post(format!("{}/test/rotate", self.issuer)).send().await?.error_for_status()?;
        Ok(())
    }

    async fn withdraw_old_keys(&self) -> Result<()> {
        self.http.post(format!("{}/test/withdraw", self.issuer)).send().await?.error_for_status()?;
        Ok(())
    }

    /// A broker that knows it by discovery, and nothing else of it.
    async fn broker(&self) -> Result<TestBroker> {
        let settings = "audience = \"veribus\"\ndiscovery = true\npreset = \"oauth\"\nrequire_at_jwt = true\nallow_loopback_http = true";
        let issuer: IssuerConfig = toml::from_str(&format!("issuer = \"{}\"\n{settings}", self.issuer))?;
        let setup = Setup::default().open_policy().configure(|config| {
            config.identity.issuers.push(issuer);
            config.identity.keys_ttl_s = TTL.as_secs();
            config.identity.keys_refresh_interval_s_min = 1;
        });
        setup.start().await
    }
}

async fn publish(agent: &Raw, id: &str) -> Result<(), Code> {
    let request = PublishRequest { message: Some(wire(id, "finance.x", "text")) };
    agent.broker().publish(request).await.map(drop).map_err(|status| status.code())
}

/// Publishes again and again until the token is refused.
async fn refused_after(agent: &Raw, since: Instant) -> Result<Duration> {
    for number in 0.. {
        match publish(agent, &format!("again-{number}")).await {
            Ok(()) => ensure!(since.elapsed() < PATIENCE, "still accepted"),
            Err(code) => {
                ensure!(code == Code::Unauthenticated, "{code}");
                break;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(since.elapsed())
}

/// Discovery, a token, a rotated key, a withdrawn key, and a provider that is gone.
async fn the_life_of_keys(algorithm: &str) -> Result<()> {
    if !is_installed().await? {
        return Ok(());
    }
    let authority = TestBroker::start().await?;
    let mut provider = Provider::start(algorithm, &authority.directory().ca_path()).await?;
    let broker = provider.broker().await?;

    let old = broker.raw(&provider.token().await?).await?;
    publish(&old, "old").await.map_err(anyhow::Error::msg).context("the first key")?;
    let mut stream = PublishStream::open(&old).await?;
    receipt(stream.publish(vec![wire("stream", "finance.x", "text")]).await?.first().context("one")?)?;
    assert_eq!(publish_elsewhere(&old).await, Err(Code::PermissionDenied), "the scope is what it may do");

    provider.rotate().await?;
    let new = broker.raw(&provider.token().await?).await?;
    publish(&new, "new").await.map_err(anyhow::Error::msg).context("a key that is not known yet")?;
    publish(&old, "old-again").await.map_err(anyhow::Error::msg).context("a key that is still listed")?;

    let withdrawn = Instant::now();
    provider.withdraw_old_keys().await?;
    let took = refused_after(&old, withdrawn).await?;
    assert!(took < TTL, "{took:?}");
    writeln!(std::io::stdout(), "{algorithm}: a withdrawn key was refused after {took:?}, time to live {TTL:?}")?;
    // It may have ended already: whoever looks at all sessions once a second can come first.
    stream.send(vec![wire("late", "finance.x", "text")]).await.ok();
    assert_eq!(stream.results().await.err().map(|status| status.code()), Some(Code::Unauthenticated));
    publish(&new, "new-again").await.map_err(anyhow::Error::msg).context("the key that stays")?;

    let gone = Instant::now();
    provider.process.kill().await?;
    publish(&new, "new-while-down")
        .await
        .map_err(anyhow::Error::msg)
        .context("a known key of an issuer that is down")?;
    let took = refused_after(&new, gone).await?;
    assert!(took < TTL + Duration::from_secs(1), "{took:?}");

    let log = broker.log_with(|log| log.of_kind(EntryKind::AuthenticationRefused).count() >= 3).await?;
    assert!(log.decisions("late").is_empty());
    let actor = log.decision("new")?.actor.as_ref().context("an actor")?;
    assert_eq!((actor.issuer.as_str(), actor.agent.as_str()), (provider.issuer.as_str(), "finance-agent"));
    Ok(())
}

async fn publish_elsewhere(agent: &Raw) -> Result<(), Code> {
    let request = PublishRequest { message: Some(wire("elsewhere", "tickets.x", "text")) };
    agent.broker().publish(request).await.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn keys_of_a_real_provider_come_rotate_and_go() -> Result<()> {
    the_life_of_keys("ES256").await
}

#[tokio::test]
async fn so_do_its_rsa_keys() -> Result<()> {
    the_life_of_keys("RS256").await
}
