//! The configuration file: TOML in, validated settings out.
//!
//! Every limit carries its unit in its name. Unknown keys are errors. Paths are relative to the file's directory.

use std::{
    fs, io,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroU64},
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use thiserror::Error;
use url::Url;

mod document;
mod identity;
mod ranges;
mod state;

pub use identity::{IdentityConfig, IssuerConfig, KeysFrom, OneOrMore, Preset, TOKEN_LIFETIME_S_MAX};
pub use state::{HistoryConfig, StateConfig};

use veribus_proto::codec;

use document::{Document, TextFault};

use crate::model::{IdError, NodeName, QUEUES_SHARE, RECEIVE_SHARE, SubjectRecording};

/// Why there are no settings: at least one fault, in the order of the file.
#[derive(Debug, Error)]
#[error("{}", self.lines().join("; "))]
pub struct ConfigError(pub Vec<Fault>);

impl ConfigError {
    /// One line for each fault.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.0.iter().map(ToString::to_string).collect()
    }
}

/// Something wrong with a configuration, told on one line.
#[derive(Debug, Error)]
pub enum Fault {
    /// The file cannot be read.
    #[error("cannot read the configuration `{path}`: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not TOML, or a setting is not there, or cannot be.
    #[error("the configuration `{path}` is not valid: {}{detail}", at_line(*.line))]
    Setting {
        /// The file.
        path: PathBuf,
        /// Where it stands, counted from 1, if it stands in one place.
        line: Option<usize>,
        /// Which key, and what is wrong with it.
        detail: String,
    },
    /// A file that the configuration names is not there or not readable.
    #[error("`{key}`{} names `{file}`, which cannot be read: {source}{}", in_line(*.line), remedy(.key, .source))]
    MissingFile {
        /// Which key.
        key: &'static str,
        /// The line in the configuration.
        line: Option<usize>,
        /// The file it names.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Fault {
    /// Whether it is a missing file of a setting whose name begins like this.
    pub(crate) fn is_missing(&self, section: &str) -> bool {
        matches!(self, Self::MissingFile { key, .. } if key.starts_with(section))
    }
}

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!("line {line}: ")).unwrap_or_default()
}

/// What to do about a file that is not there.
fn remedy(key: &str, error: &io::Error) -> &'static str {
    if error.kind() != io::ErrorKind::NotFound {
        return "";
    }
    match key {
        "server.certificate_file" | "server.private_key_file" => {
            "; `veribus dev` makes one to try, an authority those to keep"
        }
        "identity.issuers.jwks_file" => "; `veribus token keygen --jwks FILE` makes one",
        "state.root_key_file" => "; `veribus keys init FILE` makes one",
        "policy.directory" => "; `veribus dev` makes one to begin with",
        _ => "",
    }
}

fn in_line(line: Option<usize>) -> String {
    line.map(|line| format!(" in line {line}")).unwrap_or_default()
}

/// What a setting is called, and what is wrong with it.
type SettingFault = (&'static str, String);

/// Everything an operator can set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which node this is.
    pub node: NodeConfig,
    /// Where and how it listens.
    pub server: ServerConfig,
    /// Whose tokens it accepts.
    pub identity: IdentityConfig,
    /// What it allows.
    pub policy: PolicyConfig,
    /// What it looks for in messages.
    #[serde(default)]
    pub inspection: InspectionConfig,
    /// Where and how it records.
    pub record: RecordConfig,
    /// How it keeps shared state, and under which root key.
    #[serde(default)]
    pub state: StateConfig,
    /// How it hands messages over.
    #[serde(default)]
    pub delivery: DeliveryConfig,
    /// Where its metrics are read.
    #[serde(default)]
    pub metrics: MetricsConfig,
    /// How much it takes from whom.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// How much each agent may use.
    #[serde(default)]
    pub quotas: QuotasConfig,
}

/// `[node]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// 1 to 32 of `[a-z0-9_]`; stands in every audit entry and decision id.
    pub name: String,
}

