//! Loads anew what the broker reads from files, while it runs: on SIGHUP all of it, and by itself where a file changed.
//!
//! Certificates, keys and key sets are whole or they do not load, so the same new bytes at two looks in a row are enough. Policy
//! and rules are not: a directory that is being copied can be valid and lack its denials. They are loaded by themselves only where
//! the symbolic link through which they are reached points elsewhere, as Kubernetes and `ln -sfn` do.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval},
};
use veribus_proto::v1::{Reload, ReloadCause};

use crate::{
    metrics::Metrics,
    model::Clock,
    record::{Draft, Recorder},
    transport::{certificate::DAYS_LEFT_MIN, tls::ServerTls},
};

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often it is said that the certificate ends soon.
const SAID_EVERY: Duration = Duration::from_hours(24);

/// What can be loaded anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    ServerCertificate,
    ClientAuthorities,
    KeySet,
    InspectionRules,
    Policy,
}

impl Subject {
    pub(crate) const ALL: [Self; 5] =
        [Self::ServerCertificate, Self::ClientAuthorities, Self::KeySet, Self::InspectionRules, Self::Policy];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::ServerCertificate => "server_certificate",
            Self::ClientAuthorities => "client_authorities",
            Self::KeySet => "key_set",
            Self::InspectionRules => "inspection_rules",
            Self::Policy => "policy",
        }
    }

    /// Whether messages are decided by it: those decisions are not to be found in the log before its entry is.
    const fn decides(self) -> bool {
        matches!(self, Self::InspectionRules | Self::Policy)
    }
}

/// What was loaded.
pub(super) struct Loaded {
    pub(super) sha256: [u8; 32],
    pub(super) put_in_force: Box<dyn FnOnce() + Send>,
}

/// Files, and how they were before they were read.
pub(super) struct WatchedFiles {
    notice: Notice,
    seen: [u8; 32],
}

impl WatchedFiles {
    /// Other bytes in any of these files are a change.
    pub(super) fn bytes(files: Vec<PathBuf>) -> Self {
        Self::now(Notice::Bytes(files))
    }

    /// Another place that this file or directory is found at is a change.
    pub(super) fn links(path: &Path) -> Self {
        // A volume of Kubernetes has its files behind the link `..data`.
        Self::now(Notice::Links(vec![path.to_owned(), path.join("..data")]))
    }

    fn now(notice: Notice) -> Self {
        let seen = notice.state();
        Self { notice, seen }
    }
}

/// What tells that something is to be loaded anew.
enum Notice {
    Bytes(Vec<PathBuf>),
    Links(Vec<PathBuf>),
}

impl Notice {
    const fn cause(&self) -> ReloadCause {
        match self {
            Self::Bytes(_) => ReloadCause::FileChanged,
            Self::Links(_) => ReloadCause::LinkChanged,
        }
    }

    /// Differs where something changed. What came by a pipe is never looked at again.
    fn state(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut add = |part: Option<&[u8]>| {
            digest.update(part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
            digest.update(part.unwrap_or_default());
        };
        match self {
            Self::Bytes(files) => {
                for file in files {
                    let is_file = fs::metadata(file).is_ok_and(|metadata| metadata.is_file());
                    add(is_file.then(|| fs::read(file).ok()).flatten().as_deref());
                }
            }
            Self::Links(paths) => {
                for path in paths {
                    add(fs::canonicalize(path).ok().as_deref().map(|place| place.as_os_str().as_encoded_bytes()));
                }
            }
        }
        digest.finalize().into()
    }

    /// A file that came by a pipe has been read.
    fn can_be_read_again(&self) -> bool {
        let Self::Bytes(files) = self else { return true };
        files.iter().all(|file| fs::metadata(file).map_or(true, |metadata| metadata.is_file()))
    }
}

type Load = dyn Fn() -> Result<Loaded, String> + Send + Sync;

/// Something that can be loaded anew.
pub(super) struct Reloadable {
    subject: Subject,
    /// What it is called in the log.
    resource: String,
    notice: Arc<Notice>,
    load: Arc<Load>,
    in_force: [u8; 32],
    /// As it was when it was last loaded, or could not be.
    settled: [u8; 32],
    last_seen: [u8; 32],
}

impl Reloadable {
    /// `in_force` is the hash of what was read from the files since they are watched.
    pub(super) fn new(
        subject: Subject,
        name: &str,
        WatchedFiles { notice, seen }: WatchedFiles,
        in_force: [u8; 32],
        load: impl Fn() -> Result<Loaded, String> + Send + Sync + 'static,
    ) -> Self {
        let resource = [subject.as_str(), name].join(" ").trim_end().to_owned();
        let (notice, load) = (Arc::new(notice), Arc::new(load));
        Self { subject, resource, notice, load, in_force, settled: seen, last_seen: seen }
    }

