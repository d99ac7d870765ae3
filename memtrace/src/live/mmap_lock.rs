//! Whether the target's mmap_lock is held for good. A process that hangs with it, in a mapping call on a server that does
//! not answer, makes everybody hang who reads its command line, its smaps or its memory, as `ps` then does. So the first
//! such reading is made by a thread that nobody waits for long, and the others wait until it has come back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Far longer than a reading of the largest process takes.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the first reading says of the lock.
#[derive(Clone, Debug, Default)]
pub struct MmapLock {
    pid: u32,
    /// The reading has not come back.
    held: Arc<AtomicBool>,
}

impl MmapLock {
    /// Makes the first reading of a process, which takes the lock. Its result, if it comes back within a second.
    ///
    /// # Errors
    /// No thread can be had.
    pub fn try_with<T: Send + 'static>(
        pid: u32,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<(Option<T>, Self)> {
        Self::try_for(PATIENCE, pid, read)
    }

    fn try_for<T: Send + 'static>(
        patience: Duration,
        pid: u32,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<(Option<T>, Self)> {
        let held = Arc::new(AtomicBool::new(true));
        let (sender, receiver) = channel();
        let theirs = Arc::clone(&held);
        std::thread::Builder::new().name("mmap-lock".to_owned()).spawn(move || {
            let read = read();
            theirs.store(false, Ordering::Release);
            // Nobody may want it any more.
            let _ = sender.send(read);
        })?;
        Ok((receiver.recv_timeout(patience).ok(), Self { pid, held }))
    }

    /// Whether a reading of this process that takes the lock would hang. Of a lock that somebody takes for good later it
    /// knows nothing.
    #[must_use]
    pub fn hangs(&self, pid: u32) -> bool {
        pid == self.pid && self.held.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_that_hangs_is_not_waited_for() {
        let (release, released) = channel::<()>();
        let (read, lock) = MmapLock::try_for(Duration::from_millis(1), 7, move || released.recv().is_ok()).unwrap();
        assert_eq!((read, lock.hangs(7), lock.hangs(8)), (None, true, false));
        release.send(()).unwrap();
        // The thread goes on; that it does not is what the test's own time is for.
        while lock.hangs(7) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_reading_that_comes_back_frees_the_rest() {
        let (read, lock) = MmapLock::try_with(7, || 1).unwrap();
        assert_eq!((read, lock.hangs(7)), (Some(1), false));
        assert!(!MmapLock::default().hangs(0));
    }
}
