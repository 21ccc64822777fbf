//! No call passes without a verified caller. The gate stands before any service, so the body of a call that may not be
//! made is never decoded.
//!
//! Open to everybody are health checks (`grpc.health.v1`) and reflection, which shows only what is public.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{connection::ConnectionInfo, overruns::Overruns, refusals::Refusals, session_body::SessionBody, status};
use crate::{
    authenticate::{BearerToken, Caller, OpenSession, SessionEnd, Sessions, TokenError, Verifier},
    metrics::{Metrics, Stage},
    model::Clock,
    quota::{OpenCall, Quotas},
    record::{Draft, Recorder},
};

const HEALTH: &str = "/grpc.health.v1.Health/";
const REFLECTION: [&str; 2] = ["/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];

/// Puts the gate before a service.
#[derive(Clone)]
pub struct GateLayer(Arc<Keeper>);

/// What a call holds until it is over.
struct Admitted {
    open: OpenSession,
    place: OpenCall,
}

struct Keeper {
    verifier: Arc<Verifier>,
    sessions: Arc<Sessions>,
    quotas: Arc<Quotas>,
    overruns: Arc<Overruns>,
    refusals: Arc<Refusals>,
    recorder: Recorder,
    metrics: Metrics,
    clock: Clock,
}

impl GateLayer {
    /// Lets pass whom `verifier` recognises and whose quota has room, each call in one of `sessions`.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what the gate needs is put together here, once")]
    pub fn new(
        verifier: Arc<Verifier>,
        sessions: Arc<Sessions>,
        quotas: Arc<Quotas>,
        overruns: Arc<Overruns>,
        refusals: Arc<Refusals>,
        recorder: Recorder,
        metrics: Metrics,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Keeper { verifier, sessions, quotas, overruns, refusals, recorder, metrics, clock }))
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
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer<S::Error> {
        match self.keeper.admit(&request) {
            Ok(None) => Box::pin(self.inner.call(request)),
            Ok(Some(Admitted { open, place })) => {
                let method = request.uri().path().to_owned();
                let caller = Caller::new(Arc::clone(open.session()));
                request.extensions_mut().insert(caller.clone());
                request.extensions_mut().insert(place.meter());
                let answer = self.inner.call(request);
                let keeper = Arc::clone(&self.keeper);
                Box::pin(async move {
                    let response = tokio::select! {
                        biased;
                        () = caller.session().ended() => return Ok(keeper.cut_short(&caller)),
                        response = answer => response?,
                    };
                    keeper.note_undecodable(&caller, &method, response.headers()).await;
                    Ok(keeper.let_pass(Admitted { open, place }, response))
                })
            }
            Err(status) => Box::pin(std::future::ready(Ok(status.into_http()))),
        }
    }
}

impl Keeper {
    /// A session for the caller of a request, or `None` for one that is open to everybody.
    fn admit(&self, request: &Request<Body>) -> Result<Option<Admitted>, Status> {
        let path = request.uri().path();
        let connection = request.extensions().get::<ConnectionInfo>().ok_or_else(status::unauthenticated)?;
        if path.starts_with(HEALTH) {
            connection.excuse();
            return Ok(None);
        }
        if REFLECTION.iter().any(|service| path.starts_with(service)) {
            return Ok(None);
        }
        let started = Instant::now();
        let identity = bearer(request.headers()).and_then(|token| self.verifier.verify(&token)).map_err(|error| {
            self.refusals.note(&error, connection.peer().ip(), path);
            status::unauthenticated()
        })?;
        self.metrics.stage(Stage::Authenticate, started.elapsed());
        if !connection.admit(&identity) {
            return Err(status::too_many_connections());
        }
        connection.expect();
        let place = self.quotas.open_call(Arc::clone(&identity)).map_err(|exceeded| {
            self.overruns.note_identity(Arc::clone(&identity), connection.peer(), exceeded.kind, 1);
            status::over_quota(&exceeded)
        })?;
        Ok(Some(Admitted { open: self.sessions.open(identity, connection.peer(), path), place }))
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
        if open.session().pass(self.clock.now(), || ()).is_err() {
            return self.cut_short(&Caller::new(Arc::clone(open.session())));
        }
        let (clock, refusals) = (self.clock.clone(), Arc::clone(&self.refusals));
        response.map(|body| SessionBody::wrap(open, place, body, clock, refusals))
    }

    /// A call that ended before any service saw it, because its only message could not be decoded.
    async fn note_undecodable(&self, caller: &Caller, method: &str, headers: &HeaderMap) {
        let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
        let detail = match code {
            Some(Code::OutOfRange) => "the message is larger than the decoder's limit",
            Some(Code::Internal) => "the message is not valid protobuf",
            _ => return,
        };
        let draft = Draft::undecodable(&caller.identity(), caller.peer(), method, detail);
        if let Err(error) = self.recorder.complaint(draft).await {
            tracing::error!(method, %error, "an undecodable message could not be recorded");
        }
    }
}

/// Exactly one `authorization` header, and a bearer token in it.
fn bearer(headers: &HeaderMap) -> Result<BearerToken, TokenError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(TokenError::Missing)?;
    if values.next().is_some() {
        return Err(TokenError::NotBearer);
    }
    BearerToken::from_authorization(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_authorizations_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers).err(), Some(TokenError::Missing));
        headers.append(AUTHORIZATION, "Bearer a".parse().expect("a value"));
        assert!(bearer(&headers).is_ok());
        headers.append(AUTHORIZATION, "Bearer b".parse().expect("a value"));
        assert_eq!(bearer(&headers).err(), Some(TokenError::NotBearer));
    }
}
