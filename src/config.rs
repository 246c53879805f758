//! Settings in the environment: what a `GMEM_*` variable is, and how its value is read.
//!
//! A module declares the settings that it uses as statics of type [`Setting`], with their documentation. The page
//! `docs/settings.md` is made from these declarations (`src/settings_table.rs`). Set-user-id programs ignore all settings.
//!
//! Nothing here allocates, because `malloc` reads settings before anything may allocate.

use std::ffi::CStr;
use std::fmt::{self, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::os::{env, file};

/// A `GMEM_*` variable.
pub struct Setting<T> {
    /// The name of the variable.
    pub name: &'static CStr,
    /// The values that it takes, in words.
    pub form: &'static str,
    /// The behaviour if it is not set, in words.
    pub default: &'static str,
    /// Its effect, in one sentence.
    pub about: &'static str,
    /// The meaning of a value; `None` for a value that is not of the form.
    pub parse: fn(&[u8]) -> Option<T>,
}

impl<T> Setting<T> {
    /// The value now; `None` if the variable is not set, is empty, or has a bad value, which is reported.
    pub fn get(&self) -> Option<T> {
        let parsed = |value: &[u8]| {
            let parsed = (self.parse)(value);
            if parsed.is_none() && log_level() >= LogLevel::Error {
                self.report(value);
            }
            parsed
        };
        env::with_secure(self.name, |value| if value.is_empty() { None } else { parsed(value) })?
    }

    fn report(&self, value: &[u8]) {
        let mut line = Line::default();
        let name = self.name.to_str().unwrap_or_default();
        let (value, form, default) = (value.escape_ascii(), self.form, self.default);
        // A line that is too long is cut.
        let _ = writeln!(
            line,
            "libgmem: {name} = \"{value}\" is ignored: it takes {form}. Unset, it means: {default}"
        );
        file::write_stderr(line.bytes());
    }
}

/// The documentation of a setting.
pub struct SettingRow {
    /// The name of the variable.
    pub name: &'static str,
    /// See [`Setting::form`].
    pub form: &'static str,
    /// See [`Setting::default`].
    pub default: &'static str,
    /// See [`Setting::about`].
    pub about: &'static str,
}

impl<T> Setting<T> {
    /// Its documentation.
    pub fn row(&self) -> SettingRow {
        let name = self.name.to_str().unwrap_or_default();
        SettingRow { name, form: self.form, default: self.default, about: self.about }
    }
}

/// A line of text that needs no memory from the heap.
struct Line {
    bytes: [u8; 512],
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: [0; 512], length: 0 }
    }
}

impl Line {
    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let rest = &mut self.bytes[self.length..];
        let taken = text.len().min(rest.len());
        rest[..taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        if taken == text.len() { Ok(()) } else { Err(fmt::Error) }
    }
}

/// A yes or no that is found once, and asked for often.
pub struct Answer(AtomicU8);

impl Answer {
    const YES: u8 = 2;

    /// Not found yet.
    #[allow(clippy::new_without_default, reason = "a static needs a const function")]
    pub const fn new() -> Self {
        Self(AtomicU8::new(0))
    }

    /// The answer. Threads that are first at the same time each find it.
    #[inline]
    pub fn or_find(&self, find: impl FnOnce() -> bool) -> bool {
        match self.0.load(Ordering::Relaxed) {
            0 => {
                let is_so = find();
                self.0.store(1 + u8::from(is_so), Ordering::Relaxed);
                is_so
            }
            answer => answer == Self::YES,
        }
    }
}

// ---- forms that several settings have -------------------------------------------------------------------------

/// Any text.
pub fn text(value: &[u8]) -> Option<String> {
    Some(String::from_utf8_lossy(value).into_owned())
}

/// A decimal number.
pub fn number(value: &[u8]) -> Option<usize> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `1` or `0`.
pub fn switch(value: &[u8]) -> Option<bool> {
    match value {
        b"0" => Some(false),
        b"1" => Some(true),
        _ => None,
    }
}

