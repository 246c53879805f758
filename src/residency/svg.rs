//! A residency as a picture (SVG 1.1). A square is a page, or a GMEM page where there are many.
//!
//! The colours are those of Okabe and Ito, which people with any kind of colour vision can
//! distinguish. Colour alone shows only the node: huge pages are solid, small pages form a grid,
//! and other states have signs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::out::Out;
use super::tally::Tally;
use super::{FLAGS, HOT, HUGE, MAPPED, NODE, PageState, RESIDENT, SHARED, SWAPPED, View, ZERO};
use crate::error::Result;

/// Up to this number, each page has a square of its own.
const MOST_PAGES: usize = 1 << 14;
/// Maximum number of squares of GMEM pages. Beyond it, a square is two GMEM pages, or four, and so
/// on.
const MOST_SQUARES: usize = 1 << 12;

/// Left edge and total width of the squares. All positions are multiples of the pitches, so that
/// the patterns fit.
const LEFT: usize = 128;
const INNER: usize = 1024;
const RIGHT: usize = 208;
const WIDTH: usize = LEFT + INNER + RIGHT;

/// Blue, orange, green, purple, sky, vermilion, yellow; then darker shades of them for higher
/// nodes.
const NODES: [&str; 14] = [
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#00446b",
    "#8a5f00", "#005f45", "#7a4864", "#345e8c", "#803800", "#908929",
];

/// Pages with no node, or an unknown one, have this node's colour.
const NO_NODE: i16 = -1;

/// How a part of the picture is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fill {
    Huge(i16),
    Small(i16),
    Zero,
    Swapped,
    Absent,
    Unmapped,
}

impl Fill {
    const fn of(state: PageState) -> Self {
        if state.is(ZERO) {
            Self::Zero
        } else if state.is(RESIDENT) {
            if state.is(HUGE) { Self::Huge(state.node) } else { Self::Small(state.node) }
        } else if state.is(SWAPPED) {
            Self::Swapped
        } else if state.is(MAPPED) {
            Self::Absent
        } else {
            Self::Unmapped
        }
    }

    /// Value of the attribute `fill`: a colour or a pattern.
    fn paint(self) -> String {
        match self {
            Self::Huge(node) => colour(node).to_owned(),
            Self::Small(node) if node < 0 => "url(#unknown)".to_owned(),
            Self::Small(node) => format!("url(#node{node})"),
            Self::Zero => "url(#zero)".to_owned(),
            Self::Swapped => "url(#swapped)".to_owned(),
            Self::Absent => "url(#absent)".to_owned(),
            Self::Unmapped => "none".to_owned(),
        }
    }
}

fn colour(node: i16) -> &'static str {
    usize::try_from(node).map_or("#777777", |node| NODES[node % NODES.len()])
}

