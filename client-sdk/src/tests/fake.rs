//! A broker that does what a test tells it, behind real TLS on port 0.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::stream::BoxStream;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status, Streaming,
    transport::{Server, server::Connected},
};
use tonic_types::{ErrorDetails, StatusExt as _};
use veribus_proto::v1::{
    self, PublishRequest, PublishResponse, PublishResult, PublishStreamRequest, PublishStreamResponse, QueryRequest,
    QueryResponse, SubscribeRequest, SubscribeResponse, TailRequest, TailResponse,
    audit_service_server::{AuditService, AuditServiceServer},
    broker_service_server::{BrokerService, BrokerServiceServer},
    publish_result::Outcome,
    state_service_server::StateServiceServer,
};

use super::fake_state::Shared;
use crate::{Client, ClientBuilder};

/// What a publish stream does. The default answers everything for ever.
#[derive(Default)]
pub(super) struct PublishScript {
    /// Refuses the whole call.
    pub(super) refuse: Option<Status>,
    /// Answers nothing before this is true.
    pub(super) hold: Option<watch::Receiver<bool>>,
    /// Takes messages and says nothing about them.
    pub(super) is_silent: bool,
    /// Ends after so many results.
    pub(super) end: Option<(usize, End)>,
    /// What becomes of fresh tokens; each one is taken by default.
    pub(super) refresh: Refresh,
    /// Makes the result of a message; a receipt by default.
    pub(super) result: Option<fn(&v1::Message, u64) -> PublishResult>,
}

/// What becomes of fresh tokens on a publish stream.
#[derive(Default, Clone, Copy)]
pub(super) enum Refresh {
    #[default]
    Take,
    /// Ends the stream.
    Refuse,
    /// Says nothing for ever.
    Ignore,
}

/// What came over a publish stream, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Came {
    Opened { token: String },
    Refresh { token: String },
    Message { id: String },
}

#[derive(Clone)]
pub(super) enum End {
    Status(Status),
    KillConnection,
}

/// What a subscription does: says these things, then ends or stays.
#[derive(Default)]
pub(super) struct SubscribeScript {
    pub(super) responses: Vec<Result<SubscribeResponse, Status>>,
    pub(super) stays: bool,
    /// What is said after each fresh token that comes while the subscription stays.
    pub(super) after_refresh: VecDeque<Vec<Result<SubscribeResponse, Status>>>,
}

/// What an audit call answers; an error at the end breaks it off.
pub(super) type AuditScript = Vec<Result<QueryResponse, Status>>;

/// Shared between a test and the broker's calls.
#[derive(Default)]
pub(super) struct State {
    pub(super) publishes: Mutex<VecDeque<Status>>,
    pub(super) publish_streams: Mutex<VecDeque<PublishScript>>,
    pub(super) subscriptions: Mutex<VecDeque<Result<SubscribeScript, Status>>>,
    pub(super) audits: Mutex<VecDeque<AuditScript>>,
    /// Message ids, each list one stream with messages; unary ones come one by one.
    pub(super) streamed: Mutex<Vec<Vec<String>>>,
    pub(super) published: Mutex<Vec<String>>,
    pub(super) authorizations: Mutex<Vec<String>>,
    /// Everything that came over publish streams, in order.
    pub(super) came: Mutex<Vec<Came>>,
    /// Fresh tokens on subscriptions.
    pub(super) refreshes: Mutex<Vec<v1::Credentials>>,
    /// The proofs of possession, with the path of the method that they came with.
    pub(super) proofs: Mutex<Vec<(&'static str, String)>>,
    /// Credentials that messages carried.
    pub(super) speakers: Mutex<Vec<v1::Credentials>>,
    /// The certificates that clients showed, each with each connection.
    pub(super) certificates: Mutex<Vec<CertificateDer<'static>>>,
    pub(super) queries: Mutex<Vec<QueryRequest>>,
    pub(super) tails: Mutex<Vec<Option<u64>>>,
    pub(super) next_index: Mutex<u64>,
    /// How many subscriptions were ended by their client.
    pub(super) unsubscribed: watch::Sender<u32>,
    pub(super) shared: Shared,
    kill: watch::Sender<u64>,
}

impl State {
    pub(super) fn note_token<T>(&self, request: &Request<T>, method: &'static str) -> String {
        let value = |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let authorization = value("authorization").unwrap_or_default();
        self.authorizations.lock().unwrap().push(authorization.clone());
        self.proofs.lock().unwrap().extend(value("dpop").map(|proof| (method, proof)));
        authorization.split_once(' ').map(|(_, token)| token.to_owned()).unwrap_or_default()
    }