/// A number of bytes: digits, and optionally `K`, `M`, `G` or `T` for powers of 1024.
pub fn bytes(value: &[u8]) -> Option<usize> {
    let (digits, unit) = match value.split_last()? {
        (b'K' | b'k', digits) => (digits, 10),
        (b'M' | b'm', digits) => (digits, 20),
        (b'G' | b'g', digits) => (digits, 30),
        (b'T' | b't', digits) => (digits, 40),
        _ => (value, 0),
    };
    number(digits)?.checked_mul(1 << unit)
}

// ---- GMEM_LOG -----------------------------------------------------------------------------------------------

/// How much is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LogLevel {
    /// Nothing.
    Off = 1,
    /// A line for each call that fails.
    Error = 2,
    /// A line for each call that fails, each prefetch, each eager free and the device that was chosen.
    Trace = 3,
}

/// `GMEM_LOG`.
pub static LOG: Setting<LogLevel> = Setting {
    name: c"GMEM_LOG",
    form: "`error` or `trace`",
    default: "nothing is written",
    about: "Writes to stderr a line for each failing call and each ignored setting; `trace` adds a line for each prefetch, \
            each eager free and the device that `auto` chose.",
    parse: |word| match word {
        b"error" => Some(LogLevel::Error),
        b"trace" => Some(LogLevel::Trace),
        // Whoever mistypes the word gets silence, because nothing is written unless it is asked for.
        _ => Some(LogLevel::Off),
    },
};

fn log_level() -> LogLevel {
    /// 0 until the variable was read.
    static LEVEL: AtomicU8 = AtomicU8::new(0);
    match LEVEL.load(Ordering::Relaxed) {
        0 => {
            let level = LOG.get().unwrap_or(LogLevel::Off);
            LEVEL.store(level as u8, Ordering::Relaxed);
            level
        }
        2 => LogLevel::Error,
        3 => LogLevel::Trace,
        _ => LogLevel::Off,
    }
}

/// Write a line to stderr, if `GMEM_LOG` asks for lines of this level.
pub fn log(level: LogLevel, line: impl FnOnce() -> String) {
    if log_level() >= level {
        file::write_stderr(format!("libgmem: {}\n", line()).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mangled;

    #[test]
    fn mangled_values() {
        mangled::texts(&["64M", "123", "1t", "8G", "1"], |value| {
            // Whatever is accepted has the same value without its leading zeros, in bytes.
            if let Some(bytes) = bytes(value) {
                assert_eq!(super::bytes(bytes.to_string().as_bytes()), Some(bytes));
                assert!(bytes == 0 || value.iter().any(|digit| (b'1'..=b'9').contains(digit)));
            }
            assert!(switch(value).is_none() || value.len() == 1);
            assert!((LOG.parse)(value).is_some() && text(value).is_some());
        });
    }

    #[test]
    fn forms() {
        assert_eq!([&b"0"[..], b"1", b"2"].map(switch), [Some(false), Some(true), None]);
        assert_eq!([&b"16"[..], b"-1", b"x"].map(number), [Some(16), None, None]);
        assert_eq!((LOG.parse)(b"trace"), Some(LogLevel::Trace));
        assert_eq!((LOG.parse)(b"loud"), Some(LogLevel::Off));
        assert_eq!(bytes(b"123"), Some(123));
        assert_eq!(bytes(b"8G"), Some(8 << 30));
        assert_eq!(bytes(b"1t"), Some(1 << 40));
        for bad in [&b""[..], b"G", b"-1", b"1.5G", b"8GB", b"99999999999T"] {
            assert_eq!(bytes(bad), None);
        }
    }

    #[test]
    fn a_line_is_cut_where_it_ends() {
        let mut line = Line::default();
        assert!(write!(line, "{:500}", "").is_ok() && write!(line, "{:500}", "").is_err());
        assert_eq!(line.bytes().len(), 512);
    }
}
