//! The subscriptions that are not shared, and which of them a message is for.
//!
//! Most messages need not be looked at: where all filters of a lane were granted the same, what
//! comes by it has come for one of them. Else the filters that match are found by walking the
//! ordered filters level by level, which takes a few looks a level however many there are, and
//! what was found is kept for the topic's next message.

use std::collections::HashMap;
use std::sync::Arc;

use super::by_filter::ByFilter;
use super::lanes::Lane;
use super::notes::Options;
use crate::codec::Qos;
use crate::convert::topic::swapped_text;

/// Topics whose matches are kept; beyond that all are forgotten, which costs a walk each.
const CACHED_MAX: usize = 1024;

/// Bytes of topics that are kept: longer ones are rare, and would be a way to fill the memory.
const CACHED_BYTES_MAX: usize = 256;

/// A filter's state.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// What the client has asked for last; nothing if it has unsubscribed.
    asked: Option<Options>,
    /// What the broker has done.
    active: Option<Options>,
}

/// What a message is for in one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// The highest QoS.
    pub(super) qos: Qos,
    pub(super) retain_as_published: bool,
    /// Subscription Identifiers [MQTT-3.3.4-4].
    pub(super) ids: Vec<u32>,
}

impl Granted {
    fn new(qos: Qos, retain_as_published: bool) -> Granted {
        Granted { qos, retain_as_published, ids: Vec::new() }
    }

    fn add(&mut self, options: &Options) {
        self.qos = self.qos.max(options.qos);
        self.retain_as_published |= options.retain_as_published;
        self.ids.extend(options.id);
    }
}

/// What a message is for, by lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Matched([Option<Granted>; 4]);

impl Matched {
    pub(super) fn of(&self, lane: Lane) -> Option<&Granted> {
        self.0[lane as usize].as_ref()
    }
}

/// What messages are for, by routing key.
type Cache = HashMap<Box<str>, Arc<Matched>>;

/// The subscriptions of a session.
#[derive(Debug, Default)]
pub(super) struct Filters {
    all: ByFilter<Entry>,
    /// Filters that are asked for.
    asked: u32,
    /// Active ones with a Subscription Identifier.
    with_id: u32,
    /// How many are active of each class, in the order of the classes; none that has none.
    classes: Vec<(Class, u32)>,
    /// `None` until something is looked for.
    cache: Option<Box<Cache>>,
}

/// Active filters that come by the same lane and were granted the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Class {
    /// Its number.
    lane: u8,
    /// Its bits.
    qos: u8,
    retain_as_published: bool,
}

impl Class {
    fn of(options: &Options) -> Class {
        Class {
            lane: options.lane() as u8,
            qos: options.qos.bits(),
            retain_as_published: options.retain_as_published,
        }
    }
}

impl Filters {
    /// How many the client has.
    pub(super) fn len(&self) -> usize {
        self.asked as usize
    }

    /// What `filter` is wanted with.
    pub(super) fn asked(&self, filter: &str) -> Option<Options> {
        self.all.get(filter).and_then(|entry| entry.asked)
    }

    /// Notes that the client wants `filter` with `options`, or no more; returns what it wanted.
    pub(super) fn ask(&mut self, filter: &str, options: Option<Options>) -> Option<Options> {
        if options.is_none() && !self.all.contains(filter) {
            return None;
        }
        let entry = self.all.get_or_default(filter);
        let before = std::mem::replace(&mut entry.asked, options);
        self.asked = self.asked + u32::from(options.is_some()) - u32::from(before.is_some());
        before
    }

    /// Notes that the broker has made `filter` what `options` say, or undone it.
    pub(super) fn activate(&mut self, filter: &str, options: Option<Options>) {
        let Some(entry) = self.all.get_mut(filter) else { return };
        let before = std::mem::replace(&mut entry.active, options);
        if entry.asked.is_none() && options.is_none() {
            self.all.remove(filter);
        }
        if let Some(before) = before {
            self.count(Class::of(&before), -1);
            self.with_id -= u32::from(before.id.is_some());
        }
        if let Some(options) = options {
            self.count(Class::of(&options), 1);
            self.with_id += u32::from(options.id.is_some());
        }
        self.cache = None;
    }

    /// One of `class` more, or less.
    fn count(&mut self, class: Class, change: i32) {
        match self.classes.binary_search_by_key(&class, |(each, _)| *each) {
            Ok(at) => {
                let count = &mut self.classes[at].1;
                *count = count.saturating_add_signed(change);
                if *count == 0 {
                    self.classes.remove(at);
                }
            }
            Err(at) => {
                debug_assert!(change > 0, "one less of none");
                self.classes.reserve_exact(1);
                self.classes.insert(at, (class, 1));
            }
        }
    }

    /// The classes of a lane.
    fn classes_of(&self, lane: Lane) -> impl DoubleEndedIterator<Item = Class> {
        let classes = self.classes.iter().map(|(class, _)| *class);
        classes.filter(move |class| class.lane == lane as u8)
    }

