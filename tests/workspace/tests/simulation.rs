//! What is simulated is the product: the simulation's nodes are made of the production crates, without
//! a feature that changes what they do.

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageName};

/// What a node of the simulation must be made of.
const PRODUCTION: &[&str] = &[
    "isthmus-model",
    "isthmus-contract",
    "isthmus-core",
    "isthmus-storage",
    "isthmus-cluster",
    "isthmus-broker",
    "isthmus-amqp091",
    "isthmus-mqtt",
    "isthmus-stomp",
];

/// The feature with which bugs can be planted.
const PLANTED: &str = "planted-bugs";

fn metadata() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo metadata answers")
}

#[test]
fn the_simulation_runs_the_production_crates_as_they_are() {
    let metadata = metadata();
    let is_sim = |name: &PackageName| name.as_str() == "isthmus-sim";
    let sim = metadata.packages.iter().find(|package| is_sim(&package.name));
    let sim = sim.expect("there is a simulation");
    let normal = sim.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
    let used: BTreeMap<&str, _> = normal.map(|d| (d.name.as_str(), d)).collect();
    for name in PRODUCTION {
        let dependency = used.get(name).unwrap_or_else(|| panic!("{name} is not simulated"));
        let package = metadata.packages.iter().find(|package| package.name.as_str() == *name);
        let package = package.expect("it is in the workspace");
        let path = dependency.path.as_deref().expect("it is that of the workspace");
        assert_eq!(Some(path), package.manifest_path.parent(), "another {name} is simulated");
        assert!(dependency.features.is_empty(), "{name} is simulated with features");
        assert!(dependency.uses_default_features, "{name} is simulated without its features");
        assert!(dependency.rename.is_none(), "{name} goes by another name");
    }
}

#[test]
fn the_server_and_the_simulation_use_each_production_crate_alike() {
    let metadata = metadata();
    let features = |user: &str| -> BTreeMap<String, (Vec<String>, bool)> {
        let package = metadata.packages.iter().find(|package| package.name.as_str() == user);
        let package = package.expect("it is in the workspace");
        let normal = package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal);
        let ours = normal.filter(|d| PRODUCTION.contains(&d.name.as_str()));
        ours.map(|d| (d.name.clone(), (d.features.clone(), d.uses_default_features))).collect()
    };
    let (server, simulation) = (features("isthmus"), features("isthmus-sim"));
    for (name, used) in server {
        assert_eq!(Some(&used), simulation.get(&name), "{name}");
    }
}

#[test]
fn bugs_can_be_planted_by_tests_alone() {
    for package in metadata().packages {
        let by_default = package.features.get("default").into_iter().flatten();
        assert!(!by_default.into_iter().any(|f| f.contains(PLANTED)), "{}", package.name);
        for (feature, enabled) in &package.features {
            assert!(!enabled.iter().any(|f| f.contains(PLANTED)), "{} {feature}", package.name);
        }
        for dependency in &package.dependencies {
            let plants = dependency.features.iter().any(|feature| feature == PLANTED);
            let is_for_tests = dependency.kind == DependencyKind::Development;
            assert!(!plants || is_for_tests, "{} plants bugs in what it ships", package.name);
        }
    }
}
