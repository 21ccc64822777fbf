//! The Prometheus listener: plain HTTP, one page, apart from the public port.

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    authenticate::{ProofError, TokenError},
    deliver::undelivered_reasons,
    metrics::{Gauges, KnownWords, Metrics},
    quota::QuotaKind,
    record::{LogReader, Recorder},
    transport::connection::ConnectionLimit,
};

/// The OpenMetrics text format, as Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Metrics that show from the start what a broker may count.
pub(super) fn metrics() -> Metrics {
    Metrics::with_known(KnownWords {
        authentication_refusals: [&TokenError::REASONS[..], &ProofError::REASONS].concat(),
        undelivered: undelivered_reasons().collect(),
        quotas: QuotaKind::ALL.map(QuotaKind::as_str).to_vec(),
        connection_limits: ConnectionLimit::ALL.map(ConnectionLimit::as_str).to_vec(),
    })
}

/// Serves `GET /metrics`.
pub(super) async fn serve(listener: TcpListener, metrics: Metrics, recorder: Recorder, log: LogReader) {
    let page = move || async move { page(&metrics, &recorder, &log) };
    let router = Router::new().route("/metrics", get(page));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the metrics listener ended");
    }
}

fn page(metrics: &Metrics, recorder: &Recorder, log: &LogReader) -> Response {
    let gauges = Gauges {
        queued_submissions: recorder.queued(),
        log_entries: log.committed(),
        log_bytes: log.size_bytes(),
        free_disk_bytes: recorder.disk().free_bytes(),
    };
    match metrics.render(gauges) {
        Ok(text) => ([(CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Issuer;

    #[test]
    fn what_may_be_counted_is_shown_from_the_start() {
        let metrics = metrics();
        metrics.keys_to_refresh(&Issuer::parse("https://login.example").expect("an issuer"));
        let gauges = Gauges { queued_submissions: 0, log_entries: 0, log_bytes: 0, free_disk_bytes: 0 };
        let text = metrics.render(gauges).expect("text");
        let families: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert!(families.len() > 10, "{families:?}");
        for family in families {
            let is_zero = |line: &str| line.starts_with(family) && (line.ends_with(" 0") || line.ends_with(" 0.0"));
            assert!(text.lines().any(is_zero), "{family} has no sample in\n{text}");
        }
        for sample in [
            r#"authentication_refusals_total{reason="expired"}"#,
            r#"authentication_refusals_total{reason="dpop_old"}"#,
            r#"undelivered_total{reason="slow_subscriber"}"#,
            r#"undelivered_total{reason="dropped_oldest"}"#,
            r#"quota_refusals_total{quota="agents_max"}"#,
            r#"connection_refusals_total{limit="connections_max"}"#,
            r#"key_refreshes_total{issuer="https://login.example",outcome="ok"}"#,
        ] {
            assert!(text.contains(&format!("veribus_{sample} 0\n")), "{sample} is not in\n{text}");
        }
    }
}