    fn note_message(&self, message: &v1::Message) {
        self.speakers.lock().unwrap().extend(message.credentials.clone());
    }

    pub(super) fn note_refresh(&self, refresh: &v1::Credentials, method: &'static str) {
        if !refresh.dpop_proof.is_empty() {
            self.proofs.lock().unwrap().push((method, refresh.dpop_proof.clone()));
        }
    }

    pub(super) fn index(&self) -> u64 {
        let mut next = self.next_index.lock().unwrap();
        *next += 1;
        *next
    }

    pub(super) fn kill_connections(&self) {
        self.kill.send_modify(|killed| *killed += 1);
    }
}

pub(super) fn receipt(message: &v1::Message, audit_index: u64) -> v1::Receipt {
    v1::Receipt {
        message_id: message.id.clone(),
        decision: v1::Decision::Allow.into(),
        decision_id: format!("fake-{audit_index}"),
        audit_index,
        content_salt: vec![7; 32],
        retained: false,
        duplicate: false,
        recipients: Some(0),
    }
}

pub(super) fn accepted(message: &v1::Message, audit_index: u64) -> PublishResult {
    PublishResult { outcome: Some(Outcome::Receipt(receipt(message, audit_index))) }
}

/// A status as the broker gives it.
pub(super) fn status(code: Code, reason: &str, metadata: &[(&str, &str)]) -> Status {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let details = ErrorDetails::with_error_info(
        reason,
        "veribus",
        metadata.into_iter().collect::<std::collections::HashMap<_, _>>(),
    );
    Status::with_error_details(code, "said the fake", details)
}

/// A running fake broker.
pub(super) struct Fake {
    pub(super) state: Arc<State>,
    pub(super) address: SocketAddr,
    pub(super) ca_pem: String,
}

impl Fake {
    pub(super) async fn start() -> Self {
        Self::start_speaking(&["h2"]).await
    }

    /// That asks clients for a certificate.
    pub(super) async fn start_asking(client_ca: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(client_ca).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        Self::start_with(&["h2"], verifier).await
    }

    /// With other protocols over TLS than a broker's.
    pub(super) async fn start_speaking(protocols: &[&str]) -> Self {
        Self::start_with(protocols, WebPkiClientVerifier::no_client_auth()).await
    }

    async fn start_with(protocols: &[&str], clients: Arc<dyn ClientCertVerifier>) -> Self {
        let state = Arc::new(State::default());
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let acceptor = acceptor(&certified, protocols, clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, incoming) = mpsc::channel(16);
        tokio::spawn(accept(listener, acceptor, Arc::clone(&state), sender));
        let service = Service(Arc::clone(&state));
        let server = Server::builder()
            .add_service(BrokerServiceServer::new(service.clone()))
            .add_service(StateServiceServer::new(service.clone()))
            .add_service(AuditServiceServer::new(service))
            .serve_with_incoming(ReceiverStream::new(incoming));
        tokio::spawn(server);
        Self { state, address, ca_pem: certified.cert.pem() }
    }

