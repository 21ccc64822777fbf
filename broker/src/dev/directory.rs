//! The directory itself.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{
    DEFAULT_AGENT, DevError, certificates,
    error::{certificate, issuer as issuing, reading, writing},
    files::{private_directory, write_private, write_public},
    shell::quote,
    tokens::write_tokens,
};
use crate::{
    config::Config,
    issue::{KeyKind, PublishedKeys, TokenIssuer},
    model::Clock,
    seal::{RootKeys, SecretFile},
};

const ISSUER: &str = "veribus-dev";
const AUDIENCE: &str = "veribus";
const ISSUER_KEY: &str = "issuer.key";
const CONFIGURATION: &str = "veribus.toml";
const ROOT_KEY: &str = "root.key";
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
const POLICY_FILES: [(&str, &str); 3] = [
    ("veribus.rego", include_str!("../../policies/veribus.rego")),
    ("veribus_test.rego", include_str!("../../policies/veribus_test.rego")),
    ("data.yaml", include_str!("../../policies/data.yaml")),
];

/// What may differ from one start to the next.
#[derive(Debug, Clone, Default)]
pub struct DevOptions {
    /// Where the broker listens, whatever the configuration says; in a new directory 127.0.0.1 and a free port if
    /// absent, which later starts keep if it is still free.
    pub listen: Option<SocketAddr>,
    /// Where its metrics are read, whatever the configuration says.
    pub metrics_listen: Option<SocketAddr>,
}

/// A directory with all that a broker needs to be tried out.
#[derive(Debug)]
pub struct DevDirectory {
    root: PathBuf,
    options: DevOptions,
    issuer: TokenIssuer,
}

impl DevDirectory {
    /// Makes the directory, or takes the one that is there: its keys, configuration, policies and data stay as they
    /// are; the broker's certificate and tokens that are about to expire are made anew.
    ///
    /// # Errors
    /// [`DevError`], naming the file.
    pub fn create_or_reuse(path: &Path, options: DevOptions) -> Result<Self, DevError> {
        if may_be_closed(path).map_err(reading(path))? {
            private_directory(path).map_err(writing(path))?;
        }
        let root = path.canonicalize().map_err(reading(path))?;
        let is_key_new = !root.join(ISSUER_KEY).exists();
        let issuer = Self::open_issuer(&root, true)?;
        let directory = Self { root, options, issuer };
        directory.write_key_set(is_key_new)?;
        directory.write_configuration()?;
        directory.write_certificates()?;
        write_tokens(&directory.path("tokens"), &directory.issuer, Clock::system().now().seconds())?;
        Ok(directory)
    }

    /// The token issuer of a directory that was made earlier. Changes nothing.
    ///
    /// # Errors
    /// [`DevError`] where there is no such directory.
    pub fn issuer_of(path: &Path) -> Result<TokenIssuer, DevError> {
        Self::open_issuer(path, false)
    }

    /// The configuration, with the options of this start.
    ///
    /// # Errors
    /// [`DevError::Config`] where it was changed and is not valid.
    pub fn config(&self) -> Result<Config, DevError> {
        let mut config = Config::load(&self.config_path())?;
        let configured = config.server.listen;
        config.server.listen = self.options.listen.unwrap_or_else(|| self.as_before(configured));
        config.metrics.listen = self.options.metrics_listen.or(config.metrics.listen);
        Ok(config)
    }

    /// Any free port is the one of the start before, if that is free: what `env` has told shells stays true.
    fn as_before(&self, configured: SocketAddr) -> SocketAddr {
        let before = self.port_before().map(|port| SocketAddr::new(configured.ip(), port));
        before.filter(|before| configured.port() == 0 && TcpListener::bind(before).is_ok()).unwrap_or(configured)
    }

    fn port_before(&self) -> Option<u16> {
        let env = fs::read_to_string(self.env_path()).ok()?;
        let url = env.lines().find_map(|line| line.strip_prefix("export VERIBUS_URL="))?;
        url.trim_end_matches('\'').rsplit_once(':')?.1.parse().ok()
    }

    /// Writes `env`, the shell lines that say how to reach the broker at `address`, in one step.
    ///
    /// # Errors
    /// [`DevError::Write`].
    pub fn write_env(&self, address: SocketAddr) -> Result<(), DevError> {
        let path = self.env_path();
        let (ca, token) = (self.ca_path(), self.token_path(DEFAULT_AGENT));
        let lines = [
            ("VERIBUS_URL", client_url(address)),
            ("VERIBUS_CA", ca.to_string_lossy().into_owned()),
            ("VERIBUS_TOKEN_FILE", token.to_string_lossy().into_owned()),
        ];
        let text: String = lines.iter().map(|(name, value)| format!("export {name}={}\n", quote(value))).collect();
        write_private(&path, text.as_bytes()).map_err(writing(&path))
    }

