//! How a client is told where the broker is, whom to trust, and who it is itself.

use std::{env, error::Error as _, path::PathBuf, sync::Arc, time::Duration};

use tonic::{Code, Status, transport::Endpoint};
use veribus_proto::v1::PublishStreamRequest;
use zeroize::Zeroizing;

use crate::{
    Client, DpopKey, Error, StaticToken, Token, TokenError, TokenFile, TokenProvider,
    connect::{ClientCertificate, Connector, Target, read_file, roots},
    present::{Method, Presenter},
    retry::{Attempts, BackoffBounds},
    session::{Limits, Session},
    status::Verdict,
    token::Tokens,
};

const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Collects what a client needs; [`ClientBuilder::connect`] checks it.
#[must_use]
pub struct ClientBuilder {
    url: String,
    authorities: Option<Authorities>,
    token: Option<TokenSetting>,
    certificate: Option<CertificateSetting>,
    dpop: Option<DpopKey>,
    public_url: Option<String>,
    limits: Limits,
}

enum Authorities {
    File(PathBuf),
    Pem(Vec<u8>),
}

enum TokenSetting {
    Fixed(Zeroizing<String>),
    File(PathBuf),
    Provider(Arc<dyn TokenProvider>),
}

enum CertificateSetting {
    Files { chain: PathBuf, key: PathBuf },
    Pem { chain: Vec<u8>, key: Zeroizing<Vec<u8>> },
}

