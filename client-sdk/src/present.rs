//! How a call shows who is calling: the token, and where there is a key, a proof that goes with it.

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
};
use veribus_proto::v1;

use crate::{Credentials, DpopKey, Error, Token};

/// gRPC is always POST.
const HTTP_METHOD: &str = "POST";

/// The calls of the API that the SDK makes, by their paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Method(pub(crate) &'static str);

impl Method {
    pub(crate) const PUBLISH: Self = Self("/veribus.v1.BrokerService/Publish");
    pub(crate) const PUBLISH_STREAM: Self = Self("/veribus.v1.BrokerService/PublishStream");
    pub(crate) const SUBSCRIBE: Self = Self("/veribus.v1.BrokerService/Subscribe");
    pub(crate) const QUERY: Self = Self("/veribus.v1.AuditService/Query");
    pub(crate) const REVOKE: Self = Self("/veribus.v1.AdminService/Revoke");
    pub(crate) const REINSTATE: Self = Self("/veribus.v1.AdminService/Reinstate");
    pub(crate) const LIST_REVOCATIONS: Self = Self("/veribus.v1.AdminService/ListRevocations");
    pub(crate) const LIST_SESSIONS: Self = Self("/veribus.v1.AdminService/ListSessions");
    pub(crate) const DISCONNECT: Self = Self("/veribus.v1.AdminService/Disconnect");
    pub(crate) const LIST_KEYS: Self = Self("/veribus.v1.AdminService/ListKeys");
    pub(crate) const ROTATE_KEYS: Self = Self("/veribus.v1.AdminService/RotateKeys");
    pub(crate) const REWRAP_KEYS: Self = Self("/veribus.v1.AdminService/RewrapKeys");
    pub(crate) const SHRED_KEY: Self = Self("/veribus.v1.AdminService/ShredKey");
    pub(crate) const STATE_PUT: Self = Self("/veribus.v1.StateService/Put");
    pub(crate) const STATE_GET: Self = Self("/veribus.v1.StateService/Get");
    pub(crate) const STATE_DELETE: Self = Self("/veribus.v1.StateService/Delete");
    pub(crate) const STATE_LIST: Self = Self("/veribus.v1.StateService/List");
    pub(crate) const STATE_WATCH: Self = Self("/veribus.v1.StateService/Watch");
    pub(crate) const STATE_SESSION: Self = Self("/veribus.v1.StateService/Session");
    pub(crate) const BACKUP: Self = Self("/veribus.v1.AdminService/Backup");
    pub(crate) const TAIL: Self = Self("/veribus.v1.AuditService/Tail");
}

/// Shows tokens to one broker.
#[derive(Debug)]
pub(crate) struct Presenter {
    key: Option<DpopKey>,
    /// The broker's public address without a path: what proofs name, with the path of the method.
    public_url: String,
}

impl Presenter {
    pub(crate) const fn new(key: Option<DpopKey>, public_url: String) -> Self {
        Self { key, public_url }
    }

    /// A call that shows `token`. Without a key the scheme is `Bearer`; with one, `DPoP` (RFC 9449 §7.1).
    pub(crate) fn request<T>(&self, token: &Token, method: Method, body: T) -> Result<Request<T>, Status> {
        let mut request = Request::new(body);
        let scheme = if self.key.is_some() { "DPoP" } else { "Bearer" };
        request.metadata_mut().insert("authorization", token.header(scheme).ok_or_else(unsendable)?);
        if let Some(key) = &self.key {
            let proof: MetadataValue<Ascii> = self.proof(key, token, method)?.parse().map_err(|_| unsendable())?;
            request.metadata_mut().insert("dpop", proof);
        }
        Ok(request)
    }

    /// A fresh token for a stream that runs.
    pub(crate) fn refresh(&self, token: &Token, method: Method) -> Result<v1::Credentials, Status> {
        self.credentials(token, self.key.as_ref(), method)
    }

    /// Somebody else's credentials, for a message sent by `method`.
    pub(crate) fn on_behalf_of(&self, credentials: &Credentials, method: Method) -> Result<v1::Credentials, Status> {
        self.credentials(credentials.token(), credentials.key(), method)
    }

    fn credentials(&self, token: &Token, key: Option<&DpopKey>, method: Method) -> Result<v1::Credentials, Status> {
        let dpop_proof = key.map(|key| self.proof(key, token, method)).transpose()?.unwrap_or_default();
        Ok(v1::Credentials { token: token.jwt().to_owned(), dpop_proof })
    }

    fn proof(&self, key: &DpopKey, token: &Token, method: Method) -> Result<String, Status> {
        let url = format!("{}{}", self.public_url, method.0);
        key.proof(HTTP_METHOD, &url, Some(token), None).map_err(|error| unprovable(&error))
    }
}

fn unsendable() -> Status {
    Status::failed_precondition("the token cannot be sent")
}

fn unprovable(error: &Error) -> Status {
    Status::failed_precondition(error.to_string())
}
