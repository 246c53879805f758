//! `GMEM_HEAP_PROFILE`: which code has allocated what is live, by jemalloc's samples (`prof` in its manual).
//!
//! No thread caches blocks meanwhile ([`super::thread_cache`] stays closed), so that jemalloc sees and may sample each one. A
//! heap without a profile pays nothing.

use std::ffi::{CStr, CString, c_char, c_uint, c_void};
use std::fmt::Write;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize, Ordering};

use super::{control, stats};
use crate::config::{self, Answer, Setting};
use crate::error::{Errno, Error, Result};
use crate::os::{env, file, process};

/// Read with the process's first block.
pub static PROFILE: Setting<usize> = Setting {
    name: c"GMEM_HEAP_PROFILE",
    form: "`1` for `512K`, or bytes (`K`, `M`, `G` or `T` for powers of 1024), which are rounded down to a power of two; `0`",
    default: "`0`, no profile",
    about: "Samples one allocated byte in so many, with the calls that led to it, for `gmemHeapProfileDump`. It costs time.",
    parse: distance,
};

/// The value of [`PROFILE`] in bytes.
fn distance(value: &[u8]) -> Option<usize> {
    match config::bytes(value)? {
        1 => Some(512 << 10),
        bytes => Some(bytes),
    }
}

/// Where a profile goes when the process exits.
pub static FILE: Setting<()> = Setting {
    name: c"GMEM_HEAP_PROFILE_FILE",
    form: "a path, in which `%p` is the process id",
    default: "nothing is written",
    about: "With `GMEM_HEAP_PROFILE`, writes a profile of what is still allocated when the process exits, and a line to stderr.",
    parse: |_| Some(()),
};

/// Whether allocations are sampled. That never changes.
#[inline]
pub fn is_on() -> bool {
    static IS_ON: Answer = Answer::new();
    IS_ON.or_find(|| {
        let bytes = PROFILE.get().unwrap_or(0);
        DISTANCE.store(bytes, Ordering::Relaxed);
        bytes > 0
    })
}

static DISTANCE: AtomicUsize = AtomicUsize::new(0);

/// Append jemalloc's settings for a profile to its other ones, before it reads them. The first thread's first allocation
/// comes here.
pub fn choose_settings(settings: &AtomicPtr<c_char>) {
    static CHOSEN: AtomicBool = AtomicBool::new(false);
    if !is_on() || CHOSEN.swap(true, Ordering::AcqRel) {
        return;
    }
    // SAFETY: the settings are a string constant.
    let plain = unsafe { CStr::from_ptr(settings.load(Ordering::Relaxed)) };
    let mut text = Text::default();
    let logarithm = DISTANCE.load(Ordering::Relaxed).max(1).ilog2();
    let plain = plain.to_str().unwrap_or_default();
    if write!(text, "{plain},prof:true,prof_final:false,lg_prof_sample:{logarithm}\0").is_ok() {
        static WITH_PROFILE: AtomicText = AtomicText::new();
        settings.store(WITH_PROFILE.set(&text.bytes), Ordering::Release);
    }
}

/// Room for jemalloc's settings.
const ROOM: usize = 512;

/// A text that needs no memory from the heap.
struct Text {
    bytes: [u8; ROOM],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; ROOM], length: 0 }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(std::fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// Bytes that are written once.
struct AtomicText([AtomicU8; ROOM]);

impl AtomicText {
    const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; ROOM])
    }

    fn set(&'static self, bytes: &[u8; ROOM]) -> *mut c_char {
        for (to, from) in self.0.iter().zip(bytes) {
            to.store(*from, Ordering::Relaxed);
        }
        self.0.as_ptr().cast_mut().cast()
    }
}

// ---- traces -----------------------------------------------------------------------------------------------------

/// What jemalloc calls to see who calls it: writes at most `most` return addresses, and their number.
type Backtrace = unsafe extern "C" fn(*mut *mut c_void, *mut c_uint, c_uint);

/// jemalloc's own function.
static WHOLE: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

/// Have traces begin with the program's code. Called when jemalloc works; may allocate.
pub fn open() {
    static OPENED: AtomicBool = AtomicBool::new(false);
    if !is_on() || is_part_of_the_program() || OPENED.swap(true, Ordering::AcqRel) {
        return;
    }
    if let Some(address) = control::number::<usize>(HOOK, None) {
        WHOLE.store(ptr::with_exposed_provenance_mut(address), Ordering::Release);
        control::set(HOOK, without_own_frames as Backtrace);
    }
}

const HOOK: &CStr = c"experimental.hooks.prof_backtrace";

unsafe extern "C" {
    // The linker defines both: the beginning and the end of this library's code.
    static __ehdr_start: u8;
    static etext: u8;
}

/// The addresses of this library's code.
fn own_code() -> Range<usize> {
    (&raw const __ehdr_start).addr()..(&raw const etext).addr()
}

/// Whether the library is linked into the program. Then their frames cannot be told apart.
fn is_part_of_the_program() -> bool {
    own_code().contains(&env::program_headers())
}

/// Without the frames of jemalloc and libgmem, of which each trace has some first.
///
/// # Safety
/// `frames` has room for `most` addresses, and `count` may be written.
unsafe extern "C" fn without_own_frames(
    frames: *mut *mut c_void,
    count: *mut c_uint,
    most: c_uint,
) {
    let whole = WHOLE.load(Ordering::Acquire);
    // SAFETY: open() stored jemalloc's function of this type before jemalloc could call this one.
    let whole: Backtrace = unsafe { std::mem::transmute(whole) };
    // SAFETY: the caller promises room for `most` addresses. jemalloc's function wrote `count` of them.
    unsafe {
        whole(frames, count, most);
        let all = std::slice::from_raw_parts_mut(frames, *count as usize);
        let own = all.iter().take_while(|frame| own_code().contains(&frame.addr())).count();
        all.rotate_left(own);
        *count -= own as c_uint;
    }
}

// ---- files ------------------------------------------------------------------------------------------------------

/// Write the profile of what is live now to a file.
pub fn dump(path: &CStr) -> Result<()> {
    if !is_on() {
        return Err(Error::NoHeapProfile);
    }
    // jemalloc does not pass on why it failed.
    let written =
        || control::set(c"prof.dump", path.as_ptr()).then_some(()).ok_or(Errno(libc::EIO));
    file::create(path)
        .and_then(|()| written())
        .map_err(|errno| Error::HeapProfile { path: path.to_string_lossy().into_owned(), errno })
}

/// Write what `GMEM_HEAP_PROFILE_FILE` asks for. Called when the process exits.
pub fn dump_at_exit() {
    if !is_on() {
        return;
    }
    let path = env::with_secure(FILE.name, |path| {
        let id = process::process_id().to_string();
        String::from_utf8_lossy(path).replace("%p", &id)
    });
    let Some(path) = path.filter(|path| !path.is_empty()) else { return };
    let outcome = CString::new(path.as_str()).ok().map(|name| dump(&name));
    let line = match outcome {
        Some(Ok(())) => format!(
            "libgmem: heap profile: {} bytes are live; see {path}\n",
            stats::read().counters.live
        ),
        Some(Err(error)) => format!("libgmem: heap profile: {error}\n"),
        None => return,
    };
    file::write_stderr(line.as_bytes());
}
