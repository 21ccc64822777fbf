//! Runs a broker from its ready line to its last breath. The only place that starts the server.

use std::thread;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info};

use super::{failure::Failure, file_limit, output};
use crate::{
    config::Config,
    decide::BundleError,
    dev::client_url,
    server::{RunningServer, ServerError, StartOptions, start},
};

/// Starts the broker, calls `before_ready`, prints the ready line and then `after_ready`, and drains on SIGTERM or
/// SIGINT. A second signal ends it at once.
pub(super) async fn run(
    config: Config,
    before_ready: impl FnOnce(&RunningServer) -> Result<(), Failure>,
    after_ready: &str,
) -> Result<(), Failure> {
    let mut stop = StopSignals::new()?;
    file_limit::raise(config.limits.connections_max);
    let server = start(config, StartOptions::default()).await.map_err(failure)?;
    before_ready(&server)?;
    announce(ready_line(&server), after_ready.to_owned())?;
    serve(server, &mut stop).await
}

/// Serves until told to stop or until it cannot go on, and drains in either case.
async fn serve(mut server: RunningServer, stop: &mut StopSignals) -> Result<(), Failure> {
    let ended = tokio::select! {
        name = stop.next() => {
            info!(signal = name, "told to stop");
            Ok(())
        }
        error = server.failed() => {
            error!(%error, "cannot go on");
            Err(failure(error))
        }
    };
    tokio::select! {
        drained = server.drain() => ended.and(drained.map_err(failure)),
        name = stop.next() => ended.and(Err(Failure::failed(format!("{name} came before the drain was over")))),
    }
}

fn failure(error: ServerError) -> Failure {
    if let ServerError::Policy(BundleError::Refused(findings)) = &error {
        findings.iter().for_each(output::note);
    }
    if error.is_configuration() { Failure::usage(error) } else { Failure::failed(error) }
}

/// A broker does not stop, and is not held up, because nobody reads what it says: on a thread of its own, which is not waited
/// for.
fn announce(ready: String, after_ready: String) -> Result<(), Failure> {
    let say = move || {
        let said = output::line(ready)
            .and_then(|()| if after_ready.is_empty() { Ok(()) } else { output::lines(&after_ready) });
        if let Err(error) = said {
            info!(%error, "standard output cannot be written");
        }
    };
    let started = thread::Builder::new().name("announce".to_owned()).spawn(say);
    started.map(drop).map_err(|error| Failure::failed(format!("cannot start: {error}")))
}

fn ready_line(server: &RunningServer) -> String {
    let url = client_url(server.address());
    match server.metrics_address() {
        Some(metrics) => format!("ready {url} (metrics http://{metrics}/metrics)"),
        None => format!("ready {url}"),
    }
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    /// Ends a process that does not listen for it; here it means nothing.
    hangup: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => info!("SIGHUP is ignored: settings are read at the start only"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        dev::{DevDirectory, DevOptions},
        server::TaskHandles,
    };

    #[tokio::test]
    async fn a_broker_that_cannot_go_on_drains_and_names_what_ended() {
        let (place, tasks) = (tempfile::tempdir().expect("a directory"), TaskHandles::default());
        let directory = DevDirectory::create_or_reuse(place.path(), DevOptions::default()).expect("made");
        let config = directory.config().expect("valid");
        let options = StartOptions { tasks: tasks.clone(), ..StartOptions::default() };
        let server = start(config, options).await.expect("starts");
        assert!(tasks.end("disk watch"));
        let ended = serve(server, &mut StopSignals::new().expect("signals")).await;
        let told = "the task `disk watch` has ended unexpectedly: it was aborted";
        assert_eq!(ended, Err(Failure::Failed(told.to_owned())));
    }
}
