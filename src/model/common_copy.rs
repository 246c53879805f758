//! One copy of a file in private memory for several processes, such as the workers that share a model's layers.
//!
//! Each GMEM page has a word that all processes change by single steps: which of them use the page, and what it holds. A page is
//! read by one of them, and its memory goes back when none uses it any more. A process that ends in whatever way leaves
//! words that say so, by its number and the time of its start: the next one that meets them cleans up. Two processes that
//! read the same page would write the same bytes, so a mistake there costs time only.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Errno;
use crate::os::common_memory::CommonMemory;
use crate::os::direct_io::LargeFile;
use crate::os::{SysResult, process};

/// Processes that may have the copy open at a time: a bit each in a page's word.
const MEMBERS: usize = 56;

/// A page's word: users in the low bits, the state above.
const USERS: u64 = (1 << MEMBERS) - 1;
const STATE: u64 = !USERS;
/// Nothing is there.
const ABSENT: u64 = 0;
/// The one user reads it.
const LOADING: u64 = 1 << MEMBERS;
/// The file's bytes are there.
const PRESENT: u64 = 2 << MEMBERS;
/// The one user returns its memory.
const RELEASING: u64 = 3 << MEMBERS;

/// The words before those of the pages.
const MAGIC: usize = 0;
const FILE: usize = 1;
const FIRST_MEMBER: usize = FILE + 4;
const FIRST_PAGE: usize = FIRST_MEMBER + MEMBERS;

/// "gmemcopy"; another layout of the words gets another number.
const VERSION: u64 = 0x676d_656d_636f_7079;

/// Why a copy cannot be joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The system refused.
    System(Errno),
    /// The descriptor is not of a copy, or of one of another file.
    OfAnother,
    /// [`MEMBERS`] processes have it open (`EUSERS`).
    Full,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno.0 {
            libc::EINVAL => Self::OfAnother,
            _ => Self::System(errno),
        }
    }
}

/// What a process that wants a page finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Claim {
    /// The bytes are there, and stay while this process uses the page.
    There,
    /// This process is to read them, and then says [`CommonCopy::loaded`] or [`CommonCopy::gave_up`].
    Mine,
    /// Another process is reading or releasing it.
    Elsewhere,
}

/// The copy, as this process has it open.
pub struct CommonCopy {
    memory: CommonMemory,
    /// The process's place among the members, and the process that has it.
    place: AtomicU64,
    forks: AtomicU64,
}

impl CommonCopy {
    /// Make a copy, of which nothing is loaded.
    pub fn create(file: &LargeFile, pages: usize) -> Result<Self, Refusal> {
        let memory = CommonMemory::create(pages, FIRST_PAGE + pages)?;
        for (word, value) in memory.words()[FILE..].iter().zip(file.fingerprint()) {
            word.store(value, Ordering::Relaxed);
        }
        memory.words()[MAGIC].store(VERSION, Ordering::Release);
        Self::enter(memory)
    }

    /// Join the copy that another process has made of the same file.
    pub fn join(file: &LargeFile, pages: usize, descriptor: i32) -> Result<Self, Refusal> {
        let memory = CommonMemory::join(descriptor, pages, FIRST_PAGE + pages)?;
        let words = memory.words();
        let is_its = |(word, value): (&AtomicU64, u64)| word.load(Ordering::Relaxed) == value;
        if words[MAGIC].load(Ordering::Acquire) != VERSION
            || !words[FILE..].iter().zip(file.fingerprint()).all(is_its)
        {
            return Err(Refusal::OfAnother);
        }
        Self::enter(memory)
    }

    fn enter(memory: CommonMemory) -> Result<Self, Refusal> {
        let unknown = AtomicU64::new(u64::MAX);
        let made = Self { memory, place: unknown, forks: AtomicU64::new(u64::MAX) };
        for place in 0..MEMBERS {
            let member = made.member(place).load(Ordering::Acquire);
            if member != 0 && !process::is_running(member) {
                made.clean_up_after(place, member);
            }
        }
        if made.take_place() { Ok(made) } else { Err(Refusal::Full) }
    }

    /// Become a member. False if there are too many. Neither allocates nor waits: a forked child calls it.
    pub fn take_place(&self) -> bool {
        let own = process::identity();
        let is_taken = |place: &usize| {
            let member = self.member(*place);
            member.compare_exchange(0, own, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let place = (0..MEMBERS).find(is_taken);
        self.place.store(place.map_or(u64::MAX, |place| place as u64), Ordering::Relaxed);
        self.forks.store(process::forks(), Ordering::Release);
        place.is_some()
    }

    /// Whether this process is a member: it opened the copy, or is a child of fork(3), which becomes one. Children made
    /// in other ways are none.
    pub fn is_member(&self) -> bool {
        let is_own = self.forks.load(Ordering::Acquire) == process::forks();
        is_own && self.place.load(Ordering::Relaxed) != u64::MAX
    }

    /// The memory.
    pub const fn memory(&self) -> &CommonMemory {
        &self.memory
    }

    /// Use a page from now on, if its bytes are there or nobody is reading them.
    pub fn claim(&self, page: usize) -> Claim {
        let (word, own) = (self.page(page), self.own_bit());
        loop {
            let seen = word.load(Ordering::Acquire);
            let (next, claim) = match seen & STATE {
                PRESENT => (seen | own, Claim::There),
                ABSENT => (LOADING | own, Claim::Mine),
                _ if self.is_abandoned(seen & USERS) => (LOADING | own, Claim::Mine),
                _ => return Claim::Elsewhere,
            };
            if word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return claim;
            }
        }
    }

    /// The page that was claimed has been read.
    pub fn loaded(&self, page: usize) {
        self.page(page).store(PRESENT | self.own_bit(), Ordering::Release);
    }

    /// The page that was claimed could not be read.
    pub fn gave_up(&self, page: usize) {
        self.page(page).store(ABSENT, Ordering::Release);
    }

    /// Use a page no more. The last user returns its memory to the kernel.
    pub fn leave(&self, page: usize) -> SysResult<()> {
        self.leave_as(self.own_bit(), page)
    }

    fn leave_as(&self, member: u64, page: usize) -> SysResult<()> {
        let word = self.page(page);
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen & STATE != PRESENT || seen & member == 0 {
                return Ok(());
            }
            let is_last = seen & USERS == member;
            let next = if is_last { RELEASING | member } else { seen & !member };
            if word.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            if !is_last {
                return Ok(());
            }
            let outcome = self.memory.drop_page(page);
            word.store(ABSENT, Ordering::Release);
            return outcome;
        }
    }