/// `[server]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port of the gRPC API; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificate chain, PEM, leaf first.
    pub certificate_file: PathBuf,
    /// The private key, PEM (PKCS #8, SEC1 or PKCS #1).
    pub private_key_file: PathBuf,
    /// Whether clients show certificates of their own (mutual TLS).
    #[serde(default)]
    pub client_certificates: ClientCertificates,
    /// The authorities that sign client certificates, PEM; needed where those are optional or required.
    pub client_ca_file: Option<PathBuf>,
    /// Where clients reach the broker, for example `https://broker.example:7443`; needed for tokens that name a key, since
    /// DPoP proofs say which URL they are for.
    pub public_url: Option<Url>,
    /// How long a drain may take before what is left is cut off.
    #[serde(default = "default_drain_ms")]
    pub drain_ms_max: u64,
}

/// Whether clients show certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientCertificates {
    /// They are not asked for.
    #[default]
    Off,
    /// They are asked for; one that is shown must be good.
    Optional,
    /// No connection without a good one.
    Required,
}

/// `[policy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyConfig {
    /// Holds `*.rego` (without `*_test.rego`, which are for `opa test`), `data.yaml` and `data.json`.
    pub directory: PathBuf,
    /// How many steps one evaluation may take; past it the answer is no.
    #[serde(default = "default_evaluation_steps")]
    pub evaluation_steps_max: u64,
    /// How many decisions are remembered.
    #[serde(default = "default_decision_cache")]
    pub decision_cache_entries_max: usize,
}

/// `[inspection]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectionConfig {
    /// The phrase rules; the built-in file if absent.
    pub rules_file: Option<PathBuf>,
}

/// `[record]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordConfig {
    /// Where the audit log lives. One broker at a time.
    pub data_directory: PathBuf,
    /// How many entries one commit takes at most.
    #[serde(default = "default_commit_entries")]
    pub commit_entries_max: usize,
    /// How long a commit that has 32 entries or more waits for others to join it; 0 means not at all.
    #[serde(default = "default_commit_linger")]
    pub commit_linger_us_max: u64,
    /// How many submissions may wait for the writer.
    #[serde(default = "default_writer_queue")]
    pub writer_queue_submissions_max: usize,
    /// How many payload bytes may wait for their commit, over all senders.
    #[serde(default = "default_writer_queue_bytes")]
    pub writer_queue_bytes_max: usize,
    /// How many of the newest entries are verified at start.
    #[serde(default = "default_tail_entries")]
    pub verify_at_start_entries_max: u64,
    /// Below this much free disk, new publishes and changes of shared state are refused; below a quarter of it, and at most
    /// 64 MiB, reading is refused too, since it could not be recorded.
    #[serde(default = "default_free_disk")]
    pub free_disk_bytes_min: u64,
    /// How many message ids are remembered for each sender.
    #[serde(default = "default_dedup_ids")]
    pub dedup_ids_per_sender_max: usize,
    /// For how many senders message ids are remembered.
    #[serde(default = "default_dedup_senders")]
    pub dedup_senders_max: usize,
    /// How the subjects and correlation ids of messages stand in their entries.
    #[serde(default)]
    pub subjects: Subjects,
    /// The store's page cache.
    #[serde(default = "default_store_cache")]
    pub store_cache_bytes_max: u64,
    /// How many bytes of changes may wait to be taken in by a backup under way; past that the backup fails.
    #[serde(default = "default_backup_journal_bytes")]
    pub backup_journal_bytes_max: usize,
}

/// How the log says what a message is about; see [`SubjectRecording`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "as in `SubjectRecording`")]
pub enum Subjects {
    #[default]
    Hashed,
    Clear,
    Off,
}

impl From<Subjects> for SubjectRecording {
    fn from(setting: Subjects) -> Self {
        match setting {
            Subjects::Hashed => Self::Hashed,
            Subjects::Clear => Self::Clear,
            Subjects::Off => Self::Off,
        }
    }
}

/// What happens to a subscriber whose queue overflows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Its stream is ended with a clear status.
    Disconnect,
    /// The oldest messages that wait for it are dropped, as soon as its queue would go over its bound.
    DropOldest,
}