impl View<'_> {
    /// The SVG document.
    pub fn to_svg(&self) -> Result<String> {
        let by_page = self.states.len() <= MOST_PAGES;
        let tally = Tally::of(self.states);
        let mut body = Out::default();
        let top = legend(&mut body, self, &tally, by_page);
        let bottom = if by_page {
            self.draw_pages(&mut body, top)
        } else {
            self.draw_blocks(&mut body, top)
        };
        let height = bottom + 16;
        let title = self.title();
        let mut svg = Out::default();
        let _ = write!(
            svg,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
             viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\" \
             fill=\"#222222\">\n<title>{title}</title>\n"
        );
        patterns(&mut svg, &tally, if by_page { 8 } else { 4 });
        let _ = write!(
            svg,
            "<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
             <text x=\"16\" y=\"32\" font-size=\"18\" font-weight=\"bold\">{title}</text>\n"
        );
        svg.push(&body.finish()?);
        svg.push("</svg>\n");
        svg.finish()
    }

    fn title(&self) -> String {
        format!(
            "Where {} of memory from {:#x} is",
            bytes(self.states.len() * self.page),
            self.start
        )
    }

    /// Draw each page. A GMEM page is four rows of squares. Returns the lower edge.
    fn draw_pages(&self, svg: &mut Out, top: usize) -> usize {
        const PITCH: usize = 8;
        const PER_ROW: usize = INNER / PITCH;
        let mut top = top;
        for (first, part) in self.blocks() {
            let skipped = (self.start / self.page.max(1) + first) % self.per_block();
            let begins = self.address(first) - skipped * self.page;
            label(svg, begins, top + 14, &self.describe(first, part));
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\">{}</text>",
                LEFT + INNER + 12,
                top + 14,
                in_short(part)
            );
            let first_row = skipped / PER_ROW;
            let mut at = 0;
            while at < part.len() {
                let column = (skipped + at) % PER_ROW;
                let row = (skipped + at) / PER_ROW - first_row;
                let end = (at + PER_ROW - column).min(part.len());
                for alike in part[at..end].chunk_by(|a, b| a == b) {
                    let column = (skipped + at) % PER_ROW;
                    let place = Place {
                        x: LEFT + column * PITCH,
                        y: top + row * PITCH,
                        width: alike.len() * PITCH - 1,
                        // A huge page continues in the next row.
                        height: if alike[0].is(HUGE) { PITCH } else { PITCH - 1 },
                    };
                    place.fill(svg, Fill::of(alike[0]));
                    place.mark(svg, alike[0]);
                    at += alike.len();
                }
            }
            svg.push("</g>\n");
            top += ((skipped + part.len()).div_ceil(PER_ROW) - first_row) * PITCH + PITCH;
        }
        top
    }

    /// Draw squares of one or more GMEM pages, each filled in proportion to its pages. Returns the
    /// lower edge.
    fn draw_blocks(&self, svg: &mut Out, top: usize) -> usize {
        const PITCH: usize = 16;
        const SIDE: usize = 14;
        const PER_ROW: usize = INNER / PITCH;
        let per_square = self.pages_per_square();
        for (index, part) in self.states.chunks(per_square).enumerate() {
            let (row, column) = (index / PER_ROW, index % PER_ROW);
            let (x, y) = (LEFT + column * PITCH, top + row * PITCH);
            let first = index * per_square;
            if column == 0 {
                if row > 0 {
                    svg.push("</g>\n");
                }
                label(svg, self.address(first), y + 12, "");
            }
            let _ = write!(svg, "<g><title>{}</title>", self.describe(first, part));
            let mut fills = BTreeMap::new();
            for alike in part.chunk_by(|a, b| a == b) {
                *fills.entry(Fill::of(alike[0])).or_insert(0) += alike.len();
            }
            // Fill from the bottom up.
            let mut filled = 0;
            for (fill, pages) in fills {
                let from = filled * SIDE / per_square;
                filled += pages;
                let to = filled * SIDE / per_square;
                // Small shares stay visible.
                let height = (to - from).max(usize::from(from < SIDE));
                let place = Place { x, y: y + SIDE - from - height, width: SIDE, height };
                // Pages that are not resident leave the square empty.
                if fill != Fill::Absent {
                    place.fill(svg, fill);
                }
            }
            if part.iter().any(|state| state.is(MAPPED)) {
                frame(svg, x, y, SIDE);
            }
            let tally = Tally::of(part);
            let most = |flag| 2 * tally.count(flag) > tally.count(RESIDENT);
            let place = Place { x, y, width: SIDE, height: SIDE };
            let flags = [SHARED, HOT].into_iter().filter(|flag| most(*flag)).sum();
            place.mark_once(svg, PageState { node: -1, flags });
            svg.push("</g>\n");
        }
        if !self.states.is_empty() {
            svg.push("</g>\n");
        }
        top + self.states.len().div_ceil(per_square).div_ceil(PER_ROW) * PITCH
    }

    fn pages_per_square(&self) -> usize {
        let blocks = self.states.len().div_ceil(self.per_block());
        self.per_block() * blocks.div_ceil(MOST_SQUARES).next_power_of_two()
    }

    /// Tooltip text.
    fn describe(&self, first: usize, part: &[PageState]) -> String {
        let tally = Tally::of(part);
        let mut text = format!("{:#x}, {}:", self.address(first), bytes(part.len() * self.page));
        for (flag, name) in FLAGS {
            if tally.count(flag) > 0 {
                let _ = write!(text, " {} {name}", tally.count(flag));
            }
        }
        for (node, pages) in tally.nodes.iter().filter(|(node, _)| **node >= 0) {
            let _ = write!(text, ", {pages} on node {node}");
        }
        text
    }
}

