//! The schedule: when each message is meant to be sent.
//!
//! A message's latency counts from its time in the schedule, not from when the generator got round
//! to it. A broker that stands still for a second so shows in the latency of every message that was
//! due in that second (no coordinated omission).

use std::time::Duration;

/// One stretch of a schedule, in seconds and messages a second.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    /// Seconds from the schedule's start.
    start: f64,
    /// Messages of all stretches before.
    before: f64,
    from: f64,
    to: f64,
    /// Infinite for a last stretch of no given length.
    length: f64,
}

/// Rates over time, and so the time of each message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Schedule {
    text: String,
    stretches: Vec<Stretch>,
}

/// What a schedule's text says, before it is known how many producers it is for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ScheduleSpec {
    text: String,
    /// First rate, last rate, seconds.
    stretches: Vec<(f64, f64, Option<f64>)>,
}

impl ScheduleSpec {
    /// Reads `5000`, `1000:10s,5000:10s` (steps), `1000..9000:60s` (a ramp), or several of those.
    pub(crate) fn parse(text: &str) -> Result<ScheduleSpec, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let mut stretches = Vec::with_capacity(parts.len());
        for (n, part) in parts.iter().enumerate() {
            let (rates, length) = match part.split_once(':') {
                Some((rates, length)) => (rates, Some(seconds(length)?.as_secs_f64())),
                None => (*part, None),
            };
            let (from, to) = match rates.split_once("..") {
                Some((from, to)) => (rate(from)?, rate(to)?),
                None => (rate(rates)?, rate(rates)?),
            };
            if length.is_none() && from != to {
                return Err(format!("the ramp '{part}' needs a length; write {part}:30s"));
            }
            if length.is_none() && n + 1 < parts.len() {
                return Err(format!("'{part}' needs a length as others follow; write {part}:10s"));
            }
            if length.is_some_and(|length| length <= 0.0) {
                return Err(format!("'{part}' has no length"));
            }
            stretches.push((from, to, length));
        }
        if stretches.iter().all(|&(from, to, _)| from + to == 0.0) {
            return Err(
                "a rate of 0 sends nothing; leave --rate out to send as fast as it goes".into()
            );
        }
        Ok(ScheduleSpec { text: text.to_owned(), stretches })
    }

    /// The schedule, with every rate times `factor`.
    pub(crate) fn times(&self, factor: f64) -> Schedule {
        let (mut start, mut before) = (0.0, 0.0);
        let mut stretches = Vec::with_capacity(self.stretches.len());
        for &(from, to, length) in &self.stretches {
            let (from, to) = (from * factor, to * factor);
            let length = length.unwrap_or(f64::INFINITY);
            stretches.push(Stretch { start, before, from, to, length });
            start += length;
            before += (from + to) / 2.0 * length;
        }
        Schedule { text: self.text.clone(), stretches }
    }
}

impl Stretch {
    fn messages(&self) -> f64 {
        if self.length.is_infinite() {
            f64::INFINITY
        } else {
            (self.from + self.to) / 2.0 * self.length
        }
    }

    /// When, in seconds from its start, `n` messages of it are due.
    fn time(&self, n: f64) -> f64 {
        if self.from == self.to {
            return n / self.from;
        }
        // n = from t + (to - from) / (2 length) t², solved for t in a form that stays exact as the
        // square's factor gets small.
        let a = (self.to - self.from) / (2.0 * self.length);
        2.0 * n / (self.from + (self.from * self.from + 4.0 * a * n).max(0.0).sqrt())
    }
}

impl Schedule {
    /// When message `n` of the whole schedule is meant to be sent; none after the schedule's end.
    pub(crate) fn time_of(&self, n: u64) -> Option<Duration> {
        let n = n as f64;
        let stretch = self.stretches.iter().find(|each| n < each.before + each.messages())?;
        let seconds = stretch.start + stretch.time(n - stretch.before);
        Some(Duration::from_secs_f64(seconds))
    }

    /// How long the schedule is, if it ends.
    pub(crate) fn length(&self) -> Option<Duration> {
        let last = self.stretches.last()?;
        let end = last.start + last.length;
        end.is_finite().then(|| Duration::from_secs_f64(end))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }
}

