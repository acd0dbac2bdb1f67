//! Health, metrics and the management API.
//!
//! [`router`] answers `/health/live`, `/health/ready` and `/metrics`, none of which needs
//! credentials or tells more than totals, and the management API ([`Api`]), which asks who is
//! there; [`serve_connection`] runs it on one accepted socket with bounds on time and size.

mod api;
mod health;
mod http;
mod metrics;
mod process;

pub use api::{Api, ApiError};
pub use axum::Router;
pub use health::{Role, Status};
pub use http::{Admin, HEAD_TIMEOUT, REQUEST_BODY_BYTES_MAX, router, serve_connection};
pub use metrics::{Alarms, Cluster, Metrics, Snapshot};
