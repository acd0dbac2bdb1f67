//! Seeded faults: what a session says or asks for is perverted between it and the test, which must
//! notice. Each test file runs itself once for each fault, in a process of its own.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;
use std::sync::OnceLock;

use isthmus_mqtt::codec::frame;

/// Names the fault that a process commits.
const VARIABLE: &str = "ISTHMUS_SEEDED_FAULT";

macro_rules! faults {
    ($($fault:ident,)*) => {
        /// What is perverted of what is said to the client, and, from `PublishesTwice` on, of what
        /// is asked of the broker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $($fault,)*
        }

        use Fault::*;

        const ALL: &[Fault] = &[$($fault,)*];
    };
}

faults! {
    AcceptsWhomItRefuses,
    SaysConnackTwice,
    SessionPresentIsNegated,
    SaysReasonsInWords,
    SaysGoodbyeAtLength,
    SaysNoGoodbye,
    SaysAnotherReason,
    AnswersAnotherRequest,
    ReasonsInAnotherOrder,
    AnswersNoPing,
    ReleasesNothing,
    AcknowledgesNothing,
    DupIsNegated,
    RetainIsNegated,
    DeliversWithLowerQos,
    DeliversTwice,
    DeliversNothing,
    DeliversSomethingElse,
    PublishesTwice,
    PublishesNothing,
    NotesNothing,
    SettlesNothing,
    OpensAnothersSession,
    WillLosesItsProperties,
    WillIsForgotten,
    TopologyIsSkipped,
}

/// The fault that this process commits.
fn committed() -> Option<Fault> {
    static COMMITTED: OnceLock<Option<Fault>> = OnceLock::new();
    *COMMITTED.get_or_init(|| {
        let name = env::var(VARIABLE).ok()?;
        ALL.iter().copied().find(|fault| format!("{fault:?}") == name)
    })
}

/// Whether this one is committed.
pub fn commits(fault: Fault) -> bool {
    committed() == Some(fault)
}

/// What becomes of `bytes` on their way to the client.
pub fn perverted(bytes: Vec<u8>) -> Vec<u8> {
    let Some(fault) = committed() else { return bytes };
    let mut rest = &bytes[..];
    let mut out = Vec::new();
    while let Ok(Some(frame)) = frame::next(rest, frame::PACKET_BYTES_MAX) {
        let (packet, behind) = rest.split_at(frame.wire_len());
        out.extend(packet_under(fault, packet.to_vec()));
        rest = behind;
    }
    out.extend(rest);
    out
}

fn packet_under(fault: Fault, mut packet: Vec<u8>) -> Vec<u8> {
    let kind = packet[0] >> 4;
    match (fault, kind) {
        (AcceptsWhomItRefuses, 2) => packet[3] = 0,
        (SaysConnackTwice, 2) | (DeliversTwice, 3) => packet = packet.repeat(2),
        (SessionPresentIsNegated, 2) if packet[3] == 0 => packet[2] ^= 1,
        (SaysReasonsInWords, 2) if packet.len() == 5 => {
            packet = [&[0x20, 7, 0, packet[3], 4][..], &REASON_STRING].concat();
        }
        (SaysReasonsInWords, 4..=7) if packet.len() == 5 => {
            packet =
                [&[packet[0], 8, packet[2], packet[3], packet[4], 4][..], &REASON_STRING].concat();
        }
        (SaysGoodbyeAtLength, 14) => {
            let text = super::props(&[&[0x1F], &super::s("x".repeat(300))]);
            packet = super::p(0xE0, &[&[packet[2]], &text]);
        }
        (SaysAnotherReason, 2) => packet[3] = packet[3].wrapping_add(1),
        (SaysAnotherReason, 14) => packet[2] = packet[2].wrapping_add(1),
        (SaysAnotherReason, 4..=7 | 9 | 11 | 15) if packet.len() > 4 => {
            *packet.last_mut().unwrap() ^= 1;
        }
        (AnswersAnotherRequest, 4..=7 | 9 | 11) => packet[3] ^= 1,
        (ReasonsInAnotherOrder, 9 | 11) if packet.len() > 6 => packet[4..].reverse(),
        (DupIsNegated, 3) => packet[0] ^= 8,
        (RetainIsNegated, 3) => packet[0] ^= 1,
        (DeliversWithLowerQos, 3) if packet[0] & 4 != 0 => packet[0] ^= 6,
        (DeliversSomethingElse, 3) => *packet.last_mut().unwrap() ^= 1,
        (DeliversNothing, 3)
        | (AnswersNoPing, 13)
        | (ReleasesNothing, 6)
        | (AcknowledgesNothing, 4 | 5 | 7 | 9 | 11)
        | (SaysNoGoodbye, 14) => packet.clear(),
        _ => {}
    }
    packet
}

/// The property, of four bytes.
const REASON_STRING: [u8; 4] = [0x1F, 0, 1, b'x'];

/// The tests of this file that show a statement notice some fault, and none without one.
pub fn are_noticed(source: &str) {
    if env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut noticed: BTreeMap<&str, Vec<Fault>> = source
        .lines()
        .filter_map(|line| line.strip_prefix("fn ")?.split_once('('))
        .filter(|(name, _)| name.starts_with("mqtt"))
        .map(|(name, _)| (name, Vec::new()))
        .collect();
    let test = env::current_exe().unwrap();
    for fault in ALL {
        let mut run = Command::new(&test);
        run.env(VARIABLE, format!("{fault:?}")).env("RUST_BACKTRACE", "0");
        let said = run.args(["mqtt", "--test-threads=1"]).output().unwrap().stdout;
        let said = String::from_utf8_lossy(&said);
        for line in said.lines().filter(|line| line.ends_with("FAILED")) {
            let name = line.trim_start_matches("test ").split(' ').next().unwrap();
            if let Some(faults) = noticed.get_mut(name) {
                faults.push(*fault);
            }
        }
    }
    let blind: Vec<_> = noticed.iter().filter(|(_, faults)| faults.is_empty()).collect();
    assert!(!noticed.is_empty() && blind.is_empty(), "they notice nothing: {blind:?}");
}
