//! The dynamic linker: what other libraries of the process have.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

/// A function of the next library that has one of this name, seen from this one; `None` where there is none but
/// this library's own.
pub fn next_symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is NUL-terminated. RTLD_NEXT begins behind the object that this code is in.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    if let Some(next) = NonNull::new(next) {
        return Some(next.as_ptr());
    }
    // A library that was dlopened has the process's own before it.
    // SAFETY: as above.
    let first = NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })?;
    (object_of(first.as_ptr()) != object_of(next_symbol as *mut c_void)).then_some(first.as_ptr())
}

/// Why there are no functions to call.
#[derive(Debug, PartialEq, Eq)]
pub enum Missing {
    /// The library could not be opened; the dynamic linker's words.
    Library(String),
    /// It was opened, and does not have this function.
    Function(&'static str),
}

/// `functions! { needed(types) -> type; ... ? optional(types) -> type; ... }`: a table `Functions` of a driver's, which
/// `Functions::open` fills from a library that then stays open. The types are those that the driver's header has.
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
                        // SAFETY: the type is the one that the driver's header gives this function.
                        let found = unsafe { library.function(c_name(concat!(stringify!($name), "\0"))) };
                        found.ok_or(Missing::Function(stringify!($name)))?
                    },)*
                    // SAFETY: as above.
                    $($newer: unsafe { library.function(c_name(concat!(stringify!($newer), "\0"))) },)*
                })
            }
        }
    };
}
pub(crate) use functions;

/// A name that ends in a NUL, as C has it.
pub(crate) fn c_name(name: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(name.as_bytes()).unwrap_or_default()
}

/// A library that was opened at run time, and stays open unless it is closed.
pub struct Library(NonNull<c_void>);

impl Library {
    /// Look for it where the dynamic linker does, and bind its functions now. A failure is in the linker's words.
    pub fn open(name: &CStr) -> std::result::Result<Self, String> {
        Self::with_flags(name, libc::RTLD_NOW | libc::RTLD_LOCAL).ok_or_else(|| {
            // SAFETY: the calling thread's own text, until its next call of the linker.
            let text = unsafe { libc::dlerror() };
            if text.is_null() {
                return "the dynamic linker does not say why".into();
            }
            // SAFETY: not NULL, so it is a text.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        })
    }

    /// The one that the process has already, if any: by its own name (`DT_SONAME`), or by the path it was opened with.
    pub fn already_open(name: &CStr) -> Option<Self> {
        Self::with_flags(name, libc::RTLD_NOW | libc::RTLD_LOCAL | libc::RTLD_NOLOAD)
    }

    fn with_flags(name: &CStr, flags: c_int) -> Option<Self> {
        // SAFETY: the name is NUL-terminated; the library's constructors run as in any program that is linked with it.
        NonNull::new(unsafe { libc::dlopen(name.as_ptr(), flags) }).map(Self)
    }

    /// The file that it was read from.
    pub fn path(&self) -> Option<String> {
        /// The beginning of `struct link_map`.
        #[repr(C)]
        struct LinkMap {
            address: usize,
            name: *const c_char,
        }
        let mut map: *const LinkMap = ptr::null();
        // SAFETY: an open library, and room for the address that is asked for.
        let result =
            unsafe { libc::dlinfo(self.0.as_ptr(), libc::RTLD_DI_LINKMAP, (&raw mut map).cast()) };
        // SAFETY: on success it is the linker's, which keeps it as long as the library is open.
        let name = (result == 0).then(|| unsafe { (*map).name }).filter(|name| !name.is_null())?;
        // SAFETY: a text of the linker's.
        Some(unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    }

    /// Let it go; nothing of it may be used any more.
    pub fn close(self) {
        // SAFETY: opened by this value, which ends here.
        unsafe { libc::dlclose(self.0.as_ptr()) };
    }

    /// A function as it is to be called; `None` where the library has none of that name.
    ///
    /// # Safety
    /// `F` is the type that a function of this name has.
    pub unsafe fn function<F: Copy>(&self, name: &CStr) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<NonNull<c_void>>()) };
        let found = self.symbol(name)?;
        // SAFETY: the address of a function, and of the size of one; the type is the caller's promise.
        Some(unsafe { std::mem::transmute_copy::<NonNull<c_void>, F>(&found) })
    }

    /// A function, or whatever has the name.
    pub fn symbol(&self, name: &CStr) -> Option<NonNull<c_void>> {
        // SAFETY: an open library and a NUL-terminated name.
        NonNull::new(unsafe { libc::dlsym(self.0.as_ptr(), name.as_ptr()) })
    }
}

/// Where the object that an address lies in begins.
fn object_of(address: *mut c_void) -> Option<usize> {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: on success the whole structure is written.
    unsafe {
        (libc::dladdr(address, info.as_mut_ptr()) != 0).then(|| info.assume_init().dli_fbase.addr())
    }
}

/// What `look` says of the name of the object that an address lies in; false where it lies in none.
pub fn object_name(address: usize, look: impl FnOnce(&[u8]) -> bool) -> bool {
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: on success the whole structure is written, and the name is a text as long as the object is loaded.
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
