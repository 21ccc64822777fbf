//! Who takes part: a broker in a temporary directory, and clients with real tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use tempfile::TempDir;
use tokio::{sync::Mutex, time::timeout};
use veribus_client::{Client, Delivery, Error, Message, Subscription};

use super::super::failure::Failure;
use crate::{
    config::Config,
    dev::{DevDirectory, DevOptions, client_url},
    issue::{Claims, KeyKind, TokenIssuer},
    model::UnixSeconds,
    server::{RunningServer, StartOptions, start},
};

/// How long to wait for a message that was acknowledged.
const DELIVERY_WAIT: Duration = Duration::from_secs(5);

/// Everybody.
pub(super) struct Cast {
    directory: DevDirectory,
    server: RunningServer,
    config: Config,
    compliance: Mutex<Subscription>,
    billing: Mutex<Subscription>,
    documents: Mutex<Subscription>,
    _temporary: TempDir,
}

/// Where a message is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inbox {
    Compliance,
    Billing,
    Documents,
}

impl Cast {
    pub(super) async fn assemble() -> Result<Self, Failure> {
        let temporary = tempfile::tempdir().map_err(Failure::failed)?;
        let options = DevOptions { listen: Some(([127, 0, 0, 1], 0).into()), metrics_listen: None };
        let directory = DevDirectory::create_or_reuse(temporary.path(), options).map_err(Failure::failed)?;
        let config = directory.config().map_err(Failure::failed)?;
        let server = start(config.clone(), StartOptions::default()).await.map_err(Failure::failed)?;
        let url = client_url(server.address());
        let inbox = async |agent, pattern: &str| {
            let client = connect(&directory, &url, agent).await?;
            client.subscribe([pattern]).await.map(Mutex::new)
        };
        Ok(Self {
            compliance: inbox("compliance-agent", "finance.>").await?,
            billing: inbox("billing-agent", "tickets.>").await?,
            documents: inbox("compliance-agent", "documents.>").await?,
            directory,
            server,
            config,
            _temporary: temporary,
        })
    }

    /// A client with the token of an example agent.
    pub(super) async fn client(&self, agent: &str) -> Result<Client, Error> {
        connect(&self.directory, &self.url(), agent).await
    }

    /// A client with any token.
    pub(super) async fn client_with(&self, token: String) -> Result<Client, Error> {
        Client::builder(self.url()).ca_file(self.directory.ca_path()).token(token).connect().await
    }

    /// The next message in an inbox. What is looked for was acknowledged, so it is on its way.
    pub(super) async fn receive(&self, inbox: Inbox) -> Option<Delivery> {
        let mut subscription = self.subscription(inbox).lock().await;
        timeout(DELIVERY_WAIT, subscription.next()).await.ok()??.ok()
    }

    /// A token for the finance agent that somebody else signed.
    pub(super) fn forged_token(&self) -> Result<String, Failure> {
        let pem = KeyKind::Es256.generate_pem().map_err(Failure::failed)?;
        let real = self.issuer()?;
        let impostor = TokenIssuer::with_key_id(real.issuer(), real.audience(), &pem, real.key_id());
        let impostor = impostor.map_err(Failure::failed)?;
        impostor.issue(&finance_claims(&impostor, now())).map_err(Failure::failed)
    }

    /// A token of the finance agent that ran out an hour ago.
    pub(super) fn expired_token(&self) -> Result<String, Failure> {
        let issuer = self.issuer()?;
        let two_hours_ago = UnixSeconds(now().0.saturating_sub(7_200));
        issuer.issue(&finance_claims(&issuer, two_hours_ago)).map_err(Failure::failed)
    }

    /// The external agent's token with the finance agent's name put in.
    pub(super) fn renamed_token(&self) -> Result<String, Failure> {
        let path = self.directory.token_path("external-agent");
        let token = std::fs::read_to_string(path).map_err(Failure::failed)?;
        let issuer = self.issuer()?;
        let claims = issuer.issue(&finance_claims(&issuer, now())).map_err(Failure::failed)?;
        let payload = claims.split('.').nth(1).unwrap_or_default();
        let mut parts: Vec<&str> = token.trim().split('.').collect();
        if let Some(part) = parts.get_mut(1) {
            *part = payload;
        }
        Ok(parts.join("."))
    }

    pub(super) const fn message_bytes_max(&self) -> usize {
        self.config.limits.message_bytes_max
    }

    pub(super) async fn leave(self) -> Result<(), Failure> {
        drop((self.compliance, self.billing, self.documents));
        self.server.drain().await.map_err(Failure::failed)
    }

    fn subscription(&self, inbox: Inbox) -> &Mutex<Subscription> {
        match inbox {
            Inbox::Compliance => &self.compliance,
            Inbox::Billing => &self.billing,
            Inbox::Documents => &self.documents,
        }
    }

    fn issuer(&self) -> Result<TokenIssuer, Failure> {
        DevDirectory::issuer_of(self.directory.root()).map_err(Failure::failed)
    }

    fn url(&self) -> String {
        client_url(self.server.address())
    }
}

async fn connect(directory: &DevDirectory, url: &str, agent: &str) -> Result<Client, Error> {
    Client::builder(url).ca_file(directory.ca_path()).token_file(directory.token_path(agent)).connect().await
}

fn finance_claims(issuer: &TokenIssuer, from: UnixSeconds) -> Claims {
    issuer.claims("finance-agent", from, Duration::from_secs(3_600)).role("finance").permission("publish:finance.>")
}

fn now() -> UnixSeconds {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixSeconds(i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX))
}

/// A transaction for compliance.
pub(super) fn transaction() -> Message {
    let text = r#"{"from":"DE02120300000000202051","to":"DE02500105170137075030","amount":"1250.00","currency":"EUR"}"#;
    Message::json("finance.transactions", "finance.transaction", text).to("role:compliance")
}
