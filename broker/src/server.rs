//! Builds the stages from the settings, serves, and shuts down in good order.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::Server;
use tonic_health::server::HealthReporter;
use veribus_proto::v1::{
    admin_service_server::AdminServiceServer, audit_service_server::AuditServiceServer,
    broker_service_server::BrokerServiceServer, state_service_server::StateServiceServer,
};

use self::serving::Serving;
use crate::{
    administer::{AdminStages, Administration, KeyStages, TokenLifetime},
    authenticate::{Authenticator, ProofLimits, ProofSettings, Sessions},
    config::{Config, LimitsConfig, Overflow},
    decide::{BundleError, Decider, DeciderSettings},
    deliver::{Deliverer, QueueLimits, Router},
    engine::{SharedLogStore, sled::SledLog},
    inspect::{Inspector, RulesError},
    metrics::Metrics,
    model::{Ceiling, Clock, IdError, QuotaTerms},
    publish::Publisher,
    quota::{QuotaTable, Quotas},
    record::{
        DiskWatch, Draft, Fingerprints, LogReader, RecordError, Recorder, StartError, Writer, WriterEnd, WriterSettings,
    },
    seal::{KeyRing, NodeKey, RootKeys, SecretFileError},
    share::{ShareStages, Sharing},
    state::{Changes, StateReader},
    subscribe::Reading,
    transport::{
        admin::Admin,
        audit::Audit,
        broker::Broker,
        connection::{ConnectionCounts, ConnectionLimits},
        frame_body::FrameLimits,
        gate::GateLayer,
        health::HealthShare,
        listener::{self, ListenerLimits},
        malformed::FaultRecorder,
        overruns::Overruns,
        pipeline::{AgentLimits, Pipelines},
        refusals::{RefusalLimits, Refusals},
        renewal::Renewals,
        state::State,
        tls::{ServerTls, TlsError},
    },
    workers::Workers,
};

mod exposition;
mod files;
pub(crate) mod issuers;
mod reload;
mod serving;
pub(crate) mod shared;
mod supervisor;

pub use crate::engine::sled::{OpenError, wait_until_closed};
pub use issuers::IssuerError;
use reload::{Reloadable, Reloads, WatchedFiles};
pub use shared::KeysError;
use supervisor::{Supervisor, Watched};
pub use supervisor::{TaskEnd, TaskEnded, TaskHandles};

/// The largest requests of the services that are open to everybody, and of the auditors' and operators': names and filters only.
const HEALTH_BYTES_MAX: usize = 1024;
const REFLECTION_BYTES_MAX: usize = 8 * 1024;
const SMALL_REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The thread that everything is recorded by.
const AUDIT_WRITER: &str = "audit writer";
/// How long a drain waits for what ends with the connections to be noted in the log.
const NOTES_MAX: Duration = Duration::from_secs(10);

