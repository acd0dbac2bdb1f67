//! Topic names and filters (section 4.7 and 4.8.2).

use super::frame::Kind;
use crate::ReasonCode;
use crate::fault::{Fault, Problem};

/// What shared subscriptions begin with (section 4.8.2).
const SHARE: &str = "$share/";

/// Whether a character of `text` is a wildcard.
#[inline]
pub fn has_wildcard(text: &str) -> bool {
    // Without a way out of the loop, it is done for many bytes at once.
    text.bytes().fold(false, |found, byte| found | (byte == b'#') | (byte == b'+'))
}

/// Checks the topic name `name`, a string that was read from a packet of the kind `packet`: it
/// holds no wildcard ([MQTT-3.3.2-2], [MQTT-4.7.0-1]) and at least one character [MQTT-4.7.3-1].
///
/// # Errors
/// With the reason Topic Name invalid.
#[inline]
pub fn check_name(name: &str, packet: Kind, field: &'static str) -> Result<(), Fault> {
    let problem = if name.is_empty() {
        Problem::Empty
    } else if has_wildcard(name) {
        Problem::Wildcard
    } else {
        return Ok(());
    };
    Err(Fault::because(ReasonCode::TOPIC_NAME_INVALID, packet, field, problem))
}

/// A topic filter, and the group that shares what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter<'a> {
    /// The share name; `None` for a subscription that is not shared.
    pub group: Option<&'a str>,
    /// The filter itself, without share name.
    pub filter: &'a str,
}

impl<'a> Filter<'a> {
    /// Reads a filter, and `$share/{group}/{filter}` as the shared subscription that it is in
    /// 5.0 ([MQTT-4.8.2-1], [MQTT-4.8.2-2]) and that servers take it for in 3.1.1 as well.
    ///
    /// # Errors
    /// If a wildcard is not where it may be ([MQTT-4.7.1-1], [MQTT-4.7.1-2]), the filter is empty
    /// [MQTT-4.7.3-1], or `$share/` is not followed by group and filter.
    pub fn parse(text: &'a str) -> Result<Filter<'a>, Problem> {
        let Some(shared) = text.strip_prefix(SHARE) else {
            check_filter(text)?;
            return Ok(Filter { group: None, filter: text });
        };
        let (group, filter) = shared.split_once('/').ok_or(Problem::BadShare)?;
        if group.is_empty() || has_wildcard(group) || filter.is_empty() {
            return Err(Problem::BadShare);
        }
        check_filter(filter)?;
        Ok(Filter { group: Some(group), filter })
    }

    /// Whether the topic `name` matches: level by level, `+` for one level whatever it is, `#` for
    /// the level before it and all that follow; wildcards at the start stand for no topic that
    /// begins with `$` [MQTT-4.7.2-1].
    pub fn matches(&self, name: &str) -> bool {
        if name.starts_with('$') && self.filter.starts_with(['+', '#']) {
            return false;
        }
        let mut levels = name.split('/');
        for wanted in self.filter.split('/') {
            if wanted == "#" {
                return true;
            }
            match levels.next() {
                Some(level) if wanted == "+" || wanted == level => {}
                _ => return false,
            }
        }
        levels.next().is_none()
    }
}

/// Checks a filter without share name.
///
/// # Errors
/// As [`Filter::parse`].
pub fn check_filter(filter: &str) -> Result<(), Problem> {
    if filter.is_empty() {
        return Err(Problem::Empty);
    }
    if !has_wildcard(filter) {
        return Ok(());
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let is_placed = match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            _ => !has_wildcard(level),
        };
        if !is_placed {
            return Err(Problem::MisplacedWildcard);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(filter: &str, name: &str) -> bool {
        Filter::parse(filter).expect("a valid filter").matches(name)
    }

    #[test]
    fn filters_match_as_section_4_7_shows_mqtt_4_7_2_1() {
        for (filter, name) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "a/b/c"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("sport/+", "sport/"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("$SYS/#", "$SYS/a"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("$share/g/a/+", "a/b"),
            ("é/+", "é/a"),
        ] {
            assert!(matches(filter, name), "{filter} {name}");
        }
        for (filter, name) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/a"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("$share/g/#", "$SYS/a"),
            ("ACCOUNTS", "Accounts"),
            ("/a", "a"),
            ("a", "a/b"),
            ("é/a", "e/a"),
        ] {
            assert!(!matches(filter, name), "{filter} {name}");
        }
    }

    #[test]
    fn wildcards_stand_in_levels_of_their_own_mqtt_4_7_1_1_mqtt_4_7_1_2() {
        for filter in ["#", "+", "a/#", "+/a/#", "/", "//", " ", "/+", "+/", "$share", "$shared/+"]
        {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for filter in ["a#", "a/b#", "#/a", "a/#/b", "a+", "+a/b", "++", "##", "a/+b"] {
            assert_eq!(check_filter(filter), Err(Problem::MisplacedWildcard), "{filter}");
        }
        assert_eq!(check_filter(""), Err(Problem::Empty));
    }

    #[test]
    fn shared_filters_have_a_name_and_a_filter_mqtt_4_8_2_1_mqtt_4_8_2_2() {
        let filter = Filter::parse("$share/consumer1//finance").expect("the specification's own");
        assert_eq!(filter, Filter { group: Some("consumer1"), filter: "/finance" });
        for text in ["$share/", "$share/g", "$share//a", "$share/g/", "$share/+/a", "$share/g#/a"] {
            assert_eq!(Filter::parse(text), Err(Problem::BadShare), "{text}");
        }
        assert_eq!(Filter::parse("$share/g/a#"), Err(Problem::MisplacedWildcard));
    }
}
