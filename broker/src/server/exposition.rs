//! The Prometheus listener: plain HTTP, one page, apart from the public port. Few connections at a time, one exchange each:
//! further ones wait for a place, which comes, since nobody keeps one for long.

use std::time::Duration;

use axum::{
    Router,
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures_util::{StreamExt as _, stream};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::reload::Subject;
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

/// The request line and the header fields, in bytes: the least that hyper allows.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADER_FIELDS_MAX: usize = 32;
/// How long to wait after a failed accept: it fails again at once while file descriptors are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the clients of the listener may take up.
#[derive(Debug, Clone, Copy)]
struct ExchangeLimits {
    /// Connections that are served at the same time.
    connections_max: usize,
    /// Until the head of the request is there.
    head_max: Duration,
    /// From the first byte to the last of the answer.
    exchange_max: Duration,
}

const EXCHANGE_LIMITS: ExchangeLimits =
    ExchangeLimits { connections_max: 16, head_max: Duration::from_secs(5), exchange_max: Duration::from_secs(10) };

/// Metrics that show from the start what a broker may count.
pub(super) fn metrics() -> Metrics {
    Metrics::with_known(KnownWords {
        authentication_refusals: [&TokenError::REASONS[..], &ProofError::REASONS].concat(),
        undelivered: undelivered_reasons().collect(),
        quotas: QuotaKind::ALL.map(QuotaKind::as_str).to_vec(),
        connection_limits: ConnectionLimit::ALL.map(ConnectionLimit::as_str).to_vec(),
        reload_subjects: Subject::ALL.map(Subject::as_str).to_vec(),
    })
}

/// Serves `GET /metrics`.
pub(super) async fn serve(listener: TcpListener, metrics: Metrics, recorder: Recorder, log: LogReader) {
    let page = move || async move { page(&metrics, &recorder, &log) };
    serve_within(EXCHANGE_LIMITS, listener, Router::new().route("/metrics", get(page))).await;
}

async fn serve_within(limits: ExchangeLimits, listener: TcpListener, router: Router) {
    let accepted = stream::poll_fn(|context| listener.poll_accept(context).map(Some));
    let served = accepted.for_each_concurrent(limits.connections_max, |accepted| async {
        match accepted {
            Ok((stream, _)) => exchange(limits, stream, router.clone()).await,
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    });
    served.await;
}

/// One request and its answer.
async fn exchange(limits: ExchangeLimits, stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_max)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(limits.exchange_max, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for metrics failed"),
        Err(_) => tracing::debug!("a request for metrics took too long"),
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
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use futures_util::future::join_all;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        task::yield_now,
    };

    use super::*;
    use crate::model::Issuer;

    const PATIENCE: Duration = Duration::from_mins(1);
    const SHORT: Duration = Duration::from_millis(50);

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        (listener, address)
    }

    async fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("connects");
        stream.write_all(text.as_bytes()).await.expect("written");
        stream
    }

    /// What comes until the connection is closed.
    async fn answer(mut stream: TcpStream) -> String {
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("it is closed").ok();
        String::from_utf8(bytes).expect("text")
    }

    const REQUEST: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    #[tokio::test]
    async fn clients_that_hold_their_connections_do_not_keep_others_out() {
        let (head, exchange) = (
            ExchangeLimits { head_max: SHORT, ..EXCHANGE_LIMITS },
            ExchangeLimits { exchange_max: SHORT, ..EXCHANGE_LIMITS },
        );
        // One of both must do, whichever the client wears out.
        for limits in [
            ExchangeLimits { connections_max: 1, exchange_max: PATIENCE * 2, ..head },
            ExchangeLimits { connections_max: 1, head_max: PATIENCE * 2, ..exchange },
        ] {
            let (listener, address) = listener().await;
            let held = [send(address, "").await, send(address, "GET / HT").await];
            let scrape = send(address, REQUEST).await;
            let router = Router::new().route("/", get(|| async { "page" }));
            let serving = tokio::spawn(serve_within(limits, listener, router));
            let answer = answer(scrape).await;
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("page"), "{limits:?}: {answer}");
            drop(held);
            serving.abort();
        }
    }

    #[tokio::test]
    async fn no_more_connections_are_served_at_a_time_than_the_limit() {
        let (listener, address) = listener().await;
        let scrapes = join_all((0..20).map(|_| send(address, REQUEST))).await;
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (inside, peak) = (Arc::clone(&now), Arc::clone(&most));
        let page = move || async move {
            peak.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            for _ in 0..100 {
                yield_now().await;
            }
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        let limits = ExchangeLimits { connections_max: 2, ..EXCHANGE_LIMITS };
        let serving = tokio::spawn(serve_within(limits, listener, Router::new().route("/", get(page))));
        let answers = join_all(scrapes.into_iter().map(answer)).await;
        assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{answers:?}");
        assert_eq!(most.load(Ordering::SeqCst), 2);
        serving.abort();
    }

    #[tokio::test]
    async fn a_head_that_is_too_large_is_refused() {
        let (listener, address) = listener().await;
        let router = Router::new().route("/", get(|| async { "page" }));
        let serving = tokio::spawn(serve_within(EXCHANGE_LIMITS, listener, router));
        for fields in ["x: y\r\n".repeat(HEADER_FIELDS_MAX + 1), format!("x: {}\r\n", "y".repeat(HEAD_BYTES_MAX))] {
            let answer = answer(send(address, &format!("GET / HTTP/1.1\r\n{fields}\r\n")).await).await;
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
        }
        serving.abort();
    }

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
            r#"key_set_entries_skipped{issuer="https://login.example"}"#,
        ] {
            assert!(text.contains(&format!("veribus_{sample} 0\n")), "{sample} is not in\n{text}");
        }
    }
}
