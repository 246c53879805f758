//! Finding the loader and the device.

use std::sync::{Mutex, PoisonError};

use super::codes::{ClCode, unavailable};
use super::driver::{ClResult, Context, Description, Device, Loader, Shared};
use crate::config::{self, Setting};
use crate::error::{Error, Result};
use crate::os::dynamic::Missing;
use crate::os::env;
use crate::os::process::PerProcess;

/// `GMEM_OPENCL_DEVICE`.
pub static WHICH: Setting<String> = Setting {
    name: c"GMEM_OPENCL_DEVICE",
    form: "the number of an OpenCL device, counted from 0 through all platforms, or a part of its name",
    default: "the first OpenCL device that can be used",
    about: "The OpenCL device that the device `opencl` uses.",
    parse: config::text,
};

/// The oldest version of OpenCL that can move shared virtual memory.
const VERSION: (u32, u32) = (2, 1);

/// Open the loader and the device.
pub fn open() -> Result<(Context, Description)> {
    // Some drivers cannot be initialized by two threads at the same time; PoCL 3.1 crashes.
    static ONE: PerProcess<Mutex<()>> = PerProcess::new(|_| Mutex::new(()));
    let _one = ONE.get().lock().unwrap_or_else(PoisonError::into_inner);
    let loader = Loader::open().map_err(no_loader)?;
    let devices = listed(loader.devices())?;
    let descriptions: Vec<_> = devices.iter().map(|device| device.is.clone()).collect();
    let device = &devices[choose(&descriptions, WHICH.get().as_deref())?];
    let context = Context::new(loader, device).map_err(|code| {
        unavailable(
            format!("{} gave no context or no queue: {code}", device.is.name),
            "Choose another one with GMEM_OPENCL_DEVICE, or mend its driver (clinfo shows more)",
        )
    })?;
    Ok((context, device.is.clone()))
}

fn no_loader(missing: Missing) -> Error {
    let folders = shown("LD_LIBRARY_PATH");
    match missing {
        Missing::Library(text) => unavailable(
            format!(
                "libOpenCL.so.1 could not be opened ({text}); looked in {folders} and the system's folders"
            ),
            "Install a loader (Debian: ocl-icd-libopencl1) and the driver of a device (pocl-opencl-icd for \
                     the processor), or mend the variable",
        ),
        Missing::Function(name) => unavailable(
            format!(
                "libOpenCL.so.1, found in {folders} or the system's folders, has no {name}, so it is broken or older \
                 than OpenCL 2.1"
            ),
            "Install a newer loader (Debian: ocl-icd-libopencl1), or mend the variable",
        ),
    }
}

fn listed(devices: ClResult<Vec<Device>>) -> Result<Vec<Device>> {
    let why = match devices {
        Ok(devices) if !devices.is_empty() => return Ok(devices),
        Ok(_) => "no platform has a device".into(),
        Err(ClCode::PLATFORM_NOT_FOUND) => "no platform is installed".into(),
        Err(code) => format!("the platforms could not be listed: {code}"),
    };
    Err(unavailable(
        format!("{why}; looked in {}, else /etc/OpenCL/vendors", shown("OCL_ICD_VENDORS")),
        "Install the driver of a device (Debian: pocl-opencl-icd for the processor), or mend the variable",
    ))
}

fn shown(variable: &str) -> String {
    env::secure(variable)
        .map_or_else(|| format!("{variable} (unset)"), |value| format!("{variable} = {value:?}"))
}

/// The index of the device that is `wanted`, by its number or a part of its name, or else of the first that can be used.
fn choose(devices: &[Description], wanted: Option<&str>) -> Result<usize> {
    let refused = |why: String| {
        unavailable(
            format!("{why}; the devices are {}", list(devices)),
            "Set GMEM_OPENCL_DEVICE to the number or a part of the name of one that can be used",
        )
    };
    let Some(wanted) = wanted else {
        let first = devices.iter().position(|device| why_not(device).is_none());
        return first.ok_or_else(|| refused("no device can be used".into()));
    };
    let index = match wanted.parse() {
        Ok(number) => (number < devices.len()).then_some(number),
        Err(_) => devices.iter().position(|device| device.name.contains(wanted)),
    };
    let index = index.ok_or_else(|| {
        refused(format!("GMEM_OPENCL_DEVICE = {wanted:?} is none of the devices"))
    })?;
    match why_not(&devices[index]) {
        None => Ok(index),
        Some(why) => Err(refused(format!("GMEM_OPENCL_DEVICE = {wanted:?} has {why}"))),
    }
}

/// The reason why a device cannot be used, if there is one.
fn why_not(device: &Description) -> Option<&'static str> {
    if device.version < VERSION {
        Some("a version before OpenCL 2.1")
    } else if device.shared == Shared::Nothing {
        Some("no memory that it shares with the processor (fine-grained SVM)")
    } else {
        None
    }
}

fn list(devices: &[Description]) -> String {
    let lines = devices.iter().enumerate().map(|(number, device)| match why_not(device) {
        None => format!("{number}: {}", device.name),
        Some(why) => format!("{number}: {} ({why})", device.name),
    });
    lines.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str, version: (u32, u32), shared: Shared) -> Description {
        Description { name: name.into(), version, is_processor: false, shared }
    }

    #[test]
    fn the_first_that_can_be_used_unless_one_is_named() {
        let devices = [
            device("old", (1, 2), Shared::Nothing),
            device("Coarse 9000", (3, 0), Shared::Nothing),
            device("Fine 1", (2, 1), Shared::Buffers),
            device("Fine 2", (3, 0), Shared::Everything),
        ];
        assert_eq!(choose(&devices, None), Ok(2));
        assert_eq!(choose(&devices, Some("3")), Ok(3));
        assert_eq!(choose(&devices, Some("Fine 2")), Ok(3));
        for (wanted, why) in [
            ("0", "OpenCL 2.1"),
            ("Coarse", "fine-grained SVM"),
            ("4", "none of"),
            ("", "OpenCL 2.1"),
        ] {
            let text = choose(&devices, Some(wanted)).err().map(|failure| failure.to_string());
            let text = text.unwrap_or_default();
            assert!(text.contains(why) && text.contains("2: Fine 1"), "{wanted}: {text}");
        }
        let text = choose(&devices[..2], None).err().map(|failure| failure.to_string());
        assert!(text.is_some_and(|text| text.contains("1: Coarse 9000 (no memory that it shares")));
    }
}