/// Reads `30`, `30s`, `500ms`, `2m` or `1h`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let (digits, factor) = units
        .iter()
        .find_map(|&(unit, factor)| Some((text.strip_suffix(unit)?, factor)))
        .unwrap_or((text, 1.0));
    match digits.parse::<f64>() {
        Ok(number) if (0.0..=1e6).contains(&number) => Ok(Duration::from_secs_f64(number * factor)),
        _ => Err(format!("'{text}' is no length of time; write 30s, 500ms, 2m or 1h")),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let (digits, factor) = match text.as_bytes().last().map(u8::to_ascii_lowercase) {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'm') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    match digits.parse::<f64>() {
        Ok(number) if (0.0..=1e9).contains(&(number * factor)) => Ok(number * factor),
        _ => Err(format!("'{text}' is no rate; write messages a second, such as 5000, 5k or 1.5m")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(text: &str) -> Schedule {
        ScheduleSpec::parse(text).expect("read").times(1.0)
    }

    fn ms(schedule: &Schedule, n: u64) -> Option<u128> {
        schedule.time_of(n).map(|time| time.as_millis())
    }

    #[test]
    fn a_constant_rate_spaces_messages_evenly() {
        let schedule = schedule("1k");
        assert_eq!((ms(&schedule, 0), ms(&schedule, 1500)), (Some(0), Some(1500)));
        assert_eq!(schedule.length(), None);
    }

    #[test]
    fn steps_follow_each_other() {
        let schedule = schedule("100:10s,1000:1s");
        assert_eq!(ms(&schedule, 999), Some(9990));
        assert_eq!(ms(&schedule, 1000), Some(10000));
        assert_eq!(ms(&schedule, 1500), Some(10500));
        assert_eq!(ms(&schedule, 2000), None, "the schedule is over");
        assert_eq!(schedule.length(), Some(Duration::from_secs(11)));
    }

    #[test]
    fn a_pause_sends_nothing() {
        let schedule = schedule("100:1s,0:5s,100:1s");
        assert_eq!((ms(&schedule, 99), ms(&schedule, 100)), (Some(990), Some(6000)));
    }

    #[test]
    fn a_ramp_reaches_half_its_messages_where_it_should() {
        let up = schedule("0..1000:10s");
        // 50 t² = n
        assert_eq!((ms(&up, 1250), ms(&up, 4999)), (Some(5000), Some(9998)));
        let down = schedule("1000..0:10s");
        assert_eq!((ms(&down, 0), ms(&down, 3750)), (Some(0), Some(5000)));
    }

    proptest! {
        #[test]
        fn times_never_go_backwards(from in 0.0..1e5, to in 1.0..1e5, length in 0.1..100.0) {
            let text = format!("{from}..{to}:{length}s,50:2s");
            let schedule = schedule(&text);
            let mut last = Duration::ZERO;
            let all = ((from + to) / 2.0 * length) as u64;
            for n in (0..all + 50).step_by(1 + all as usize / 100) {
                let time = schedule.time_of(n).expect("within the schedule");
                prop_assert!(time >= last, "{n}: {time:?} after {last:?}");
                prop_assert!(time.as_secs_f64() <= length + 2.0 + 1e-6);
                last = time;
            }
        }
    }

    #[test]
    fn rates_multiply() {
        let schedule = ScheduleSpec::parse("100").expect("read").times(4.0);
        assert_eq!(ms(&schedule, 400), Some(1000));
    }

    #[test]
    fn lengths_of_time() {
        for (text, ms) in [("30", 30000), ("30s", 30000), ("500ms", 500), ("2m", 120_000), ("0", 0)]
        {
            assert_eq!(seconds(text).expect(text).as_millis(), ms, "{text}");
        }
        assert!(seconds("1 day").is_err());
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, part) in [
            ("", "no rate"),
            ("fast", "'fast' is no rate"),
            ("-5", "no rate"),
            ("1..5", "needs a length; write 1..5:30s"),
            ("100,200", "write 100:10s"),
            ("0", "leave --rate out"),
            ("5:xs", "no length of time"),
            ("5:0s", "has no length"),
        ] {
            let error = ScheduleSpec::parse(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
