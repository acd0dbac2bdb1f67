//! Threads that yield to others. On Linux alone a thread has a priority of its own.

use std::io;
use std::time::Duration;

/// How a thread yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Runs when a processor has nothing else to do, and leaves it at once to who comes.
    Idle,
    /// Nicer than others by [`NICER_BY`].
    Nice,
}

/// By how much nicer: where both have something to do, such a thread gets about a tenth of a
/// processor.
const NICER_BY: i32 = 10;

/// Lowers the priority of the calling thread, which needs no privilege and cannot be undone.
///
/// # Errors
/// If the system does not let it.
#[cfg(target_os = "linux")]
pub(crate) fn lower(priority: Priority) -> io::Result<()> {
    match priority {
        Priority::Idle => {
            let parameters = libc::sched_param { sched_priority: 0 };
            // Not the C library's function, which in musl does nothing.
            // SAFETY: the call takes the calling thread (0), a policy, and a pointer to parameters
            // that outlive it and are only read.
            let set = unsafe {
                libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_IDLE,
                    &raw const parameters,
                )
            };
            if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        }
        Priority::Nice => Ok(rustix::process::nice(NICER_BY).map(drop)?),
    }
}

/// Elsewhere it does nothing.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub(crate) fn lower(_: Priority) -> io::Result<()> {
    Ok(())
}

/// How much time of a processor the calling thread has taken.
#[cfg(target_os = "linux")]
pub(crate) fn time_spent() -> Duration {
    use rustix::time::{ClockId, clock_gettime};
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

/// Elsewhere nothing is known. Every long hash looks late then, and is done by the nicer threads,
/// which there are no different.
#[cfg(not(target_os = "linux"))]
pub(crate) fn time_spent() -> Duration {
    Duration::ZERO
}

/// The priority of the calling thread, if it was lowered.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn priority() -> Option<Priority> {
    // SAFETY: the call takes the calling thread (0) and touches no memory.
    let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    if policy == libc::c_long::from(libc::SCHED_IDLE) {
        return Some(Priority::Idle);
    }
    let niceness = rustix::process::getpriority_process(None).expect("known");
    (niceness >= NICER_BY).then_some(Priority::Nice)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_thread_yields_as_it_was_told_and_takes_no_other_with_it() {
        let before = priority();
        for told in [Priority::Idle, Priority::Nice] {
            let thread = std::thread::spawn(move || {
                lower(told).expect("allowed");
                priority()
            });
            assert_eq!(thread.join().expect("no panic"), Some(told));
        }
        assert_eq!(priority(), before);
    }

    #[test]
    fn the_time_of_a_thread_is_what_it_worked_and_not_what_it_slept() {
        let before = time_spent();
        std::thread::sleep(Duration::from_millis(50));
        let slept = time_spent() - before;
        assert!(slept < Duration::from_millis(40), "{slept:?}");
        let began = std::time::Instant::now();
        while time_spent() - before < Duration::from_millis(60) {
            assert!(began.elapsed() < Duration::from_secs(30), "it stands still");
        }
    }
}