/// `[delivery]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeliveryConfig {
    /// The bound of one subscriber's queue in messages.
    pub queue_messages_max: usize,
    /// The bound of one subscriber's queue in bytes of memory.
    pub queue_bytes_max: usize,
    /// How long a queue may stay over its bound with nothing taken, before it overflows.
    pub stall_ms_max: u64,
    /// What all queues may hold at any time, in bytes of memory. One agent has at most an eighth.
    pub queues_bytes_max: usize,
    /// What happens where a queue overflows.
    pub overflow: Overflow,
}

/// `[metrics]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// Address and port of the Prometheus listener; none if absent. Plain HTTP: keep it off the public network.
    pub listen: Option<SocketAddr>,
}

/// `[limits]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// The largest message that may pass; a larger one is inspected, quarantined and recorded.
    pub message_bytes_max: usize,
    /// The largest gRPC message (frame) that is decoded; past it the call ends. Above `message_bytes_max`.
    pub frame_bytes_max: usize,
    /// How many messages one `PublishStreamRequest` may carry.
    pub frame_messages_max: usize,
    /// How long a gRPC message may take from its first byte to its last; past it the call ends.
    pub frame_ms_max: u64,
    /// Memory for the requests of all agents that are being received, in bytes. One agent has at most an eighth, which also
    /// counts what waits for its record.
    pub receive_bytes_max: usize,
    /// How many messages of one publish stream may wait for their record.
    pub publish_in_flight_messages_max: usize,
    /// How many payload bytes of one publish stream may wait for their record.
    pub publish_in_flight_bytes_max: usize,
    /// How many patterns one subscription may name.
    pub subscription_patterns_max: usize,
    /// Connections in all.
    pub connections_max: usize,
    /// Connections from one address.
    pub connections_per_address_max: usize,
    /// Connections of one identity.
    pub connections_per_identity_max: usize,
    /// Connections without an authenticated call that only ask for health (`grpc.health.v1`), in all; never more than half
    /// of `connections_max`.
    pub health_connections_max: usize,
    /// The same from one address; never more than half of `connections_per_address_max`.
    pub health_connections_per_address_max: usize,
    /// Concurrent streams on one connection.
    pub streams_per_connection_max: u32,
    /// HTTP/2 header list.
    pub header_list_bytes_max: u32,
    /// How long a TLS handshake may take.
    pub tls_handshake_ms_max: u64,
    /// How long a connection may stay without an authenticated call; those that ask for health have a share of their own.
    pub first_authenticated_call_ms_max: u64,
    /// HTTP/2 keepalive: how often.
    pub keepalive_interval_ms: u64,
    /// HTTP/2 keepalive: how long to wait for the answer.
    pub keepalive_timeout_ms: u64,
    /// How old a connection may get before it is asked to reconnect; off if absent.
    pub connection_age_ms_max: Option<u64>,
    /// HTTP/2 stream window.
    pub stream_window_bytes: u32,
    /// HTTP/2 connection window.
    pub connection_window_bytes: u32,
    /// Reset streams that wait to be accepted, before the connection is closed (CVE-2023-44487).
    pub pending_accept_resets_max: usize,
    /// Streams reset for the peer's errors, before the connection is closed.
    pub local_error_resets_max: usize,
    /// How many refused callers a second get an audit entry of their own; more are counted together. Those whose token has
    /// a good signature and all others have this each.
    pub authentication_refusals_recorded_per_s_max: u32,
    /// What is recorded in a day of callers who show no token with a good signature, in bytes; what is beyond is counted
    /// together, by address prefix. One prefix (/24 of IPv4, /48 of IPv6) has at most a sixteenth.
    pub anonymous_record_bytes_per_day_max: NonZeroU64,
}

/// `[quotas]`: for each agent, whatever its connections and tokens. The policy's `data.quotas` may say otherwise for
/// single agents and roles.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuotasConfig {
    /// Messages published a second; unlimited if absent.
    pub messages_per_s_max: Option<NonZeroU64>,
    /// Bytes published a second, as the messages are encoded on the wire; unlimited if absent. A message that is larger
    /// than `burst_s` seconds' worth never passes.
    pub bytes_per_s_max: Option<NonZeroU64>,
    /// How many seconds' worth of both may come at once.
    pub burst_s: NonZeroU32,
    /// Calls and streams at the same time.
    pub streams_max: NonZeroU64,
    /// Subscriptions at the same time.
    pub subscriptions_max: NonZeroU64,
    /// For how many agents at the same time accounts are kept; beyond, further agents must wait.
    pub agents_max: usize,
}

