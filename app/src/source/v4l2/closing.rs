//! Stops a camera's stream without a panic.

use std::io;
use std::mem::forget;
use std::ops::{Deref, DerefMut};
use std::thread::sleep;
use std::time::Duration;

/// The device is gone: the only error of a stop that the `v4l` crate's streams ignore when dropped.
const ENODEV: i32 = 19;

/// Attempts to stop. A stop fails only while the driver is busy with a reset.
const TRIES: usize = 5;

/// Pause between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// A stream that is stopped before it is dropped. Dropping a `v4l` stream stops it and panics if that fails; here the stop is
/// tried first, and a second stop always succeeds (V4L2, `VIDIOC_STREAMOFF`).
pub(super) struct Closing<S: Stoppable>(Option<S>);

/// A stream that can be stopped, and that panics when it is dropped and cannot be stopped.
pub(super) trait Stoppable {
    /// Stops the stream.
    fn stop(&mut self) -> io::Result<()>;
}

impl<S: Stoppable> Closing<S> {
    pub(super) fn new(stream: S) -> Self {
        Closing(Some(stream))
    }
}

impl<S: Stoppable> Deref for Closing<S> {
    type Target = S;

    fn deref(&self) -> &S {
        self.0.as_ref().expect("only drop takes the stream")
    }
}

impl<S: Stoppable> DerefMut for Closing<S> {
    fn deref_mut(&mut self) -> &mut S {
        self.0.as_mut().expect("only drop takes the stream")
    }
}

impl<S: Stoppable> Drop for Closing<S> {
    fn drop(&mut self) {
        let Some(mut stream) = self.0.take() else { return };
        if let Err(error) = stop(&mut stream) {
            // Dropping it would panic. Its buffers and the device stay open, and the device stays busy.
            log::error!("cannot stop the camera: {error}; plug it in again and restart");
            forget(stream);
        }
    }
}

/// Stops the stream. A device that is gone counts as stopped.
fn stop(stream: &mut impl Stoppable) -> io::Result<()> {
    let mut tries = 1;
    loop {
        match stream.stop() {
            Err(error) if error.raw_os_error() == Some(ENODEV) => return Ok(()),
            Err(_) if tries < TRIES => {
                tries += 1;
                sleep(PAUSE);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const EBUSY: i32 = 16;

    /// Fails to stop with the given errors, last one first, and panics like `v4l` when dropped.
    struct Stubborn<'a> {
        errors: Vec<i32>,
        dropped: &'a Cell<bool>,
    }

    impl Stoppable for Stubborn<'_> {
        fn stop(&mut self) -> io::Result<()> {
            self.errors.pop().map_or(Ok(()), |code| Err(io::Error::from_raw_os_error(code)))
        }
    }

    impl Drop for Stubborn<'_> {
        fn drop(&mut self) {
            self.dropped.set(true);
            if let Err(error) = self.stop() {
                assert_eq!(error.raw_os_error(), Some(ENODEV));
            }
        }
    }

    #[test]
    fn dropping_never_panics() {
        for (errors, expected) in [
            (vec![], true),
            (vec![ENODEV; 2], true),
            (vec![ENODEV, ENODEV, EBUSY], true),
            (vec![EBUSY; 4], true),
            (vec![EBUSY; 100], false),
        ] {
            let dropped = Cell::new(false);
            drop(Closing::new(Stubborn { errors: errors.clone(), dropped: &dropped }));
            assert_eq!(dropped.get(), expected, "{errors:?}");
        }
    }
}
