//! No call passes without a verified caller. The gate stands before any service, so the body of a call that may not be
//! made is never decoded.
//!
//! Open to everybody are health checks (`grpc.health.v1`) and reflection, which shows only what is public.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use super::{
    connection::{ConnectionInfo, ConnectionLimit},
    frame_body::{FrameBody, FrameLimits, Received, Requests, Waiting},
    malformed::{self, FaultRecorder},
    overruns::Overruns,
    refusals::Refusals,
    session_body::SessionBody,
    status,
};
use crate::{
    authenticate::{
        Authenticator, Bearer, BearerToken, Caller, Identity, OpenSession, Presented, ProofError, Scheme, SessionEnd,
        Sessions, TokenError,
    },
    metrics::{Metrics, Stage},
    quota::{Meter, OpenCall, Quotas},
};

/// Where a DPoP proof stands (RFC 9449, section 4.1).
const DPOP: &str = "dpop";
/// Calls whose messages and operations are measured where they are read.
const MEASURED_APART: [&str; 7] = [
    "/veribus.v1.BrokerService/Publish",
    "/veribus.v1.BrokerService/PublishStream",
    "/veribus.v1.StateService/Put",
    "/veribus.v1.StateService/Get",
    "/veribus.v1.StateService/Delete",
    "/veribus.v1.StateService/List",
    "/veribus.v1.StateService/Session",
];
/// Services that are open to everybody.
const OPEN: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// Puts the gate before a service.
#[derive(Clone)]
pub struct GateLayer(Arc<Keeper>);

/// What a call holds until it is over.
struct Admitted {
    open: OpenSession,
    place: OpenCall,
}

struct Keeper {
    authenticator: Arc<Authenticator>,
    sessions: Arc<Sessions>,
    quotas: Arc<Quotas>,
    overruns: Arc<Overruns>,
    refusals: Arc<Refusals>,
    faults: FaultRecorder,
    frames: FrameLimits,
    metrics: Metrics,
}

impl GateLayer {
    /// Lets pass whom `authenticator` recognises and whose quota has room, each call in one of `sessions`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what the gate needs is put together here, once")]
    pub fn new(
        authenticator: Arc<Authenticator>,
        sessions: Arc<Sessions>,
        quotas: Arc<Quotas>,
        overruns: Arc<Overruns>,
        refusals: Arc<Refusals>,
        faults: FaultRecorder,
        frames: FrameLimits,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Keeper { authenticator, sessions, quotas, overruns, refusals, faults, frames, metrics }))
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { keeper: Arc::clone(&self.0), inner }
    }
}

