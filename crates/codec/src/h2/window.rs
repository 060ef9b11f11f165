//! Flow control of received data (RFC 9113, section 5.2): one window per connection and one per stream.

/// A receive window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// The full size in bytes.
    size: u32,
    /// How many bytes the peer may still send. Negative if the size was reduced.
    left: i64,
    /// Bytes consumed but not yet returned to the peer as credit.
    consumed: u32,
}

impl Window {
    pub(super) fn new(size: u32) -> Window {
        Window {
            size,
            left: size.into(),
            consumed: 0,
        }
    }

    /// Changes the full size after a change of SETTINGS.
    pub(super) fn resize(&mut self, size: u32) {
        self.left += i64::from(size) - i64::from(self.size);
        self.size = size;
    }

    /// Records `count` received bytes. Returns false if the window did not allow them.
    #[must_use]
    pub(super) fn receive(&mut self, count: usize) -> bool {
        self.left -= i64::try_from(count).unwrap_or(i64::MAX);
        self.left >= 0
    }

    /// Records `count` consumed bytes. Once half of the window was consumed, returns the increment for a WINDOW_UPDATE.
    pub(super) fn consume(&mut self, count: usize) -> Option<u32> {
        self.consumed = self
            .consumed
            .saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.consumed == 0 || self.consumed < self.size / 2 {
            return None;
        }
        let increment = std::mem::take(&mut self.consumed);
        self.left += i64::from(increment);
        Some(increment)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_returned_by_halves_and_excess_is_detected() {
        let mut window = Window::new(100);
        assert!(window.receive(60));
        assert_eq!(window.consume(49), None);
        assert_eq!(window.consume(11), Some(60));
        assert!(window.receive(100));
        assert!(!window.receive(1));
    }

    #[test]
    fn a_reduced_window_must_be_consumed_first() {
        let mut window = Window::new(100);
        assert!(window.receive(50));
        window.resize(40);
        assert_eq!(window.consume(50), Some(50));
        assert!(window.receive(40));
        assert!(!window.receive(1));
    }

    #[test]
    fn no_byte_of_credit_is_lost_or_invented() {
        let mut random = fastrand::Rng::with_seed(1);
        for _ in 0..2_000 {
            let size = random.u32(1..200_000);
            let mut window = Window::new(size);
            // The peer's view of the window, and what was received and not consumed yet.
            let (mut credit, mut unread) = (u64::from(size), 0);
            for _ in 0..100 {
                if random.bool() {
                    let sent = random.u64(0..=credit.min(20_000));
                    credit -= sent;
                    unread += sent;
                    assert!(window.receive(usize::try_from(sent).unwrap()));
                } else {
                    let taken = random.u64(0..=unread);
                    unread -= taken;
                    let update = window.consume(usize::try_from(taken).unwrap());
                    credit += u64::from(update.unwrap_or(0));
                }
                assert!(credit + unread <= size.into());
                // A peer that was read completely can send at least half a window.
                assert!(unread > 0 || credit >= u64::from(size / 2));
            }
            assert!(!window.receive(usize::try_from(credit).unwrap() + 1));
        }
    }
}
