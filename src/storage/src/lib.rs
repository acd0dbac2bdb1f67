//! The log and checkpoints, over real or simulated files.
