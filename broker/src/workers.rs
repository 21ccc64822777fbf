//! Long work on threads of its own, so that it holds up no connection, shared fairly between agents: one agent has only so
//! many jobs among those that run or wait for a thread, whatever it asks for. Work of many short steps stays where it is,
//! and lets others run in between.

use std::{
    collections::{HashMap, hash_map::Entry},
    num::NonZeroUsize,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinError,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    authenticate::Identity,
    model::{AgentId, Issuer},
};

/// How long a task runs before others have their turn.
const TIME_SLICE: Duration = Duration::from_micros(100);

/// Since when a task runs. What does many things one after the other asks it in between: hundreds of tasks that are woken at
/// once would otherwise hold up all others for as long as all of them take together.
#[derive(Debug)]
pub struct TimeSlice(Instant);

impl TimeSlice {
    /// From now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Lets other tasks run, if this one has run for long.
    pub async fn yield_if_over(&mut self) {
        if self.0.elapsed() >= TIME_SLICE {
            tokio::task::yield_now().await;
            *self = Self::begin();
        }
    }
}

/// Drives `work` on a task of its own for as long as the handle is there. What waits for something that is shared, as a turn,
/// may be given it at any time and has to go on then, while a body is asked for more only when its client's flow control
/// allows it.
pub fn driven<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(work))
}

/// Runs jobs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    threads: Arc<Semaphore>,
    per_agent_max: usize,
    agents: Mutex<HashMap<Agent, Arc<Semaphore>>>,
}

type Agent = (Issuer, AgentId);

/// The turn of one agent's job. Nothing is kept of an agent that has none.
struct Turn {
    shared: Arc<Shared>,
    agent: Agent,
    /// `None` once it is given back.
    turns: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Workers {
    /// At most so many jobs at once, and so many of one agent that run or are next.
    #[must_use]
    pub fn new(jobs_max: usize, per_agent_max: usize) -> Self {
        let (threads, agents) = (Arc::new(Semaphore::new(jobs_max)), Mutex::default());
        Self(Arc::new(Shared { threads, per_agent_max, agents }))
    }

    /// As many jobs as the machine has cores, and half of them for one agent.
    #[must_use]
    pub fn for_all_cores() -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::new(cores, cores.div_ceil(2))
    }

    /// Runs a job of `identity` when it is its turn. One that has begun ends, also where nobody waits for it any more.
    ///
    /// # Errors
    /// [`JoinError`]: it broke off.
    pub async fn run<T: Send + 'static>(
        &self,
        identity: &Identity,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let (this, agent) = (self.clone(), (identity.issuer().clone(), identity.agent().clone()));
        driven(async move {
            let turn = this.turn(agent).await;
            // Never closed; and one that were would not run more at once, since each agent's turns are bounded all the same.
            let thread = Arc::clone(&this.0.threads).acquire_owned().await.ok();
            tokio::task::spawn_blocking(move || {
                let _held = (thread, turn);
                job()
            })
            .await
        })
        .await?
    }

    async fn turn(&self, agent: Agent) -> Turn {
        let turns = {
            let mut agents = self.0.agents.lock();
            let turns = agents.entry(agent.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.0.per_agent_max)));
            Arc::clone(turns)
        };
        let mut turn = Turn { shared: Arc::clone(&self.0), agent, turns: Some(Arc::clone(&turns)), permit: None };
        turn.permit = turns.acquire_owned().await.ok();
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.permit = None;
        let mut agents = self.shared.agents.lock();
        self.turns = None;
        if let Entry::Occupied(turns) = agents.entry(self.agent.clone())
            && Arc::strong_count(turns.get()) == 1
        {
            turns.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::task::JoinHandle;

    use super::*;
    use crate::{fixtures::World, issue::KeyKind};

    /// A job that says that it runs, and ends when it is told.
    struct Job {
        ended: JoinHandle<()>,
        end: mpsc::Sender<()>,
    }

    fn job(
        workers: &Workers,
        identity: &Arc<Identity>,
        name: &'static str,
        begun: &tokio::sync::mpsc::UnboundedSender<&'static str>,
    ) -> Job {
        let (end, told) = mpsc::channel();
        let (workers, identity, begun) = (workers.clone(), Arc::clone(identity), begun.clone());
        let ended = tokio::spawn(async move {
            let run = move || {
                begun.send(name).ok();
                told.recv().ok();
            };
            workers.run(&identity, run).await.expect("the job ends");
        });
        Job { ended, end }
    }

    #[tokio::test]
    async fn others_run_when_a_time_slice_is_over() {
        let mut slice = TimeSlice::begin();
        let other = tokio::spawn(async {});
        while !other.is_finished() {
            slice.yield_if_over().await;
        }
    }

    #[tokio::test]
    async fn who_is_not_driven_on_holds_no_thread() {
        let world = World::new(KeyKind::EdDsa);
        let [one, two, three] = ["one", "two", "three"].map(|name| world.identity(&world.claims(name)));
        let workers = Workers::new(1, 1);
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let first = job(&workers, &one, "one", &begun);
        assert_eq!(begins.recv().await, Some("one"));
        let mut waiting = Box::pin(workers.run(&two, || {}));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        first.end.send(()).expect("it runs");
        first.ended.await.expect("it ends");
        workers.run(&three, || {}).await.expect("it has its turn");
    }

    #[tokio::test]
    async fn an_agent_with_many_jobs_leaves_room_for_the_others_and_no_trace() {
        let world = World::new(KeyKind::EdDsa);
        let (one, other) = (world.identity(&world.claims("one")), world.identity(&world.claims("other")));
        let workers = Workers::new(2, 1);
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let mut jobs: Vec<Job> = (0..50).map(|_| job(&workers, &one, "one", &begun)).collect();
        assert_eq!(begins.recv().await, Some("one"));
        let last = job(&workers, &other, "other", &begun);
        assert_eq!(begins.recv().await, Some("other"), "and no second one of the first agent");
        // Those that wait no longer are forgotten.
        jobs.drain(1..).for_each(|job| job.ended.abort());
        for Job { ended, end } in jobs.into_iter().chain([last]) {
            end.send(()).expect("it runs");
            ended.await.expect("it ends");
        }
        while !workers.0.agents.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.0.threads.available_permits(), 2);
    }
}
