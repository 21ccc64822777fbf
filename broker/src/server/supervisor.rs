//! The tasks that a broker cannot be without, each under a name: the first of them that ends, however it does, ends the broker.
//!
//! Out of scope: tasks of one call or connection, whose end its client sees.

use std::{borrow::Cow, fmt, pin::pin, sync::Arc, thread};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinHandle},
};

/// What a task is called in the log and in errors.
type TaskName = Cow<'static, str>;

/// How a task ended that should not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnd {
    /// It came to its end.
    Returned,
    /// By a panic.
    Panicked,
    /// Somebody stopped it.
    Aborted,
}

impl fmt::Display for TaskEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Returned => "it returned",
            Self::Panicked => "it panicked",
            Self::Aborted => "it was aborted",
        })
    }
}

/// A task without which the broker cannot go on has ended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the task `{task}` has ended unexpectedly: {how}")]
pub struct TaskEnded {
    /// Its name.
    pub task: TaskName,
    /// How.
    pub how: TaskEnd,
}

/// Starts tasks, and knows of the first one that ended. Cheap to clone.
#[derive(Clone)]
pub(super) struct Supervisor {
    first_end: watch::Sender<Option<TaskEnded>>,
    tasks: TaskHandles,
}

/// What runs, by name, so that a test can end each. Nothing in the configuration leads here.
#[derive(Clone, Default)]
pub struct TaskHandles(Arc<Mutex<Vec<Started>>>);

struct Started {
    name: TaskName,
    /// `None` for a thread.
    task: Option<AbortHandle>,
}

impl TaskHandles {
    /// The names of all tasks and threads that were started, in this order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.lock().iter().map(|started| started.name.to_string()).collect()
    }

    /// Ends a task, and says whether it could: a thread cannot be ended from outside.
    #[must_use]
    pub fn end(&self, name: &str) -> bool {
        let tasks = self.0.lock();
        let task = tasks.iter().find(|started| started.name == name).and_then(|started| started.task.as_ref());
        task.map(AbortHandle::abort).is_some()
    }

    fn end_all(&self) {
        self.0.lock().iter().filter_map(|started| started.task.as_ref()).for_each(AbortHandle::abort);
    }
}

impl Supervisor {
    /// Lists in `tasks` what it starts.
    pub(super) fn new(tasks: TaskHandles) -> Self {
        Self { first_end: watch::Sender::new(None), tasks }
    }

    /// Starts a task.
    pub(super) fn spawn(
        &self,
        name: impl Into<TaskName>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let name = name.into();
        let watched = self.watched(name.clone());
        let running = tokio::spawn(async move {
            // Dropped after `watched`: what ends because this task ended is told later.
            let mut task = pin!(task);
            let watched = watched;
            task.as_mut().await;
            watched.returns();
        });
        self.tasks.0.lock().push(Started { name, task: Some(running.abort_handle()) });
        running
    }

    /// Takes a thread in: it ends when what this gives is dropped.
    pub(super) fn thread(&self, name: &'static str) -> Watched {
        self.tasks.0.lock().push(Started { name: name.into(), task: None });
        self.watched(name.into())
    }

    fn watched(&self, task: TaskName) -> Watched {
        Watched { task, has_returned: false, first_end: self.first_end.clone() }
    }

    /// Waits for the first end. Safe to drop and call again.
    pub(super) async fn first_end(&self) -> TaskEnded {
        let mut first_end = self.first_end.subscribe();
        match first_end.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
            Ok(Some(ended)) => ended,
            // Not while there is a sender, which this has.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Ends everything that still runs.
    pub(super) fn end_all(&self) {
        self.tasks.end_all();
    }
}

/// Tells when it is dropped, and so however its task ends.
pub(super) struct Watched {
    task: TaskName,
    has_returned: bool,
    first_end: watch::Sender<Option<TaskEnded>>,
}

impl Watched {
    /// The task has come to its end.
    pub(super) fn returns(mut self) {
        self.has_returned = true;
    }

    const fn how(&self, is_panicking: bool) -> TaskEnd {
        match (is_panicking, self.has_returned) {
            (true, _) => TaskEnd::Panicked,
            (false, true) => TaskEnd::Returned,
            (false, false) => TaskEnd::Aborted,
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let ended = TaskEnded { task: self.task.clone(), how: self.how(thread::panicking()) };
        self.first_end.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(ended);
            }
            is_first
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn first_end(task: impl Future<Output = ()> + Send + 'static) -> TaskEnd {
        let supervisor = Supervisor::new(TaskHandles::default());
        supervisor.spawn("other", std::future::pending());
        supervisor.spawn("this", task);
        let ended = supervisor.first_end().await;
        assert_eq!(ended.task, "this");
        ended.how
    }

    #[tokio::test]
    async fn a_task_that_returns_or_panics_is_told_of() {
        assert_eq!(first_end(async {}).await, TaskEnd::Returned);
        assert_eq!(first_end(async { panic!("as it should") }).await, TaskEnd::Panicked);
    }

    #[tokio::test]
    async fn what_ends_because_another_task_ended_is_told_later() {
        let (handles, (told, hears)) = (TaskHandles::default(), tokio::sync::oneshot::channel::<()>());
        let supervisor = Supervisor::new(handles.clone());
        let second = supervisor.thread("second");
        supervisor.spawn("first", async move {
            let _held = (told, second);
            std::future::pending().await
        });
        tokio::task::yield_now().await;
        assert!(handles.end("first") && !handles.end("second") && !handles.end("third"));
        assert!(hears.await.is_err());
        let ended = supervisor.first_end().await;
        assert_eq!(ended, TaskEnded { task: "first".into(), how: TaskEnd::Aborted });
        assert_eq!(ended.to_string(), "the task `first` has ended unexpectedly: it was aborted");
    }

    #[test]
    fn a_thread_that_panics_is_told_of() {
        let supervisor = Supervisor::new(TaskHandles::default());
        let watched = supervisor.thread("this");
        thread::spawn(move || {
            let _watched = watched;
            panic!("as it should");
        })
        .join()
        .expect_err("panicked");
        let ended = supervisor.first_end.borrow().clone();
        assert_eq!(ended.map(|ended| ended.how), Some(TaskEnd::Panicked));
    }
}
