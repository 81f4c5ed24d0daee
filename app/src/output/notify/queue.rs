//! Notices that wait for a slow receiver: bounded, and the newest win.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::notice::Notice;

/// Maximum number of notices that wait: minutes of a busy scene.
pub(super) const WAITING_MAX: usize = 64;

/// Maximum number of pictures that wait, 1.2 MB each; older notices lose theirs.
const PICTURES_MAX: usize = 4;

/// Passes notices from the loop to one sender.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    notices: VecDeque<Notice>,
    is_closed: bool,
}

/// What there is to send.
#[derive(Debug)]
pub(super) enum Next {
    /// The oldest notice that waits.
    Notice(Box<Notice>),
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come.
    Closed,
}

impl Queue {
    /// Adds a notice. Returns the number of older ones that are lost for it.
    pub(super) fn push(&self, notice: Notice) -> u64 {
        let mut waiting = self.lock();
        let is_full = waiting.notices.len() == WAITING_MAX;
        if is_full {
            waiting.notices.pop_front();
        }
        waiting.notices.push_back(notice);
        let with_picture = waiting.notices.iter_mut().rev().filter(|notice| notice.picture.is_some());
        with_picture.skip(PICTURES_MAX).for_each(|notice| notice.picture = None);
        self.changed.notify_all();
        u64::from(is_full)
    }

    /// Takes the oldest notice; waits for it for at most `limit`.
    pub(super) fn take(&self, limit: Duration) -> Next {
        let nothing = |waiting: &mut Waiting| waiting.notices.is_empty() && !waiting.is_closed;
        let waited = self.changed.wait_timeout_while(self.lock(), limit, nothing);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
        match waiting.notices.pop_front() {
            Some(notice) => Next::Notice(Box::new(notice)),
            None if waiting.is_closed => Next::Closed,
            None => Next::Nothing,
        }
    }

    /// Says that nothing will come. What waits can still be taken.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Drops what waits; returns the number.
    pub(super) fn clear(&self) -> u64 {
        let mut waiting = self.lock();
        let count = waiting.notices.len() as u64;
        waiting.notices.clear();
        count
    }

    /// A panic elsewhere leaves the list whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use spotter_engine::decide::ChangeKind;
    use spotter_engine::picture::Picture;

    use super::super::super::notice::NoticePicture;
    use super::super::super::notice::tests::notice;
    use super::*;

    fn numbered(number: u64) -> Notice {
        notice(ChangeKind::Start, number, None, Some("cat"), 10)
    }

    fn taken(queue: &Queue) -> Option<Notice> {
        if let Next::Notice(notice) = queue.take(Duration::ZERO) { Some(*notice) } else { None }
    }

    #[test]
    fn the_oldest_are_lost_and_counted() {
        let queue = Queue::default();
        let lost: u64 = (0..WAITING_MAX as u64 + 3).map(|number| queue.push(numbered(number))).sum();
        assert_eq!(lost, 3);
        queue.close();
        for number in 3..WAITING_MAX as u64 + 3 {
            assert_eq!(taken(&queue).map(|notice| notice.decision.change.number), Some(number));
        }
        assert!(matches!(queue.take(Duration::from_secs(600)), Next::Closed), "a closed queue is not waited for");
    }

    #[test]
    fn only_the_newest_keep_their_pictures() {
        let queue = Queue::default();
        let frame = Picture { width: 1, height: 1, rgb: vec![0; 3], transparent: None };
        let picture = Some(Arc::new(NoticePicture::new(&frame)));
        for number in 0..10 {
            queue.push(Notice { picture: picture.clone().filter(|_| number != 8), ..numbered(number) });
        }
        let kept: Vec<u64> = std::iter::from_fn(|| taken(&queue))
            .filter(|notice| notice.picture.is_some())
            .map(|notice| notice.decision.change.number)
            .collect();
        assert_eq!(kept, [5, 6, 7, 9]);
    }

    #[test]
    fn a_wait_ends_with_a_notice_or_the_limit() {
        let queue = Arc::new(Queue::default());
        assert!(matches!(queue.take(Duration::from_millis(1)), Next::Nothing));
        let pushes = Arc::clone(&queue);
        let thread = std::thread::spawn(move || pushes.push(numbered(1)));
        assert!(matches!(queue.take(Duration::from_secs(600)), Next::Notice(_)));
        assert_eq!(thread.join().ok(), Some(0));
        queue.push(numbered(2));
        assert_eq!((queue.clear(), queue.clear()), (1, 0));
    }
}
