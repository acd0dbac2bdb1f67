//! Dependencies between the crates of the workspace point one way.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each crate, and which of the others its code may use. The server puts everything together.
const MAY_USE: &[(&str, &[&str])] = &[
    ("isthmus-model", &[]),
    ("isthmus-contract", &["isthmus-model"]),
    ("isthmus-selector", &[]),
    ("isthmus-front", &[]),
    ("isthmus-core", &["isthmus-model"]),
    ("isthmus-storage", &[]),
    ("isthmus-oauth2", &[]),
    ("isthmus-ldap", &[]),
    ("isthmus-cluster", &["isthmus-storage"]),
    (
        "isthmus-broker",
        &[
            "isthmus-model",
            "isthmus-contract",
            "isthmus-core",
            "isthmus-storage",
            "isthmus-cluster",
        ],
    ),
    (
        "isthmus-auth",
        &["isthmus-model", "isthmus-contract", "isthmus-broker", "isthmus-oauth2", "isthmus-ldap"],
    ),
    ("isthmus-admin", &["isthmus-model", "isthmus-contract", "isthmus-auth", "isthmus-broker"]),
    ("isthmus-bridge", &["isthmus-model", "isthmus-contract", "isthmus-broker"]),
    ("isthmus-bench", &["isthmus-model"]),
];
const PROTOCOL_MAY_USE: &[&str] = &["isthmus-model", "isthmus-contract", "isthmus-selector"];
const MAY_USE_EVERYTHING: &[&str] = &[
    "isthmus",
    "isthmus-sim",
    "isthmus-test-lapin",
    "isthmus-test-rumqttc",
    "isthmus-test-workspace",
];

#[test]
fn every_crate_uses_only_what_lies_below_it() {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata answers");
    let rules: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut violations = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        if MAY_USE_EVERYTHING.contains(&name) {
            continue;
        }
        let is_protocol =
            package.manifest_path.components().any(|part| part.as_str() == "protocols");
        let allowed = if is_protocol { Some(&PROTOCOL_MAY_USE) } else { rules.get(name) };
        let Some(allowed) = allowed else {
            violations.push(format!("{name} has no rule: say what it may use"));
            continue;
        };
        for dependency in &package.dependencies {
            let is_ours = dependency.path.is_some();
            let is_in_the_build = dependency.kind != DependencyKind::Development;
            if is_ours && is_in_the_build && !allowed.contains(&dependency.name.as_str()) {
                violations.push(format!("{name} must not use {}", dependency.name));
            }
        }
    }
    assert!(violations.is_empty(), "{}", violations.join("\n"));
}