    /// Where it is, as an absolute path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The configuration file.
    #[must_use]
    pub fn config_path(&self) -> PathBuf {
        self.path(CONFIGURATION)
    }

    /// The certificate authority that clients trust.
    #[must_use]
    pub fn ca_path(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The token file of an example agent.
    #[must_use]
    pub fn token_path(&self, agent: &str) -> PathBuf {
        self.path("tokens").join(format!("{agent}.jwt"))
    }

    /// The shell lines; see [`DevDirectory::write_env`].
    #[must_use]
    pub fn env_path(&self) -> PathBuf {
        self.path("env")
    }

    /// The policies.
    #[must_use]
    pub fn policies_path(&self) -> PathBuf {
        self.path("policies")
    }

    /// Signs further tokens.
    #[must_use]
    pub const fn issuer(&self) -> &TokenIssuer {
        &self.issuer
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn open_issuer(root: &Path, make: bool) -> Result<TokenIssuer, DevError> {
        let path = root.join(ISSUER_KEY);
        if make && !path.exists() {
            let key = KeyKind::Es256.generate_pem().map_err(issuing(&path))?;
            write_private(&path, key.as_bytes()).map_err(writing(&path))?;
        }
        TokenIssuer::from_pem(ISSUER, AUDIENCE, secret(&path)?.text()?).map_err(issuing(&path))
    }

    fn write_configuration(&self) -> Result<(), DevError> {
        self.keep_or_write(CONFIGURATION, &self.configuration())?;
        let root_key = self.path(ROOT_KEY);
        if !root_key.exists() {
            RootKeys::create(&root_key)?;
        }
        for directory in ["policies", "data"].map(|name| self.path(name)) {
            private_directory(&directory).map_err(writing(&directory))?;
        }
        // All or none: a policy file that was taken away on purpose does not come back.
        if fs::read_dir(self.policies_path()).map_err(reading(&self.policies_path()))?.next().is_none() {
            for (name, text) in POLICY_FILES {
                self.keep_or_write(&format!("policies/{name}"), text)?;
            }
        }
        Ok(())
    }

    /// Kept if the issuer's key is in it, whatever else is; else the key is added to those that others put there. Where the
    /// key `is_new`, it stands alone: who has the one that was lost must not go on.
    fn write_key_set(&self, is_new: bool) -> Result<(), DevError> {
        let path = self.path("jwks.json");
        let text = if is_new { None } else { fs::read_to_string(&path).ok() };
        let there = text.and_then(|text| PublishedKeys::from_json(&text).ok());
        let mut keys = there.unwrap_or_else(PublishedKeys::empty);
        if keys.key_ids().any(|key_id| key_id == self.issuer.key_id()) {
            return Ok(());
        }
        let added = keys.add(self.issuer.key_id(), self.issuer.public_key().clone());
        added.map_err(|source| DevError::KeySet { path: path.clone(), source })?;
        write_public(&path, keys.to_json().as_bytes()).map_err(writing(&path))
    }

    fn configuration(&self) -> String {
        let listen = self.options.listen.unwrap_or(DEFAULT_LISTEN);
        let metrics = self
            .options
            .metrics_listen
            .map_or_else(String::new, |listen| format!("\n[metrics]\nlisten = \"{listen}\"\n"));
        format!(
            r#"# A broker to try things out with. Paths are relative to this file.

[node]
name = "dev"

[server]
listen = "{listen}"
certificate_file = "server.pem"
private_key_file = "server.key"

[[identity.issuers]]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
jwks_file = "jwks.json"

[policy]
directory = "policies"

[record]
data_directory = "data"

[state]
root_key_file = "{ROOT_KEY}"
{metrics}"#
        )
    }

    fn write_certificates(&self) -> Result<(), DevError> {
        let authority_key = self.keep_or_generate_key("ca.key")?;
        let server_key = self.keep_or_generate_key("server.key")?;
        let (authority_key, server_key) = (authority_key.text()?, server_key.text()?);
        let (ca, server) = (self.ca_path(), self.path("server.pem"));
        if !ca.exists() {
            let pem = certificates::authority(authority_key).map_err(certificate(&ca))?;
            write_public(&ca, pem.as_bytes()).map_err(writing(&ca))?;
        }
        let sign = |listen| {
            let pem = certificates::server(authority_key, server_key, listen).map_err(certificate(&server))?;
            write_public(&server, pem.as_bytes()).map_err(writing(&server))
        };
        // The configuration is not valid before there is some certificate; the address in it may be another one.
        let listen = self.options.listen.unwrap_or(DEFAULT_LISTEN).ip();
        sign(listen)?;
        let configured = self.config()?.server.listen.ip();
        if configured == listen { Ok(()) } else { sign(configured) }
    }

    fn keep_or_generate_key(&self, name: &str) -> Result<SecretFile, DevError> {
        let path = self.path(name);
        if !path.exists() {
            let key = certificates::generate_key().map_err(certificate(&path))?;
            write_private(&path, key.as_bytes()).map_err(writing(&path))?;
        }
        secret(&path)
    }

    fn keep_or_write(&self, name: &str, content: &str) -> Result<(), DevError> {
        let path = self.path(name);
        if path.exists() {
            return Ok(());
        }
        write_public(&path, content.as_bytes()).map_err(writing(&path))
    }
}

fn secret(path: &Path) -> Result<SecretFile, DevError> {
    let file = SecretFile::read(path)?;
    if let Some(exposed) = file.exposed() {
        tracing::warn!("{exposed}");
    }
    Ok(file)
}

/// Whether the directory is ours to close to others: new, empty, or made by an earlier start. One that somebody else owns
/// is not taken at all, since its keys would not be ours.
fn may_be_closed(path: &Path) -> io::Result<bool> {
    let Ok(metadata) = fs::metadata(path) else { return Ok(true) };
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    Ok(path.join(CONFIGURATION).exists() || fs::read_dir(path)?.next().is_none())
}

/// How clients on this machine reach `address`: by `localhost` where the broker listens everywhere.
#[must_use]
pub fn client_url(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("https://localhost:{}", address.port())
    } else {
        format!("https://{address}")
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, process::Command};

    use rustls::{RootCertStore, client::WebPkiServerVerifier, crypto::aws_lc_rs};
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _};