impl ClientBuilder {
    pub(crate) fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            authorities: None,
            token: None,
            certificate: None,
            dpop: None,
            public_url: None,
            limits: DEFAULT_LIMITS,
        }
    }

    pub(crate) fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let missing = |name| Error::Configuration(format!("the environment variable `{name}` is not set"));
        let variable = |name| lookup(name).ok_or_else(|| missing(name));
        let (url, ca) = (variable("VERIBUS_URL")?, variable("VERIBUS_CA")?);
        let mut builder = Self::new(url).ca_file(ca).token_file(variable("VERIBUS_TOKEN_FILE")?);
        builder = match (lookup("VERIBUS_CLIENT_CERT"), lookup("VERIBUS_CLIENT_KEY")) {
            (Some(chain), Some(key)) => builder.client_certificate_files(chain, key),
            (Some(_), None) => return Err(missing("VERIBUS_CLIENT_KEY")),
            (None, Some(_)) => return Err(missing("VERIBUS_CLIENT_CERT")),
            (None, None) => builder,
        };
        match lookup("VERIBUS_DPOP_KEY") {
            Some(key) => Ok(builder.dpop(DpopKey::from_pem_file(key)?)),
            None => Ok(builder),
        }
    }

    /// The file of certificate authorities, PEM, that the broker's certificate must come from. There are no others.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.authorities = Some(Authorities::File(path.into()));
        self
    }

    /// The certificate authorities themselves, PEM.
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.authorities = Some(Authorities::Pem(pem.into()));
        self
    }

    /// The token, a JWT, for clients that live no longer than it does.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(TokenSetting::Fixed(Zeroizing::new(token.into())));
        self
    }

    /// The file that holds the token. It is read again when it changes.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token = Some(TokenSetting::File(path.into()));
        self
    }

    /// Where else tokens come from, for example [`crate::ClientCredentials`]. The client asks for the next one before the
    /// one at hand runs out, and running streams go on under it.
    pub fn token_provider(mut self, provider: impl TokenProvider) -> Self {
        self.token = Some(TokenSetting::Provider(Arc::new(provider)));
        self
    }

    /// The client's own certificate, PEM, with those that vouch for it, and its private key: for brokers that ask for one,
    /// and for tokens that are bound to it (`cnf.x5t#S256`, RFC 8705).
    pub fn client_certificate_pem(mut self, chain: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some(CertificateSetting::Pem { chain: chain.into(), key: Zeroizing::new(key.into()) });
        self
    }

    /// The same, in files. They are read once.
    pub fn client_certificate_files(mut self, chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.certificate = Some(CertificateSetting::Files { chain: chain.into(), key: key.into() });
        self
    }

    /// The key that the tokens are bound to (`cnf.jkt`, RFC 9449). Each call, each stream and each fresh token on a stream
    /// goes with a proof that the client holds it.
    pub fn dpop(mut self, key: DpopKey) -> Self {
        self.dpop = Some(key);
        self
    }

    /// What the broker calls itself, `https://host:port`, where that is not the address given here: proofs of possession
    /// name it.
    pub fn public_url(mut self, url: impl Into<String>) -> Self {
        self.public_url = Some(url.into());
        self
    }

    /// How long [`ClientBuilder::connect`], and later each single attempt to connect, may take. Default 5 s.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.limits.connect_timeout = timeout;
        self
    }

    /// The shortest and the longest pause between attempts. Default 100 ms and 5 s; each is shortened at random by up
    /// to a half.
    pub const fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.limits.backoff = BackoffBounds { min, max };
        self
    }

    /// How long a publish goes on without an answer from the broker. Default 30 s. A [`crate::Publisher`] counts from
    /// the last answer.
    pub const fn publish_for(mut self, total: Duration) -> Self {
        self.limits.publish_for = total;
        self
    }

    /// How long a running subscription or audit stream tries to come back after its connection was lost. Default one
    /// hour.
    pub const fn reconnect_for(mut self, total: Duration) -> Self {
        self.limits.reconnect_for = total;
        self
    }

    /// How long a running subscription or watch waits for a token that the broker takes, once none does: while the key of an
    /// issuer is changed, for example. Default 60 s.
    pub const fn late_token_for(mut self, total: Duration) -> Self {
        self.limits.late_token_for = total;
        self
    }

    /// The largest message, in bytes on the wire, that is sent. Default 16 KiB below 4 MiB, which is what a broker
    /// decodes by default: past that it ends the whole call.
    pub const fn message_bytes_max(mut self, bytes: usize) -> Self {
        self.limits.message_bytes_max = bytes;
        self
    }

    /// How many messages, and how many bytes of them, a [`crate::Publisher`] has in flight at most. Default 1,024 and
    /// 4 MiB.
    pub const fn in_flight_max(mut self, messages: usize, bytes: usize) -> Self {
        self.limits.in_flight_messages_max = messages;
        self.limits.in_flight_bytes_max = bytes;
        self
    }

    /// Connects, and makes sure that the broker is the right one and accepts the token.
    ///
    /// A broker that cannot be reached yet is tried again until the connect timeout.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], [`Error::Configuration`], [`Error::TokenFile`], [`Error::Token`], [`Error::Unreachable`],
    /// [`Error::Tls`], [`Error::Unauthenticated`], or [`Error::Refused`] where the broker takes no more connections.
    pub async fn connect(self) -> Result<Client, Error> {
        let mut attempts = Attempts::new(self.limits.backoff, self.limits.connect_timeout);
        let session = self.session(&mut attempts).await?;
        accepted(&session, attempts).await?;
        Ok(Client::new(session))
    }

    /// Checks the URL and the authorities as [`ClientBuilder::connect`] does, and asks nobody.
    ///
    /// # Errors
    /// [`Error::InvalidUrl`], [`Error::Configuration`].
    pub fn check_broker(&self) -> Result<(), Error> {
        Target::parse(&self.url)?;
        roots(&self.authorities()?).map(drop)
    }

    fn authorities(&self) -> Result<Vec<u8>, Error> {
        match &self.authorities {
            Some(Authorities::Pem(pem)) => Ok(pem.clone()),
            Some(Authorities::File(path)) => read_file("authorities", path),
            None => Err(Error::Configuration("no certificate authorities are given".to_owned())),
        }
    }

    async fn session(self, attempts: &mut Attempts) -> Result<Arc<Session>, Error> {
        let target = Target::parse(&self.url)?;
        let public_url = match &self.public_url {
            Some(url) => Target::parse(url)?.origin(),
            None => target.origin(),
        };
        let pem = self.authorities()?;
        let certificate = self.certificate.map(CertificateSetting::read).transpose()?;
        let provider = self.token.map_or_else(|| Err(no_token()), TokenSetting::provider)?;
        let endpoint = endpoint(&target);
        // A little less for the connection itself: its fault says more than that time is up.
        let connector = Connector::new(target, &pem, certificate, self.limits.connect_timeout.mul_f64(0.9))?;
        let channel = endpoint.connect_with_connector_lazy(connector);
        let tokens = first_token(provider, attempts).await?;
        let presenter = Presenter::new(self.dpop, public_url);
        Ok(Arc::new(Session { channel, tokens, presenter, limits: self.limits }))
    }
}

impl TokenSetting {
    fn provider(self) -> Result<Arc<dyn TokenProvider>, Error> {
        match self {
            Self::Fixed(token) => match Token::new(token.as_str()) {
                Ok(token) => Ok(Arc::new(StaticToken::new(token))),
                Err(fault) => Err(Error::Configuration(fault.to_string())),
            },
            Self::File(path) => Ok(Arc::new(TokenFile::open(path)?)),
            Self::Provider(provider) => Ok(provider),
        }
    }
}

impl CertificateSetting {
    fn read(self) -> Result<ClientCertificate, Error> {
        match self {
            Self::Pem { chain, key } => ClientCertificate::parse(&chain, &key),
            Self::Files { chain, key } => {
                let key = Zeroizing::new(read_file("client's private key", &key)?);
                ClientCertificate::parse(&read_file("client certificate", &chain)?, &key)
            }
        }
    }
}

