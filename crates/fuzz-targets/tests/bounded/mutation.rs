//! Random changes of the seeds.

use std::fmt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::seeds::Seeds;

/// The most changes that are made to one seed.
const MAX_CHANGES: usize = 6;

/// The most bytes that one change takes away or repeats.
const MAX_RUN: usize = 48;

/// An input, shown so that it can be put into a file.
#[derive(Clone)]
pub(crate) struct Input(pub(crate) Vec<u8>);

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

#[derive(Clone, Debug)]
enum Change {
    Flip(u8),
    Set(u8),
    Cut(usize),
    Repeat(usize),
    CutAll,
    Insert(Index),
    Splice(Index, Index, usize),
}

/// Seeds with some changes.
pub(crate) fn changed(seeds: Seeds) -> impl Strategy<Value = Input> {
    let change = prop_oneof![
        (0..8_u8).prop_map(Change::Flip),
        any::<u8>().prop_map(Change::Set),
        (1..MAX_RUN).prop_map(Change::Cut),
        (1..MAX_RUN).prop_map(Change::Repeat),
        Just(Change::CutAll),
        any::<Index>().prop_map(Change::Insert),
        any::<Index>().prop_map(Change::Insert),
        (any::<Index>(), any::<Index>(), 1..MAX_RUN * 4)
            .prop_map(|(of, from, run)| Change::Splice(of, from, run)),
    ];
    (any::<Index>(), vec((any::<Index>(), change), 0..=MAX_CHANGES)).prop_map(move |(seed, changes)| {
        let (_, seed) = seed.get(&seeds.inputs);
        let apply = |input, (place, change): (Index, Change)| apply(input, place, &change, &seeds);
        Input(changes.into_iter().fold(seed.clone(), apply))
    })
}

fn apply(mut input: Vec<u8>, place: Index, change: &Change, seeds: &Seeds) -> Vec<u8> {
    let at = place.index(input.len() + 1);
    let length = input.len();
    let end = |run: usize| length.min(at + run);
    match change {
        Change::Flip(bit) => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << bit),
        Change::Set(to) => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = *to),
        Change::Cut(run) => drop(input.drain(at..end(*run))),
        Change::CutAll => input.truncate(at),
        Change::Repeat(run) => {
            let piece = input[at..end(*run)].to_vec();
            insert(&mut input, at, &piece);
        }
        Change::Insert(entry) => insert(&mut input, at, entry.get::<Vec<u8>>(&seeds.dictionary)),
        Change::Splice(of, from, run) => {
            let (_, other) = of.get(&seeds.inputs);
            let from = from.index(other.len() + 1);
            insert(&mut input, at, &other[from..other.len().min(from + run)]);
        }
    }
    input
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}