    /// Whether it changed, and was the same at the look before.
    async fn has_changed(&mut self) -> bool {
        let Some(seen) = self.state().await else { return false };
        let is_steady = std::mem::replace(&mut self.last_seen, seen) == seen;
        is_steady && seen != self.settled
    }

    async fn state(&self) -> Option<[u8; 32]> {
        let notice = Arc::clone(&self.notice);
        tokio::task::spawn_blocking(move || notice.state()).await.ok()
    }

    /// `None` where it changed meanwhile.
    async fn load(&mut self) -> Option<Result<Loaded, String>> {
        let before = self.state().await?;
        let load = Arc::clone(&self.load);
        let loaded = tokio::task::spawn_blocking(move || load()).await.ok()?;
        (self.state().await? == before).then(|| {
            self.settled = before;
            loaded
        })
    }
}

/// The things that can be loaded anew.
pub(super) struct Reloads {
    items: Vec<Reloadable>,
    recorder: Recorder,
    metrics: Metrics,
    tls: Arc<ServerTls>,
    clock: Clock,
    asked: Arc<Notify>,
    next_warning: Instant,
}

/// How often something is read that changes while it is read.
const READS_MAX: usize = 5;

impl Reloads {
    /// Loads everything anew when `asked`.
    pub(super) fn new(
        items: Vec<Reloadable>,
        recorder: Recorder,
        metrics: Metrics,
        tls: Arc<ServerTls>,
        clock: Clock,
        asked: Arc<Notify>,
    ) -> Self {
        Self { items, recorder, metrics, tls, clock, asked, next_warning: Instant::now() }
    }

    /// Looks and listens without an end.
    pub(super) async fn run(mut self) {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asked = Arc::clone(&self.asked);
        loop {
            tokio::select! {
                biased;
                () = asked.notified() => self.reload_all().await,
                _ = looks.tick() => self.look().await,
            }
        }
    }

    async fn reload_all(&mut self) {
        for item in &mut self.items {
            if item.notice.can_be_read_again() {
                reload(item, ReloadCause::Signal, &self.recorder, &self.metrics).await;
            } else {
                tracing::warn!(what = item.resource, "came by a pipe and cannot be read again: it stays as it is");
            }
        }
    }

