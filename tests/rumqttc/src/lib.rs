//! The tests are in `tests`; `isthmus-test-lapin` starts the broker for them.