/// Why the broker does not run.
#[derive(Debug, Error)]
pub enum ServerError {
    /// A name in the settings is not one.
    #[error(transparent)]
    Name(#[from] IdError),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A private key cannot be read, or others may replace it.
    #[error(transparent)]
    Secret(#[from] SecretFileError),
    /// An issuer cannot be trusted as it is configured.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] BundleError),
    /// The rules of inspection cannot be used.
    #[error("the inspection rules are not valid: {0}")]
    Rules(#[from] RulesError),
    /// The file with the rules of inspection cannot be read.
    #[error("cannot read the inspection rules `{path}`: {source}")]
    ReadRules {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The log cannot be continued.
    #[error(transparent)]
    Log(#[from] StartError),
    /// The keys of shared state cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// An address cannot be listened on.
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A thread or service cannot be started.
    #[error("cannot start: {0}")]
    Start(String),
    /// The writer ended: nothing can be recorded any more.
    #[error("the audit log has ended: {0}")]
    Writer(#[from] WriterEnd),
    /// Something that the broker cannot be without ended.
    #[error(transparent)]
    Task(#[from] TaskEnded),
}

impl ServerError {
    /// Whether the settings, and not the moment, are to blame.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::Name(_)
            | Self::Tls(_)
            | Self::Secret(_)
            | Self::Issuer(_)
            | Self::Policy(_)
            | Self::Rules(_)
            | Self::Keys(_)
            | Self::ReadRules { .. } => true,
            Self::Open(_) | Self::Log(_) | Self::Listen { .. } | Self::Start(_) | Self::Writer(_) | Self::Task(_) => {
                false
            }
        }
    }
}

/// What a test may put in the place of the real thing.
#[derive(Default)]
pub struct StartOptions {
    /// Tells the time.
    pub clock: Clock,
    /// Keeps the log, instead of sled in the data directory.
    pub store: Option<SharedLogStore>,
    /// Learns what runs, and can end it.
    pub tasks: TaskHandles,
}

/// A broker that serves.
pub struct RunningServer {
    address: SocketAddr,
    metrics_address: Option<SocketAddr>,
    drain_max: Duration,
    drain: CancellationToken,
    stop_serving: CancellationToken,
    close_all: CancellationToken,
    health: HealthReporter,
    recorder: Recorder,
    tasks: TaskTracker,
    refusals: Arc<Refusals>,
    overruns: Arc<Overruns>,
    connections: Arc<ConnectionCounts>,
    reload: Arc<Notify>,
    serving: JoinHandle<()>,
    supervisor: Supervisor,
    /// `None` once its end was told.
    writer: Option<oneshot::Receiver<Result<(), WriterEnd>>>,
}

/// Starts a broker.
///
/// # Errors
/// [`ServerError`]: nothing runs then.
pub async fn start(config: Config, options: StartOptions) -> Result<RunningServer, ServerError> {
    Builder::new(config, options)?.serve().await
}

/// Every stage, built and not yet connected to a socket.
struct Builder {
    config: Config,
    supervisor: Supervisor,
    clock: Clock,
    metrics: Metrics,
    authenticator: Arc<Authenticator>,
    decider: Arc<Decider>,
    router: Arc<Router>,
    inspector: Arc<Inspector>,
    tls: Arc<ServerTls>,
    counts: Arc<ConnectionCounts>,
    reloadable: Vec<Reloadable>,
    quotas: Arc<Quotas>,
    writer: Writer,
    recorder: Recorder,
    log: LogReader,
    fingerprints: Fingerprints,
    node_key: NodeKey,
    roots: RootKeys,
    keys: Arc<KeyRing>,
    changes: Arc<Changes>,
    reader: StateReader,
}

impl Builder {
    fn new(config: Config, options: StartOptions) -> Result<Self, ServerError> {
        let (clock, metrics) = (options.clock, exposition::metrics());
        let supervisor = Supervisor::new(options.tasks);
        let counts = ConnectionCounts::new(connection_limits(&config.limits), metrics.clone());
        let (tls, mut reloadable) = files::tls(&config.server, &clock, &counts)?;
        let (verifier, key_sets) = issuers::verifier(&config.identity, clock.clone(), &metrics, &supervisor)?;
        reloadable.extend(key_sets);
        let authenticator = Arc::new(Authenticator::new(Arc::new(verifier), proof_settings(&config), clock.clone()));
        let revocations = Arc::clone(authenticator.revocations());
        let (inspector, rules) = files::inspector(config.inspection.rules_file.as_deref())?;
        reloadable.extend(rules);
        let policy = WatchedFiles::links(&config.policy.directory);
        let decider = Arc::new(Decider::load(decider_settings(&config), clock.clone())?);
        let quotas = quotas(&config, &decider, clock.clone());
        reloadable.push(files::policy(policy, &decider, &quotas));
        let router = Arc::new(Router::new(queue_limits(&config), clock.clone(), metrics.clone()));
        let store = match options.store {
            Some(store) => store,
            None => open_store(&config)?,
        };
        let disk = DiskWatch::new(&config.record.data_directory, config.record.free_disk_bytes_min);
        let settings = writer_settings(&config)?;
        let shared::OpenState { roots, keys, node_key, changes, table, reader } =
            shared::open(&config.state, &store, &clock)?;
        let fingerprints = Fingerprints::new(node_key.clone(), config.record.subjects.into());
        let (writer, recorder, log) =
            Writer::start(store, settings, disk, clock.clone(), metrics.clone(), revocations, table)?;
        if let Some(last) = log.found_at() {
            authenticator.proofs_accepted_until(last);
        }
        Ok(Self {
            config,
            supervisor,
            clock,
            metrics,
            authenticator,
            decider,
            router,
            inspector,
            tls,
            counts,
            reloadable,
            quotas,
            writer,
            recorder,
            log,
            fingerprints,
            node_key,
            roots,
            keys,
            changes,
            reader,
        })
    }

    async fn serve(self) -> Result<RunningServer, ServerError> {
        let Self {
            config,
            supervisor,
            clock,
            metrics,
            authenticator,
            decider,
            router,
            inspector,
            tls,
            counts,
            reloadable,
            quotas,
            writer,
            recorder,
            log,
            fingerprints,
            node_key,
            roots,
            keys,
            changes,
            reader,
        } = self;
        let listener = listen(config.server.listen).await?;
        let metrics_listener = match config.metrics.listen {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let address = listener.local_addr().map_err(|error| ServerError::Start(error.to_string()))?;
        let writer = run_writer(writer, Deliverer::new(Arc::clone(&router)), supervisor.thread(AUDIT_WRITER))?;
        let started = Draft::started(env!("CARGO_PKG_VERSION"), decider.policy_sha256());
        if recorder.report(started).await.is_err() {
            drop(recorder);
            return Err(writer_ended(writer).await);
        }

        let (drain, close_all, stop_serving) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let tasks = TaskTracker::new();
        let sessions = Sessions::new(clock.clone());
        let limits = &config.limits;
        let refusal_limits = RefusalLimits {
            recorded_per_s_max: limits.authentication_refusals_recorded_per_s_max,
            anonymous_bytes_per_day_max: limits.anonymous_record_bytes_per_day_max,
        };
        let refusals = Refusals::new(refusal_limits, clock.clone(), metrics.clone());
        let overruns = Overruns::new(metrics.clone());
        let workers = Workers::for_all_cores();
        let sharing = Sharing::new(ShareStages {
            inspector: Arc::clone(&inspector),
            decider: Arc::clone(&decider),
            recorder: recorder.clone(),
            reader: reader.clone(),
            keys: Arc::clone(&keys),
            changes,
            node_key,
            workers: workers.clone(),
            clock: clock.clone(),
        });
        let publisher = Arc::new(Publisher::new(
            inspector,
            Arc::clone(&decider),
            Arc::clone(&router),
            recorder.clone(),
            fingerprints.clone(),
            workers,
            clock.clone(),
            metrics.clone(),
        ));
        let renewals = Renewals::new(Arc::clone(&authenticator), Arc::clone(&refusals), recorder.clone());
        let administration = Administration::new(AdminStages {
            decider: Arc::clone(&decider),
            router: Arc::clone(&router),
            recorder: recorder.clone(),
            sessions: Arc::clone(&sessions),
            revocations: Arc::clone(authenticator.revocations()),
            tasks: tasks.clone(),
            clock: clock.clone(),
            lifetime: token_lifetime(&config),
            keys: KeyStages::new(keys, roots),
            log: log.clone(),
            backup_journal_bytes_max: config.record.backup_journal_bytes_max,
        });
        let admin = Admin::new(administration, recorder.clone(), drain.clone());
        supervisor.spawn("queues watch", watch_queues(Arc::clone(&router), recorder.clone(), tasks.clone()));
        let reading = Arc::new(Reading::new(decider, router, recorder.clone(), tasks.clone(), clock.clone()));
        let faults = FaultRecorder::new(recorder.clone(), Arc::clone(&overruns), clock.clone());
        let pipelines = Pipelines {
            faults: faults.clone(),
            recorder: recorder.clone(),
            refusals: Arc::clone(&refusals),
            renewals,
            overruns: Arc::clone(&overruns),
            clock: clock.clone(),
            limits: agent_limits(limits),
            drain: drain.clone(),
        };
        let state = State::new(sharing, pipelines.clone());
        let broker = Broker::new(publisher, Arc::clone(&reading), Arc::clone(&authenticator), pipelines);
        let audit = Audit::new(
            reading,
            log.clone(),
            recorder.clone(),
            fingerprints,
            Arc::clone(&refusals),
            clock.clone(),
            drain.clone(),
        );
        let (health, health_service) = tonic_health::server::health_reporter();
        Serving::with(recorder.disk()).tell(&health).await;

        let gate = GateLayer::new(
            authenticator,
            Arc::clone(&sessions),
            quotas,
            Arc::clone(&overruns),
            Arc::clone(&refusals),
            faults,
            frame_limits(limits),
            metrics.clone(),
        );
        let routes = http2(limits)
            .layer(gate)
            .add_service(HealthShare::new(
                health_service.max_decoding_message_size(HEALTH_BYTES_MAX),
                Arc::clone(&refusals),
            ))
            .add_service(reflection_v1()?)
            .add_service(reflection_v1alpha()?)
            .add_service(BrokerServiceServer::new(broker).max_decoding_message_size(limits.frame_bytes_max))
            .add_service(StateServiceServer::new(state).max_decoding_message_size(limits.frame_bytes_max))
            .add_service(AuditServiceServer::new(audit).max_decoding_message_size(SMALL_REQUEST_BYTES_MAX))
            .add_service(AdminServiceServer::new(admin).max_decoding_message_size(SMALL_REQUEST_BYTES_MAX));
        let stop_accepting = stop_serving.child_token();
        let (accepting, incoming) = listener::incoming(
            listener,
            Arc::clone(&tls),
            Arc::clone(&counts),
            Arc::clone(&refusals),
            listener_limits(limits),
            stop_accepting,
            close_all.clone(),
        );
        supervisor.spawn("accept loop", accepting);
        let stopped = stop_serving.clone().cancelled_owned();
        let serving = supervisor.spawn("gRPC server", async {
            if let Err(error) = routes.serve_with_incoming_shutdown(incoming, stopped).await {
                tracing::error!(%error, "the gRPC server ended");
            }
        });

        let reload = Arc::new(Notify::new());
        let reloads =
            Reloads::new(reloadable, recorder.clone(), metrics.clone(), tls, clock.clone(), Arc::clone(&reload));
        supervisor.spawn("files watch", reloads.run());
        supervisor.spawn("disk watch", watch_disk(recorder.disk().clone(), health.clone(), drain.clone()));
        supervisor.spawn("clock watch", watch_clock(recorder.clone()));
        supervisor.spawn("sessions watch", watch_sessions(sessions));
        supervisor.spawn("due values watch", shared::watch_due(reader, recorder.clone(), clock));
        supervisor.spawn("refusals record", Refusals::record(Arc::downgrade(&refusals), recorder.clone()));
        supervisor.spawn("overruns record", Overruns::record(Arc::downgrade(&overruns), recorder.clone()));
        let mut metrics_address = None;
        if let Some(listener) = metrics_listener {
            metrics_address = listener.local_addr().ok();
            supervisor.spawn("metrics listener", exposition::serve(listener, metrics, recorder.clone(), log));
        }
        tracing::info!(%address, metrics = metrics_address.map(tracing::field::display), "serving");
        Ok(RunningServer {
            address,
            metrics_address,
            drain_max: config.server.drain_max(),
            drain,
            stop_serving,
            close_all,
            health,
            recorder,
            tasks,
            refusals,
            overruns,
            connections: counts,
            reload,
            serving,
            supervisor,
            writer: Some(writer),
        })
    }
}

impl RunningServer {
    /// Where the API listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the metrics are read, if anywhere.
    #[must_use]
    pub const fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Has everything loaded anew that is read from files, soon: certificates, keys, key sets, policy and rules. What does not
    /// load stays as it is. The log says what became of it.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Waits until the broker cannot go on, because something ended that it cannot be without. Safe to drop and call again.
    pub async fn failed(&mut self) -> ServerError {
        let ended = self.supervisor.first_end().await;
        if ended.task == AUDIT_WRITER
            && let Some(writer) = &mut self.writer
        {
            let why = writer.await;
            self.writer = None;
            if let Ok(Err(end)) = why {
                return end.into();
            }
        }
        ended.into()
    }

    /// Shuts down in good order: takes nothing new, answers what is in flight, tells streams to reconnect, closes what is
    /// left after the configured time, and ends the log.
    ///
    /// # Errors
    /// [`ServerError::Writer`] where the log could not be ended.
    pub async fn drain(self) -> Result<(), ServerError> {
        tracing::info!("draining");
        // First, so that the disk watch says the same from now on.
        self.drain.cancel();
        Serving::Nothing.tell(&self.health).await;
        self.stop_serving.cancel();
        let mut serving = self.serving;
        let connections_end = async {
            // A server that ended by itself has left its connections open.
            if (&mut serving).await.is_err() {
                self.connections.all_closed().await;
            }
        };
        if tokio::time::timeout(self.drain_max, connections_end).await.is_err() {
            tracing::warn!("some connections did not end in time: closed");
        }
        self.close_all.cancel();
        serving.abort();
        self.tasks.close();
        // Each task writes one note; a writer that is gone ends them at once.
        if tokio::time::timeout(NOTES_MAX, self.tasks.wait()).await.is_err() {
            tracing::warn!("some ends of subscriptions were not recorded in time");
        }
        for draft in self.refusals.rest().into_iter().chain(self.overruns.end_of_second()) {
            self.recorder.note(draft).await.ok();
        }
        self.recorder.finish(Draft::stopped()).await.ok();
        self.supervisor.end_all();
        let Some(writer) = self.writer else { return Err(writer_gone()) };
        match writer.await {
            Ok(ended) => ended.map_err(Into::into),
            Err(_) => Err(writer_gone()),
        }
    }
}

async fn writer_ended(writer: oneshot::Receiver<Result<(), WriterEnd>>) -> ServerError {
    match writer.await {
        Ok(Err(end)) => end.into(),
        Ok(Ok(())) => ServerError::Start(RecordError::Failed.to_string()),
        Err(_) => writer_gone(),
    }
}

fn writer_gone() -> ServerError {
    ServerError::Start("the writer of the audit log is gone".to_owned())
}

fn proof_settings(config: &Config) -> ProofSettings {
    let identity = &config.identity;
    let limits = ProofLimits { total_max: identity.dpop_proofs_max, per_agent_max: identity.dpop_proofs_per_agent_max };
    ProofSettings { public_url: config.server.public_url.clone(), max_age_s: identity.dpop_max_age_s, limits }
}

fn open_store(config: &Config) -> Result<SharedLogStore, OpenError> {
    open_data(&config.record.data_directory, config.record.store_cache_bytes_max)
}

/// Opens or makes the store in a data directory, as a broker would, for those who copy it.
///
/// # Errors
/// [`OpenError`].
pub fn open_data(directory: &Path, cache_bytes_max: u64) -> Result<SharedLogStore, OpenError> {
    Ok(Arc::new(SledLog::open(directory, cache_bytes_max)?))
}

/// Loads the policy as the broker would, and says how many files it has and its SHA-256.
///
/// # Errors
/// [`BundleError`].
pub fn decider_settings(config: &Config) -> DeciderSettings {
    DeciderSettings {
        directory: config.policy.directory.clone(),
        evaluation_steps_max: config.policy.evaluation_steps_max,
        cache_entries_max: config.policy.decision_cache_entries_max,
        message_bytes_max: config.limits.message_bytes_max,
    }
}

fn writer_settings(config: &Config) -> Result<WriterSettings, IdError> {
    let record = &config.record;
    Ok(WriterSettings {
        node: config.node_name()?,
        commit_entries_max: record.commit_entries_max,
        linger_max: Duration::from_micros(record.commit_linger_us_max),
        queue_submissions_max: record.writer_queue_submissions_max,
        queue_bytes_max: record.writer_queue_bytes_max,
        verify_at_start_entries_max: record.verify_at_start_entries_max,
        dedup_ids_per_sender_max: record.dedup_ids_per_sender_max,
        dedup_senders_max: record.dedup_senders_max,
        revocations_max: config.identity.revocations_max,
    })
}

const fn token_lifetime(config: &Config) -> TokenLifetime {
    TokenLifetime { max_s: config.identity.token_lifetime_s_max }
}

const fn queue_limits(config: &Config) -> QueueLimits {
    QueueLimits {
        messages_max: config.delivery.queue_messages_max,
        bytes_max: config.delivery.queue_bytes_max,
        stall_max: Duration::from_millis(config.delivery.stall_ms_max),
        all_bytes_max: config.delivery.queues_bytes_max,
        drop_oldest: matches!(config.delivery.overflow, Overflow::DropOldest),
    }
}

fn quotas(config: &Config, decider: &Decider, clock: Clock) -> Arc<Quotas> {
    let quotas = &config.quotas;
    let everybody = QuotaTerms {
        messages_per_s: quotas.messages_per_s_max.map(Ceiling::Max),
        bytes_per_s: quotas.bytes_per_s_max.map(Ceiling::Max),
        burst_s: Some(quotas.burst_s),
        streams: Some(Ceiling::Max(quotas.streams_max)),
        subscriptions: Some(Ceiling::Max(quotas.subscriptions_max)),
    };
    let table = QuotaTable::new(everybody, decider.quotas());
    Arc::new(Quotas::new(table, quotas.agents_max, config.limits.receive_bytes_max, clock))
}

const fn agent_limits(limits: &LimitsConfig) -> AgentLimits {
    AgentLimits {
        frame_messages_max: limits.frame_messages_max,
        in_flight_messages_max: limits.publish_in_flight_messages_max,
        in_flight_bytes_max: limits.publish_in_flight_bytes_max,
        subscription_patterns_max: limits.subscription_patterns_max,
    }
}

fn connection_limits(limits: &LimitsConfig) -> ConnectionLimits {
    let at_most_half = |share: usize, of: usize| share.min((of / 2).max(1));
    ConnectionLimits {
        total_max: limits.connections_max,
        per_address_max: limits.connections_per_address_max,
        per_identity_max: limits.connections_per_identity_max,
        health_max: at_most_half(limits.health_connections_max, limits.connections_max),
        health_per_address_max: at_most_half(
            limits.health_connections_per_address_max,
            limits.connections_per_address_max,
        ),
    }
}

const fn listener_limits(limits: &LimitsConfig) -> ListenerLimits {
    ListenerLimits {
        handshake_max: Duration::from_millis(limits.tls_handshake_ms_max),
        first_call_max: Duration::from_millis(limits.first_authenticated_call_ms_max),
    }
}

/// The HTTP/2 server with its limits.
const fn frame_limits(limits: &LimitsConfig) -> FrameLimits {
    // What waits fills its streams' windows, and one more has to go through that of the connection.
    let waiting_max = (limits.connection_window_bytes / limits.stream_window_bytes).saturating_sub(1) as usize;
    let duration_max = Duration::from_millis(limits.frame_ms_max);
    FrameLimits { bytes_max: limits.frame_bytes_max, duration_max, waiting_max }
}

fn http2(limits: &LimitsConfig) -> Server {
    let server = Server::builder()
        .max_concurrent_streams(limits.streams_per_connection_max)
        .http2_max_header_list_size(limits.header_list_bytes_max)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .http2_keepalive_interval(Some(Duration::from_millis(limits.keepalive_interval_ms)))
        .http2_keepalive_timeout(Some(Duration::from_millis(limits.keepalive_timeout_ms)))
        .http2_max_pending_accept_reset_streams(Some(limits.pending_accept_resets_max))
        .http2_max_local_error_reset_streams(Some(limits.local_error_resets_max));
    match limits.connection_age_ms_max {
        Some(age) => server.max_connection_age(Duration::from_millis(age)),
        None => server,
    }
}

type V1<T> = tonic_reflection::server::v1::ServerReflectionServer<T>;
type V1Alpha<T> = tonic_reflection::server::v1alpha::ServerReflectionServer<T>;

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(veribus_proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn reflection_v1() -> Result<V1<impl tonic_reflection::server::v1::ServerReflection>, ServerError> {
    reflection()
        .build_v1()
        .map(|service| service.max_decoding_message_size(REFLECTION_BYTES_MAX))
        .map_err(|error| ServerError::Start(error.to_string()))
}

/// Older tools ask for this one only.
fn reflection_v1alpha() -> Result<V1Alpha<impl tonic_reflection::server::v1alpha::ServerReflection>, ServerError> {
    reflection()
        .build_v1alpha()
        .map(|service| service.max_decoding_message_size(REFLECTION_BYTES_MAX))
        .map_err(|error| ServerError::Start(error.to_string()))
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })
}

fn run_writer(
    writer: Writer,
    deliverer: Deliverer,
    watched: Watched,
) -> Result<oneshot::Receiver<Result<(), WriterEnd>>, ServerError> {
    let (ended, receiver) = oneshot::channel();
    let run = move || {
        // Dropped last, so that the reason is known once the end is.
        let watched = watched;
        drop(ended.send(writer.run(deliverer)));
        watched.returns();
    };
    let thread = thread::Builder::new().name("audit-writer".to_owned()).spawn(run);
    thread.map_err(|error| ServerError::Start(error.to_string()))?;
    Ok(receiver)
}

/// How often sessions are looked at, and how many times one that is over may be found open.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKS_MAX: u8 = 10;

/// Ends sessions whose token is no longer good and that nothing else wakes: those that only wait for their client, and
/// those whose key was withdrawn. Closes the connections of clients that hold open what is over.
async fn watch_sessions(sessions: Arc<Sessions>) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        interval.tick().await;
        sessions.end_fallen();
        sessions.cut_off_stuck(LOOKS_MAX);
    }
}

/// Cuts off subscribers that are stuck while nothing more comes for them.
async fn watch_queues(router: Arc<Router>, recorder: Recorder, tasks: TaskTracker) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        interval.tick().await;
        for report in router.retire_stalled() {
            let recorder = recorder.clone();
            tasks.spawn(async move { recorder.note(report).await });
        }
    }
}

async fn watch_clock(recorder: Recorder) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    loop {
        interval.tick().await;
        recorder.tick().await.ok();
    }
}

/// Looks how much disk is left, and has the health service say what that permits.
async fn watch_disk(disk: DiskWatch, health: HealthReporter, drain: CancellationToken) {
    let mut interval = tokio::time::interval(Duration::from_millis(500));
    let mut told = None;
    loop {
        interval.tick().await;
        disk.look();
        let serving = if drain.is_cancelled() { Serving::Nothing } else { Serving::with(&disk) };
        if told.replace(serving) != Some(serving) {
            serving.tell(&health).await;
        }
    }
}
