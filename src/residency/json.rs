//! A residency as JSON. Neighbouring pages with the same state form one run.

use std::fmt::{self, Write as _};

use super::out::Out;
use super::tally::Tally;
use super::{FLAGS, NODE, PageState, View};
use crate::error::Result;

impl View<'_> {
    /// One JSON object.
    pub fn to_json(&self) -> Result<String> {
        let tally = Tally::of(self.states);
        let mut json = Out::default();
        let _ = write!(
            json,
            "{{\"addr\":{},\"page_size\":{},\"pages\":{},\"known\":[{}",
            self.start,
            self.page,
            self.states.len(),
            Names(self.known)
        );
        json.push(if self.known & NODE != 0 { ",\"node\"]" } else { "]" });
        for (flag, name) in FLAGS {
            // Unknown numbers are null.
            if self.known & flag != 0 {
                let _ = write!(json, ",\"{name}\":{}", tally.count(flag));
            } else {
                let _ = write!(json, ",\"{name}\":null");
            }
        }
        let nodes = tally.nodes.iter().filter(|(node, _)| **node >= 0);
        let nodes: Vec<_> = nodes.map(|(node, pages)| format!("\"{node}\":{pages}")).collect();
        let _ = write!(json, ",\"nodes\":{{{}}},\"runs\":[", nodes.join(","));
        let mut first = 0;
        for alike in self.states.chunk_by(|a, b| a == b) {
            let comma = if first == 0 { "" } else { "," };
            if write_run(&mut json, comma, first, alike).is_err() {
                // Without memory, each further attempt would take long and fail.
                break;
            }
            first += alike.len();
        }
        json.push("]}");
        json.finish()
    }
}

/// A run of pages with the same state, in memory of the text alone: there may be as many runs as pages.
fn write_run(json: &mut Out, comma: &str, first: usize, alike: &[PageState]) -> fmt::Result {
    let PageState { node, flags } = alike[0];
    write!(json, "{comma}{{\"first\":{first},\"pages\":{},\"node\":", alike.len())?;
    if node < 0 {
        json.write_str("null")?
    } else {
        write!(json, "{node}")?
    }
    write!(json, ",\"flags\":[{}]}}", Names(flags))
}

/// Names of flags, quoted.
struct Names(u16);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = FLAGS.iter().filter(|(flag, _)| self.0 & flag != 0);
        names.enumerate().try_for_each(|(at, (_, name))| {
            write!(f, "{}\"{name}\"", if at == 0 { "" } else { "," })
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{HUGE, MAPPED, RESIDENT};
    use super::*;

    #[test]
    fn alike_pages_are_one_run_and_unknown_is_null() {
        let there = PageState { node: 1, flags: MAPPED | RESIDENT | HUGE };
        let states = [there, there, PageState::UNMAPPED];
        let view =
            View { start: 8192, page: 4096, known: MAPPED | RESIDENT | HUGE, states: &states };
        assert_eq!(
            view.to_json().unwrap(),
            "{\"addr\":8192,\"page_size\":4096,\"pages\":3,\"known\":[\"mapped\",\"resident\",\"huge\"],\
             \"mapped\":2,\"resident\":2,\"huge\":2,\"swapped\":null,\"shared\":null,\"zero\":null,\
             \"hot\":null,\"nodes\":{\"1\":2},\"runs\":[\
             {\"first\":0,\"pages\":2,\"node\":1,\"flags\":[\"mapped\",\"resident\",\"huge\"]},\
             {\"first\":2,\"pages\":1,\"node\":null,\"flags\":[]}]}"
        );
        let nothing = View { states: &[], ..view }.to_json().unwrap();
        assert!(nothing.ends_with(",\"nodes\":{},\"runs\":[]}"), "{nothing}");
    }
}