    /// Notes that the broker has refused what was asked for last; returns what is there still.
    pub(super) fn refuse(&mut self, filter: &str, options: Options) -> Option<Options> {
        let active = self.active(filter);
        if self.asked(filter) == Some(options) {
            self.ask(filter, active);
        }
        if active.is_none() && self.asked(filter).is_none() {
            self.all.remove(filter);
        }
        active
    }

    /// What the broker has made of `filter`.
    pub(super) fn active(&self, filter: &str) -> Option<Options> {
        self.all.get(filter).and_then(|entry| entry.active)
    }

    /// The filters of `lane` that the broker has made, save for those of its own topics.
    pub(super) fn of_lane(&self, lane: Lane) -> Vec<Box<str>> {
        let is_of = |filter: &str, entry: &Entry| {
            entry.active.is_some_and(|options| options.lane() == lane) && !filter.starts_with('$')
        };
        let those = self.all.iter().filter(|(filter, entry)| is_of(filter, entry));
        those.map(|(filter, _)| filter.into()).collect()
    }

    /// The QoS that all messages of a lane are granted, if they tell nothing of the filters that
    /// they are for: neither Subscription Identifiers nor whether they were published as retained.
    pub(super) fn tell_only(&self, lane: Lane) -> Option<Qos> {
        let granted = self.same_for_all(lane)?;
        (!granted.retain_as_published).then_some(granted.qos)
    }

    /// What every message of `lane` is for, if that is the same for all of them.
    fn same_for_all(&self, lane: Lane) -> Option<Granted> {
        if self.with_id > 0 || lane == Lane::Qos0 && self.has_any(Lane::Qos1) {
            return None;
        }
        let mut classes = self.classes_of(lane);
        let class = classes.next()?;
        if classes.next().is_some() {
            return None;
        }
        Some(Granted::new(Qos::from_bits(class.qos)?, class.retain_as_published))
    }

    fn has_any(&self, lane: Lane) -> bool {
        self.classes_of(lane).next().is_some()
    }

