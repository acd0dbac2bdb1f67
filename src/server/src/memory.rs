//! The allocator, and what it is told.

/// Messages are allocated on one thread and freed on another all day long, which mimalloc does at
/// a fraction of the system allocator's cost.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives memory that was just freed back to the system. The allocator does so by itself only when
/// it is next asked for something, which an idle broker may not do for hours; after the megabytes
/// of a password hash that would stay visible.
pub(crate) fn give_back() {
    // SAFETY: the function takes a flag and touches the allocator's own state only; it may be
    // called at any time from any thread.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Asks the kernel for small pages only. Where it would back the allocator's arenas with huge ones,
/// a few kilobytes in use keep two megabytes resident: an idle broker took 24 to 30 MB instead of 19
/// to 22, at the same cost per message. A kernel that cannot do so is as it was.
pub(crate) fn prefer_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
