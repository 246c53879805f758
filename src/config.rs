//! `GMEM_*` settings: read once from the environment, ignored in setuid programs.
//!
//! The heap reads its own settings elsewhere, because it starts before anything may allocate.

use crate::huge_policy::HugePolicy;
use crate::os::lazy::Lazy;
use crate::os::{env, file};

/// How much is written to stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing: the default, and what an unknown word means.
    Off,
    /// A line for each call that fails.
    Error,
    /// Those, and a line for each prefetch and eager free.
    Trace,
}

/// The settings as they were when the first call asked.
#[derive(Debug)]
pub struct Config {
    /// `GMEM_DEVICE`: name of the device to begin with.
    pub device: Option<String>,
    /// `GMEM_OPENCL_DEVICE`: number or part of the name of the OpenCL device.
    pub opencl_device: Option<String>,
    /// `GMEM_CUDA_DEVICE`: number of the GPU, or the beginning of its UUID.
    pub cuda_device: Option<String>,
    /// `GMEM_CUDA_MEMORY`: `managed` or `system`.
    pub cuda_memory: Option<String>,
    /// `GMEM_LOG`: `error` or `trace`.
    pub log: LogLevel,
    /// `GMEM_HUGE_PAGES`: `off`, `prefer` or `require`.
    pub huge_pages: HugePolicy,
    /// `GMEM_PREFETCH_THREADS`: threads that prefetches may use at once, the callers' not counted.
    pub prefetch_threads: Option<usize>,
}

/// The process's settings.
pub fn config() -> &'static Config {
    static CONFIG: Lazy<Config> = Lazy::new(|| Config {
        device: env::secure("GMEM_DEVICE").filter(|name| !name.is_empty()),
        opencl_device: env::secure("GMEM_OPENCL_DEVICE").filter(|which| !which.is_empty()),
        cuda_device: env::secure("GMEM_CUDA_DEVICE").filter(|which| !which.is_empty()),
        cuda_memory: env::secure("GMEM_CUDA_MEMORY").filter(|which| !which.is_empty()),
        log: log_level(env::secure("GMEM_LOG").as_deref()),
        huge_pages: env::secure("GMEM_HUGE_PAGES")
            .and_then(|word| HugePolicy::from_word(&word))
            .unwrap_or(HugePolicy::AsIs),
        prefetch_threads: env::secure("GMEM_PREFETCH_THREADS")
            .and_then(|number| number.parse().ok()),
    });
    CONFIG.get()
}

/// Write a line to stderr, if `GMEM_LOG` asks for lines of this level.
pub fn log(level: LogLevel, line: impl FnOnce() -> String) {
    if config().log >= level {
        file::write_stderr(format!("libgmem: {}\n", line()).as_bytes());
    }
}

fn log_level(word: Option<&str>) -> LogLevel {
    match word {
        Some("error") => LogLevel::Error,
        Some("trace") => LogLevel::Trace,
        _ => LogLevel::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_words() {
        assert_eq!(log_level(Some("error")), LogLevel::Error);
        assert_eq!(log_level(Some("trace")), LogLevel::Trace);
        assert_eq!(log_level(Some("loud")), LogLevel::Off);
        assert_eq!(log_level(None), LogLevel::Off);
    }
}