/// A rectangle.
#[derive(Debug, Clone, Copy)]
struct Place {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

impl Place {
    fn rectangle(self, svg: &mut Out, paint: &str) {
        let Self { x, y, width, height } = self;
        let _ = write!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{paint}\"/>"
        );
    }

    fn fill(self, svg: &mut Out, fill: Fill) {
        if fill != Fill::Unmapped {
            self.rectangle(svg, &fill.paint());
        }
    }

    /// The signs for shared and hot, one per page.
    fn mark(self, svg: &mut Out, state: PageState) {
        for (flag, pattern) in [(SHARED, "url(#shared)"), (HOT, "url(#hot)")] {
            if state.is(flag) {
                self.rectangle(svg, pattern);
            }
        }
    }

    /// The signs for shared and hot, once, in the size of the place.
    fn mark_once(self, svg: &mut Out, state: PageState) {
        let Self { x, y, width, height } = self;
        if state.is(SHARED) {
            let _ = write!(
                svg,
                "<path d=\"M{x} {}L{} {y}\" stroke=\"#ffffff\" stroke-width=\"2\"/>",
                y + height,
                x + width
            );
        }
        if state.is(HOT) {
            let _ = write!(
                svg,
                "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"#ffffff\"/>",
                x + width / 2,
                y + height / 2,
                width / 4
            );
        }
    }
}

/// Outline of a square.
fn frame(svg: &mut Out, x: usize, y: usize, side: usize) {
    let side = side - 1;
    let _ = write!(
        svg,
        "<rect x=\"{x}.5\" y=\"{y}.5\" width=\"{side}\" height=\"{side}\" fill=\"none\" stroke=\"#999999\"/>"
    );
}

/// The address at the left, and the beginning of a group with a tooltip.
fn label(svg: &mut Out, address: usize, y: usize, told: &str) {
    let _ = write!(
        svg,
        "<text x=\"{}\" y=\"{y}\" text-anchor=\"end\" font-family=\"monospace\" fill=\"#555555\">{address:x}</text>\n<g>",
        LEFT - 12
    );
    if !told.is_empty() {
        let _ = write!(svg, "<title>{told}</title>");
    }
}

/// Number of pages of each node, next to a GMEM page.
fn in_short(part: &[PageState]) -> String {
    const MOST: usize = 2;
    let tally = Tally::of(part);
    let nodes = tally.nodes.iter().filter(|(node, _)| **node >= 0);
    let mut parts: Vec<_> = nodes.map(|(node, pages)| format!("node {node}: {pages}")).collect();
    if parts.len() > MOST {
        parts.truncate(MOST);
        parts.push("…".to_owned());
    }
    parts.join(", ")
}