fn no_token() -> Error {
    Error::Configuration("no token is given".to_owned())
}

const DEFAULT_LIMITS: Limits = Limits {
    connect_timeout: Duration::from_secs(5),
    backoff: BackoffBounds { min: Duration::from_millis(100), max: Duration::from_secs(5) },
    publish_for: Duration::from_secs(30),
    reconnect_for: Duration::from_secs(3600),
    late_token_for: Duration::from_secs(60),
    message_bytes_max: 4 * 1024 * 1024 - 16 * 1024,
    in_flight_messages_max: 1024,
    in_flight_bytes_max: 4 * 1024 * 1024,
};

fn endpoint(target: &Target) -> Endpoint {
    Endpoint::from(target.uri.clone())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// Tries until there is a token. A source that says no is not asked again.
async fn first_token(provider: Arc<dyn TokenProvider>, attempts: &mut Attempts) -> Result<Tokens, Error> {
    loop {
        match attempts.in_time(Tokens::start(Arc::clone(&provider))).await {
            Some(Ok(tokens)) => return Ok(tokens),
            Some(Err(fault @ TokenError::Unavailable(_))) => attempts.pause(fault.into()).await?,
            Some(Err(fault)) => return Err(fault.into()),
            None => return Err(TokenError::Unavailable("no answer in time".to_owned()).into()),
        }
    }
}

/// Tries until the broker answered a call that carries the token.
async fn accepted(session: &Session, mut attempts: Attempts) -> Result<(), Error> {
    loop {
        let token = session.tokens.usable().await;
        let Some(answer) = attempts.in_time(publish_nothing(session, &token)).await else {
            return Err(attempts.timed_out());
        };
        let Err(status) = answer else {
            session.tokens.standing().took(&token);
            return Ok(());
        };
        if status.code() == Code::PermissionDenied && status.source().is_none() {
            return Ok(()); // It knows who is asking; what that agent may do is for the call to come.
        }
        attempts.after_verdict(session, connect_verdict(&status), &token).await?;
    }
}

/// Opens a publish stream and closes it again: the least that the broker authenticates.
async fn publish_nothing(session: &Session, token: &Token) -> Result<(), Status> {
    let nothing = tokio_stream::empty::<PublishStreamRequest>();
    let request = session.presenter.request(token, Method::PUBLISH_STREAM, nothing)?;
    let mut answers = session.broker().publish_stream(request).await?.into_inner();
    while answers.message().await?.is_some() {}
    Ok(())
}

/// A broker that may still come up is waited for; one that is not the right one is not.
fn connect_verdict(status: &Status) -> Verdict {
    match Verdict::of(status) {
        Verdict::Again(error @ Error::Tls { .. }) => Verdict::Final(error),
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_must_say_everything_and_an_error_says_what_is_missing() {
        let all = ["VERIBUS_URL", "VERIBUS_CA", "VERIBUS_TOKEN_FILE"];
        let named = |name: &str| all.contains(&name).then(|| format!("the {name}"));
        let builder = ClientBuilder::from_variables(named).expect("complete");
        assert_eq!(builder.url, "the VERIBUS_URL");
        assert!(matches!(builder.authorities, Some(Authorities::File(path)) if path.ends_with("the VERIBUS_CA")));
        assert!(matches!(builder.token, Some(TokenSetting::File(path)) if path.ends_with("the VERIBUS_TOKEN_FILE")));
        assert!(builder.certificate.is_none() && builder.dpop.is_none());
        for missing in all {
            let lookup = |name: &str| (name != missing).then(|| name.to_owned());
            let Err(error) = ClientBuilder::from_variables(lookup) else { panic!("{missing} is missing") };
            assert!(error.to_string().contains(missing), "{error}");
        }
    }

    #[test]
    fn the_environment_may_name_a_certificate_and_a_key_to_prove() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        std::fs::write(file.path(), pem).expect("written");
        let path = file.path().to_str().expect("utf-8").to_owned();
        let builder = ClientBuilder::from_variables(|_| Some(path.clone())).expect("complete");
        assert!(builder.dpop.is_some());
        assert!(matches!(builder.certificate, Some(CertificateSetting::Files { .. })));
        for half in ["VERIBUS_CLIENT_CERT", "VERIBUS_CLIENT_KEY"] {
            let lookup = |name: &str| (name != half && name != "VERIBUS_DPOP_KEY").then(|| name.to_owned());
            let Err(error) = ClientBuilder::from_variables(lookup) else { panic!("{half} is missing") };
            assert!(error.to_string().contains(half), "{error}");
        }
    }
}
