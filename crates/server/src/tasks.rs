//! Work that goes on when whoever asked for it has gone.

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;

use crate::traces;

/// Runs what changes state to its end. A request's own future ends when its caller disconnects or its deadline passes;
/// a change that is made in it would then stop halfway, with the record written and nothing counted or told.
#[derive(Debug, Default)]
pub struct Tasks(TaskTracker);

impl Tasks {
    /// Runs `work` in a task of its own, within the span of the request that asks for it. Dropping the handle does not
    /// stop it.
    pub fn run<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        match traces::current() {
            None => self.0.spawn(work),
            Some(span) => self.0.spawn(span.around(work)),
        }
    }

    /// Waits until all of it is done, or until the deadline has passed. Returns how much is not done.
    pub(crate) async fn finish(&self, deadline: Instant) -> usize {
        self.0.close();
        // How much is left says whether the time was enough.
        let _ = timeout_at(deadline, self.0.wait()).await;
        self.0.len()
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

    /// On a clock that runs ahead whenever everybody waits.
    #[tokio::test(start_paused = true)]
    async fn work_without_end_is_counted() {
        let tasks = Tasks::default();
        drop(tasks.run(std::future::pending::<()>()));
        assert_eq!(tasks.finish(Instant::now() + Duration::from_secs(10)).await, 1);
    }
}
