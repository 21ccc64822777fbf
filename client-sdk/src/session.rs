//! What all calls of one client share: the connection, the token, the limits.

use std::time::Duration;

use tonic::transport::Channel;
use veribus_proto::v1::{
    admin_service_client::AdminServiceClient, audit_service_client::AuditServiceClient,
    broker_service_client::BrokerServiceClient, state_service_client::StateServiceClient,
};

use crate::{
    present::Presenter,
    retry::{Attempts, BackoffBounds},
    token::Tokens,
};

/// The largest answer that is decoded.
pub(crate) const DECODED_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Limits, each with its unit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect_timeout: Duration,
    pub(crate) backoff: BackoffBounds,
    pub(crate) publish_for: Duration,
    pub(crate) reconnect_for: Duration,
    pub(crate) late_token_for: Duration,
    pub(crate) message_bytes_max: usize,
    pub(crate) in_flight_messages_max: usize,
    pub(crate) in_flight_bytes_max: usize,
}

pub(crate) struct Session {
    pub(crate) channel: Channel,
    pub(crate) tokens: Tokens,
    pub(crate) presenter: Presenter,
    pub(crate) limits: Limits,
}

impl Session {
    pub(crate) fn broker(&self) -> BrokerServiceClient<Channel> {
        BrokerServiceClient::new(self.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX)
    }

    pub(crate) fn auditor(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX)
    }

    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX)
    }

    pub(crate) fn state(&self) -> StateServiceClient<Channel> {
        StateServiceClient::new(self.channel.clone()).max_decoding_message_size(DECODED_BYTES_MAX)
    }

    /// Attempts at something that must be through within the time for a publish.
    pub(crate) fn publish_attempts(&self) -> Attempts {
        Attempts::new(self.limits.backoff, self.limits.publish_for)
    }

    /// Attempts to take up again what was running.
    pub(crate) fn reconnect_attempts(&self) -> Attempts {
        Attempts::new(self.limits.backoff, self.limits.reconnect_for)
    }
}
