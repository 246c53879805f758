//! A residency as text: one line per GMEM page, with one sign for each of its 64 parts.

use std::fmt::Write as _;

use super::out::Out;
use super::tally::Tally;
use super::{FLAGS, HOT, HUGE, MAPPED, PageState, RESIDENT, SHARED, SWAPPED, View, ZERO};
use crate::error::Result;

/// Signs in a line.
const SIGNS: usize = 64;

impl View<'_> {
    /// A line of totals, a legend, and the strip. Runs of equal lines are printed once and counted.
    pub fn to_text(&self) -> Result<String> {
        let mut text = Out::default();
        text.push(&self.heading());
        let mut above: Option<String> = None;
        let mut repeated = 0;
        for (first, part) in self.blocks() {
            let line = self.line(first, part);
            if above.as_ref() == Some(&line) {
                repeated += 1;
                continue;
            }
            push_repeated(&mut text, repeated);
            repeated = 0;
            // The address of the GMEM page, even if the range begins inside it.
            let block = self.per_block() * self.page;
            let _ = writeln!(text, "{:>12x} {line}", self.address(first) / block * block);
            above = Some(line);
        }
        push_repeated(&mut text, repeated);
        text.finish()
    }

    fn heading(&self) -> String {
        let tally = Tally::of(self.states);
        let mut text =
            format!("{:#x}, {} pages of {} KiB:", self.start, self.states.len(), self.page >> 10);
        for (flag, name) in FLAGS {
            let comma = if flag == MAPPED { "" } else { "," };
            if self.known & flag != 0 {
                let _ = write!(text, "{comma} {} {name}", tally.count(flag));
            }
        }
        let unknown = FLAGS.iter().filter(|(flag, _)| self.known & flag == 0);
        let unknown: Vec<_> = unknown.map(|(_, name)| *name).collect();
        if !unknown.is_empty() {
            let _ = write!(text, "; not known: {}", unknown.join(", "));
        }
        let _ = writeln!(
            text,
            "\na sign is {} pages: 0-9 A-Z resident on that node, # resident, z zeros, s swapped, . not resident, \
             blank not mapped",
            self.per_sign()
        );
        text
    }

    fn per_sign(&self) -> usize {
        self.per_block().div_ceil(SIGNS)
    }

    /// The line after the address.
    fn line(&self, first: usize, part: &[PageState]) -> String {
        let mut line = String::from("|");
        // Pages outside the range are left blank.
        let skipped = (self.start / self.page.max(1) + first) % self.per_block();
        let signs = self.per_block().div_ceil(self.per_sign());
        for sign in 0..signs {
            let from = (sign * self.per_sign()).saturating_sub(skipped).min(part.len());
            let to = ((sign + 1) * self.per_sign()).saturating_sub(skipped).min(part.len());
            line.push(commonest(&part[from..to]));
        }
        line.push('|');
        let tally = Tally::of(part);
        for (node, pages) in &tally.nodes {
            let _ = match node {
                0.. => write!(line, " node {node}: {pages}"),
                _ => write!(line, " node unknown: {pages}"),
            };
        }
        for (flag, name) in FLAGS {
            if [HUGE, SWAPPED, SHARED, ZERO, HOT].contains(&flag) && tally.count(flag) > 0 {
                let _ = write!(line, " {name} {}", tally.count(flag));
            }
        }
        line
    }
}

fn push_repeated(text: &mut Out, lines: usize) {
    if lines > 0 {
        let _ = writeln!(text, "{:>12} {lines} more like it", "*");
    }
}

/// The most frequent sign; the first of several.
fn commonest(states: &[PageState]) -> char {
    let mut best = (' ', 0);
    for state in states {
        let sign = sign_of(*state);
        let count = states.iter().filter(|other| sign_of(**other) == sign).count();
        if count > best.1 {
            best = (sign, count);
        }
    }
    best.0
}

fn sign_of(state: PageState) -> char {
    if state.is(ZERO) {
        return 'z';
    }
    if state.is(RESIDENT) {
        let node = u32::try_from(state.node).ok();
        return node
            .and_then(|node| char::from_digit(node, 36))
            .map_or('#', |c| c.to_ascii_uppercase());
    }
    match state {
        _ if state.is(SWAPPED) => 's',
        _ if state.is(MAPPED) => '.',
        _ => ' ',
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::mapping;

    #[test]
    fn a_line_is_a_gmem_page_and_what_repeats_is_counted() {
        let page = mapping::base_page().bytes();
        let per_block = mapping::gmem_page().bytes() / page;
        let block = per_block * page;
        let on = |node| PageState { node, flags: MAPPED | RESIDENT };
        let mut states =
            vec![PageState { flags: MAPPED | RESIDENT | HUGE, ..on(1) }; 3 * per_block];
        states.extend(vec![on(10); per_block / 2]);
        states.extend(vec![PageState { node: -1, flags: MAPPED | SWAPPED }; per_block / 4]);
        states.extend(vec![PageState::UNMAPPED; per_block / 4]);
        let known = MAPPED | RESIDENT | HUGE | SWAPPED;
        let view = View { start: block, page, known, states: &states };
        let text = view.to_text().unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[0].ends_with("; not known: shared, zero, hot"), "{text}");
        let huge = format!("|{}| node 1: {per_block} huge {per_block}", "1".repeat(SIGNS));
        assert_eq!(lines[2], format!("{block:>12x} {huge}"));
        assert_eq!(lines[3].trim(), "* 2 more like it");
        let strip = format!(
            "|{}{}{}|",
            "A".repeat(SIGNS / 2),
            "s".repeat(SIGNS / 4),
            " ".repeat(SIGNS / 4)
        );
        assert!(lines[4].contains(&strip), "{text}");

        // The range begins in the last sixteenth of a GMEM page; the signs stand at the end of the
        // line.
        let cut = View { start: 2 * block - block / 16, states: &states[..per_block / 16], ..view };
        let text = cut.to_text().unwrap();
        let strip = format!("{block:>12x} |{}{}|", " ".repeat(60), "1".repeat(4));
        assert!(text.lines().any(|line| line.starts_with(&strip)), "{text}");
        assert_eq!(View { states: &[], ..view }.to_text().unwrap().lines().count(), 2);
    }

    #[test]
    fn signs() {
        let state = |node, flags| PageState { node, flags };
        let states = [
            state(0, RESIDENT),
            state(-1, RESIDENT),
            state(40, RESIDENT),
            state(3, RESIDENT | ZERO),
        ];
        assert_eq!(states.map(sign_of), ['0', '#', '#', 'z']);
        assert_eq!(commonest(&[state(1, RESIDENT), state(2, RESIDENT), state(2, RESIDENT)]), '2');
        assert_eq!(commonest(&[]), ' ');
    }
}