    use super::*;

    fn dev(path: &Path, options: DevOptions) -> DevDirectory {
        DevDirectory::create_or_reuse(path, options).expect("a development directory")
    }

    fn contents(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
        let files = walkdir::WalkDir::new(root).into_iter().filter_map(Result::ok).filter(|e| e.file_type().is_file());
        files.map(|entry| (entry.path().to_owned(), fs::read(entry.path()).expect("read"))).collect()
    }

    #[test]
    fn a_directory_that_holds_something_else_stays_open() {
        use std::os::unix::fs::PermissionsExt as _;
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("project");
        fs::create_dir(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("opened");
        fs::write(path.join("notes.txt"), "mine").expect("written");
        DevDirectory::create_or_reuse(&path, DevOptions::default()).expect("made");
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o755);
    }

    #[test]
    fn a_second_start_changes_only_the_certificate() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = outer.path().join("veribus-dev");
        let first = contents(dev(&path, DevOptions::default()).root());
        let mut second = contents(dev(&path, DevOptions::default()).root());
        let certificate = path.canonicalize().expect("there").join("server.pem");
        second.insert(certificate.clone(), first[&certificate].clone());
        assert_eq!(first, second);
        assert_eq!(first.len(), 19, "{:?}", first.keys());
    }

    #[test]
    fn what_the_user_changed_stays() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = dev(outer.path(), DevOptions::default());
        let config = fs::read_to_string(directory.config_path()).expect("read").replace("\"dev\"", "\"mine\"");
        fs::write(directory.config_path(), &config).expect("written");
        fs::remove_file(directory.policies_path().join("veribus_test.rego")).expect("removed");
        fs::write(directory.policies_path().join("data.yaml"), "topics: {}").expect("written");
        let again = dev(outer.path(), DevOptions::default());
        assert_eq!(again.config().expect("valid").node.name, "mine");
        assert!(!again.policies_path().join("veribus_test.rego").exists());
        assert_eq!(fs::read_to_string(again.policies_path().join("data.yaml")).expect("read"), "topics: {}");
    }

    #[test]
    fn keys_that_were_added_to_the_set_stay_beside_the_issuers() {
        let outer = tempfile::tempdir().expect("a directory");
        let path = dev(outer.path(), DevOptions::default()).path("jwks.json");
        let pem = KeyKind::EdDsa.generate_pem().expect("a key");
        let other = TokenIssuer::with_key_id(ISSUER, AUDIENCE, &pem, "other").expect("an issuer");
        fs::write(&path, other.jwks()).expect("written");
        let issuer = dev(outer.path(), DevOptions::default()).issuer;
        let keys = PublishedKeys::from_json(&fs::read_to_string(&path).expect("read")).expect("a set");
        assert_eq!(keys.key_ids().collect::<Vec<_>>(), ["other", issuer.key_id()]);
    }

    #[test]
    fn keys_and_tokens_are_for_their_owner_alone() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = dev(&outer.path().join("d"), DevOptions::default());
        directory.write_env("127.0.0.1:4".parse().expect("an address")).expect("written");
        let mode = |path: PathBuf| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        for private in ["ca.key", "server.key", "issuer.key", "env", "tokens/finance-agent.jwt", "tokens/auditor.jwt"] {
            assert_eq!(mode(directory.path(private)), 0o600, "{private}");
        }
        for directory in [directory.root().to_owned(), directory.path("tokens"), directory.path("data")] {
            assert_eq!(mode(directory.clone()), 0o700, "{}", directory.display());
        }
    }

    #[test]
    fn a_new_address_is_honoured_though_the_configuration_stays() {
        let outer = tempfile::tempdir().expect("a directory");
        dev(outer.path(), DevOptions::default());
        let [listen, metrics] = ["127.0.0.7:9000", "127.0.0.7:9001"].map(|text| text.parse().expect("an address"));
        let directory = dev(outer.path(), DevOptions { listen: Some(listen), metrics_listen: Some(metrics) });
        let config = directory.config().expect("valid");
        assert_eq!((config.server.listen, config.metrics.listen), (listen, Some(metrics)));
        assert!(is_valid_for(&directory, "127.0.0.7"));
        dev(outer.path(), DevOptions::default());
        assert!(!is_valid_for(&directory, "127.0.0.7"));
    }

    #[test]
    fn the_port_of_the_start_before_is_kept_while_it_is_free() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = dev(outer.path(), DevOptions::default());
        let listen = |directory: &DevDirectory| directory.config().expect("valid").server.listen;
        assert_eq!(listen(&directory), DEFAULT_LISTEN);
        let taken = TcpListener::bind(DEFAULT_LISTEN).expect("a free port");
        let before = taken.local_addr().expect("an address");
        directory.write_env(before).expect("written");
        assert_eq!(listen(&directory), DEFAULT_LISTEN, "somebody else has it");
        drop(taken);
        assert_eq!(listen(&directory), before);
        let options = DevOptions { listen: Some(DEFAULT_LISTEN), ..DevOptions::default() };
        assert_eq!(listen(&dev(outer.path(), options)), DEFAULT_LISTEN, "it is asked for");
    }

    fn is_valid_for(directory: &DevDirectory, name: &str) -> bool {
        let certificate = |path| CertificateDer::from_pem_file(path).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(certificate(directory.ca_path())).expect("an authority");
        let provider = aws_lc_rs::default_provider().into();
        let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().expect("a verifier");
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        let server = certificate(directory.path("server.pem"));
        rustls::client::danger::ServerCertVerifier::verify_server_cert(
            &*verifier,
            &server,
            &[],
            &name,
            &[],
            UnixTime::now(),
        )
        .is_ok()
    }

    #[test]
    fn the_certificate_is_valid_on_this_machine_and_nowhere_else() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = dev(outer.path(), DevOptions::default());
        for name in ["localhost", "127.0.0.1", "::1"] {
            assert!(is_valid_for(&directory, name), "{name}");
        }
        assert!(!is_valid_for(&directory, "veribus.example"));
    }

    #[test]
    fn a_lost_issuer_key_is_replaced_with_all_that_depends_on_it() {
        let outer = tempfile::tempdir().expect("a directory");
        let first = dev(outer.path(), DevOptions::default());
        fs::remove_file(first.path("issuer.key")).expect("removed");
        let second = dev(outer.path(), DevOptions::default());
        assert_ne!(first.issuer().key_id(), second.issuer().key_id());
        let keys = fs::read_to_string(second.path("jwks.json")).expect("read");
        assert_eq!(PublishedKeys::from_json(&keys), PublishedKeys::from_json(second.issuer().jwks()));
    }

    #[test]
    fn a_shell_that_reads_env_knows_how_to_connect_wherever_the_directory_is() {
        let outer = tempfile::tempdir().expect("a directory");
        let directory = dev(&outer.path().join("it's $HOME; a `dir`"), DevOptions::default());
        directory.write_env("0.0.0.0:4567".parse().expect("an address")).expect("written");
        let script = r#". "$0" && printf '%s\n' "$VERIBUS_URL" "$VERIBUS_CA" "$VERIBUS_TOKEN_FILE""#;
        let output = Command::new("sh").arg("-c").arg(script).arg(directory.env_path()).output().expect("a shell");
        let paths = [directory.ca_path(), directory.token_path("finance-agent")].map(|path| path.display().to_string());
        let expected = format!("https://localhost:4567\n{}\n{}\n", paths[0], paths[1]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }

    #[test]
    fn the_issuer_of_a_directory_that_is_not_there_is_an_error() {
        let error = DevDirectory::issuer_of(Path::new("/nowhere")).expect_err("nothing there");
        assert_eq!(error.to_string(), "cannot read `/nowhere/issuer.key`: No such file or directory (os error 2)");
    }
}