const MIB: usize = 1024 * 1024;

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            queue_messages_max: 16_384,
            queue_bytes_max: 8 * MIB,
            stall_ms_max: 2_000,
            queues_bytes_max: 256 * MIB,
            overflow: Overflow::Disconnect,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: MIB,
            frame_bytes_max: 4 * MIB,
            frame_messages_max: codec::ITEMS_MAX,
            frame_ms_max: 30_000,
            receive_bytes_max: 256 * MIB,
            publish_in_flight_messages_max: 4096,
            publish_in_flight_bytes_max: 8 * MIB,
            subscription_patterns_max: 32,
            connections_max: 10_000,
            connections_per_address_max: 1_000,
            connections_per_identity_max: 256,
            health_connections_max: 1_024,
            health_connections_per_address_max: 32,
            streams_per_connection_max: 1_000,
            header_list_bytes_max: 16 * 1024,
            tls_handshake_ms_max: 5_000,
            first_authenticated_call_ms_max: 5_000,
            keepalive_interval_ms: 30_000,
            keepalive_timeout_ms: 10_000,
            connection_age_ms_max: None,
            stream_window_bytes: 256 * 1024,
            connection_window_bytes: 2 * 1024 * 1024,
            pending_accept_resets_max: 20,
            local_error_resets_max: 64,
            authentication_refusals_recorded_per_s_max: 20,
            anonymous_record_bytes_per_day_max: NonZeroU64::MIN.saturating_add(64 * 1024 * 1024 - 1),
        }
    }
}

impl Default for QuotasConfig {
    fn default() -> Self {
        let places = NonZeroU64::MIN.saturating_add(1_023);
        Self {
            messages_per_s_max: None,
            bytes_per_s_max: None,
            burst_s: NonZeroU32::MIN,
            streams_max: places,
            subscriptions_max: places,
            agents_max: 65_536,
        }
    }
}

const fn default_drain_ms() -> u64 {
    10_000
}
/// Some hundred times what the default policy takes.
pub const EVALUATION_STEPS_MAX: u64 = 200_000;

const fn default_evaluation_steps() -> u64 {
    EVALUATION_STEPS_MAX
}
const fn default_decision_cache() -> usize {
    65_536
}
const fn default_commit_entries() -> usize {
    4_096
}
const fn default_commit_linger() -> u64 {
    500
}
const fn default_writer_queue() -> usize {
    1_024
}
const fn default_backup_journal_bytes() -> usize {
    64 * 1024 * 1024
}

