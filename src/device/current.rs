//! The current device of the process: named by the program, the environment or the build, or chosen ([`auto`]).

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};

use super::auto::{self, Reason};
use super::{Device, by_index, find};
use crate::config::{self, LogLevel, Setting, log};
use crate::error::Result;
use crate::os::lazy::Lazy;

/// The default, set when the library was configured (`-DLIBGMEM_DEVICE`).
pub const DEFAULT: &str = match option_env!("GMEM_DEFAULT_DEVICE") {
    Some(name) => name,
    None => auto::NAME,
};

/// `GMEM_DEVICE`.
pub static DEVICE: Setting<String> = Setting {
    name: c"GMEM_DEVICE",
    form: "`auto`, or the name of a device",
    default: "the value with which libgmem was configured (`LIBGMEM_DEVICE`), which is `auto` unless changed",
    about: "The device to begin with; `gmemSetDevice` selects another. `auto` chooses `ascend`, `gmem` or `host` on first use.",
    parse: config::text,
};

/// How a device became the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// `gmemSetDevice` named it.
    Program,
    /// `GMEM_DEVICE` named it.
    Environment,
    /// The build named it.
    Build,
    /// It was chosen.
    Auto(Reason),
}

/// A device, and how it became the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection {
    /// Its index in `ALL`.
    index: usize,
    origin: Origin,
}

impl Selection {
    /// A device that was named, opened here, or the choice.
    fn of(name: &str, named_by: Origin) -> Result<Self> {
        if name == auto::NAME {
            return Self::chosen();
        }
        let index = find(name)?;
        by_index(index).open()?;
        Ok(Self { index, origin: named_by })
    }

    fn chosen() -> Result<Self> {
        let (device, reason) = auto::choose();
        device.open()?;
        log(LogLevel::Trace, || format!("device {}, chosen: {}", device.name(), reason.text()));
        Ok(Self { index: find(device.name())?, origin: Origin::Auto(reason) })
    }

    /// One number for [`CURRENT`]; never 0.
    const fn to_number(self) -> u32 {
        let origin = match self.origin {
            Origin::Program => 0xfd,
            Origin::Environment => 0xfe,
            Origin::Build => 0xff,
            Origin::Auto(reason) => reason.to_number(),
        };
        (self.index as u32 + 1) | (origin << 8)
    }

    fn of_number(number: u32) -> Option<Self> {
        let index = (number as usize & 0xff).checked_sub(1)?;
        let origin = match number >> 8 {
            0xfd => Origin::Program,
            0xfe => Origin::Environment,
            0xff => Origin::Build,
            reason => Origin::Auto(Reason::of_number(reason)?),
        };
        Some(Self { index, origin })
    }

    const fn is_chosen(self) -> bool {
        matches!(self.origin, Origin::Auto(_))
    }
}

/// The [`Selection`]; 0 before the first use. One atomic, so that a fork at any moment leaves nothing half done.
static CURRENT: AtomicU32 = AtomicU32::new(0);

fn known() -> Option<Selection> {
    Selection::of_number(CURRENT.load(Ordering::Relaxed))
}

/// The selection. The first call makes it.
fn selection() -> Result<Selection> {
    if let Some(known) = known() {
        return Ok(known);
    }
    let (name, named_by) = first();
    let first = Selection::of(name, named_by)?;
    // A concurrent gmemSetDevice() wins.
    let kept = CURRENT.compare_exchange(0, first.to_number(), Ordering::Relaxed, Ordering::Relaxed);
    Ok(kept.err().and_then(Selection::of_number).unwrap_or(first))
}

/// The name in the environment or the build.
fn first() -> (&'static str, Origin) {
    static READ: Lazy<Option<String>> = Lazy::new(|| DEVICE.get());
    match READ.get() {
        Some(name) => (name, Origin::Environment),
        None => (DEFAULT, Origin::Build),
    }
}

/// The current device. The first call chooses it or opens the one that is named.
pub fn current() -> Result<&'static dyn Device> {
    current_index().map(by_index)
}

/// The index of the current device. The first call chooses it or opens the one that is named.
pub fn current_index() -> Result<usize> {
    selection().map(|selection| selection.index)
}

/// The index of a device whose driver may have streams. A device that was chosen is chosen again if it has none: a runtime may
/// have been loaded since.
pub fn current_index_for_streams() -> Result<usize> {
    let selection = selection()?;
    if !selection.is_chosen() || by_index(selection.index).driver_streams().is_some() {
        return Ok(selection.index);
    }
    let again = Selection::chosen()?;
    let (old, new) = (selection.to_number(), again.to_number());
    // A concurrent gmemSetDevice() wins.
    let _ = CURRENT.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
    current_index()
}

/// The index of the current device, if it was named. Nothing is opened or chosen: `malloc` calls this, also while a driver is
/// being opened.
pub fn named_index() -> Option<usize> {
    match known() {
        Some(selection) => (!selection.is_chosen()).then_some(selection.index),
        None => find(first().0).ok(),
    }
}

/// The index of the current device, if it was named or is chosen already. Nothing is opened or chosen.
pub fn known_index() -> Option<usize> {
    known().map_or_else(named_index, |selection| Some(selection.index))
}

/// Select a device by name, or choose one (`auto`), and open it. Returns whether it was named.
pub fn set_current(name: &str) -> Result<bool> {
    let selection = Selection::of(name, Origin::Program)?;
    CURRENT.store(selection.to_number(), Ordering::Relaxed);
    Ok(!selection.is_chosen())
}

/// The name of the current device and the reason why it is that one; the failure if there is none.
pub fn explain() -> Result<(&'static str, Cow<'static, str>)> {
    let selection = selection()?;
    let why = match selection.origin {
        Origin::Program => "named by gmemSetDevice()".into(),
        Origin::Environment => "named by GMEM_DEVICE".into(),
        Origin::Build => "named by LIBGMEM_DEVICE of the build".into(),
        Origin::Auto(reason) => format!("chosen: {}", reason.text()).into(),
    };
    Ok((by_index(selection.index).name(), why))
}

#[cfg(test)]
mod tests {
    use super::super::ALL;
    use super::*;

    #[test]
    fn an_unknown_device_is_refused_with_the_list() {
        let failure = set_current("abacus").err().map(|failure| failure.to_string());
        let says = |word| failure.as_ref().is_some_and(|text| text.contains(word));
        assert!(["abacus", "auto", "host", "cuda"].into_iter().all(says), "{failure:?}");
    }

    #[test]
    fn numbers_stand_for_selections() {
        let origins = [
            Origin::Program,
            Origin::Environment,
            Origin::Build,
            Origin::Auto(Reason::NoGmemKernel),
            Origin::Auto(Reason::Refused(crate::error::Errno(libc::EPERM))),
        ];
        for origin in origins {
            for index in 0..ALL.len() {
                let selection = Selection { index, origin };
                assert_eq!(Selection::of_number(selection.to_number()), Some(selection));
            }
        }
        assert_eq!(Selection::of_number(0), None);
    }

    #[test]
    fn a_chosen_device_is_not_malloc_s() {
        assert_eq!(current().map(<dyn Device>::name), explain().map(|(name, _)| name));
        let chosen = known().is_some_and(Selection::is_chosen);
        assert_eq!(named_index().is_none(), chosen);
        assert_eq!(known_index(), current_index().ok());
    }
}
