//! Recorded texts, mangled: what tests feed to the parsers of settings and of the kernel's files.
//!
//! A parser gets each text as it was recorded, and then hundreds that are made from it: cut, with lines repeated and
//! joined, with words exchanged, with numbers at the edges of their types, with bytes that are no text. The seed is fixed,
//! so a failure comes again; `./dev fuzz` goes on with new ones.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// Words where parsers err: at the edges of types, and numbers that are none.
const EDGES: [&str; 16] = [
    "",
    "0",
    "1",
    "-1",
    "1023",
    "1024",
    "4294967296",
    "9223372036854775807",
    "18014398509481984",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999",
    "fffffffffffff000",
    "0x10",
    "1e400",
    "nan",
];

/// A text that prints as one.
#[derive(Clone)]
struct Text(Vec<u8>);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// One change to a text.
#[derive(Debug, Clone)]
enum Change {
    Cut(Index),
    Insert(Index, Vec<u8>),
    Word(Index, &'static str),
    ExchangeWords(Index, Index),
    RepeatLine(Index, Index),
    JoinLines(Index),
}

fn change() -> impl Strategy<Value = Change> {
    let index = any::<Index>;
    prop_oneof![
        index().prop_map(Change::Cut),
        (index(), vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (index(), select(&EDGES[..])).prop_map(|(at, word)| Change::Word(at, word)),
        (index(), index()).prop_map(|(one, other)| Change::ExchangeWords(one, other)),
        (index(), index()).prop_map(|(from, to)| Change::RepeatLine(from, to)),
        index().prop_map(Change::JoinLines),
    ]
}

/// The parts of a text between bytes that are `separator`s, and these, each by itself.
fn parts(text: &[u8], separator: impl Fn(u8) -> bool) -> Vec<Vec<u8>> {
    text.chunk_by(|one, next| !separator(*one) && !separator(*next)).map(<[u8]>::to_vec).collect()
}

fn changed(Text(text): Text, change: &Change) -> Text {
    let is_between_words = |byte: u8| !byte.is_ascii_alphanumeric();
    let words = || parts(&text, is_between_words);
    // Texts stay shorter than the buffers that parsers read into.
    const LONGEST: usize = 4000;
    let mut result = match change {
        _ if text.is_empty() => return Text(text),
        Change::Cut(at) => text[..at.index(text.len())].to_vec(),
        Change::Insert(at, bytes) => {
            let (before, after) = text.split_at(at.index(text.len()));
            [before, bytes, after].concat()
        }
        Change::Word(at, word) => {
            let mut words = words();
            *at.get_mut(&mut words) = word.as_bytes().to_vec();
            words.concat()
        }
        Change::ExchangeWords(one, other) => {
            let mut words = words();
            let count = words.len();
            words.swap(one.index(count), other.index(count));
            words.concat()
        }
        Change::RepeatLine(from, to) => {
            let mut lines: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').collect();
            let line = *from.get(&lines);
            lines.insert(to.index(lines.len()), line);
            lines.concat()
        }
        Change::JoinLines(at) => {
            let mut lines = parts(&text, |byte| byte == b'\n');
            lines.remove(at.index(lines.len()));
            lines.concat()
        }
    };
    result.truncate(LONGEST);
    Text(result)
}

fn number_in(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Call `check`, which panics where a parser errs, with the recorded texts and with mangled ones.
#[allow(clippy::panic)]
pub fn texts(recorded: &[&str], check: impl Fn(&[u8])) {
    recorded.iter().for_each(|text| check(text.as_bytes()));
    let recorded: Vec<_> = recorded.iter().map(|text| Text(text.as_bytes().to_vec())).collect();
    let strategy = (select(recorded), vec(change(), 1..6))
        .prop_map(|(text, changes)| changes.iter().fold(text, changed));
    let end = Instant::now() + Duration::from_secs(number_in("GMEM_FUZZ_SECONDS").unwrap_or(0));
    for seed in number_in("GMEM_FUZZ_SEED").unwrap_or(1).. {
        let config = Config { cases: 500, failure_persistence: None, ..Config::default() };
        let bytes = [seed.to_le_bytes(), [1; 8]].concat();
        let random = TestRng::from_seed(RngAlgorithm::XorShift, &bytes);
        let outcome = TestRunner::new_with_rng(config, random).run(&strategy, |text| {
            check(&text.0);
            Ok(())
        });
        if let Err(failure) = outcome {
            panic!("GMEM_FUZZ_SEED={seed}: {failure}");
        }
        if Instant::now() >= end {
            break;
        }
    }
}
