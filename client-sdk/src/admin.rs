//! For operators: revoking tokens and agents, looking at open sessions, ending them; the keys of shared state; backups. Needs
//! the permissions `admin.revoke`, `admin.sessions`, `admin.keys` and `admin.backup`.
//!
//! Out of scope: what was done before, and by whom; that is in the audit log.

use std::{fmt, future::Future, sync::Arc, time::SystemTime};

use tonic::{Request, Response, Status, transport::Channel};
use veribus_proto::v1::{
    self, AgentSessions, DisconnectRequest, IssuedBefore, ListRevocationsRequest, ListSessionsRequest,
    ReinstateRequest, RevokeRequest, admin_service_client::AdminServiceClient, disconnect_request, revocation::Target,
};

mod keys;

pub use keys::{Keys, RewrappedKeys, RotatedKeys, ShreddedKey};

use crate::{
    Backup, Error,
    present::Method,
    retry::Failed,
    session::Session,
    status::{Verdict, may_have_happened},
};

/// What is to be revoked, of one issuer's.
#[derive(Debug, Clone, PartialEq)]
#[must_use]
pub struct Revocation(v1::Revocation);

impl Revocation {
    /// One token, by its `jti`. Ends by itself when the token has run out.
    pub fn token(issuer: impl Into<String>, token_id: impl Into<String>) -> Self {
        Self::new(issuer, Target::TokenId(token_id.into()))
    }

    /// All tokens of one agent, also those issued from now on, until it is lifted.
    pub fn agent(issuer: impl Into<String>, agent: impl Into<String>) -> Self {
        Self::new(issuer, Target::Agent(agent.into()))
    }

    /// The tokens of one agent whose `iat`, less a minute, lies before `issued_before`, in seconds since the Unix epoch. Ends by itself
    /// when the last of them has run out.
    pub fn issued_before(issuer: impl Into<String>, agent: impl Into<String>, issued_before: i64) -> Self {
        Self::new(issuer, Target::IssuedBefore(IssuedBefore { agent: agent.into(), issued_before }))
    }

    /// All tokens of the issuer, until it is lifted.
    pub fn whole_issuer(issuer: impl Into<String>) -> Self {
        Self::new(issuer, Target::WholeIssuer(true))
    }

    /// Ends at this time.
    pub fn expires_at(mut self, time: SystemTime) -> Self {
        self.0.expires_at = Some(time.into());
        self
    }

    /// Why, at most 256 bytes; it stands in the audit log.
    pub fn reason(mut self, reason: impl Into<String>) -> Self {
        self.0.reason = reason.into();
        self
    }

    fn new(issuer: impl Into<String>, target: Target) -> Self {
        Self(v1::Revocation { issuer: issuer.into(), target: Some(target), ..v1::Revocation::default() })
    }
}

/// A revocation that is in force.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Revoked {
    /// As it is in force, with its name.
    pub revocation: v1::Revocation,
    /// Nothing that it names is accepted after this entry of the audit log.
    pub audit_index: u64,
    /// How many open sessions it ended.
    pub sessions_ended: u64,
    /// Of [`Revocation::issued_before`]: from which `iat` on tokens pass, in seconds since the Unix epoch.
    pub passes_from: Option<i64>,
}

/// Sessions that were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Disconnected {
    /// Where that is recorded.
    pub audit_index: u64,
    /// How many.
    pub sessions_ended: u64,
}

/// Which sessions to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnect {
    /// One, by its number.
    Session(u64),
    /// All of an agent.
    Agent {
        /// Who vouches for it.
        issuer: String,
        /// Its id.
        agent: String,
    },
}

/// The operators' side of the broker.
#[derive(Clone)]
pub struct Admin {
    session: Arc<Session>,
}

impl Admin {
    pub(crate) const fn new(session: Arc<Session>) -> Self {
        Self { session }
    }