/// Legend with the number of pages of each kind. Returns its lower edge.
fn legend(svg: &mut Out, view: &View<'_>, tally: &Tally, by_page: bool) -> usize {
    const SIDE: usize = 16;
    let mut entries: Vec<(Option<Fill>, u16, String)> = Vec::new();
    for (node, pages) in &tally.nodes {
        let name = if *node < 0 { "node not known".to_owned() } else { format!("node {node}") };
        entries.push((Some(Fill::Huge(*node)), 0, format!("{name}: {}", counted(*pages))));
    }
    let absent = tally.count(MAPPED)
        - (tally.count(RESIDENT) + tally.count(SWAPPED)).min(tally.count(MAPPED));
    let small = tally.count(RESIDENT).saturating_sub(tally.count(HUGE));
    for (fill, flag, name, pages) in [
        (Fill::Huge(NO_NODE), HUGE, "huge (unbroken)", tally.count(HUGE)),
        (Fill::Small(NO_NODE), HUGE, "small (grid)", small),
        (Fill::Zero, ZERO, "page of zeros", tally.count(ZERO)),
        (Fill::Swapped, SWAPPED, "swapped out", tally.count(SWAPPED)),
        (Fill::Absent, MAPPED, "not resident", absent),
        (Fill::Unmapped, MAPPED, "not mapped (blank)", tally.pages - tally.count(MAPPED)),
    ] {
        if pages > 0 && view.known & flag != 0 {
            entries.push((Some(fill), 0, format!("{name}: {}", counted(pages))));
        }
    }
    for (flag, name) in [(SHARED, "shared"), (HOT, "hot")] {
        if tally.count(flag) > 0 {
            entries.push((None, flag, format!("{name}: {}", counted(tally.count(flag)))));
        }
    }
    let (mut x, mut y) = (16, 48);
    for (fill, flag, text) in entries {
        let width = SIDE + 8 + text.chars().count() * 7 + 24;
        if x + width > WIDTH {
            (x, y) = (16, y + 24);
        }
        let place = Place { x, y, width: SIDE - 1, height: SIDE - 1 };
        match fill {
            Some(Fill::Absent) if !by_page => frame(svg, x, y, SIDE),
            Some(fill) => place.fill(svg, fill),
            None => place.fill(svg, Fill::Huge(NO_NODE)),
        }
        place.mark_once(svg, PageState { node: NO_NODE, flags: flag });
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{}\">{text}</text>", x + SIDE + 8, y + 12);
        // Swatches start where the patterns begin.
        x = (x + width).next_multiple_of(8);
    }
    let square = if by_page { view.page } else { view.pages_per_square() * view.page };
    let mut note = format!("A square is {}.", bytes(square));
    if !by_page {
        note.push_str(" It is filled as much as its pages are; it has a sign that more than half of its resident pages have.");
    }
    let mut unknown: Vec<_> =
        FLAGS.iter().filter(|(flag, _)| view.known & flag == 0).map(|(_, name)| *name).collect();
    if view.known & NODE == 0 {
        unknown.push("node");
    }
    if !unknown.is_empty() {
        let _ = write!(note, " Not known: {}.", unknown.join(", "));
    }
    let _ = writeln!(svg, "<text x=\"16\" y=\"{}\" fill=\"#555555\">{note}</text>", y + 40);
    y + 64
}

/// The patterns in use: small pages of each node, and the signs.
fn patterns(svg: &mut Out, tally: &Tally, pitch: usize) {
    let side = pitch - 1;
    let middle = side as f64 / 2.0;
    let mut pattern = |name: &str, content: String| {
        let _ = writeln!(
            svg,
            "<pattern id=\"{name}\" width=\"{pitch}\" height=\"{pitch}\" patternUnits=\"userSpaceOnUse\">{content}</pattern>"
        );
    };
    let square =
        |paint: &str| format!("<rect width=\"{side}\" height=\"{side}\" fill=\"{paint}\"/>");
    let diagonal = |paint: &str| {
        format!("<path d=\"M0 {side}L{side} 0\" stroke=\"{paint}\" stroke-width=\"1\"/>")
    };
    let frame = |paint: &str| {
        let side = side - 1;
        format!(
            "<rect x=\"0.5\" y=\"0.5\" width=\"{side}\" height=\"{side}\" fill=\"#ffffff\" stroke=\"{paint}\"/>"
        )
    };
    pattern("unknown", square(colour(NO_NODE)));
    for node in tally.nodes.keys().filter(|node| **node >= 0) {
        pattern(&format!("node{node}"), square(colour(*node)));
    }
    let dot = |paint: &str| {
        let radius = side as f64 / 4.0;
        format!("<circle cx=\"{middle}\" cy=\"{middle}\" r=\"{radius}\" fill=\"{paint}\"/>")
    };
    pattern("zero", frame("#222222") + &dot("#222222"));
    pattern("swapped", square("#000000") + &diagonal("#ffffff"));
    pattern("absent", frame("#bbbbbb"));
    pattern("shared", diagonal("#ffffff"));
    pattern("hot", dot("#ffffff"));
}

