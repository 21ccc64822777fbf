//! The health service is open to everybody, so it has a share of its own: few connections that ask for nothing else, and few
//! watches on each.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body_util::BodyExt as _;
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

use super::{connection::ConnectionInfo, refusals::Refusals, status};

const WATCH: &str = "/grpc.health.v1.Health/Watch";

/// The health service within its share.
#[derive(Clone)]
pub struct HealthShare<S> {
    inner: S,
    refusals: Arc<Refusals>,
}

impl<S> HealthShare<S> {
    /// Tells `refusals` of the connections that find no place.
    #[must_use]
    pub const fn new(inner: S, refusals: Arc<Refusals>) -> Self {
        Self { inner, refusals }
    }

    fn admit(&self, connection: &ConnectionInfo) -> Result<(), Status> {
        connection.excuse().map_err(|limit| {
            self.refusals.note_connection(limit.as_str(), None, connection.peer().ip());
            status::too_many_health_connections()
        })
    }
}

impl<S: NamedService> NamedService for HealthShare<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for HealthShare<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let refuse = |status: Status| Box::pin(std::future::ready(Ok(status.into_http())));
        let Some(connection) = request.extensions().get::<ConnectionInfo>() else {
            return refuse(status::unauthenticated());
        };
        if let Err(status) = self.admit(connection) {
            return refuse(status);
        }
        if request.uri().path() != WATCH {
            return Box::pin(self.inner.call(request));
        }
        let Some(place) = connection.health_watch() else {
            return refuse(status::too_many_health_watches());
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let hold = |body: Body| {
                Body::new(body.map_frame(move |frame| {
                    let _ = &place;
                    frame
                }))
            };
            Ok(answer.await?.map(hold))
        })
    }
}