/// A service behind the gate.
#[derive(Clone)]
pub struct Gate<S> {
    keeper: Arc<Keeper>,
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer<S::Error> {
        match self.keeper.admit(&request) {
            Ok(Admission::Open) => Box::pin(self.inner.call(request)),
            Ok(Admission::Known(admitted)) => serve(Arc::clone(&self.keeper), &mut self.inner, admitted, request),
            Ok(Admission::Wait(asking)) => {
                let next = self.inner.clone();
                let mut ready = std::mem::replace(&mut self.inner, next);
                let keeper = Arc::clone(&self.keeper);
                Box::pin(async move {
                    match keeper.admit_later(asking).await {
                        Ok(admitted) => serve(keeper, &mut ready, admitted, request).await,
                        Err(status) => Ok(status.into_http()),
                    }
                })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

/// Calls the service for a caller who was recognised.
fn serve<S>(keeper: Arc<Keeper>, inner: &mut S, admitted: Admitted, mut request: Request<Body>) -> Answer<S::Error>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    let certificate = request.extensions().get().and_then(ConnectionInfo::certificate_sha256);
    let caller = Caller::new(Arc::clone(admitted.open.session())).over(certificate);
    request.extensions_mut().insert(caller.clone());
    let meter = admitted.place.meter();
    let received = Received::default();
    request.extensions_mut().insert(received.clone());
    let requests = Requests::of(request.uri().path());
    let calls = request.extensions().get().map(ConnectionInfo::waiting).unwrap_or_default();
    let waiting = Waiting { calls, max: keeper.frames.waiting_max };
    let wrap = |body| FrameBody::wrap(body, keeper.frames, requests, waiting, meter.receive_budget(), received.clone());
    let mut request = request.map(wrap);
    request.extensions_mut().insert(meter.clone());
    let seen = Seen::default();
    request.extensions_mut().insert(seen.clone());
    let answer = inner.call(request);
    Box::pin(async move {
        let response = tokio::select! {
            biased;
            () = caller.session().ended() => return Ok(keeper.cut_short(&caller)),
            response = answer => response?,
        };
        if !seen.is_set()
            && let Some(told) = keeper.note_undecodable(&caller, &meter, response.headers()).await
        {
            return Ok(told.into_http());
        }
        // Of a single message: it is answered.
        drop(received);
        Ok(keeper.let_pass(admitted, response))
    })
}

/// Whether a service saw the request: then its message could be decoded.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<AtomicBool>);

impl Seen {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What becomes of a call.
enum Admission {
    /// It is open to everybody.
    Open,
    /// The caller is recognised.
    Known(Admitted),
    /// The token's key is not known; its issuer may have published it just now.
    Wait(Box<Asking>),
}

/// A caller who waits for the issuer's keys.
struct Asking {
    headers: HeaderMap,
    connection: ConnectionInfo,
    path: String,
}

impl Keeper {
    /// Looks at a request without waiting.
    fn admit(&self, request: &Request<Body>) -> Result<Admission, Status> {
        let path = request.uri().path();
        let connection = request.extensions().get::<ConnectionInfo>().ok_or_else(status::unauthenticated)?;
        if OPEN.iter().any(|service| path.starts_with(service)) {
            return Ok(Admission::Open);
        }
        let started = Instant::now();
        let presented = presented(request.headers(), connection, path);
        match presented.and_then(|presented| self.authenticator.authenticate(&presented)) {
            Ok(identity) => {
                self.metrics.stage(Stage::Authenticate, started.elapsed());
                self.welcome(identity, connection, path).map(Admission::Known)
            }
            Err(TokenError::UnknownKey) => {
                let (headers, connection) = (request.headers().clone(), connection.clone());
                Ok(Admission::Wait(Box::new(Asking { headers, connection, path: path.to_owned() })))
            }
            Err(error) => Err(self.refuse(&error, request.headers(), connection, path)),
        }
    }

    /// The same, once the issuer was asked for its keys.
    async fn admit_later(&self, asking: Box<Asking>) -> Result<Admitted, Status> {
        let Asking { headers, connection, path } = *asking;
        let recognised = match presented(&headers, &connection, &path) {
            Ok(presented) => self.authenticator.authenticate_or_fetch(&presented).await,
            Err(error) => Err(error),
        };
        let recognised = recognised.map_err(|error| self.refuse(&error, &headers, &connection, &path));
        self.welcome(recognised?, &connection, &path)
    }

    fn welcome(&self, identity: Arc<Identity>, connection: &ConnectionInfo, path: &str) -> Result<Admitted, Status> {
        if !connection.admit(&identity) {
            let limit = ConnectionLimit::PerIdentity.as_str();
            self.refusals.note_connection(limit, Some(Bearer::from(&*identity)), connection.peer().ip());
            return Err(status::too_many_connections());
        }
        connection.expect();
        let place = self.quotas.open_call(Arc::clone(&identity)).map_err(|exceeded| {
            self.overruns.note_identity(Arc::clone(&identity), connection.peer(), exceeded.kind, 1);
            status::over_quota(&exceeded)
        })?;
        self.measure(&place, &identity, connection, path)?;
        let open = self.sessions.open(identity, connection.peer(), path);
        open.session().can_be_cut_off_by(connection.switch());
        Ok(Admitted { open, place })
    }

    /// Every call leaves an entry, also one that is denied, so each counts as a message, apart from those whose messages are
    /// counted one by one.
    fn measure(
        &self,
        place: &OpenCall,
        identity: &Arc<Identity>,
        connection: &ConnectionInfo,
        path: &str,
    ) -> Result<(), Status> {
        if MEASURED_APART.contains(&path) {
            return Ok(());
        }
        place.meter().take_entry(self.faults.clock.now()).map_err(|exceeded| {
            self.overruns.note_identity(Arc::clone(identity), connection.peer(), exceeded.kind, 1);
            status::over_quota(&exceeded)
        })
    }

    /// The answer to a caller whose session ended before the call was answered.
    fn cut_short(&self, caller: &Caller) -> Response<Body> {
        let end = caller.session().end_reason().unwrap_or(&SessionEnd::Left);
        if let SessionEnd::Token(error) = end {
            self.refusals.note_session(caller.session(), error);
        }
        status::ended(end).into_http()
    }

    /// Lets an answer pass as long as its session lasts.
    fn let_pass(&self, Admitted { open, place }: Admitted, response: Response<Body>) -> Response<Body> {
        if open.session().pass(self.faults.clock.now(), || ()).is_err() {
            return self.cut_short(&Caller::new(Arc::clone(open.session())));
        }
        let (clock, refusals) = (self.faults.clock.clone(), Arc::clone(&self.refusals));
        response.map(|body| SessionBody::wrap(open, place, body, clock, refusals))
    }

    fn refuse(&self, error: &TokenError, headers: &HeaderMap, connection: &ConnectionInfo, path: &str) -> Status {
        let bearer = authorization(headers).ok().and_then(|(_, token)| self.authenticator.bearer(&token));
        self.refusals.note(error, bearer, connection.peer().ip(), path);
        status::unauthenticated()
    }

    /// A call that ended before any service saw it, because its only message could not be decoded: how that is told. What a
    /// service answers is recorded by whoever knows the reason.
    async fn note_undecodable(&self, caller: &Caller, meter: &Meter, headers: &HeaderMap) -> Option<Status> {
        let (fault, told) = Status::from_header_map(headers).as_ref().and_then(malformed::decoding_fault)?;
        if let Err(error) = self.faults.note(caller, meter, fault).await {
            let method = caller.session().method();
            tracing::error!(method, %error, "an undecodable message could not be recorded");
        }
        Some(told)
    }
}

/// Exactly one `authorization` header, and a token in it.
fn authorization(headers: &HeaderMap) -> Result<(Scheme, BearerToken), TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(TokenError::Missing)?;
    if values.next().is_some() {
        return Err(TokenError::NotBearer);
    }
    BearerToken::from_authorization(value.as_bytes())
}

/// What a caller presents, with the connection and the method that it counts for.
fn presented<'a>(
    headers: &'a HeaderMap,
    connection: &ConnectionInfo,
    method: &'a str,
) -> Result<Presented<'a>, TokenError> {
    let (scheme, token) = authorization(headers)?;
    let certificate_sha256 = connection.certificate_sha256();
    Ok(Presented { token, scheme, proof: proof(headers)?, certificate_sha256, method })
}

/// At most one `dpop` header (RFC 9449, section 4.3, check 1).
fn proof(headers: &HeaderMap) -> Result<Option<&str>, ProofError> {
    let mut values = headers.get_all(DPOP).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ProofError::Several);
    }
    value.to_str().map(Some).map_err(|_| ProofError::Form)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_authorizations_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers).err(), Some(TokenError::Missing));
        headers.append(AUTHORIZATION, "Bearer a".parse().expect("a value"));
        assert!(authorization(&headers).is_ok());
        headers.append(AUTHORIZATION, "Bearer b".parse().expect("a value"));
        assert_eq!(authorization(&headers).err(), Some(TokenError::NotBearer));
    }

    #[test]
    fn two_proofs_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(proof(&headers), Ok(None));
        headers.append(DPOP, "a".parse().expect("a value"));
        assert_eq!(proof(&headers), Ok(Some("a")));
        headers.append(DPOP, "b".parse().expect("a value"));
        assert_eq!(proof(&headers), Err(ProofError::Several));
    }
}