    async fn look(&mut self) {
        for item in &mut self.items {
            if item.has_changed().await {
                reload(item, item.notice.cause(), &self.recorder, &self.metrics).await;
            }
        }
        let days_left = self.tls.certificate().facts().days_left(self.clock.now());
        self.metrics.certificate_days_left(days_left);
        if days_left < DAYS_LEFT_MIN && self.next_warning <= Instant::now() {
            tracing::warn!(days_left, "the server's certificate expires soon, or has expired: replace it");
            self.next_warning = Instant::now() + SAID_EVERY;
        }
    }
}

/// Loads one thing anew. What does not load, or decides and cannot be recorded, leaves the one before in force.
async fn reload(item: &mut Reloadable, cause: ReloadCause, recorder: &Recorder, metrics: &Metrics) {
    let mut loaded = None;
    for _ in 0..READS_MAX {
        loaded = item.load().await;
        if loaded.is_some() {
            break;
        }
    }
    let loaded = loaded.unwrap_or_else(|| Err("its files change while they are read".to_owned()));
    let resource = item.resource.as_str();
    let facts = Reload { cause: cause.into(), previous_sha256: item.in_force.to_vec(), ..Reload::default() };
    match loaded {
        Ok(Loaded { sha256, .. }) if sha256 == item.in_force => {
            tracing::info!(what = resource, "is as it was");
        }
        Ok(Loaded { sha256, put_in_force }) => {
            let draft = Draft::reloaded(resource, Reload { sha256: sha256.to_vec(), ..facts });
            if item.subject.decides() {
                if let Err(error) = recorder.report(draft).await {
                    tracing::error!(what = resource, %error, "cannot be recorded: the one before stays in force");
                    return metrics.reloaded(item.subject.as_str(), false);
                }
                put_in_force();
            } else {
                put_in_force();
                if let Err(error) = recorder.report(draft).await {
                    tracing::error!(what = resource, %error, "is in force, and cannot be recorded");
                }
            }
            item.in_force = sha256;
            metrics.reloaded(item.subject.as_str(), true);
            let sha256 = HEXLOWER.encode(&sha256);
            tracing::info!(what = resource, cause = cause.as_str_name(), sha256, "was loaded anew");
        }
        Err(error) => {
            tracing::error!(what = resource, error, "could not be loaded anew: the one before stays in force");
            metrics.reloaded(item.subject.as_str(), false);
            if let Err(error) = recorder.report(Draft::reloaded(resource, Reload { error, ..facts })).await {
                tracing::error!(what = resource, %error, "that cannot be recorded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    fn looks(watched: WatchedFiles) -> Reloadable {
        Reloadable::new(Subject::Policy, "", watched, [0; 32], || Err("not in this test".to_owned()))
    }

    #[tokio::test]
    async fn bytes_count_when_they_are_the_same_at_two_looks() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("file");
        fs::write(&file, "one").expect("written");
        let mut item = looks(WatchedFiles::bytes(vec![file.clone()]));
        assert!(!item.has_changed().await && !item.has_changed().await);
        fs::write(&file, "tw").expect("written");
        assert!(!item.has_changed().await, "half of it perhaps");
        fs::write(&file, "two").expect("written");
        assert!(!item.has_changed().await, "not the same as at the look before");
        assert!(item.has_changed().await);
        assert!(item.load().await.is_some_and(|loaded| loaded.is_err()));
        assert!(!item.has_changed().await, "what does not load is not loaded again and again");
        fs::remove_file(&file).expect("removed");
        assert!(!item.has_changed().await && item.has_changed().await, "a file that is gone is a change");
    }

    #[tokio::test]
    async fn a_directory_counts_when_its_link_points_elsewhere_and_not_when_files_in_it_change() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for version in ["one", "two"] {
            fs::create_dir(at(version)).expect("made");
        }
        symlink("one", at("current")).expect("linked");
        let mut item = looks(WatchedFiles::links(&at("current")));
        fs::write(at("one/policy.rego"), "package veribus").expect("written");
        assert!(!item.has_changed().await && !item.has_changed().await);
        symlink("two", at("next")).expect("linked");
        fs::rename(at("next"), at("current")).expect("moved");
        assert!(!item.has_changed().await && item.has_changed().await);
    }

    #[tokio::test]
    async fn a_volume_of_kubernetes_counts_when_its_inner_link_points_elsewhere() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        for version in ["..1", "..2"] {
            fs::create_dir(at(version)).expect("made");
            fs::write(at(version).join("rules.toml"), version).expect("written");
        }
        symlink("..1", at("..data")).expect("linked");
        symlink("..data/rules.toml", at("rules.toml")).expect("linked");
        let mut whole = looks(WatchedFiles::links(directory.path()));
        let mut file = looks(WatchedFiles::links(&at("rules.toml")));
        symlink("..2", at("..next")).expect("linked");
        fs::rename(at("..next"), at("..data")).expect("moved");
        for item in [&mut whole, &mut file] {
            assert!(!item.has_changed().await && item.has_changed().await);
        }
    }

    #[tokio::test]
    async fn what_came_by_a_pipe_is_not_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let pipe = directory.path().join("pipe");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).expect("a pipe");
        let notice = Notice::Bytes(vec![pipe]);
        assert!(!notice.can_be_read_again());
        assert_eq!(notice.state(), notice.state(), "and looking at it does not wait for a writer");
    }
}
