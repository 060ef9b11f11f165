//! The limits on the size of RE2's programs.

use std::cell::Cell;

/// The runtime's limits on the number of instructions of a regular expression's program in RE2.
///
/// `google_re2.max_program_size` of an expression replaces them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeLimits {
    /// Larger ones are refused (`re2.max_program_size.error_level`).
    pub error: u32,
    /// Larger ones are logged (`re2.max_program_size.warn_level`).
    pub warn: u32,
}

impl Default for SizeLimits {
    fn default() -> Self {
        Self {
            error: 100,
            warn: u32::MAX,
        }
    }
}

thread_local! {
    /// Of this thread, because expressions are compiled in many places that know nothing of the runtime, and each thread
    /// builds one configuration at a time.
    static APPLIED: Cell<SizeLimits> = Cell::default();
}

impl SizeLimits {
    /// The limits of this thread.
    pub fn applied() -> SizeLimits {
        APPLIED.get()
    }

    /// Does `build`, in which expressions have no limit but their own.
    pub fn suspend<T>(build: impl FnOnce() -> T) -> T {
        let before = APPLIED.replace(SizeLimits {
            error: u32::MAX,
            warn: u32::MAX,
        });
        let built = build();
        APPLIED.set(before);
        built
    }

    /// Applies these limits to the expressions that this thread compiles from now on.
    pub fn apply(self) {
        APPLIED.set(self);
    }
}

/// Checks the `size` of the program of `pattern`. `own` is the limit in its message.
pub(super) fn check(pattern: &str, size: usize, own: Option<u32>) -> Result<(), String> {
    let is_above = |limit: u32| usize::try_from(limit).is_ok_and(|limit| size > limit);
    let message = |limit: u32, threshold: &str| {
        format!(
            "regex '{pattern}' RE2 program size of {size} > max program size of {limit}{threshold}. \
             Increase configured max program size if necessary."
        )
    };
    if let Some(own) = own {
        return match is_above(own) {
            true => Err(message(own, "")),
            false => Ok(()),
        };
    }
    let limits = APPLIED.get();
    if is_above(limits.error) {
        let threshold = " set for the error level threshold";
        return Err(message(limits.error, threshold));
    }
    if is_above(limits.warn) {
        let threshold = " set for the warn level threshold";
        log::warn!(target: "misc", "{}", message(limits.warn, threshold));
    }
    Ok(())
}
