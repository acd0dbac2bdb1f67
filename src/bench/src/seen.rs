//! Which messages have come, in a bit each and less.

use std::collections::VecDeque;

/// The sequence numbers of one block.
const BLOCK: u64 = 32_768;

/// A set of sequence numbers that are nearly all of them, nearly in order. Blocks that are full
/// take no memory.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// All numbers of blocks before this one are there.
    first: u64,
    blocks: VecDeque<Block>,
    unique: u64,
    /// One more than the largest.
    end: u64,
}

#[derive(Debug)]
struct Block {
    count: u64,
    /// None once it is full, or still empty; `count` tells which.
    bits: Option<Box<[u64; (BLOCK / 64) as usize]>>,
}

impl Seen {
    /// Adds a number; whether it is new. Numbers that are further ahead of the rest than any run
    /// can make them (2⁴⁰) are not taken.
    #[inline]
    pub(crate) fn insert(&mut self, sequence: u64) -> bool {
        let block = sequence / BLOCK;
        if block < self.first || sequence >= 1 << 40 {
            return false;
        }
        let at = (block - self.first) as usize;
        while self.blocks.len() <= at {
            self.blocks.push_back(Block { count: 0, bits: None });
        }
        let block = &mut self.blocks[at];
        if block.count == BLOCK {
            return false;
        }
        let bits = block.bits.get_or_insert_with(|| Box::new([0; (BLOCK / 64) as usize]));
        let (word, bit) = ((sequence % BLOCK / 64) as usize, 1 << (sequence % 64));
        if bits[word] & bit != 0 {
            return false;
        }
        bits[word] |= bit;
        block.count += 1;
        self.unique += 1;
        self.end = self.end.max(sequence + 1);
        if block.count == BLOCK {
            block.bits = None;
            while self.blocks.front().is_some_and(|block| block.count == BLOCK) {
                self.blocks.pop_front();
                self.first += 1;
            }
        }
        true
    }

    /// How many different numbers came.
    pub(crate) fn unique(&self) -> u64 {
        self.unique
    }

    /// One more than the largest number that came.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_full_takes_no_memory() {
        let mut seen = Seen::default();
        assert!((0..10 * BLOCK).all(|n| seen.insert(n)));
        assert!(seen.blocks.is_empty());
        assert!(!seen.insert(5));
        assert_eq!((seen.unique(), seen.end()), (10 * BLOCK, 10 * BLOCK));
    }

    #[test]
    fn a_hole_stays_a_hole() {
        let mut seen = Seen::default();
        (0..5 * BLOCK).filter(|&n| n != 77).for_each(|n| assert!(seen.insert(n)));
        assert_eq!((seen.unique(), seen.end()), (5 * BLOCK - 1, 5 * BLOCK));
        assert_eq!(seen.blocks.iter().filter(|block| block.bits.is_some()).count(), 1);
        assert!(seen.insert(77));
        assert!(!seen.insert(77));
    }

    proptest! {
        #[test]
        fn it_is_a_set(numbers in proptest::collection::vec(0_u64..100_000, 0..500)) {
            let (mut seen, mut model) = (Seen::default(), HashSet::new());
            for &n in &numbers {
                prop_assert_eq!(seen.insert(n), model.insert(n));
            }
            prop_assert_eq!(seen.unique(), model.len() as u64);
        }
    }
}
