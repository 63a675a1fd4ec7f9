//! Ways in which the network may cut an input into reads. They follow from the input alone, so that a corpus file is nothing but the bytes of a peer
//! and a finding repeats itself.

/// The whole in one read, every byte by itself, and a few ways between.
pub fn ways(input: &[u8]) -> impl Iterator<Item = Vec<&[u8]>> {
    let mut dice = Dice::of(input);
    let random = (0..RANDOM_WAYS).map(move |way| cut(input, || 1 + dice.below([3, 16, 100, input.len().max(1)][way % 4])));
    [cut(input, || usize::MAX), cut(input, || 1)].into_iter().chain(random)
}

fn cut(input: &[u8], mut length: impl FnMut() -> usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    let mut rest = input;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(length().min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Numbers that an input decides (FNV-1a, then xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn of(input: &[u8]) -> Dice {
        let hash = input.iter().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3));
        // Zero is the one state that xorshift never leaves.
        Dice(hash | 1)
    }

    /// From 0 to `bound` - 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % bound
    }
}

const RANDOM_WAYS: usize = 4;