const fn default_writer_queue_bytes() -> usize {
    256 << 20
}
const fn default_tail_entries() -> u64 {
    100_000
}
const fn default_free_disk() -> u64 {
    1 << 30
}
const fn default_dedup_ids() -> usize {
    16_384
}
const fn default_dedup_senders() -> usize {
    256
}
const fn default_store_cache() -> u64 {
    64 << 20
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        whole(Self::look(path))
    }

    /// Checks the text of a configuration file; relative paths are taken from `directory`.
    ///
    /// # Errors
    /// [`ConfigError`], naming `path`.
    pub fn parse(text: &str, path: &Path, directory: &Path) -> Result<Self, ConfigError> {
        whole(Self::look_at(text, path, directory))
    }

    /// As [`Config::load`], with every fault, and the settings as far as they can be told: for a look at what they name, not
    /// to start with.
    #[must_use]
    pub fn look(path: &Path) -> (Option<Self>, Vec<Fault>) {
        let directory = path.parent().unwrap_or_else(|| Path::new("."));
        match fs::read_to_string(path) {
            Ok(text) => Self::look_at(&text, path, directory),
            Err(source) => (None, vec![Fault::Read { path: path.to_owned(), source }]),
        }
    }

    fn look_at(text: &str, path: &Path, directory: &Path) -> (Option<Self>, Vec<Fault>) {
        let setting = |TextFault { line, detail }| Fault::Setting { path: path.to_owned(), line, detail };
        let document = match Document::parse(text) {
            Ok(document) => document,
            Err(fault) => return (None, vec![setting(fault)]),
        };
        let (mut config, faults) = document.config();
        let mut faults: Vec<_> = faults.into_iter().map(setting).collect();
        if let Some(config) = &mut config {
            config.resolve_paths(directory);
            let about = |(key, fault)| TextFault { line: document.line(key), detail: format!("`{key}` {fault}") };
            faults.extend(config.setting_faults().into_iter().map(about).map(setting));
            faults.extend(config.missing_files(&document));
        }
        (config, faults)
    }

    /// The node's name, parsed.
    ///
    /// # Errors
    /// Where it is no node name; [`Config::load`] has checked that.
    pub fn node_name(&self) -> Result<NodeName, IdError> {
        NodeName::parse(&self.node.name)
    }

    fn resolve_paths(&mut self, directory: &Path) {
        let server = &mut self.server;
        let mut paths = vec![
            &mut server.certificate_file,
            &mut server.private_key_file,
            &mut self.policy.directory,
            &mut self.record.data_directory,
        ];
        paths.extend(self.identity.issuers.iter_mut().flat_map(IssuerConfig::files_mut));
        paths.extend(self.state.root_key_file.as_mut());
        paths.extend(self.inspection.rules_file.as_mut());
        paths.extend(server.client_ca_file.as_mut());
        for path in paths {
            *path = directory.join(&*path);
        }
    }

    /// What does not fit together, or cannot be and is no number.
    fn setting_faults(&self) -> Vec<SettingFault> {
        let mut faults = Vec::new();
        faults.extend(self.node.fault());
        faults.extend(self.identity.faults());
        faults.extend(self.server.faults());
        faults.extend(self.state.faults());
        faults.extend(self.limits.faults());
        let of_agent_min = self.delivery.queue_bytes_max.max(self.limits.frame_bytes_max);
        if self.delivery.queues_bytes_max / QUEUES_SHARE < of_agent_min {
            let least = of_agent_min.saturating_mul(QUEUES_SHARE);
            let fault = format!("must be at least {least}: eight full queues, or eight of the largest frames");
            faults.push(("delivery.queues_bytes_max", fault));
        }
        faults
    }

    fn missing_files(&self, document: &Document<'_>) -> Vec<Fault> {
        let mut files = vec![
            ("server.certificate_file", &self.server.certificate_file),
            ("server.private_key_file", &self.server.private_key_file),
        ];
        files.extend(self.identity.issuers.iter().flat_map(IssuerConfig::files));
        files.extend(self.server.client_ca_file.iter().map(|file| ("server.client_ca_file", file)));
        files.extend(self.state.root_key_file.iter().map(|file| ("state.root_key_file", file)));
        files.extend(self.inspection.rules_file.iter().map(|file| ("inspection.rules_file", file)));
        let read = files.into_iter().map(|(key, file)| (key, file, readable(file)));
        let policy = &self.policy.directory;
        read.chain([("policy.directory", policy, fs::read_dir(policy).map(drop))])
            .filter_map(|(key, file, read)| {
                let source = read.err()?;
                Some(Fault::MissingFile { key, line: document.line(key), file: file.clone(), source })
            })
            .collect()
    }
}

fn whole((config, faults): (Option<Config>, Vec<Fault>)) -> Result<Config, ConfigError> {
    match config {
        Some(config) if faults.is_empty() => Ok(config),
        _ => Err(ConfigError(faults)),
    }
}

impl NodeConfig {
    /// A name that is none, with the first character that cannot be in one.
    fn fault(&self) -> Option<SettingFault> {
        let error = NodeName::parse(&self.name).err()?;
        let wrong = |character: &char| NodeName::parse(character.encode_utf8(&mut [0; 4])).is_err();
        let place = match self.name.chars().zip(1..).find(|(character, _)| wrong(character)) {
            Some((character, place)) => {
                format!(": {character:?}, character {place}; it takes `a` to `z`, digits and `_`")
            }
            None => String::new(),
        };
        Some(("node.name", format!("is not a node name: {error}{place}")))
    }
}

