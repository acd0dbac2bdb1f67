//! Bindings of a consistent hash exchange.
//!
//! Every candidate draws a number from the message's hash and its own, and the one that drew best
//! takes the message (rendezvous hashing). A candidate that is added takes messages for itself
//! only, and one that is removed gives up its own only: nothing moves between the others. The
//! draws depend on names and weights and on nothing else, so they are the same on every node and
//! after every restart.
//!
//! The hash is FNV-1a with 64 bits, its result spread by Stafford's variant 13 of the 64-bit
//! finalizer. It must never change: queues would get other messages than before.

use std::cmp::Ordering;
use std::sync::Arc;

use isthmus_model::{BindingDef, Destination, ExchangeDef, Table};

use super::TopologyError;
use super::targets::{Reached, Target};
use super::values::write_value;

/// The properties that can be hashed.
const PROPERTIES: [&str; 3] = ["correlation_id", "message_id", "timestamp"];

/// What of a message is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HashOn {
    RoutingKey,
    Header(Arc<str>),
    Property(Arc<str>),
}

impl HashOn {
    /// What the exchange's arguments ask for.
    pub(super) fn of(def: &ExchangeDef) -> Result<HashOn, TopologyError> {
        let text = |name: &str| match def.arguments.get(name) {
            None => Ok(None),
            Some(value) => {
                value.as_str().map(|text| Some(Arc::<str>::from(text))).ok_or_else(|| {
                    TopologyError::InvalidArgument { why: format!("{name} must be text").into() }
                })
            }
        };
        match (text("hash-header")?, text("hash-property")?) {
            (None, None) => Ok(HashOn::RoutingKey),
            (Some(header), None) => Ok(HashOn::Header(header)),
            (None, Some(property)) if PROPERTIES.contains(&&*property) => {
                Ok(HashOn::Property(property))
            }
            (None, Some(property)) => Err(TopologyError::InvalidArgument {
                why: format!("Unsupported property: {property}").into(),
            }),
            (Some(_), Some(_)) => Err(TopologyError::InvalidArgument {
                why: "hash-header and hash-property are mutually exclusive".into(),
            }),
        }
    }
}

/// The weight that a binding's key says.
pub(super) fn weight(key: &str) -> Result<u32, TopologyError> {
    let invalid = |why: String| TopologyError::InvalidArgument { why: why.into() };
    let digits = key.strip_prefix(['+', '-']).unwrap_or(key);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid(format!("The binding key must be an integer: {key}")));
    }
    if key.starts_with('-') || digits.bytes().all(|b| b == b'0') {
        return Err(invalid("The binding key must be greater than 0".to_owned()));
    }
    digits
        .parse()
        .map_err(|_| invalid(format!("The binding key must not be greater than {}", u32::MAX)))
}

/// What is hashed, as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash(u64);

impl Hash {
    /// The hash of bytes.
    pub(super) fn of(bytes: &[u8]) -> Hash {
        let fnv = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Hash(spread(fnv))
    }

    /// The hash of a header: of text its bytes, of anything else its canonical form.
    pub(super) fn of_header(headers: &Table, name: &str) -> Hash {
        match headers.get(name) {
            None => Hash::of(&[]),
            Some(value) => match value.as_str() {
                Some(text) => Hash::of(text.as_bytes()),
                None => {
                    let mut form = Vec::new();
                    write_value(value, &mut form);
                    Hash::of(&form)
                }
            },
        }
    }

    /// What the candidate called `name` draws: every value is equally likely.
    fn draw(self, name: Hash) -> u64 {
        spread(self.0 ^ name.0)
    }
}

