//! Lines on their way to a slow or broken place, such as a pipe that nobody reads: whoever has a line never waits for it and
//! never hears of an error. What there is no room for is dropped and counted, and the count is told once there is room.

use std::{
    io::{self, Write},
    mem,
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

/// How long to wait for a place that would block.
const FULL_PAUSE: Duration = Duration::from_millis(5);
/// What waits to be written, at most.
const WAITING_BYTES_MAX: usize = 1024 * 1024;

/// Takes lines in. Cheap to clone.
#[derive(Clone)]
pub(in crate::cli) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    is_writing: bool,
    dropped_lines: usize,
}

impl Queue {
    /// Writes to `sink` on a thread of its own, which ends with the process.
    ///
    /// # Errors
    /// Where there can be no thread.
    pub(in crate::cli) fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let writing = Arc::clone(&shared);
        thread::Builder::new().name("log-writer".to_owned()).spawn(move || writing.write_to(sink))?;
        Ok(Self(shared))
    }

    /// Takes whole lines in, or none of them.
    pub(in crate::cli) fn push(&self, lines: &[u8]) {
        let mut state = self.0.state.lock();
        if state.waiting.len() + lines.len() > WAITING_BYTES_MAX {
            state.dropped_lines += count(lines);
            return;
        }
        state.waiting.extend_from_slice(lines);
        self.0.changed.notify_all();
    }

    /// Waits until everything is written, but no longer than this.
    pub(in crate::cli) fn flush(&self, max: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.waiting.is_empty();
        self.0.changed.wait_while_for(&mut self.0.state.lock(), is_busy, max);
    }
}

impl Write for Queue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Shared {
    fn write_to(&self, mut sink: impl Write) {
        let mut is_broken_off = false;
        loop {
            let mut lines = self.next();
            if is_broken_off {
                // What was begun before stays a line of its own.
                lines.insert(0, b'\n');
            }
            let is_written = write_all(&mut sink, &lines).and_then(|()| sink.flush()).is_ok();
            is_broken_off = !is_written;
            let dropped = self.dropped(if is_written { 0 } else { count(&lines) });
            if is_written && dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    "log lines were dropped: they could not be written, or not fast enough"
                );
            }
            self.state.lock().is_writing = false;
            self.changed.notify_all();
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| state.waiting.is_empty());
        state.is_writing = true;
        mem::take(&mut state.waiting)
    }

    /// How many lines were dropped since lines were last written, these among them.
    fn dropped(&self, these: usize) -> usize {
        let mut state = self.state.lock();
        if these == 0 {
            return mem::take(&mut state.dropped_lines);
        }
        state.dropped_lines += these;
        state.dropped_lines
    }
}

/// Waits for a place that takes nothing at the moment, though it was opened so as not to.
fn write_all(sink: &mut impl Write, mut lines: &[u8]) -> io::Result<()> {
    while !lines.is_empty() {
        match sink.write(lines) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => lines = lines.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::park_timeout(FULL_PAUSE),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn count(lines: &[u8]) -> usize {
    lines.iter().filter(|byte| **byte == b'\n').count().max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Writes what it is sent for, and waits where there is nothing; fails where the channel is gone.
    struct Sink {
        may_write: mpsc::Receiver<()>,
        written: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Sink {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.may_write.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.written.send(lines.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_place_that_takes_nothing_holds_up_nobody_and_what_is_beyond_the_room_is_counted() {
        let ((go, may_write), (written, lines)) = (mpsc::channel(), mpsc::channel());
        let queue = Queue::start(Sink { may_write, written }).expect("a thread");
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        for _ in 0..4096 {
            queue.push(&line);
        }
        queue.flush(Duration::from_millis(1));
        let state = queue.0.state.lock();
        // What is being written is not waiting any more.
        assert!((2048..=3072).contains(&state.dropped_lines), "{}", state.dropped_lines);
        assert!(state.waiting.len() <= WAITING_BYTES_MAX);
        drop(state);

        go.send(()).expect("it waits");
        assert!(lines.recv().expect("written").starts_with(b"xxx"));
    }

    #[test]
    fn a_place_that_takes_a_part_and_then_would_block_gets_the_rest() {
        /// Takes three bytes, and every other time none.
        struct Choosy(mpsc::Sender<Vec<u8>>, bool);
        impl Write for Choosy {
            fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let taken = &lines[..lines.len().min(3)];
                self.0.send(taken.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
                Ok(taken.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (written, parts) = mpsc::channel();
        let queue = Queue::start(Choosy(written, false)).expect("a thread");
        queue.push(b"one line\n");
        queue.flush(Duration::from_secs(60));
        assert_eq!(parts.try_iter().flatten().collect::<Vec<_>>(), b"one line\n");
        assert_eq!(queue.0.state.lock().dropped_lines, 0);
    }

    #[test]
    fn a_place_that_is_broken_counts_what_is_lost_and_ends_nothing() {
        let ((go, may_write), (written, _lines)) = (mpsc::channel(), mpsc::channel());
        drop(go);
        let queue = Queue::start(Sink { may_write, written }).expect("a thread");
        for lost in 1..=3 {
            queue.push(b"a line\n");
            while queue.0.state.lock().dropped_lines < lost {
                queue.flush(Duration::from_secs(1));
            }
        }
    }
}