    pub(super) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// A builder with short pauses.
    pub(super) fn builder(&self) -> ClientBuilder {
        Client::builder(self.url())
            .ca_pem(self.ca_pem.as_bytes())
            .token("token")
            .backoff(Duration::from_millis(2), Duration::from_millis(20))
    }

    pub(super) async fn client(&self) -> Client {
        self.builder().connect().await.expect("connected")
    }

    pub(super) fn next_publish_stream(&self, script: PublishScript) {
        self.state.publish_streams.lock().unwrap().push_back(script);
    }

    pub(super) fn next_subscription(&self, script: Result<SubscribeScript, Status>) {
        self.state.subscriptions.lock().unwrap().push_back(script);
    }

    pub(super) fn next_audit(&self, script: AuditScript) {
        self.state.audits.lock().unwrap().push_back(script);
    }

    pub(super) fn streamed(&self) -> Vec<Vec<String>> {
        self.state.streamed.lock().unwrap().clone()
    }

    pub(super) fn kill_connections(&self) {
        self.state.kill_connections();
    }
}

/// For TLS 1.3.
pub(super) fn acceptor(
    certified: &rcgen::CertifiedKey<rcgen::KeyPair>,
    protocols: &[&str],
    clients: Arc<dyn ClientCertVerifier>,
) -> TlsAcceptor {
    let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    state: Arc<State>,
    sender: mpsc::Sender<io::Result<Killable>>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        tcp.set_nodelay(true).unwrap();
        let mut killed = state.kill.subscribe();
        if let Ok(inner) = acceptor.accept(tcp).await {
            let shown = inner.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
            state.certificates.lock().unwrap().extend(shown.map(CertificateDer::into_owned));
            let killed = Box::pin(async move { drop(killed.changed().await) });
            let _ = sender.send(Ok(Killable { inner, killed })).await;
        }
    }
}

