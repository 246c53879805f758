//! Text that may become long. If memory runs out, the text is cut and the process goes on.

use std::fmt::{self, Write};

use crate::error::{Error, Result};

/// Written with `write!`, whose result may be ignored until [`finish`](Out::finish).
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
    /// Append text.
    pub fn push(&mut self, part: &str) {
        // `is_cut` keeps the failure.
        let _ = self.write_str(part);
    }

    /// The whole text, or an error if it was cut.
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
