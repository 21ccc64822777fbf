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

/// Starts the broker, calls `before_ready`, prints the ready line and then `after_ready`, loads anew on SIGHUP what is read from
/// files, and drains on SIGTERM or SIGINT. A second one of these ends it at once.
pub(super) async fn run(
    config: Config,
    before_ready: impl FnOnce(&RunningServer) -> Result<(), Failure>,
    after_ready: &str,
) -> Result<(), Failure> {
    let mut stop = StopSignals::new()?;
    // Before this, and where nobody listens any more, it would end the process.
    let mut reload = listen(SignalKind::hangup())?;
    file_limit::raise(config.limits.connections_max);
    let server = start(config, StartOptions::default()).await.map_err(failure)?;
    before_ready(&server)?;
    announce(ready_line(&server), after_ready.to_owned())?;
    serve(server, &mut stop, &mut reload).await
}

/// Serves, and loads anew when told to, until told to stop or until it cannot go on, and drains in either case.
async fn serve(mut server: RunningServer, stop: &mut StopSignals, reload: &mut Signal) -> Result<(), Failure> {
    let ended = loop {
        tokio::select! {
            name = stop.next() => {
                info!(signal = name, "told to stop");
                break Ok(());
            }
            _ = reload.recv() => {
                info!(signal = "SIGHUP", "told to load anew what is read from files; settings are read at the start only");
                server.reload();
            }
            error = server.failed() => {
                error!(%error, "cannot go on");
                break Err(failure(error));
            }
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

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("cannot listen for signals: {error}")))
}

struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> Result<Self, Failure> {
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
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
        let mut reload = listen(SignalKind::hangup()).expect("signals");
        let ended = serve(server, &mut StopSignals::new().expect("signals"), &mut reload).await;
        let told = "the task `disk watch` has ended unexpectedly: it was aborted";
        assert_eq!(ended, Err(Failure::Failed(told.to_owned())));
    }
}