/// Spreads every bit of `n` over the whole number.
fn spread(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A destination with one weight.
#[derive(Clone, Debug)]
struct Candidate {
    /// Of its name.
    hash: Hash,
    target: Target,
    /// Bindings that differ in nothing that is looked at here.
    bindings: u32,
}

/// The bindings of a consistent hash exchange. Several of one destination count as the one of the
/// greatest weight.
#[derive(Clone, Debug, Default)]
pub(super) struct HashRoutes {
    /// By weight, which nearly all have in common: among equals the greatest draw wins, and only
    /// the best of each weight are weighed against each other.
    by_weight: Arc<Vec<(u32, Vec<Candidate>)>>,
}

impl HashRoutes {
    /// Adds a binding whose key was checked.
    pub(super) fn add(&mut self, def: &BindingDef, target: &Target) {
        let weight = weight(&def.routing_key).expect("the key was checked before");
        let by_weight = Arc::make_mut(&mut self.by_weight);
        let at = by_weight.binary_search_by_key(&weight, |(w, _)| *w).unwrap_or_else(|at| {
            by_weight.insert(at, (weight, Vec::new()));
            at
        });
        let alike = &mut by_weight[at].1;
        match alike.iter_mut().find(|c| c.target == *target) {
            Some(candidate) => candidate.bindings += 1,
            None => {
                let hash = hash_of(&def.destination);
                alike.push(Candidate { hash, target: target.clone(), bindings: 1 });
            }
        }
    }

    /// Removes a binding.
    ///
    /// # Panics
    /// If it was not added.
    pub(super) fn remove(&mut self, def: &BindingDef, target: &Target) {
        let weight = weight(&def.routing_key).expect("the key was checked before");
        let by_weight = Arc::make_mut(&mut self.by_weight);
        let Ok(at) = by_weight.binary_search_by_key(&weight, |(w, _)| *w) else {
            panic!("no binding of weight {weight} was added");
        };
        let alike = &mut by_weight[at].1;
        let place = alike.iter().position(|c| c.target == *target).expect("the binding was added");
        alike[place].bindings -= 1;
        if alike[place].bindings == 0 {
            alike.swap_remove(place);
        }
        if alike.is_empty() {
            by_weight.remove(at);
        }
    }

    /// Adds the one target that what is hashed picks, if there is any.
    pub(super) fn reach<'t>(&'t self, hashed: Hash, reached: &mut Reached<'t, '_>) {
        let best_of = |(weight, alike): &'t (u32, Vec<Candidate>)| {
            let drawn = alike.iter().map(|c| (c.hash.draw(hashed), c.hash.0, c));
            let (draw, _, candidate) = drawn.max_by_key(|(draw, hash, _)| (*draw, *hash))?;
            Some((*weight, draw, candidate))
        };
        let best = match &self.by_weight[..] {
            [only] => best_of(only),
            several => several.iter().filter_map(best_of).max_by(weigh),
        };
        let Some((_, _, candidate)) = best else { return };
        reached.any = true;
        match &candidate.target {
            Target::Queue(id) => reached.queues.push(*id),
            Target::Exchange(name) => reached.exchanges.push(name),
        }
    }
}

/// Which of two draws is better, their weights considered: the one of the smaller
/// `-log(draw) / weight`, by which a candidate wins as often as its weight says.
fn weigh(a: &(u32, u64, &Candidate), b: &(u32, u64, &Candidate)) -> Ordering {
    let cost = |draw: u64, other: u32| u128::from(log_below_one(draw)) * u128::from(other);
    let by_cost = cost(b.1, a.0).cmp(&cost(a.1, b.0));
    by_cost.then(a.0.cmp(&b.0)).then(a.2.hash.0.cmp(&b.2.hash.0))
}

/// `-log2((draw + 1) / 2^64)` with 32 binary digits after the point. In whole numbers, since
/// floating-point logarithms differ from one machine to the next.
fn log_below_one(draw: u64) -> u64 {
    let n = u128::from(draw) + 1;
    let whole = n.ilog2();
    // 1 to 2, with 63 digits after the point.
    let mut rest = ((n << 63) >> whole) as u64;
    let mut log = u64::from(whole);
    for _ in 0..32 {
        let square = (u128::from(rest) * u128::from(rest)) >> 63;
        let digit = (square >> 64) as u64;
        rest = (square >> digit) as u64;
        log = (log << 1) | digit;
    }
    (64 << 32) - log
}

fn hash_of(destination: &Destination) -> Hash {
    let (kind, name) = match destination {
        Destination::Queue(name) => (b'q', name),
        Destination::Exchange(name) => (b'e', name),
    };
    let mut bytes = vec![kind];
    bytes.extend_from_slice(name.as_bytes());
    Hash::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_what_it_always_was() {
        // A change here moves the messages of every deployment.
        assert_eq!(Hash::of(b""), Hash(spread(0xcbf2_9ce4_8422_2325)));
        assert_eq!(Hash::of(b"a"), Hash(spread(0xaf63_dc4c_8601_ec8c)));
        assert_eq!(Hash::of(b"foobar"), Hash(spread(0x8594_4171_f739_67e8)));
    }

    #[test]
    fn logarithms_are_exact_to_their_last_digits() {
        assert_eq!(log_below_one(u64::MAX), 0);
        assert_eq!(log_below_one(0), 64 << 32);
        assert_eq!(log_below_one((1 << 63) - 1), 1 << 32);
        for draw in [1, 2, 5, 1000, 123_456_789, 0xdead_beef_dead_beef, u64::MAX - 1] {
            let exact = 64.0 - ((draw as f64) + 1.0).log2();
            let got = log_below_one(draw) as f64 / f64::from(1u32 << 16) / f64::from(1u32 << 16);
            assert!((exact - got).abs() < 1e-8, "{draw}: {got}, not {exact}");
        }
    }

    #[test]
    fn weights_are_positive_whole_numbers() {
        assert_eq!((weight("1"), weight("+20"), weight("007")), (Ok(1), Ok(20), Ok(7)));
        for (key, why) in [
            ("", "The binding key must be an integer: "),
            ("a", "The binding key must be an integer: a"),
            ("1.5", "The binding key must be an integer: 1.5"),
            ("0", "The binding key must be greater than 0"),
            ("-3", "The binding key must be greater than 0"),
            ("4294967296", "The binding key must not be greater than 4294967295"),
        ] {
            assert_eq!(weight(key).map_err(|e| e.to_string()), Err(why.to_owned()), "'{key}'");
        }
    }
}