impl LimitsConfig {
    /// What does not fit together.
    fn faults(&self) -> Vec<SettingFault> {
        let mut faults = Vec::new();
        if self.frame_bytes_max <= self.message_bytes_max {
            let fault = "must be above `limits.message_bytes_max`, so that an oversized message can be recorded";
            faults.push(("limits.frame_bytes_max", fault.to_owned()));
        }
        if self.receive_bytes_max / RECEIVE_SHARE < self.frame_bytes_max {
            let least = self.frame_bytes_max.saturating_mul(RECEIVE_SHARE);
            faults.push(("limits.receive_bytes_max", format!("must be at least {least}: eight of the largest frames")));
        }
        if self.connection_window_bytes < self.stream_window_bytes {
            let least = self.stream_window_bytes;
            let fault = format!("must be at least {least}: `limits.stream_window_bytes`");
            faults.push(("limits.connection_window_bytes", fault));
        }
        faults
    }
}

/// A pipe by a name in a directory waits for whoever comes to write, for ever perhaps.
fn readable(file: &Path) -> io::Result<()> {
    if fs::metadata(file)?.file_type().is_fifo() && !file.starts_with("/dev/fd") {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a pipe"));
    }
    fs::File::open(file).map(drop)
}

impl ServerConfig {
    /// See [`ServerConfig::drain_ms_max`].
    #[must_use]
    pub const fn drain_max(&self) -> Duration {
        Duration::from_millis(self.drain_ms_max)
    }

    /// The file with the authorities of client certificates, and whether nobody connects without one; `None` where none are
    /// asked for. Without a file its name is empty, which cannot be read.
    #[must_use]
    pub fn client_authorities(&self) -> Option<(&Path, bool)> {
        let file = self.client_ca_file.as_deref().unwrap_or_else(|| Path::new(""));
        match self.client_certificates {
            ClientCertificates::Off => None,
            ClientCertificates::Optional => Some((file, false)),
            ClientCertificates::Required => Some((file, true)),
        }
    }

