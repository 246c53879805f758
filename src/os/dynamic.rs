//! The dynamic linker: functions of other libraries.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

/// The function of this name in the library behind this one in the search order; `None` if only this library has one.
pub fn next_symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is NUL-terminated. RTLD_NEXT begins behind the object that this code is in.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if let Some(next) = NonNull::new(next) {
        return Some(next.as_ptr());
    }
    // Libraries of the program come before a library that was dlopened.
    // SAFETY: the name is NUL-terminated. RTLD_DEFAULT searches all libraries of the program.
    let first = NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })?;
    (object_of(first.as_ptr()) != object_of(next_symbol as *mut c_void)).then_some(first.as_ptr())
}

/// Why a driver's functions are not available.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The library could not be opened; the message of the dynamic linker.
    Library(String),
    /// The library does not have this function.
    Function(&'static str),
}

/// `functions! { needed(types) -> type; ... ? optional(types) -> type; ... }`: defines a table `Functions` of
/// a driver, which `Functions::open` fills from a library that then stays open. The types are those of the driver's header.
macro_rules! functions {
    ($($name:ident($($argument:ty),*) -> $result:ty;)* $(? $newer:ident($($extra:ty),*) -> $gives:ty;)*) => {
        #[allow(non_snake_case)]
        struct Functions {
            $($name: unsafe extern "C" fn($($argument),*) -> $result,)*
            $($newer: Option<unsafe extern "C" fn($($extra),*) -> $gives>,)*
        }

        impl Functions {
            fn open(library: &std::ffi::CStr) -> Result<Self, $crate::os::dynamic::Missing> {
                use $crate::os::dynamic::{Library, Missing, c_name};
                let library = Library::open(library).map_err(Missing::Library)?;
                Ok(Self {
                    $($name: {
                        // SAFETY: the type is the one in the driver's header.
                        let found = unsafe { library.function(c_name(concat!(stringify!($name), "\0"))) };
                        found.ok_or(Missing::Function(stringify!($name)))?
                    },)*
                    // SAFETY: the type is the one in the driver's header.
                    $($newer: unsafe { library.function(c_name(concat!(stringify!($newer), "\0"))) },)*
                })
            }
        }
    };
}
pub(crate) use functions;

/// A name that ends in a NUL, as a C string.
pub(crate) fn c_name(name: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
}

/// A library that was opened at run time. It stays open unless [`close`](Self::close) is called.
pub struct Library(NonNull<c_void>);

impl Library {
    /// Open a library with the search path of the dynamic linker, and resolve its symbols now. A failure is the message of the
    /// linker.
    pub fn open(name: &CStr) -> std::result::Result<Self, String> {
        Self::with_flags(name, libc::RTLD_NOW | libc::RTLD_LOCAL).ok_or_else(|| {
            // SAFETY: dlerror has no preconditions. Its text is valid until the thread calls the linker again.
            let text = unsafe { libc::dlerror() };
            if text.is_null() {
                return "the dynamic linker does not say why".into();
            }
            // SAFETY: the text is not NULL and NUL-terminated.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        })
    }

    /// The library if the process has loaded it: by its `DT_SONAME`, or by the path with which it was opened.
    pub fn already_open(name: &CStr) -> Option<Self> {
        Self::with_flags(name, libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NOLOAD)
    }

    fn with_flags(name: &CStr, flags: c_int) -> Option<Self> {
        // SAFETY: the name is NUL-terminated. The constructors of the library run, as in any program that links it.
        NonNull::new(unsafe { libc::dlopen(name.as_ptr(), flags) }).map(Self)
    }

    /// The path of the library.
    pub fn path(&self) -> Option<String> {
        /// The beginning of `struct link_map`.
        #[repr(C)]
        struct LinkMap {
            address: usize,
            name: *const c_char,
        }
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: the library is open, and `map` is writable.
        let result =
            unsafe { libc::dlinfo(self.0.as_ptr(), libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
        // SAFETY: on success the linker has written its own structure, which lives as long as the library is open.
        let name = (result == 0).then(|| unsafe { (*map).name }).filter(|name| !name.is_null())?;
        // SAFETY: the name is not NULL; the linker keeps it, NUL-terminated, as long as the library is open.
        Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Close the library. Its functions must not be called any more.
    pub fn close(self) {
        // SAFETY: this value opened the library and ends here.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }

    /// The function with this name; `None` if the library has none.
    ///
    /// # Safety
    /// `F` is a function pointer type that matches the function.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<NonNull<c_void>>()) };
        let found = self.symbol(name)?;
        // SAFETY: `found` is the address of the function, `F` has the size of an address, and the caller guarantees that `F`
        // matches the function.
        Some(unsafe { std::mem::transmute_copy::<NonNull<c_void>, F>(&found) })
    }

    /// The address of the symbol with this name.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: the library is open, and the name is NUL-terminated.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

/// The start of the library that contains an address.
fn object_of(address: *mut c_void) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: on success the whole structure is written.
    unsafe {
        (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init().dli_fbase.addr())
    }
}

/// Call `look` with the name of the library that contains an address; false if no library does.
pub fn object_name(address: usize, look: impl FnOnce(&[u8]) -> bool) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: on success the whole structure is written, and the name is valid as long as the library is loaded.
    unsafe {
        let address = std::ptr::without_provenance(address);
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return false;
        }
        let name = info.assume_init().dli_fname;
        !name.is_null() && look(CStr::from_ptr(name).to_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_the_c_library_has_and_nothing_else() {
        assert!(next_symbol(c"free").is_some());
        assert!(next_symbol(c"no_such_function_anywhere").is_none());
    }

    #[test]
    fn what_cannot_be_opened_is_said() {
        let failure = Library::open(c"libno-such-thing.so.1").err();
        assert!(failure.is_some_and(|text| text.contains("libno-such-thing.so.1")));
        let library = Library::open(c"libc.so.6").ok();
        assert!(
            library.is_some_and(|c| c.symbol(c"free").is_some() && c.symbol(c"none").is_none())
        );
        let path = Library::already_open(c"libc.so.6").and_then(|library| library.path());
        assert!(path.is_some_and(|path| path.ends_with("/libc.so.6")));
        assert!(Library::already_open(c"libno-such-thing.so.1").is_none());
    }
}
