//! Flow control of what is received (RFC 9113, section 5.2): one window for a connection, one for each stream.

/// A window that this side grants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    /// Its full size, bytes.
    size: u32,
    /// What the peer may still send. Below zero when the size was reduced.
    left: i64,
    /// What was consumed and not yet granted anew.
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

    /// Changes the full size, by SETTINGS.
    pub(super) fn resize(&mut self, size: u32) {
        self.left += i64::from(size) - i64::from(self.size);
        self.size = size;
    }

    /// The peer has sent so much; false if it was not allowed to.
    #[must_use]
    pub(super) fn receive(&mut self, count: usize) -> bool {
        self.left -= i64::try_from(count).unwrap_or(i64::MAX);
        self.left >= 0
    }

    /// So much of what was received is out of the way. Once that is half of the window, returns by how much to update it.
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
    fn grants_anew_in_halves_and_notices_too_much() {
        let mut window = Window::new(100);
        assert!(window.receive(60));
        assert_eq!(window.consume(49), None);
        assert_eq!(window.consume(11), Some(60));
        assert!(window.receive(100));
        assert!(!window.receive(1));
    }

    #[test]
    fn a_smaller_window_is_used_up_first() {
        let mut window = Window::new(100);
        assert!(window.receive(50));
        window.resize(40);
        assert_eq!(window.consume(50), Some(50));
        assert!(window.receive(40));
        assert!(!window.receive(1));
    }
}
