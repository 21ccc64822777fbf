//! The Prometheus listener: plain HTTP, one page, apart from the public port.

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use tokio::net::TcpListener;

use crate::{
    metrics::{Gauges, Metrics},
    record::{LogReader, Recorder},
};

/// The OpenMetrics text format, as Prometheus asks for it.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

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