    /// What does not fit together or cannot be, and why.
    fn faults(&self) -> Vec<SettingFault> {
        let mut faults = Vec::new();
        let asks = self.client_certificates != ClientCertificates::Off;
        if asks != self.client_ca_file.is_some() {
            let fault = if asks {
                "is missing, so that no client certificate could be checked"
            } else {
                "has no effect while `server.client_certificates` is `off`"
            };
            faults.push(("server.client_ca_file", fault.to_owned()));
        }
        let is_plain = |url: &Url| {
            let has_user = !url.username().is_empty() || url.password().is_some();
            url.scheme() == "https" && url.has_host() && !has_user && url.query().is_none() && url.fragment().is_none()
        };
        if self.public_url.as_ref().is_some_and(|url| !is_plain(url)) {
            faults.push(("server.public_url", "is not an `https` URL of a host alone or with a path".to_owned()));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a directory");
        for file in ["cert.pem", "key.pem", "jwks.json", "root.key"] {
            fs::write(directory.path().join(file), "").expect("written");
        }
        fs::create_dir(directory.path().join("policies")).expect("made");
        directory
    }

    const VALID: &str = r#"
[node]
name = "test"
[server]
listen = "127.0.0.1:0"
certificate_file = "cert.pem"
private_key_file = "key.pem"
[[identity.issuers]]
issuer = "https://issuer.example"
audience = "veribus"
jwks_file = "jwks.json"
[policy]
directory = "policies"
[record]
data_directory = "data"
[state]
root_key_file = "root.key"
"#;

    fn parse(text: &str) -> Result<Config, String> {
        let directory = fixture();
        Config::parse(text, Path::new("veribus.toml"), directory.path()).map_err(|error| error.to_string())
    }

    #[test]
    fn a_minimal_file_is_enough_and_paths_are_relative_to_it() {
        let directory = fixture();
        let config = Config::parse(VALID, Path::new("veribus.toml"), directory.path()).expect("valid");
        assert_eq!(config.record.data_directory, directory.path().join("data"));
        assert_eq!(config.limits.message_bytes_max, 1_048_576);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = parse(&VALID.replace("[record]", "[record]\nfsync = false")).expect_err("unknown");
        assert!(error.contains("line 15") && error.contains("fsync"), "{error}");
        assert!(!error.contains('\n'), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_key() {
        let error = parse(&VALID.replace("jwks.json", "nowhere.json")).expect_err("missing");
        assert!(error.contains("identity.issuers.jwks_file") && error.contains("nowhere.json"), "{error}");
    }

    #[test]
    fn an_oversized_message_must_be_able_to_reach_inspection() {
        let error = parse(&format!("{VALID}[limits]\nframe_bytes_max = 1024")).expect_err("too small");
        assert!(error.contains("limits.frame_bytes_max"), "{error}");
    }

    #[test]
    fn client_certificates_and_their_authority_come_together() {
        let with = |settings: &str| parse(&VALID.replace("[server]", &format!("[server]\n{settings}")));
        for mode in ["optional", "required"] {
            let error = with(&format!("client_certificates = \"{mode}\"")).expect_err("no authority");
            assert!(error.contains("server.client_ca_file"), "{error}");
            let both = format!("client_certificates = \"{mode}\"\nclient_ca_file = \"cert.pem\"");
            assert!(with(&both).is_ok());
            let error = with(&both.replace("cert.pem", "nowhere.pem")).expect_err("missing");
            assert!(error.contains("server.client_ca_file") && error.contains("nowhere.pem"), "{error}");
        }
        let error = with("client_ca_file = \"cert.pem\"").expect_err("no effect");
        assert!(error.contains("server.client_ca_file"), "{error}");
        assert!(with("client_certificates = \"always\"").is_err());
    }

    #[test]
    fn a_public_url_is_that_of_a_server_reached_by_tls() {
        let with = |url: &str| parse(&VALID.replace("[server]", &format!("[server]\npublic_url = \"{url}\"")));
        for url in ["https://broker.example", "https://broker.example:7443/", "https://proxy.example/bus"] {
            assert!(with(url).is_ok(), "{url}");
        }
        for url in ["http://broker.example", "https://a@b.example", "https://b.example?x", "https://b.example#x"] {
            let error = with(url).expect_err(url);
            assert!(error.contains("server.public_url"), "{error}");
        }
        for url in ["", "broker.example", "https://"] {
            assert!(with(url).is_err(), "{url}");
        }
    }

    #[test]
    fn no_issuer_is_an_error() {
        let (before, after) = VALID.split_once("[[identity.issuers]]").expect("there");
        let (_, after) = after.split_once("[policy]").expect("there");
        let error = parse(&format!("{before}[identity]\nissuers = []\n[policy]{after}")).expect_err("nobody");
        assert!(error.contains("identity.issuers"), "{error}");
    }

    #[test]
    fn rates_are_unlimited_unless_they_are_set() {
        let quotas = parse(VALID).expect("valid").quotas;
        assert_eq!((quotas.messages_per_s_max, quotas.bytes_per_s_max), (None, None));
        assert_eq!((quotas.streams_max.get(), quotas.subscriptions_max.get()), (1_024, 1_024));
        let quotas = parse(&format!("{VALID}[quotas]\nmessages_per_s_max = 5")).expect("valid").quotas;
        assert_eq!(quotas.messages_per_s_max, NonZeroU64::new(5));
        assert!(parse(&format!("{VALID}[quotas]\nbytes_per_s_max = 0")).is_err());
    }

    #[test]
    fn an_agent_may_fill_one_queue() {
        let delivery = parse(VALID).expect("valid").delivery;
        assert_eq!((delivery.stall_ms_max, delivery.queues_bytes_max), (2_000, 256 * MIB));
        for settings in ["queues_bytes_max = 67108863", "queue_bytes_max = 33554433"] {
            let error = parse(&format!("{VALID}[delivery]\n{settings}")).expect_err("too small");
            assert!(error.contains("delivery.queues_bytes_max"), "{error}");
        }
        assert!(parse(&format!("{VALID}[delivery]\nqueues_bytes_max = 67108864")).is_ok());
    }

    #[test]
    fn a_limit_of_zero_is_an_error() {
        let error = parse(&format!("{VALID}[limits]\nconnections_max = 0")).expect_err("zero");
        assert!(error.contains("limits.connections_max"), "{error}");
    }

    #[test]
    fn a_day_has_room_for_some_anonymous_entries() {
        let error = parse(&format!("{VALID}[limits]\nanonymous_record_bytes_per_day_max = 32767")).expect_err("few");
        assert!(error.contains("limits.anonymous_record_bytes_per_day_max"), "{error}");
        assert_eq!(parse(VALID).expect("valid").limits.anonymous_record_bytes_per_day_max.get(), 64 << 20);
    }

    #[test]
    fn a_window_of_a_connection_has_room_for_one_of_a_stream() {
        let error = parse(&format!("{VALID}[limits]\nstream_window_bytes = 2097153")).expect_err("too large");
        assert!(error.contains("limits.connection_window_bytes") && error.contains("2097153"), "{error}");
    }

    #[test]
    fn every_fault_is_told_at_once_with_its_line() {
        let directory = fixture();
        let text = VALID
            .replace("name = \"test\"", "name = \"Node-1\"")
            .replace("[server]", "[server]\ndrain_s_max = 1\ndrain_ms_max = \"long\"")
            .replace("cert.pem", "nowhere.pem")
            .replace("jwks.json", "nowhere.json")
            .replace("[record]", "[record]\nfsync = false\nstore_cache_bytes_max = 0");
        let error = Config::parse(&text, Path::new("veribus.toml"), directory.path()).expect_err("faults");
        let lines = error.lines();
        let told = [
            ("line 5: ", "drain_s_max"),
            ("line 6: ", "invalid type"),
            ("line 17: ", "fsync"),
            ("line 18: ", "record.store_cache_bytes_max"),
            (
                "line 3: ",
                "`node.name` is not a node name: node name holds a character that is not allowed: 'N', character 1",
            ),
            ("line 8 ", "nowhere.pem"),
            ("line 13 ", "nowhere.json"),
        ];
        assert_eq!(lines.len(), told.len(), "{lines:#?}");
        for (line, (number, part)) in lines.iter().zip(told) {
            assert!(line.contains(number) && line.contains(part) && !line.contains('\n'), "{line}: {part}");
        }
    }

    #[test]
    fn every_setting_that_is_missing_is_told_at_once_with_an_example() {
        let missing = |text: &str| {
            let error = parse(text).expect_err("not enough");
            error.matches("is missing, for example").count()
        };
        assert_eq!(missing(""), 8, "and the root key, once the rest is there");
        assert_eq!(missing("[node]\nname = \"a\"\n[server]\nlisten = \"127.0.0.1:0\""), 6);
        let error = parse(&VALID.replace("directory = \"policies\"", "")).expect_err("no policy");
        assert_eq!(error.matches("missing").count(), 1, "{error}");
        assert!(error.contains("`policy.directory` is missing, for example `directory = \"policies\"`"), "{error}");
        let second =
            format!("{VALID}\n[[identity.issuers]]\nissuer = \"https://b.example\"\njwks_file = \"jwks.json\"\n");
        let error = parse(&second).expect_err("no audience of the second");
        assert!(error.contains("missing field `audience`"), "{error}");
        let error = parse(&VALID.replace("root_key_file = \"root.key\"", "")).expect_err("no root key");
        assert!(error.contains("`state.root_key_file` is missing"), "{error}");
    }

    #[test]
    fn a_setting_that_is_wrong_is_not_told_as_missing_too() {
        let directory = fixture();
        let text = VALID.replace("listen = \"127.0.0.1:0\"", "listen = \"nowhere\"");
        let lines = Config::parse(&text, Path::new("veribus.toml"), directory.path()).expect_err("no address").lines();
        assert!(matches!(&lines[..], [one] if one.contains("line 5: ")), "{lines:?}");
    }

    #[test]
    fn what_is_no_toml_is_one_fault() {
        let text = format!("{VALID}[limits\n[delivery\n");
        let error = Config::parse(&text, Path::new("veribus.toml"), Path::new(".")).expect_err("no TOML");
        assert!(matches!(&error.lines()[..], [one] if one.contains("line 18: ")), "{error}");
    }
}
