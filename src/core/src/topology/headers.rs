//! Headers bindings, found by what they ask for.
//!
//! A binding asks whether a header is there, or is there with a value: each such question has a
//! form in bytes, the *probe*, and a message answers yes to a set of probes. A binding is filed
//! under a probe that it cannot match without, so a message looks at those bindings only that
//! share something with it, not at all of the exchange's.

use std::sync::Arc;

use isthmus_model::{Table, Value};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync};

use super::TopologyError;
use super::targets::{Reached, Target, Targets};
use super::values::{plain, write_bytes, write_value};

/// "Is a header of this name there (with this value)?", as bytes. The name comes first, behind its
/// length; nothing follows it if any value will do.
type Probe = Arc<[u8]>;

/// The bindings of a headers exchange.
#[derive(Clone, Debug, Default)]
pub(super) struct HeaderRoutes {
    /// Of bindings that ask for all of nothing.
    always: Targets,
    by_probe: HashTrieMapSync<Probe, Filed>,
}

/// The bindings filed under one probe.
#[derive(Clone, Debug, Default)]
struct Filed {
    /// Of those that ask for nothing else, or for any of several.
    sure: Targets,
    /// Of those that ask for all of several probes, this one among them.
    unsure: RedBlackTreeMapSync<Arc<[Probe]>, Targets>,
}

/// What a binding's arguments ask for.
struct Asked {
    /// Sorted, without repetition.
    probes: Vec<Probe>,
    all: bool,
}

impl Asked {
    fn of(arguments: &Table) -> Result<Asked, TopologyError> {
        let (all, with_x) = match arguments.get("x-match") {
            None => (true, false),
            Some(value) => match value.as_str() {
                Some("all") => (true, false),
                Some("any") => (false, false),
                Some("all-with-x") => (true, true),
                Some("any-with-x") => (false, true),
                _ => return Err(TopologyError::InvalidMatch { value: plain(value).into() }),
            },
        };
        let mut probes: Vec<Probe> = arguments
            .0
            .iter()
            .filter(|(name, _)| name != "x-match" && (with_x || !name.starts_with("x-")))
            .map(|(name, value)| probe(name, Some(value).filter(|v| **v != Value::Null)))
            .collect();
        probes.sort();
        probes.dedup();
        Ok(Asked { probes, all })
    }
}

fn probe(name: &str, value: Option<&Value>) -> Probe {
    let mut bytes = Vec::with_capacity(32);
    write_probe(name, value, &mut bytes);
    bytes.into()
}

fn write_probe(name: &str, value: Option<&Value>, out: &mut Vec<u8>) {
    write_bytes(name.as_bytes(), out);
    if let Some(value) = value {
        write_value(value, out);
    }
}

/// Whether `arguments` are those of a headers binding.
pub(super) fn check(arguments: &Table) -> Result<(), TopologyError> {
    Asked::of(arguments).map(drop)
}

impl HeaderRoutes {
    /// Adds a binding with `arguments`, which were checked.
    pub(super) fn add(&mut self, arguments: &Table, target: &Target) {
        self.update(arguments, |targets| targets.add(target));
    }

    /// Removes a binding with `arguments`.
    ///
    /// # Panics
    /// If it was not added.
    pub(super) fn remove(&mut self, arguments: &Table, target: &Target) {
        self.update(arguments, |targets| targets.remove(target));
    }

    /// Applies `change` wherever a binding with `arguments` is filed.
    fn update(&mut self, arguments: &Table, change: impl Fn(&mut Targets)) {
        let Asked { probes, all } = Asked::of(arguments).expect("arguments were checked before");
        match &probes[..] {
            [] if all => change(&mut self.always),
            [] => {}
            [only] => self.update_filed(only, |filed| change(&mut filed.sure)),
            probes if !all => {
                // Any one of the probes is enough, so each of them is sure.
                for probe in probes {
                    self.update_filed(probe, |filed| change(&mut filed.sure));
                }
            }
            probes => {
                let place = self.place_of(probes).clone();
                self.update_filed(&place, |filed| {
                    if !filed.unsure.contains_key(probes) {
                        filed.unsure.insert_mut(probes.into(), Targets::default());
                    }
                    let targets = filed.unsure.get_mut(probes).expect("it was just inserted");
                    change(targets);
                    if targets.is_empty() {
                        filed.unsure.remove_mut(probes);
                    }
                });
            }
        }
    }

    /// The probe under which bindings are filed, or will be, that ask for all of `probes`.
    ///
    /// A new place is where the fewest are: ten thousand bindings that ask for one kind of message
    /// and a customer each are filed by the customer.
    fn place_of<'p>(&self, probes: &'p [Probe]) -> &'p Probe {
        let unsure = |probe: &Probe| self.by_probe.get(probe).map(|filed| &filed.unsure);
        probes
            .iter()
            .find(|probe| unsure(probe).is_some_and(|unsure| unsure.contains_key(probes)))
            .or_else(|| probes.iter().min_by_key(|p| unsure(p).map_or(0, |unsure| unsure.size())))
            .expect("the binding asks for something")
    }

    fn update_filed(&mut self, probe: &Probe, change: impl FnOnce(&mut Filed)) {
        if !self.by_probe.contains_key(probe) {
            self.by_probe.insert_mut(probe.clone(), Filed::default());
        }
        let filed = self.by_probe.get_mut(probe).expect("it was just inserted");
        change(filed);
        if filed.sure.is_empty() && filed.unsure.is_empty() {
            self.by_probe.remove_mut(probe);
        }
    }

    /// Adds the targets of every binding that a message with `headers` matches. Of headers of one
    /// name, each counts.
    pub(super) fn reach<'t>(&'t self, headers: &Table, reached: &mut Reached<'t, '_>) {
        self.always.reach(reached);
        // The bytes of all probes lie in one allocation.
        let mut bytes = Vec::with_capacity(headers.0.len() * 64);
        let mut spans = Vec::with_capacity(headers.0.len() * 2);
        for (name, value) in &headers.0 {
            for value in [None, Some(value)] {
                let start = bytes.len();
                write_probe(name, value, &mut bytes);
                spans.push(start..bytes.len());
            }
        }
        let mut answers: Vec<&[u8]> = spans.into_iter().map(|span| &bytes[span]).collect();
        answers.sort_unstable();
        answers.dedup();
        for answer in &answers {
            let Some(filed) = self.by_probe.get(*answer) else { continue };
            filed.sure.reach(reached);
            for (probes, targets) in &filed.unsure {
                if probes.iter().all(|probe| answers.binary_search(&&**probe).is_ok()) {
                    targets.reach(reached);
                }
            }
        }
    }
}
