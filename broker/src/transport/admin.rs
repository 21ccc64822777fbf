//! `AdminService`: operators revoke, reinstate, look at sessions and end them, and look after the keys of shared state.

use prost_types::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use veribus_proto::v1::{
    self, BackupRequest, BackupResponse, DisconnectRequest, DisconnectResponse, ListKeysRequest, ListKeysResponse,
    ListRevocationsRequest, ListRevocationsResponse, ListSessionsRequest, ListSessionsResponse, ReinstateRequest,
    ReinstateResponse, RevokeRequest, RevokeResponse, RewrapKeysRequest, RewrapKeysResponse, RotateKeysRequest,
    RotateKeysResponse, ShredKeyRequest, ShredKeyResponse, admin_service_server::AdminService,
    disconnect_request::Target,
};

use super::{
    backup_stream,
    broker::{Responses, caller},
    keys,
    malformed::well_formed,
    status,
};
use crate::{
    administer::{Administration, Disconnecting},
    authenticate::{Caller, Permissions, Revocation, Session, SessionFilter, SessionId},
    model::{AgentId, DecisionId, Epoch, IdError, Issuer, Scope, UnixSeconds},
    record::{Recorder, actor, revocation_facts, timestamp},
};

/// How many sessions, revocations or keys one answer holds at most.
const PAGE_MAX: usize = 1_000;
/// The longest name of a revocation that is looked for, in bytes.
const ID_BYTES_MAX: usize = 128;

/// The service.
pub struct Admin {
    administration: Administration,
    recorder: Recorder,
    drain: CancellationToken,
}

impl Admin {
    /// Carries requests out by `administration`; what cannot be read is recorded by `recorder`; streams end when `drain` is
    /// cancelled.
    #[must_use]
    pub const fn new(administration: Administration, recorder: Recorder, drain: CancellationToken) -> Self {
        Self { administration, recorder, drain }
    }

