//! How openraft is run.

use openraft::{Config, SnapshotPolicy};

/// The largest number of entries in one message to a follower. What bounds a message is its size,
/// see [`super::RaftLogOptions::message_bytes`]; this only keeps openraft's own limit out of the
/// way of small entries.
const MESSAGE_ENTRIES_MAX: u64 = 4096;

/// The settings that keep the promise of the log, with openraft's own defaults for the rest.
///
/// The caller may change the timeouts, never the others.
#[must_use]
pub fn settings() -> Config {
    Config {
        cluster_name: "isthmus".to_owned(),
        // A leader that comes back has forgotten its lease and what it had confirmed. It asks for
        // votes like anybody else.
        enable_leader_restore: Some(restores_leaders()),
        // A node that comes back from a partition must not depose a leader that works.
        enable_pre_vote: Some(true),
        // A follower whose log went back has lost what it acknowledged, and counted in majorities. It
        // is sent that again, and until it has it, it elects nobody with less (`peer::debts`).
        allow_log_reversion: Some(true),
        max_payload_entries: MESSAGE_ENTRIES_MAX,
        // Checkpoints are triggered by the bytes of the log, not by the number of entries.
        snapshot_policy: SnapshotPolicy::Never,
        // How much log is kept for followers that lag is a matter of bytes too, so openraft purges
        // nothing by itself: the checkpoint that no longer needs the entries says so.
        max_in_snapshot_log_to_keep: u64::MAX,
        // A snapshot is as large as the backlog; what limits its transfer is lack of progress.
        install_snapshot_timeout: 60_000,
        ..Config::default()
    }
}

#[cfg(feature = "planted-bugs")]
use crate::planted::restores_leaders;

#[cfg(not(feature = "planted-bugs"))]
const fn restores_leaders() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::settings;

    #[test]
    fn openraft_accepts_the_settings() {
        settings().validate().expect("the settings are consistent");
    }
}
