//! The page faults that the library takes to prefetch, which are none of the program's.
//!
//! The kernel counts a page that a system call populates as a fault of the thread that makes the call. A thread that begins to
//! populate therefore notes how many faults it had, and adds the difference when it ends. Meanwhile it is in a table, so that
//! whoever counts can look up how far it has come.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use super::{SysResult, faults, file, process};

/// Faults of work that has ended.
static ENDED: AtomicU64 = AtomicU64::new(0);

/// Threads whose work ends: those that began to add their faults, and those that are done with it.
static LEAVING: AtomicU64 = AtomicU64::new(0);
static LEFT: AtomicU64 = AtomicU64::new(0);

/// A thread that populates.
struct Working {
    /// 0: free. TAKEN: about to be used.
    tid: AtomicI32,
    /// The thread's faults when it began.
    before: AtomicU64,
}

const TAKEN: libc::pid_t = -1;

/// As many as may populate at the same time: 16 helpers, and threads of streams and of the program. The faults of further ones
/// count when they have ended.
static WORKING: [Working; 64] =
    [const { Working { tid: AtomicI32::new(0), before: AtomicU64::new(0) } }; 64];

/// Call `work`, whose faults are not the program's.
pub fn not_the_programs<R>(work: impl FnOnce() -> R) -> R {
    let before = faults::usage(libc::RUSAGE_THREAD);
    from(before, work)
}

/// As [`not_the_programs`], for all that the calling thread does, which is the library's own.
pub fn of_this_thread<R>(work: impl FnOnce() -> R) -> R {
    from(Ok(0), work)
}

fn from<R>(before: SysResult<u64>, work: impl FnOnce() -> R) -> R {
    let Ok(before) = before else { return work() };
    let _leaves = Leaves { before, place: enter(before) };
    work()
}

/// Adds the thread's faults when the work ends, also by a panic.
struct Leaves {
    before: u64,
    place: Option<&'static Working>,
}

impl Drop for Leaves {
    fn drop(&mut self) {
        let now = faults::usage(libc::RUSAGE_THREAD).unwrap_or(self.before);
        // In this order a reader that has seen a part of it notices. See `without`.
        LEAVING.fetch_add(1, Ordering::SeqCst);
        ENDED.fetch_add(now.saturating_sub(self.before), Ordering::SeqCst);
        if let Some(place) = self.place {
            place.tid.store(0, Ordering::SeqCst);
        }
        LEFT.fetch_add(1, Ordering::SeqCst);
    }
}

fn enter(before: u64) -> Option<&'static Working> {
    let place = WORKING.iter().find(|place| {
        place.tid.load(Ordering::Relaxed) == 0
            && place.tid.compare_exchange(0, TAKEN, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    })?;
    place.before.store(before, Ordering::SeqCst);
    place.tid.store(process::thread_id(), Ordering::SeqCst);
    Some(place)
}

/// `all`, which counts all faults of the process, less the library's.
///
/// The library's are read last, so work that goes on meanwhile never adds to the program's. Where a thread ends its work
/// meanwhile, all is read again; in a forked child, whose parent may have been at that point, only so often.
pub fn without(all: impl Fn() -> SysResult<u64>) -> SysResult<u64> {
    const MOST_ATTEMPTS: usize = 100;
    let mut rest = 0;
    for _ in 0..MOST_ATTEMPTS {
        let left = LEFT.load(Ordering::SeqCst);
        let all = all()?;
        rest = all.saturating_sub(own());
        if LEAVING.load(Ordering::SeqCst) == left {
            break;
        }
    }
    Ok(rest)
}

/// Faults of the library so far.
fn own() -> u64 {
    ENDED.load(Ordering::SeqCst) + WORKING.iter().map(so_far).sum::<u64>()
}

/// What a thread has taken since it began; 0 if it is not at work, or not in this process.
fn so_far(place: &Working) -> u64 {
    let tid = place.tid.load(Ordering::SeqCst);
    if tid <= 0 {
        return 0;
    }
    let text = file::read_text(&format!("/proc/self/task/{tid}/stat")).unwrap_or_default();
    faults_in(&text).map_or(0, |now| now.saturating_sub(place.before.load(Ordering::SeqCst)))
}

/// Minor and major faults in a `stat` of proc(5): the 10th and 12th field. The 2nd is a name in parentheses, with any
/// character in it.
fn faults_in(stat: &str) -> Option<u64> {
    let (_, behind_the_name) = stat.rsplit_once(')')?;
    let mut fields = behind_the_name.split_ascii_whitespace().skip(7);
    let minor: u64 = fields.next()?.parse().ok()?;
    let major: u64 = fields.nth(1)?.parse().ok()?;
    Some(minor + major)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::os::mapping::Mapping;

    // Other tests of this process may populate meanwhile, which only adds.
    #[test]
    fn faults_are_noted_during_the_work_and_after_it() {
        const PAGES: usize = 512;
        let before = own();
        let (begin, begun) = channel();
        let (end, ended) = channel();
        let worker = std::thread::spawn(move || {
            let mut mapping = Mapping::of_base_pages(PAGES);
            not_the_programs(|| {
                mapping.bytes().fill(1);
                begin.send(()).unwrap();
                ended.recv().unwrap();
            });
        });
        begun.recv().unwrap();
        assert!(own() >= before + PAGES as u64);
        end.send(()).unwrap();
        worker.join().unwrap();
        assert!(own() >= before + PAGES as u64);
    }

    #[test]
    fn the_fields_of_stat_are_found_behind_any_name() {
        let stat = "7 (a) (b) c) S 1 2 3 4 5 6 10 7 20 8 9";
        assert_eq!(faults_in(stat), Some(30));
        assert_eq!(faults_in("7 (a"), None);
        assert_eq!(faults_in("7 (a) S 1 2"), None);
        let of_this_thread = process::thread_id();
        let text = file::read_text(&format!("/proc/self/task/{of_this_thread}/stat")).unwrap();
        assert!(faults_in(&text).unwrap() > 0);
    }
}