    /// See [`well_formed`].
    async fn well_formed<T>(
        &self,
        caller: &Caller,
        is_permitted: impl FnOnce(&Permissions) -> bool + Send,
        read: Result<T, Status>,
    ) -> Result<T, Status> {
        well_formed(&self.recorder, caller, is_permitted, read).await
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    type BackupStream = Responses<BackupResponse>;

    async fn backup(&self, request: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let caller = caller(&request)?;
        let copying = self.administration.backup(&caller).await.map_err(|refusal| status::read_status(&refusal))?;
        Ok(Response::new(Box::pin(backup_stream::serve(copying, caller, self.drain.clone()))))
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner().revocation.ok_or_else(|| status::invalid("there is no revocation"));
        let asked = asked.and_then(|asked| Revocation::try_from(asked).map_err(status::argument));
        let revocation = self.well_formed(&caller, Permissions::admin_revoke, asked).await?;
        let done =
            self.administration.revoke(caller, revocation).await.map_err(|refusal| status::read_status(&refusal))?;
        let passes_from = done.revoked.revocation.passes_from();
        Ok(Response::new(RevokeResponse {
            passes_from: passes_from.map(|UnixSeconds(seconds)| Timestamp { seconds, nanos: 0 }),
            revocation: Some(revocation_facts(&done.revoked.revocation, &done.revoked.id)),
            audit_index: done.revoked.index,
            sessions_ended: done.sessions_ended as u64,
        }))
    }

    async fn reinstate(&self, request: Request<ReinstateRequest>) -> Result<Response<ReinstateResponse>, Status> {
        let caller = caller(&request)?;
        let id = revocation_id(request.into_inner().revocation_id);
        let id = self.well_formed(&caller, Permissions::admin_revoke, id).await?;
        let lifted =
            self.administration.reinstate(caller, id).await.map_err(|refusal| status::read_status(&refusal))?;
        Ok(Response::new(ReinstateResponse { audit_index: lifted.audit_index() }))
    }

    async fn list_revocations(
        &self,
        request: Request<ListRevocationsRequest>,
    ) -> Result<Response<ListRevocationsResponse>, Status> {
        let caller = caller(&request)?;
        let ListRevocationsRequest { page_size, page_token } = request.into_inner();
        let from = self.well_formed(&caller, Permissions::admin_sessions, page(&page_token)).await?;
        let max = page_max(page_size);
        let found = self
            .administration
            .revocations(&caller, from, max)
            .await
            .map_err(|refusal| status::read_status(&refusal))?;
        let next = (found.len() == max).then(|| found.last().map(|last| last.index + 1)).flatten();
        Ok(Response::new(ListRevocationsResponse {
            revocations: found.iter().map(|one| revocation_facts(&one.revocation, &one.id)).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let caller = caller(&request)?;
        let ListSessionsRequest { agent, issuer, page_size, page_token } = request.into_inner();
        let asked = session_filter(&agent, &issuer).and_then(|filter| Ok((filter, SessionId(page(&page_token)?))));
        let (filter, after) = self.well_formed(&caller, Permissions::admin_sessions, asked).await?;
        let max = page_max(page_size);
        let found = self.administration.sessions(&caller, &filter, after, max).await;
        let found = found.map_err(|refusal| status::read_status(&refusal))?;
        let next = (found.len() == max).then(|| found.last().map(|last| last.id().0)).flatten();
        Ok(Response::new(ListSessionsResponse {
            sessions: found.iter().map(|session| self::session(session)).collect(),
            next_page_token: next.map(|next| next.to_string()).unwrap_or_default(),
        }))
    }

    async fn disconnect(&self, request: Request<DisconnectRequest>) -> Result<Response<DisconnectResponse>, Status> {
        let caller = caller(&request)?;
        let whom = disconnecting(request.into_inner().target);
        let whom = self.well_formed(&caller, Permissions::admin_sessions, whom).await?;
        let done: Result<(DecisionId, usize), _> = self.administration.disconnect(caller, whom).await;
        let (decision, ended) = done.map_err(|refusal| status::read_status(&refusal))?;
        Ok(Response::new(DisconnectResponse { audit_index: decision.audit_index(), sessions_ended: ended as u64 }))
    }

    async fn list_keys(&self, request: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let caller = caller(&request)?;
        let ListKeysRequest { scope, page_size, page_token } = request.into_inner();
        let asked = keys::scope(&scope).and_then(|scope| Ok((scope, keys::after(&page_token)?)));
        let (scope, after) = self.well_formed(&caller, Permissions::admin_keys, asked).await?;
        let max = page_max(page_size);
        let after = after.as_ref().map(|(scope, epoch)| (scope, *epoch));
        let page = self.administration.keys(&caller, scope.as_ref(), after, max).await;
        let page = page.map_err(|refusal| status::read_status(&refusal))?;
        Ok(Response::new(keys::listed(page, max)))
    }

    async fn rotate_keys(&self, request: Request<RotateKeysRequest>) -> Result<Response<RotateKeysResponse>, Status> {
        let caller = caller(&request)?;
        let scope = keys::scope(&request.into_inner().scope);
        let scope = self.well_formed(&caller, Permissions::admin_keys, scope).await?;
        let done =
            self.administration.rotate_keys(caller, scope).await.map_err(|refusal| status::read_status(&refusal))?;
        let audit_index = done.decision_id.audit_index();
        Ok(Response::new(RotateKeysResponse { keys: done.keys.into_iter().map(keys::key).collect(), audit_index }))
    }

    async fn rewrap_keys(&self, request: Request<RewrapKeysRequest>) -> Result<Response<RewrapKeysResponse>, Status> {
        let done = self
            .administration
            .rewrap_keys(caller(&request)?)
            .await
            .map_err(|refusal| status::keys_status(&refusal))?;
        Ok(Response::new(RewrapKeysResponse {
            root_key_id: done.root.as_str().to_owned(),
            keys_rewrapped: u32::try_from(done.keys).unwrap_or(u32::MAX),
            audit_index: done.decision_id.audit_index(),
        }))
    }

    async fn shred_key(&self, request: Request<ShredKeyRequest>) -> Result<Response<ShredKeyResponse>, Status> {
        let caller = caller(&request)?;
        let ShredKeyRequest { scope, epoch } = request.into_inner();
        let scope = Scope::parse(&scope).map_err(status::argument);
        let scope = self.well_formed(&caller, Permissions::admin_keys, scope).await?;
        let done = self.administration.shred_key(caller, scope, Epoch(epoch)).await;
        let done = done.map_err(|refusal| status::keys_status(&refusal))?;
        let (root_key_id, audit_index) = (done.root.as_str().to_owned(), done.decision_id.audit_index());
        Ok(Response::new(ShredKeyResponse { root_key_id, audit_index }))
    }
}

fn session(session: &Session) -> v1::Session {
    let identity = session.identity();
    let opened_at: Timestamp = timestamp(session.opened_at());
    v1::Session {
        id: session.id().0,
        actor: Some(actor(&identity)),
        peer: session.peer().to_string(),
        method: session.method().to_owned(),
        opened_at: Some(opened_at),
        token_expires_at: identity.expires_at().0,
        refreshes: session.renewals(),
    }
}

fn revocation_id(id: String) -> Result<String, Status> {
    if id.len() > ID_BYTES_MAX || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(status::invalid("that is no name of a revocation"));
    }
    Ok(id)
}

fn session_filter(agent: &str, issuer: &str) -> Result<SessionFilter, Status> {
    Ok(SessionFilter { agent: optional(agent, AgentId::parse)?, issuer: optional(issuer, Issuer::parse)? })
}

fn disconnecting(target: Option<Target>) -> Result<Disconnecting, Status> {
    match target {
        Some(Target::SessionId(id)) => Ok(Disconnecting::Session(SessionId(id))),
        Some(Target::Agent(whose)) => Ok(Disconnecting::Agent(
            Issuer::parse(&whose.issuer).map_err(status::argument)?,
            AgentId::parse(&whose.agent).map_err(status::argument)?,
        )),
        None => Err(status::invalid("it is not said which sessions")),
    }
}

fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, IdError>) -> Result<Option<T>, Status> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some).map_err(status::argument) }
}

/// Where a page begins; an answer's `next_page_token` says it.
fn page(token: &str) -> Result<u64, Status> {
    if token.is_empty() { Ok(0) } else { token.parse().map_err(|_| status::invalid("that is no page token")) }
}

fn page_max(asked: u32) -> usize {
    match usize::try_from(asked) {
        Ok(0) | Err(_) => PAGE_MAX,
        Ok(asked) => asked.min(PAGE_MAX),
    }
}
