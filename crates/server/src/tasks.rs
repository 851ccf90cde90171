//! Tasks that run to their end even if the caller disconnects.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::traces::{self, CurrentSpan};

/// Runs what changes state to its end. A request's own future ends when its caller disconnects or its deadline passes;
/// a change that is made in it would then stop halfway, with the record written and nothing counted or told.
#[derive(Debug, Default)]
pub struct Tasks(TaskTracker);

/// Work with a waiting client; it moves to a task of its own once the client leaves.
#[must_use = "it runs in a task of its own when it is dropped"]
pub(crate) struct DetachedOnDrop<F: Future<Output: Send + 'static> + Send + 'static> {
    work: Option<Pin<Box<F>>>,
    span: Option<CurrentSpan>,
    tasks: TaskTracker,
}

impl Tasks {
    /// Runs `work` in a task of its own, within the span of the request that asks for it. Dropping the handle does not
    /// stop it.
    pub fn run<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        run_in(&self.0, work, traces::current(), &Handle::current())
    }

    /// The same, but the task is made only when the work is dropped before it is done. Hardly any handshake is, and a task
    /// for each took a twentieth of all that the server computes for one.
    pub(crate) fn outlive<F>(&self, work: F) -> DetachedOnDrop<F>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        DetachedOnDrop { work: Some(Box::pin(work)), span: traces::current(), tasks: self.0.clone() }
    }

    /// Waits until all of it is done, or until the deadline has passed. Returns how much is not done.
    pub(crate) async fn finish(&self, deadline: Instant) -> usize {
        self.0.close();
        // How much is left says whether the time was enough.
        let _ = timeout_at(deadline, self.0.wait()).await;
        self.0.len()
    }
}

fn run_in<F>(
    tasks: &TaskTracker,
    work: F,
    span: Option<CurrentSpan>,
    runtime: &Handle,
) -> JoinHandle<F::Output>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    match span {
        None => tasks.spawn_on(work, runtime),
        Some(span) => tasks.spawn_on(span.around(work), runtime),
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Future for DetachedOnDrop<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // It is present until it completes, and is never polled after that.
        let Some(work) = &mut self.work else { return Poll::Pending };
        let polled = work.as_mut().poll(context);
        if polled.is_ready() {
            self.work = None;
        }
        polled
    }
}

impl<F: Future<Output: Send + 'static> + Send + 'static> Drop for DetachedOnDrop<F> {
    fn drop(&mut self) {
        // Work that has panicked must not continue. Without a runtime, the process ends.
        if let (Some(work), false, Ok(runtime)) =
            (self.work.take(), std::thread::panicking(), Handle::try_current())
        {
            drop(run_in(&self.tasks, work, self.span.take(), &runtime));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn dropped_handle_leaves_the_work_running() {
        let tasks = Tasks::default();
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        drop(tasks.run(async move {
            let _ = gone.await;
            done.send("done").unwrap();
        }));
        go.send(()).unwrap();
        assert_eq!(seen.await, Ok("done"));
        assert_eq!(tasks.finish(Instant::now() + Duration::from_secs(10)).await, 0);
    }

    #[tokio::test]
    async fn detached_work_completes() {
        let tasks = Tasks::default();
        let (go, gone) = oneshot::channel::<()>();
        let (done, seen) = oneshot::channel();
        let mut work = tasks.outlive(async move {
            let _ = gone.await;
            done.send("done").unwrap();
        });
        let begun =
            std::future::poll_fn(|context| Poll::Ready(Pin::new(&mut work).poll(context).is_pending()));
        assert!(begun.await, "it has begun, and waits");
        assert!(tasks.0.is_empty(), "there is no task while it is waited for");
        drop(work);
        assert_eq!(tasks.0.len(), 1);
        go.send(()).unwrap();
        assert_eq!(seen.await, Ok("done"));
        assert_eq!(tasks.outlive(async { "at once" }).await, "at once");
        assert_eq!(tasks.finish(Instant::now() + Duration::from_secs(10)).await, 0);
    }

    /// On a clock that runs ahead whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn unfinished_work_is_counted() {
        let tasks = Tasks::default();
        drop(tasks.run(std::future::pending::<()>()));
        assert_eq!(tasks.finish(Instant::now() + Duration::from_secs(10)).await, 1);
    }
}