    /// What a message of `lane` that no filter matches is for: it was bound for by somebody else,
    /// or comes after its subscription has ended. The highest QoS that the lane's filters have.
    fn unmatched(&self, lane: Lane) -> Granted {
        let highest = self.classes_of(lane).next_back().and_then(|class| Qos::from_bits(class.qos));
        let least = if lane.is_acknowledged() { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        Granted::new(highest.unwrap_or_default().max(least), false)
    }

    /// What the message with `routing_key` that came by `lane` is for; `None` if it is not to be
    /// delivered: its topic begins with `$` and the filters that it came for with a wildcard
    /// [MQTT-4.7.2-1], or it comes with a higher QoS by another lane. `is_recalled` messages
    /// come for one subscription alone, and by one lane.
    pub(super) fn granted(
        &mut self,
        lane: Lane,
        routing_key: &str,
        is_recalled: bool,
    ) -> Option<Granted> {
        let is_system = routing_key.starts_with('$');
        if !is_system && let Some(granted) = self.same_for_all(lane) {
            return Some(granted);
        }
        let matched = self.matched(routing_key);
        if lane == Lane::Qos0 && !is_recalled && matched.of(Lane::Qos1).is_some() {
            return None;
        }
        match matched.of(lane) {
            Some(granted) => Some(granted.clone()),
            None if is_system => None,
            None => Some(self.unmatched(lane)),
        }
    }

    fn matched(&mut self, routing_key: &str) -> Arc<Matched> {
        if let Some(matched) = self.cache.as_ref().and_then(|cache| cache.get(routing_key)) {
            return Arc::clone(matched);
        }
        let mut matched = Matched::default();
        self.for_each_match(&swapped_text(routing_key), |options| {
            let granted = &mut matched.0[options.lane() as usize];
            granted.get_or_insert_with(|| Granted::new(Qos::AtMostOnce, false)).add(options);
        });
        let matched = Arc::new(matched);
        if routing_key.len() <= CACHED_BYTES_MAX {
            let cache = self.cache.get_or_insert_default();
            if cache.len() >= CACHED_MAX {
                cache.clear();
            }
            cache.insert(routing_key.into(), Arc::clone(&matched));
        }
        matched
    }

    /// Calls `found` with every active filter that matches `topic`, a name.
    fn for_each_match(&self, topic: &str, mut found: impl FnMut(&Options)) {
        let mut look = |filter: &str| {
            if let Some(options) = self.all.get(filter).and_then(|entry| entry.active.as_ref()) {
                found(options);
            }
        };
        // Beginnings of filters that match as many levels, with the rest of the topic.
        let mut beginnings = vec![(String::new(), topic)];
        while let Some((beginning, rest)) = beginnings.pop() {
            let takes_wildcards = !beginning.is_empty() || !topic.starts_with('$');
            if takes_wildcards {
                look(&format!("{beginning}#"));
            }
            let (level, behind) = match rest.split_once('/') {
                Some((level, behind)) => (level, Some(behind)),
                None => (rest, None),
            };
            for level in [level, "+"].into_iter().take(1 + usize::from(takes_wildcards)) {
                let mut longer = format!("{beginning}{level}");
                if behind.is_none() {
                    look(&longer);
                }
                longer.push('/');
                match behind {
                    Some(behind) if self.has_beginning(&longer) => {
                        beginnings.push((longer, behind));
                    }
                    Some(_) => {}
                    // The level before `/#` matches as well.
                    None => {
                        longer.push('#');
                        look(&longer);
                    }
                }
            }
        }
    }

    /// Whether a filter begins so.
    fn has_beginning(&self, beginning: &str) -> bool {
        let first = self.all.from(beginning).next();
        first.is_some_and(|(filter, _)| filter.starts_with(beginning))
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::codec::RetainHandling;
    use crate::codec::topic::Filter;

    fn options(qos: Qos, id: Option<u32>) -> Options {
        Options {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
            id,
        }
    }

    fn with(filters: &[(&str, Options)]) -> Filters {
        let mut all = Filters::default();
        for (filter, options) in filters {
            all.ask(filter, Some(*options));
            all.activate(filter, Some(*options));
        }
        all
    }

    proptest! {
        /// The walk finds what a look at each filter finds.
        #[test]
        fn all_filters_that_match_are_found(
            filters in vec("(\\$|a|b||\\+)(/(a|b||\\+)){0,4}(/#)?|#", 0..20),
            topic in "(\\$|a|b|)(/(a|b|)){0,4}",
        ) {
            let filters: std::collections::BTreeSet<String> =
                filters.into_iter().filter(|filter| !filter.is_empty()).collect();
            let mut all = Filters::default();
            for (id, filter) in filters.iter().enumerate() {
                let options = Some(options(Qos::AtLeastOnce, Some(id as u32 + 1)));
                all.ask(filter, options);
                all.activate(filter, options);
            }
            let mut found = Vec::new();
            all.for_each_match(&topic, |options| found.extend(options.id));
            found.sort_unstable();
            let expected: Vec<u32> = filters
                .iter()
                .enumerate()
                .filter(|(_, filter)| Filter { group: None, filter }.matches(&topic))
                .map(|(id, _)| id as u32 + 1)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn overlapping_filters_of_a_lane_are_one() {
        let mut all = with(&[
            ("a/#", options(Qos::AtLeastOnce, Some(1))),
            ("a/+", options(Qos::ExactlyOnce, Some(2))),
            ("#", options(Qos::AtMostOnce, None)),
        ]);
        let granted = all.granted(Lane::Qos1, "a.b", false);
        let mut ids = granted.clone().map(|granted| granted.ids).unwrap_or_default();
        ids.sort_unstable();
        assert_eq!((granted.map(|granted| granted.qos), ids), (Some(Qos::ExactlyOnce), vec![1, 2]));
        assert_eq!(all.granted(Lane::Qos0, "a.b", false), None, "it comes by the other lane");
        assert!(all.granted(Lane::Qos0, "a.b", true).is_some(), "what is recalled does not");
        assert!(all.granted(Lane::Qos0, "b", false).is_some());
        assert_eq!(all.granted(Lane::Qos0, "$SYS.a", false), None);
    }

    #[test]
    fn what_was_granted_alike_is_not_looked_for() {
        let mut all =
            with(&[("a", options(Qos::ExactlyOnce, None)), ("b", options(Qos::ExactlyOnce, None))]);
        let same = Granted::new(Qos::ExactlyOnce, false);
        assert_eq!(all.granted(Lane::Qos1, "a", false), Some(same.clone()));
        assert!(all.cache.is_none());
        let other = options(Qos::AtLeastOnce, None);
        all.ask("b", Some(other));
        all.activate("b", Some(other));
        assert_eq!(all.granted(Lane::Qos1, "a", false), Some(same.clone()));
        assert_eq!(all.granted(Lane::Qos1, "b", false), Some(Granted::new(other.qos, false)));
        assert_eq!(all.granted(Lane::Qos1, "unmatched", false), Some(same));
        assert_eq!(all.cache.map(|cache| cache.len()), Some(3));
    }

    #[test]
    fn what_is_refused_is_as_it_was() {
        let (before, after) = (options(Qos::AtLeastOnce, None), options(Qos::ExactlyOnce, None));
        let mut all = with(&[("a", before)]);
        all.ask("a", Some(after));
        assert_eq!(all.refuse("a", after), Some(before));
        assert_eq!((all.asked("a"), all.len()), (Some(before), 1));
        all.ask("b", Some(after));
        assert_eq!(all.refuse("b", after), None);
        assert_eq!((all.asked("b"), all.len()), (None, 1));
        all.ask("a", None);
        all.activate("a", None);
        assert!(all.len() == 0 && all.all.is_empty());
    }
}
