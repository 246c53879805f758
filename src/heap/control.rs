//! jemalloc's controls (`mallctl` in its manual): commands, settings and numbers by name.

use std::ffi::CStr;
use std::ptr;

use tikv_jemalloc_sys as je;

/// A command, which takes and gives no value. Whether it was carried out.
pub fn command(name: &CStr) -> bool {
    // SAFETY: the name is NUL-terminated, and jemalloc refuses a name that wants a value.
    unsafe { je::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0) == 0 }
}

/// Give a setting a value. Whether it was taken.
pub fn set<T: Copy>(name: &CStr, mut value: T) -> bool {
    let new = (&raw mut value).cast();
    // SAFETY: the name is NUL-terminated, and jemalloc checks the size of the value.
    unsafe {
        je::mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), new, size_of::<T>()) == 0
    }
}

/// Give a setting of one arena a value; the name has arena 0. Returns whether jemalloc took it.
pub fn set_of_arena<T: Copy>(name: &CStr, arena: u32, mut value: T) -> bool {
    let mut path = [0_usize; 8];
    let mut parts = path.len();
    // SAFETY: the name is NUL-terminated, the path has room for `parts` parts, and jemalloc checks the value's size.
    unsafe {
        if je::mallctlnametomib(name.as_ptr(), path.as_mut_ptr(), &raw mut parts) != 0 {
            return false;
        }
        path[1] = arena as usize;
        let new = (&raw mut value).cast();
        je::mallctlbymib(
            path.as_ptr(),
            parts,
            ptr::null_mut(),
            ptr::null_mut(),
            new,
            size_of::<T>(),
        ) == 0
    }
}

/// A new arena, whose memory comes from `hooks` and whose own data does not; `None` where jemalloc makes no more.
pub fn create_arena(hooks: &'static je::extent_hooks_t) -> Option<u32> {
    /// jemalloc's `arena_config_t`.
    #[repr(C)]
    struct Config {
        hooks: *const je::extent_hooks_t,
        metadata_use_hooks: bool,
    }
    let mut config = Config { hooks, metadata_use_hooks: false };
    let mut index: u32 = 0;
    let mut size = size_of::<u32>();
    // SAFETY: the name is NUL-terminated, and jemalloc checks the sizes of both values.
    let failed = unsafe {
        je::mallctl(
            c"experimental.arenas_create_ext".as_ptr(),
            (&raw mut index).cast(),
            &raw mut size,
            (&raw mut config).cast(),
            size_of::<Config>(),
        )
    };
    (failed == 0).then_some(index)
}

/// A number, of the given arena where the name has arena 0; `None` where jemalloc has none.
pub fn number<T: Copy + Default>(name: &CStr, arena: Option<u32>) -> Option<T> {
    let mut path = [0_usize; 8];
    let mut parts = path.len();
    // SAFETY: the name is NUL-terminated and the path has room for `parts` parts.
    if unsafe { je::mallctlnametomib(name.as_ptr(), path.as_mut_ptr(), &raw mut parts) } != 0 {
        return None;
    }
    if let Some(arena) = arena {
        path[2] = arena as usize;
    }
    let mut value = T::default();
    let mut size = size_of::<T>();
    // SAFETY: jemalloc checks the size of the value, and writes no more.
    let failed = unsafe {
        je::mallctlbymib(
            path.as_ptr(),
            parts,
            (&raw mut value).cast(),
            &raw mut size,
            ptr::null_mut(),
            0,
        )
    };
    (failed == 0).then_some(value)
}
