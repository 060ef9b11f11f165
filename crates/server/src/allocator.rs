//! What is asked of the allocator beyond memory: the only unsafe code of the workspace.

/// Gives the system back what this thread has freed, and every free page that no thread holds.
///
/// mimalloc keeps freed memory for a second, and looks for what it has kept for longer only when a thread makes or frees
/// pages: a thread that sleeps keeps what it has. Where another allocator serves the process, as in tests, this finds
/// nothing to give.
pub(crate) fn give_back() {
    #[expect(
        unsafe_code,
        reason = "mimalloc has no safe name for it, and no option that does the same once"
    )]
    // SAFETY: `mi_collect` takes no pointer and gives none, and may be called on any thread at any time. It visits the
    // heap of the thread that calls it, which no other thread visits, and pages without a living block, which nothing
    // in this program can refer to; other threads that allocate meanwhile are kept apart by mimalloc's own atomics, as in
    // the collections that it starts by itself.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}
