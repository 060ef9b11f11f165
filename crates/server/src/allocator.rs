//! The memory allocator of the process, and the function that returns freed memory to the system. This is the only
//! module with unsafe code.

use std::alloc::GlobalAlloc;
use std::alloc::Layout;
use std::ffi::c_void;

/// mimalloc, called without an alignment where its default alignment suffices.
///
/// The `mimalloc` crate's own type always passes an alignment. mimalloc then takes a slower path, which allocates a larger
/// block, for sizes above 1 KiB and whenever a page is full: for 5 of the 28 allocations of a gRPC request.
#[derive(Debug)]
pub struct Allocator;

/// `malloc`'s alignment on 64 bits, for blocks of at least this size: the largest that a fundamental type of C may need.
const MALLOC_ALIGN: usize = 16;

/// Whether memory that is allocated without an alignment is aligned for this layout.
#[inline]
fn is_plain(align: usize, size: usize) -> bool {
    align <= MALLOC_ALIGN && align <= size
}

// SAFETY: every method passes its arguments on to mimalloc, whose functions do not unwind, and which keeps the promises of
// `GlobalAlloc` wherever C's and its own promises cover them:
//
// * Memory has the requested size and is not returned again before it is freed; null means that there is none.
// * It is aligned. `mi_malloc`, `mi_zalloc` and `mi_realloc` align as C's `malloc` does: to 16 bytes, or for a smaller size
//   to the largest power of two in it, at least; `is_plain` checks that this suffices. All other layouts go to the functions
//   that take an alignment. These require a power of two, as `Layout` does.
// * `mi_free`, `mi_realloc` and `mi_realloc_aligned` accept a pointer from any of the allocating functions; the
//   caller promises that it comes from this allocator and was not freed.
// * `mi_realloc` and `mi_realloc_aligned` leave the old block as it is when they return null, and copy it otherwise.
#[expect(unsafe_code, reason = "an allocator is unsafe by its trait")]
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above; neither function has requirements for its caller.
        unsafe {
            if is_plain(align, size) {
                libmimalloc_sys::mi_malloc(size).cast()
            } else {
                libmimalloc_sys::mi_malloc_aligned(size, align).cast()
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let (size, align) = (layout.size(), layout.align());
        // SAFETY: as above; neither function has requirements for its caller.
        unsafe {
            if is_plain(align, size) {
                libmimalloc_sys::mi_zalloc(size).cast()
            } else {
                libmimalloc_sys::mi_zalloc_aligned(size, align).cast()
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller promises that `block` is one of ours.
        unsafe { libmimalloc_sys::mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let block = block.cast::<c_void>();
        // SAFETY: the caller promises that `block` is one of ours.
        unsafe {
            if is_plain(layout.align(), size) {
                libmimalloc_sys::mi_realloc(block, size).cast()
            } else {
                libmimalloc_sys::mi_realloc_aligned(block, size, layout.align()).cast()
            }
        }
    }
}

/// Returns to the system the memory that this thread has freed, and every free page that no thread owns.
///
/// mimalloc keeps freed memory for a second. It looks for memory that it has kept for longer only when a thread allocates
/// or frees pages, so a sleeping thread keeps its freed memory. Where the process uses another allocator, as in tests,
/// this does nothing.
pub(crate) fn return_freed_memory() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "what is tested is unsafe")]
    fn blocks_are_aligned_and_keep_what_is_in_them() {
        let allocator = Allocator;
        let sizes = [1, 7, 8, 15, 16, 24, 40, 1000, 1025, 3000, 4096, 70_000];
        for (size, align) in sizes
            .iter()
            .flat_map(|size| (0..9).map(|bits| (*size, 1 << bits)))
        {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: the layout is not empty, and each block is used within its size and given back once.
            unsafe {
                let block = allocator.alloc_zeroed(layout);
                assert!(block.addr().is_multiple_of(align), "{layout:?}");
                assert_eq!((*block, *block.add(size - 1)), (0, 0));
                block.add(size - 1).write(7);
                let larger = allocator.realloc(block, layout, 2 * size);
                assert!(larger.addr().is_multiple_of(align), "{layout:?}");
                assert_eq!(*larger.add(size - 1), 7);
                let layout = Layout::from_size_align(2 * size, align).unwrap();
                allocator.dealloc(larger, layout);
                let plain = allocator.alloc(layout);
                assert!(plain.addr().is_multiple_of(align), "{layout:?}");
                allocator.dealloc(plain, layout);
            }
        }
    }
}
