//! Which broker a command talks to, and as whom.

use std::path::{Path, PathBuf};

use clap::Args;
use veribus_client::{Client, DpopKey};

use super::{
    failure::Failure,
    secret::{look, secret},
};

/// Where the broker is, and how it is known.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct BrokerArgs {
    /// The broker, `https://HOST:PORT`
    #[arg(long, env = "VERIBUS_URL")]
    url: Option<String>,
    /// The certificate authority to trust, PEM
    #[arg(long, env = "VERIBUS_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl BrokerArgs {
    /// The URL and the file of the authority, both fit to be used.
    pub(super) fn checked(self) -> Result<(String, PathBuf), Failure> {
        let (url, ca) = self.given()?;
        Client::builder(&url).ca_file(&ca).check_broker()?;
        Ok((url, ca))
    }

    fn given(self) -> Result<(String, PathBuf), Failure> {
        Ok((given(self.url, "--url", "VERIBUS_URL")?, given(self.ca, "--ca", "VERIBUS_CA")?))
    }
}

/// The arguments of every command that is a client.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct ConnectArgs {
    #[command(flatten)]
    broker: BrokerArgs,
    /// The file that holds the agent's token
    #[arg(long, env = "VERIBUS_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// A client certificate, PEM, leaf first
    #[arg(long, env = "VERIBUS_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, env = "VERIBUS_CLIENT_KEY", value_name = "FILE", requires = "client_cert")]
    client_key: Option<PathBuf>,
    /// The key that the token is bound to by DPoP, ES256, PEM (PKCS #8)
    #[arg(long, env = "VERIBUS_DPOP_KEY", value_name = "FILE")]
    dpop_key: Option<PathBuf>,
}

impl ConnectArgs {
    pub(super) async fn connect(self) -> Result<Client, Failure> {
        let (url, ca) = self.broker.given()?;
        let token_file = given(self.token_file, "--token-file", "VERIBUS_TOKEN_FILE")?;
        let mut builder = Client::builder(url).ca_file(ca).token_file(token_file);
        if let (Some(chain), Some(key)) = (self.client_cert, self.client_key) {
            look(&key)?;
            builder = builder.client_certificate_files(chain, key);
        }
        if let Some(key) = self.dpop_key {
            builder = builder.dpop(dpop_key(&key)?);
        }
        Ok(builder.connect().await?)
    }
}

fn dpop_key(path: &Path) -> Result<DpopKey, Failure> {
    DpopKey::from_pem(secret(path)?.content()).map_err(|error| Failure::usage(format!("`{}`: {error}", path.display())))
}

fn given<T>(value: Option<T>, option: &str, variable: &str) -> Result<T, Failure> {
    value.ok_or_else(|| Failure::usage(format!("give `{option}`, or set `{variable}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_missing_is_named() {
        let broker = BrokerArgs { url: Some("https://127.0.0.1:1".to_owned()), ca: None };
        let args = ConnectArgs { broker, ..ConnectArgs::default() };
        let failure = args.connect().await.expect_err("no authority");
        assert_eq!(failure, Failure::Usage("give `--ca`, or set `VERIBUS_CA`".to_owned()));
    }
}