/// A connection that breaks when it is told to.
struct Killable {
    inner: TlsStream<TcpStream>,
    killed: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Connected for Killable {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Killable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.killed.as_mut().poll(cx).is_ready() {
            self.killed = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Killable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[derive(Clone)]
pub(super) struct Service(pub(super) Arc<State>);

pub(super) type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl BrokerService for Service {
    type PublishStreamStream = Answers<PublishStreamResponse>;
    type SubscribeStream = Answers<SubscribeResponse>;

    async fn publish(&self, request: Request<PublishRequest>) -> Result<Response<PublishResponse>, Status> {
        self.0.note_token(&request, "Publish");
        let message = request.into_inner().message.unwrap();
        self.0.note_message(&message);
        self.0.published.lock().unwrap().push(message.id.clone());
        if let Some(status) = self.0.publishes.lock().unwrap().pop_front() {
            return Err(status);
        }
        Ok(Response::new(PublishResponse { receipt: Some(receipt(&message, self.0.index())) }))
    }

    async fn publish_stream(
        &self,
        request: Request<Streaming<PublishStreamRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        let token = self.0.note_token(&request, "PublishStream");
        self.0.came.lock().unwrap().push(Came::Opened { token });
        let mut script = self.0.publish_streams.lock().unwrap().pop_front().unwrap_or_default();
        if let Some(status) = script.refuse.take() {
            return Err(status);
        }
        let (sender, answers) = mpsc::channel(16);
        tokio::spawn(answer(Arc::clone(&self.0), script, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn subscribe(
        &self,
        request: Request<Streaming<SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        self.0.note_token(&request, "Subscribe");
        let script = self.0.subscriptions.lock().unwrap().pop_front().expect("an unexpected subscription")?;
        let (sender, answers) = mpsc::channel(16);
        tokio::spawn(serve(Arc::clone(&self.0), script, request.into_inner(), sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

async fn answer(
    state: Arc<State>,
    mut script: PublishScript,
    mut requests: Streaming<PublishStreamRequest>,
    answers: mpsc::Sender<Result<PublishStreamResponse, Status>>,
) {
    let result = script.result.unwrap_or(accepted);
    let mut given = 0;
    let mut stream = None;
    while let Ok(Some(request)) = requests.message().await {
        if let Some(refresh) = &request.refresh {
            state.note_refresh(refresh, "PublishStream");
            state.came.lock().unwrap().push(Came::Refresh { token: refresh.token.clone() });
            match script.refresh {
                Refresh::Take => {
                    let refreshed = Some(v1::Refreshed::default());
                    let _ = answers.send(Ok(PublishStreamResponse { results: Vec::new(), refreshed })).await;
                }
                Refresh::Refuse => {
                    let _ = answers.send(Err(Status::unauthenticated("unauthenticated"))).await;
                    return;
                }
                Refresh::Ignore => {}
            }
        }
        if request.messages.is_empty() {
            continue;
        }
        let came = request.messages.iter().map(|message| Came::Message { id: message.id.clone() });
        state.came.lock().unwrap().extend(came);
        request.messages.iter().for_each(|message| state.note_message(message));
        let number = *stream.get_or_insert_with(|| {
            let mut streamed = state.streamed.lock().unwrap();
            streamed.push(Vec::new());
            streamed.len() - 1
        });
        state.streamed.lock().unwrap()[number].extend(request.messages.iter().map(|message| message.id.clone()));
        if let Some(hold) = &mut script.hold {
            hold.wait_for(|is_free| *is_free).await.unwrap();
        }
        if script.is_silent {
            continue;
        }
        for message in &request.messages {
            if let Some((after, end)) = &script.end
                && given == *after
            {
                return match end.clone() {
                    End::Status(status) => drop(answers.send(Err(status)).await),
                    End::KillConnection => state.kill_connections(),
                };
            }
            let results = vec![result(message, state.index())];
            let _ = answers.send(Ok(PublishStreamResponse { results, refreshed: None })).await;
            given += 1;
        }
    }
}

async fn serve(
    state: Arc<State>,
    mut script: SubscribeScript,
    mut requests: Streaming<SubscribeRequest>,
    answers: mpsc::Sender<Result<SubscribeResponse, Status>>,
) {
    requests.message().await.unwrap().expect("a subscription");
    for response in script.responses {
        let _ = answers.send(response).await;
    }
    if script.stays {
        while let Ok(Some(request)) = requests.message().await {
            let Some(v1::subscribe_request::Request::Refresh(refresh)) = request.request else { return };
            state.note_refresh(&refresh, "Subscribe");
            state.refreshes.lock().unwrap().push(refresh);
            for response in script.after_refresh.pop_front().unwrap_or_default() {
                let ends = response.is_err();
                let _ = answers.send(response).await;
                if ends {
                    return;
                }
            }
        }
        state.unsubscribed.send_modify(|count| *count += 1);
    }
}

#[tonic::async_trait]
impl AuditService for Service {
    type QueryStream = Answers<QueryResponse>;
    type TailStream = Answers<TailResponse>;

    async fn query(&self, request: Request<QueryRequest>) -> Result<Response<Self::QueryStream>, Status> {
        self.0.note_token(&request, "Query");
        self.0.queries.lock().unwrap().push(request.into_inner());
        let script = self.0.audits.lock().unwrap().pop_front().expect("an unexpected query");
        Ok(Response::new(Box::pin(tokio_stream::iter(script))))
    }

    async fn tail(&self, request: Request<TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        self.0.note_token(&request, "Tail");
        self.0.tails.lock().unwrap().push(request.into_inner().from_index);
        let script = self.0.audits.lock().unwrap().pop_front().expect("an unexpected tail");
        let answers = script
            .into_iter()
            .map(|answer| answer.map(|QueryResponse { entries, next_index }| TailResponse { entries, next_index }));
        Ok(Response::new(Box::pin(tokio_stream::iter(answers.collect::<Vec<_>>()))))
    }
}
