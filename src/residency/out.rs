//! Text that may become long: where memory ends, so does the text, and the process goes on.

use std::fmt::{self, Write};

use crate::error::{Error, Result};

/// Grows by `write!`, whose result may be ignored until [`finish`](Out::finish).
#[derive(Default)]
pub struct Out {
    text: String,
    is_cut: bool,
}

impl Write for Out {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        if self.is_cut || self.text.try_reserve(part.len()).is_err() {
            self.is_cut = true;
            return Err(fmt::Error);
        }
        self.text.push_str(part);
        Ok(())
    }
}

impl Out {
    /// Add text as it is.
    pub fn push(&mut self, part: &str) {
        // A failure stays known.
        let _ = self.write_str(part);
    }

    /// All of it, or that there was no memory for it.
    pub fn finish(self) -> Result<String> {
        if self.is_cut {
            return Err(Error::OutOfMemory { what: "the text of a residency" });
        }
        Ok(self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_is_an_error() {
        let mut out = Out::default();
        out.push("a");
        let _ = write!(out, "{}", 1);
        out.is_cut = true;
        out.push("b");
        assert_eq!(out.text, "a1");
        assert_eq!(out.finish().err().map(|error| error.errno().0), Some(libc::ENOMEM));
    }
}