    /// Revokes. When this returns, nothing that `revocation` names is accepted any more, nothing is handed to its
    /// bearers, and their streams have ended.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Unauthenticated`] (also where one's own token was revoked by it), or what kept the
    /// connection from coming back in time. Where the connection was lost, it may be in force: look, or try again.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Revoked, Error> {
        let request = RevokeRequest { revocation: Some(revocation.0) };
        let answer =
            self.call(Method::REVOKE, request, |mut admin, request| async move { admin.revoke(request).await }).await?;
        let revocation = answer.revocation.ok_or(Error::Protocol("an answer to a revocation holds none"))?;
        let passes_from = answer.passes_from.map(|moment| moment.seconds);
        Ok(Revoked { revocation, audit_index: answer.audit_index, sessions_ended: answer.sessions_ended, passes_from })
    }

    /// Lifts a revocation by its name, and returns the audit index.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn reinstate(&self, revocation_id: impl Into<String>) -> Result<u64, Error> {
        let request = ReinstateRequest { revocation_id: revocation_id.into() };
        let answer = self
            .call(Method::REINSTATE, request, |mut admin, request| async move { admin.reinstate(request).await })
            .await?;
        Ok(answer.audit_index)
    }

    /// The revocations in force.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn revocations(&self) -> Result<Vec<v1::Revocation>, Error> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListRevocationsRequest { page_size: 0, page_token };
            let call = self.call(Method::LIST_REVOCATIONS, request, |mut admin, request| async move {
                admin.list_revocations(request).await
            });
            let page = call.await?;
            all.extend(page.revocations);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// The open sessions: of this agent and of this issuer, where they are given.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn sessions(&self, agent: Option<&str>, issuer: Option<&str>) -> Result<Vec<v1::Session>, Error> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        let (agent, issuer) = (agent.unwrap_or_default(), issuer.unwrap_or_default());
        loop {
            let (agent, issuer) = (agent.to_owned(), issuer.to_owned());
            let request = ListSessionsRequest { agent, issuer, page_size: 0, page_token };
            let call = self.call(Method::LIST_SESSIONS, request, |mut admin, request| async move {
                admin.list_sessions(request).await
            });
            let page = call.await?;
            all.extend(page.sessions);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// Ends sessions. Their agents may come back.
    ///
    /// # Errors
    /// As [`Admin::revoke`].
    pub async fn disconnect(&self, whom: Disconnect) -> Result<Disconnected, Error> {
        let target = match whom {
            Disconnect::Session(id) => disconnect_request::Target::SessionId(id),
            Disconnect::Agent { issuer, agent } => disconnect_request::Target::Agent(AgentSessions { issuer, agent }),
        };
        let request = DisconnectRequest { target: Some(target) };
        let answer = self
            .call(Method::DISCONNECT, request, |mut admin, request| async move { admin.disconnect(request).await })
            .await?;
        Ok(Disconnected { audit_index: answer.audit_index, sessions_ended: answer.sessions_ended })
    }

    /// A consistent copy of the broker's data, part by part. The call is made when the stream is first polled.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup::new(Arc::clone(&self.session))
    }

    /// Calls, and again as long as it is certain that nothing has happened.
    async fn call<Q: Clone, A, F>(
        &self,
        method: Method,
        request: Q,
        once: impl Fn(AdminServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<A, Error>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let mut attempts = self.session.publish_attempts();
        loop {
            let token = self.session.tokens.usable().await;
            let call = async {
                let request = self.session.presenter.request(&token, method, request.clone())?;
                once(self.session.admin(), request).await
            };
            let status = match attempts.in_time(call).await {
                Some(Ok(answer)) => {
                    self.session.tokens.standing().took(&token);
                    return Ok(answer.into_inner());
                }
                Some(Err(status)) => status,
                None => return Err(attempts.timed_out()),
            };
            if may_have_happened(&status) {
                return Err(Verdict::of(&status).to_error());
            }
            attempts.after(&self.session, &Failed { status, token }).await?;
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}