/// In the largest unit that divides it.
fn bytes(count: usize) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let fitting = units.iter().find(|(shift, _)| count > 0 && count.trailing_zeros() >= *shift);
    match fitting {
        Some((shift, unit)) => format!("{} {unit}", count >> shift),
        None => format!("{count} bytes"),
    }
}

fn counted(pages: usize) -> String {
    let digits = pages.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {}", if pages == 1 { "page" } else { "pages" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::os::mapping;

    fn on(node: i16, flags: u16) -> PageState {
        PageState { node, flags: MAPPED | RESIDENT | flags }
    }

    /// Checks as much of XML as the pictures use: elements close in order, and attributes are
    /// quoted.
    fn is_well_formed(svg: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = svg;
        while let Some((text, tag)) = rest.split_once('<') {
            let Some((tag, behind)) = tag.split_once('>') else { return false };
            if text.contains(['>', '&']) || tag.matches('"').count() % 2 != 0 {
                return false;
            }
            rest = behind;
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
        }
        open.is_empty() && !rest.contains('>')
    }

    #[test]
    fn few_pages_have_a_square_each() {
        let page = mapping::base_page().bytes();
        let per_block = mapping::gmem_page().bytes() / page;
        let mut states = vec![on(0, HUGE); per_block];
        states.extend(vec![on(2, 0); 10]);
        states.extend([on(2, SHARED), on(2, HOT), on(-1, ZERO), PageState::UNMAPPED]);
        states.extend([PageState { node: -1, flags: MAPPED | SWAPPED }; 3]);
        states.extend([PageState { node: -1, flags: MAPPED }; 5]);
        let known = MAPPED | RESIDENT | HUGE | SWAPPED | SHARED | ZERO | NODE;
        let view = View { start: per_block * page, page, known, states: &states };
        let svg = view.to_svg().unwrap();
        assert!(is_well_formed(&svg), "{svg}");
        for part in [
            "<title>Where ",
            ">node 0: 512 pages</text>",
            ">node 2: 12 pages</text>",
            ">swapped out: 3 pages</text>",
            ">not resident: 5 pages</text>",
            ">not mapped (blank): 1 page</text>",
            ">page of zeros: 1 page</text>",
            ">shared: 1 page</text>",
            " Not known: hot.</text>",
            "width=\"79\" height=\"7\" fill=\"url(#node2)\"",
        ] {
            assert!(per_block != 512 || svg.contains(part), "{part} in {svg}");
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [1, 999, 1000, 1_234_567].map(counted),
            ["1 page", "999 pages", "1,000 pages", "1,234,567 pages"]
        );
        assert_eq!([0, 4096, 3 << 20, 1 << 40].map(bytes), ["0 bytes", "4 KiB", "3 MiB", "1 TiB"]);
    }

    #[test]
    fn many_pages_share_squares_and_any_size_is_well_formed() {
        let page = mapping::base_page().bytes();
        let blocks = MOST_SQUARES + 1;
        for pages in [0, 1, MOST_PAGES, MOST_PAGES + 1, 512 * blocks] {
            let states: Vec<_> = (0..pages)
                .map(|index| {
                    if index / 99 % 3 == 0 {
                        on((index % 20) as i16, 0)
                    } else {
                        PageState::UNMAPPED
                    }
                })
                .collect();
            let view = View { start: 5 * page, page, known: u16::MAX, states: &states };
            let svg = view.to_svg().unwrap();
            assert!(is_well_formed(&svg), "{pages} pages");
            assert!(svg.len() < 8 << 20, "{pages} pages make {} bytes", svg.len());
        }
    }
}
