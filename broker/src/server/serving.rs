//! What the health service says of each service: what most of its callers would hear now.

use tonic::server::NamedService as _;
use tonic_health::{ServingStatus, server::HealthReporter};
use veribus_proto::v1::{
    admin_service_server::AdminServiceServer, audit_service_server::AuditServiceServer,
    broker_service_server::BrokerServiceServer, state_service_server::StateServiceServer,
};

use crate::{
    record::DiskWatch,
    transport::{admin::Admin, audit::Audit, broker::Broker, state::State},
};

/// How much the broker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Serving {
    /// It stops.
    Nothing,
    /// The reserve of the disk is used up: only what ends something is recorded and done.
    Revoking,
    /// The disk is below its floor.
    Reading,
    Everything,
}

/// Each service, and how much must be done for it to count as serving. The empty name stands for the broker as a whole.
const SERVICES: [(&str, Serving); 5] = [
    ("", Serving::Everything),
    (BrokerServiceServer::<Broker>::NAME, Serving::Everything),
    (StateServiceServer::<State>::NAME, Serving::Everything),
    (AuditServiceServer::<Audit>::NAME, Serving::Reading),
    (AdminServiceServer::<Admin>::NAME, Serving::Revoking),
];

impl Serving {
    pub(super) fn with(disk: &DiskWatch) -> Self {
        if disk.is_critical() {
            Self::Revoking
        } else if disk.is_below_floor() {
            Self::Reading
        } else {
            Self::Everything
        }
    }

    pub(super) async fn tell(self, health: &HealthReporter) {
        for (service, needed) in SERVICES {
            let status = if self >= needed { ServingStatus::Serving } else { ServingStatus::NotServing };
            health.set_service_status(service, status).await;
        }
    }
}