    /// Use no page any more, and be no member.
    pub fn leave_all(&self) {
        if self.is_member() {
            let place = self.place.load(Ordering::Relaxed) as usize;
            self.clean_up_after(place, process::identity());
        }
    }

    /// End the membership of a process that uses no page from now on.
    fn clean_up_after(&self, place: usize, member: u64) {
        let bit = 1 << place;
        for page in 0..self.pages() {
            let word = self.page(page);
            // There is nothing to do about a failure: the memory goes back with the last descriptor.
            let _ = self.leave_as(bit, page);
            let seen = word.load(Ordering::Acquire);
            if matches!(seen & STATE, LOADING | RELEASING) && seen & USERS == bit {
                let _ = word.compare_exchange(seen, ABSENT, Ordering::AcqRel, Ordering::Relaxed);
            }
        }
        let _ = self.member(place).compare_exchange(member, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Whether the only user of a page has ended.
    fn is_abandoned(&self, users: u64) -> bool {
        let member = self.member(users.trailing_zeros() as usize % MEMBERS).load(Ordering::Acquire);
        !process::is_running(member)
    }

    fn own_bit(&self) -> u64 {
        1 << (self.place.load(Ordering::Relaxed) % MEMBERS as u64)
    }

    fn pages(&self) -> usize {
        self.memory.words().len() - FIRST_PAGE
    }

    fn page(&self, page: usize) -> &AtomicU64 {
        &self.memory.words()[FIRST_PAGE + page]
    }

    fn member(&self, place: usize) -> &AtomicU64 {
        &self.memory.words()[FIRST_MEMBER + place]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::ffi::CString;

    fn program() -> LargeFile {
        let path = std::env::current_exe().unwrap();
        LargeFile::open(&CString::new(path.to_str().unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn a_page_is_read_by_one_and_stays_for_the_last() {
        let file = program();
        let one = CommonCopy::create(&file, 3).unwrap();
        let two = CommonCopy::join(&file, 3, one.memory.descriptor().unwrap()).unwrap();
        assert_eq!((one.claim(1), two.claim(1)), (Claim::Mine, Claim::Elsewhere));
        one.loaded(1);
        assert_eq!((two.claim(1), one.claim(1)), (Claim::There, Claim::There));
        one.leave(1).unwrap();
        assert_eq!(one.claim(1), Claim::There);
        one.leave(1).unwrap();
        two.leave(1).unwrap();
        assert_eq!(two.claim(1), Claim::Mine);
        two.gave_up(1);
        assert_eq!(one.claim(1), Claim::Mine);
    }

    #[test]
    fn what_an_ended_process_held_is_free() {
        let file = program();
        let one = CommonCopy::create(&file, 4).unwrap();
        // No process has this number and started then.
        let ended = u64::from(u32::MAX) << 32 | 1;
        let bit = 1_u64 << 7;
        one.member(7).store(ended, Ordering::Relaxed);
        for (page, state) in [(0, LOADING), (1, RELEASING), (2, PRESENT), (3, LOADING)] {
            one.page(page).store(state | bit, Ordering::Relaxed);
        }
        assert_eq!(one.claim(0), Claim::Mine);
        let two = CommonCopy::join(&file, 4, one.memory.descriptor().unwrap()).unwrap();
        assert_eq!(one.member(7).load(Ordering::Relaxed), 0);
        for page in 1..4 {
            assert_eq!(two.claim(page), Claim::Mine);
        }
        assert_eq!(two.claim(0), Claim::Elsewhere);
    }

    #[test]
    fn a_copy_is_of_one_file() {
        let file = program();
        let one = CommonCopy::create(&file, 2).unwrap();
        let descriptor = one.memory.descriptor().unwrap();
        let other = LargeFile::open(c"/etc/passwd").unwrap();
        let refusal = |outcome: Result<CommonCopy, Refusal>| outcome.err();
        assert_eq!(refusal(CommonCopy::join(&other, 2, descriptor)), Some(Refusal::OfAnother));
        assert_eq!(refusal(CommonCopy::join(&file, 3, descriptor)), Some(Refusal::OfAnother));
        let bad = Refusal::System(Errno(libc::EBADF));
        assert_eq!(refusal(CommonCopy::join(&file, 2, -1)), Some(bad));
        let all: Vec<_> =
            (1..MEMBERS).map(|_| CommonCopy::join(&file, 2, descriptor).unwrap()).collect();
        assert_eq!(refusal(CommonCopy::join(&file, 2, descriptor)), Some(Refusal::Full));
        all[3].leave_all();
        assert!(CommonCopy::join(&file, 2, descriptor).is_ok());
    }
}
