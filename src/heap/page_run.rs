//! A run of heap pages in a device's memory, packed into one number so that an atomic can hold it: lists of runs need no
//! lock.

use super::page_map::HEAP_PAGE;

/// Consecutive heap pages in the memory of one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// Address of the first byte.
    pub start: usize,
    /// Bytes, a multiple of the heap page.
    pub length: usize,
    /// The device's index.
    pub device: usize,
}

impl PageRun {
    const START_BITS: u32 = 27;
    const DEVICE_BITS: u32 = 5;

    /// The run as a number; 0 stands for no run.
    pub fn to_number(self) -> u64 {
        if self.length == 0 {
            return 0;
        }
        let pages = (self.length / HEAP_PAGE) as u64;
        let start = (self.start / HEAP_PAGE) as u64;
        (pages << Self::DEVICE_BITS | self.device as u64) << Self::START_BITS | start
    }

    /// The run that a number stands for; `None` for 0.
    pub fn from_number(number: u64) -> Option<Self> {
        let bits = |shift: u32, count: u32| (number >> shift & ((1 << count) - 1)) as usize;
        (number != 0).then(|| Self {
            start: bits(0, Self::START_BITS) * HEAP_PAGE,
            device: bits(Self::START_BITS, Self::DEVICE_BITS),
            length: (number >> (Self::START_BITS + Self::DEVICE_BITS)) as usize * HEAP_PAGE,
        })
    }

    /// The pages behind the first `length` bytes.
    pub fn behind(self, length: usize) -> Self {
        Self { start: self.start + length, length: self.length - length, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_survives_packing() {
        let run = PageRun { start: 0x7fff_ffe0_0000, length: 5 << 30, device: 31 };
        assert_eq!(PageRun::from_number(run.to_number()), Some(run));
        assert_eq!(PageRun::from_number(run.behind(run.length).to_number()), None);
        assert_eq!(PageRun::from_number(0), None);
    }
}
